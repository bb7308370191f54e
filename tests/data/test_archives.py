"""Archives: unpacked once, and refused in one line."""

from __future__ import annotations

import io
import re
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medtransfer.core.errors import InputError
from medtransfer.data.files import archives
from medtransfer.data.files.archives import extract
from tests.helpers.downloads import BODY, refusal

pytestmark = pytest.mark.usefixtures("surroundings")
FORMATS = ["tar", "tar.gz", "tar.xz", "zip"]


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """Write an archive of the format that its name tells."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members.items():
                zipped.writestr(zipfile.ZipInfo(name), content)
        return path
    with tarfile.open(path, f"w:{path.suffix.removeprefix('.').replace('tar', '')}") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pack_special(path: Path, *, kind: bytes, to: str) -> Path:
    """Write an archive with one link or device called ``odd``."""
    if path.suffix == ".zip":
        info = zipfile.ZipInfo("odd")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr(info, to)
        return path
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("odd")
        member.type, member.linkname = kind, to
        tar.addfile(member)
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_an_archive_is_unpacked_once(tmp_path: Path, format: str) -> None:
    """All members are there with their bytes; a folder that is there is left alone."""
    archive = pack(tmp_path / f"a.{format}", {"x/1.txt": b"one", "2.txt": b"two", "e.txt": b""})
    extract(archive, tmp_path / "out" / "corpus", at_most=6)
    found = {
        str(path.relative_to(tmp_path / "out" / "corpus")): path.read_bytes()
        for path in (tmp_path / "out" / "corpus").rglob("*")
        if path.is_file()
    }
    assert found == {"x/1.txt": b"one", "2.txt": b"two", "e.txt": b""}
    archive.unlink()
    extract(archive, tmp_path / "out" / "corpus", at_most=6)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["corpus", "corpus.lock"]


@pytest.mark.parametrize("format", ["tar", "zip"])
@pytest.mark.parametrize("name", ["../out", "x/../../out", "/abs/out", "..\\out", "C:/out"])
def test_a_member_never_leaves_the_folder(tmp_path: Path, format: str, name: str) -> None:
    """Traversal and absolute names are refused, and nothing is left, not even good members."""
    archive = pack(tmp_path / f"a.{format}", {"good.txt": b"good", name: b"bad"})
    message = refusal(extract, archive, tmp_path / "deep" / "corpus", at_most=100)
    assert message == f"{archive}: refused at member {name!r}: its name leads out of the folder"
    assert {path.name for path in tmp_path.rglob("*")} == {archive.name, "deep", "corpus.lock"}


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        ("tar", tarfile.SYMTYPE),
        ("tar", tarfile.LNKTYPE),
        ("tar", tarfile.CHRTYPE),
        ("tar", tarfile.FIFOTYPE),
        ("zip", b""),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, format: str, kind: bytes) -> None:
    """Only files and folders are unpacked."""
    archive = pack_special(tmp_path / f"a.{format}", kind=kind, to="/etc/hostname")
    message = refusal(extract, archive, tmp_path / "corpus", at_most=100)
    assert "refused at member 'odd': a link or a device" in message
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_bombs_are_refused(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are counted over all members, and so are the members."""
    archive = pack(tmp_path / f"a.{format}", {"a": b"0" * 60, "b": b"0" * 60})
    message = refusal(extract, archive, tmp_path / "corpus", at_most=100)
    assert message == f"{archive}: refused at member 'b': more than 100 bytes unpacked"
    monkeypatch.setattr(archives, "MOST_MEMBERS", 1)
    message = refusal(extract, archive, tmp_path / "corpus", at_most=120)
    assert message == f"{archive}: refused at member 'b': more than 1 members"
    assert not (tmp_path / "corpus").exists() and not (tmp_path / "corpus.part").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_damaged_archives_are_one_line(tmp_path: Path, format: str) -> None:
    """What is cut or no archive at all ends in one line, and leaves no folder."""
    whole = pack(tmp_path / f"a.{format}", {"a": BODY[:5000], "b": BODY[5000:9000]}).read_bytes()
    archive = tmp_path / f"damaged.{format}"
    for content in (whole[:40], whole[:3000], b"", b"foreign" * 99):
        archive.write_bytes(content)
        assert refusal(extract, archive, tmp_path / "out", at_most=10_000).startswith(f"{archive}")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_byte_is_noticed(tmp_path: Path, format: str) -> None:
    """Wherever one byte is wrong: one line, or the right files where it carried no meaning."""
    text = BODY[:40_000].hex().encode()
    whole = pack(tmp_path / f"a.{format}", {"a": text, "b": BODY[:9000]}).read_bytes()
    archive = tmp_path / f"flipped.{format}"
    refused = 0
    for position in np.random.default_rng(1).integers(len(whole), size=40):
        flipped = bytearray(whole)
        flipped[position] ^= 255
        archive.write_bytes(flipped)
        into = tmp_path / f"out-{position}"
        try:
            extract(archive, into, at_most=100_000)
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{archive}: ") and "\n" not in str(error)
        else:
            # A plain tar archive has no checksum of its contents; that is what the MD5 is for.
            assert format == "tar" or (into / "a").read_bytes() == text
    assert format == "tar" or refused > 30


def test_what_python_cannot_unpack_is_one_line(tmp_path: Path) -> None:
    """An encrypted member, and a name that no file can have."""
    zipped = pack(tmp_path / "a.zip", {"a": b"secret"})
    content = bytearray(zipped.read_bytes())
    for signature, flag in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.find(signature) + flag] |= 1
    zipped.write_bytes(content)
    assert "encrypted" in refusal(extract, zipped, tmp_path / "out", at_most=100)
    info = tarfile.TarInfo("a")
    info.pax_headers = {"path": "a\0b"}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(info)
    message = refusal(extract, tmp_path / "a.tar", tmp_path / "out", at_most=100)
    assert re.search("null (byte|character)", message), message


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    """A half-unpacked folder neither counts as unpacked nor leaves files in the new one."""
    (tmp_path / "corpus.part").mkdir()
    (tmp_path / "corpus.part" / "old").write_text("old")
    extract(pack(tmp_path / "a.zip", {"new": b"new"}), tmp_path / "corpus", at_most=3)
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["new"]
