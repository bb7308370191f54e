"""Every reader of files that others write, for fuzzing."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors

from medtransfer.core.documents import packaged
from medtransfer.data.files.archives import extract
from medtransfer.data.formats.images import read_image, read_mask
from medtransfer.data.formats.nifti import open_volume
from medtransfer.data.sources import npz
from medtransfer.data.sources.folder_table import list_table
from medtransfer.encoders.checkpoints import read_checkpoint
from medtransfer.encoders.registry import registered
from medtransfer.encoders.resolution import dump_card, resolve_encoder
from medtransfer.pretraining.grid import load_grid
from medtransfer.pretraining.state import read_state
from medtransfer.ranking.predictions.scores_csv import read_outcomes, read_scores_csv
from medtransfer.ranking.published.csv_import import import_results
from medtransfer.ranking.published.study import load_study, read_published
from medtransfer.ranking.records.submissions import load_submission
from medtransfer.specs.pretraining import load_recipe
from medtransfer.specs.record import read_records
from medtransfer.specs.replicates import read_rows, write_rows
from medtransfer.specs.score import read_scores
from medtransfer.specs.task import card_files, load_card, load_suites
from medtransfer.specs.verification import FILE as VERIFICATION
from medtransfer.specs.verification import read_status
from medtransfer.verification.arrays import Archives
from medtransfer.verification.validation import validate
from tests.conftest import ROOT, write_npz
from tests.hostile.mutation import damaged, hostile_json, hostile_yaml

SUBMISSION = ROOT / "submissions" / "hog"
STUDY = next((ROOT / "submissions" / "published").glob("*/study.yaml"))


@dataclass(frozen=True)
class Reader:
    """A reader, and a good file to start from.

    Attributes:
        name: Of the file that is written for it.
        content: Gives a good one.
        read: Called with the file's path.
        cases: Makes bad ones of the good one.
        allowed: What it may raise beside `InputError`, by its documentation.
    """

    name: str
    content: Callable[[], bytes]
    read: Callable[[Path], object]
    cases: Callable[[bytes], st.SearchStrategy[bytes]] = damaged
    allowed: tuple[type[Exception], ...] = ()


def _lines(path: Path, count: int) -> bytes:
    return b"".join(path.read_bytes().splitlines(keepends=True)[:count])


def _npz() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seed.npz"
        write_npz(path, train=6, val=3, test=3)
        return path.read_bytes()


def _picture(format: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def _dicom() -> bytes:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    data.Rows = data.Columns = 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = bytes(range(64))
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _nifti() -> bytes:
    nibabel = pytest.importorskip("nibabel")
    volume = nibabel.Nifti1Image(np.zeros((4, 4, 3), np.int16), np.eye(4))
    found: bytes = volume.to_bytes()
    return found


def _checkpoint(legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    state = {"state_dict": {"conv.weight": torch.zeros(2, 3), "conv.bias": torch.zeros(2)}}
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("a.txt", "b/c.txt"):
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"hello"))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "hello" * 50)
        archive.writestr("b/c.txt", "hello")
    return buffer.getvalue()


def _rows() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.npz"
        write_rows(path, {"t/full/knn/0/in_domain": np.zeros(9, np.float32)})
        return path.read_bytes()


def _arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{"t/full/knn/0/in_domain": np.zeros(9, np.float32)})
    return buffer.getvalue()


def _read_split(path: Path) -> None:
    for split in ("train", "test"):
        decoded = npz.open_split(path, split)
        assert sum(len(batch) for batch in decoded.images) == decoded.shape[0]


def _read_member(path: Path) -> None:
    with Archives(path.parent) as archives:
        for name in archives.members(path.name):
            archives.read(path.name, name, dtype=np.float32, shape=(None,))


def _read_volume(path: Path) -> None:
    volume = open_volume(path)
    if np.prod(volume.shape) < 10**7:
        volume.read(0)


def _import(path: Path) -> None:
    import_results(path, STUDY)


def _extract(path: Path) -> None:
    into = path.parent / "unpacked"
    with suppress(FileNotFoundError):
        into.rename(path.parent / f"old-{os.urandom(8).hex()}")
    extract(path, into, at_most=10_000)


def _validate(path: Path) -> None:
    for _ in validate(path.parent):
        pass


def _longest_card() -> bytes:
    return max((path.read_bytes() for path in card_files(packaged("tasks"))), key=len)


def _published() -> bytes:
    columns = load_study(STUDY).columns.model_dump()
    return f"{','.join(map(str, columns.values()))}\n{','.join('1' for _ in columns)}".encode()


def _records() -> bytes:
    return _lines(SUBMISSION / "records.jsonl", 3)


READERS = {
    "task card": Reader("task.yaml", _longest_card, load_card, hostile_yaml),
    "suites": Reader(
        "suites.yaml", (ROOT / "tasks" / "suites.yaml").read_bytes, load_suites, hostile_yaml
    ),
    "encoder card": Reader(
        "encoder.yaml",
        lambda: dump_card(registered()["resnet18"].card).encode(),
        lambda path: resolve_encoder(str(path.parent)),
        hostile_yaml,
    ),
    "recipe": Reader(
        "r.yaml",
        lambda: (packaged("pretraining") / "recipes" / "simclr.yaml").read_bytes(),
        lambda path: load_recipe(str(path)),
        hostile_yaml,
    ),
    "grid": Reader(
        "g.yaml", (ROOT / "baselines" / "small.yaml").read_bytes, load_grid, hostile_yaml
    ),
    "mapping of a study": Reader("s.yaml", STUDY.read_bytes, load_study, hostile_yaml),
    "records": Reader("records.jsonl", _records, read_records, hostile_json),
    "scores": Reader(
        "scores.jsonl",
        lambda: _lines(SUBMISSION / "scores.jsonl", 3),
        lambda path: read_scores(path.parent),
        hostile_json,
    ),
    "verification": Reader(
        VERIFICATION,
        (SUBMISSION / VERIFICATION).read_bytes,
        lambda path: read_status(path.parent),
    ),
    "published records": Reader(
        "records.jsonl",
        lambda: _lines(STUDY.with_name("records.jsonl"), 3),
        lambda path: read_published(path, load_study(STUDY)),
        hostile_json,
    ),
    "submission": Reader("records.jsonl", _records, _validate, hostile_json),
    "submission on the board": Reader(
        "records.jsonl", _records, lambda path: load_submission(path.parent), hostile_json
    ),
    "images, npz": Reader("d.npz", _npz, _read_split),
    "replicates, npz": Reader("r.npz", _rows, read_rows),
    "replicates of each array, npz": Reader("r.npz", _arrays, read_rows),
    "rows to verify, npz": Reader("r.npz", _rows, _read_member),
    "arrays to verify, npz": Reader("r.npz", _arrays, _read_member),
    "checkpoint, zip": Reader("c.pt", _checkpoint, read_checkpoint),
    "checkpoint, pickle": Reader("c.pt", lambda: _checkpoint(legacy=True), read_checkpoint),
    "checkpoint, safetensors": Reader(
        "c.safetensors", lambda: save_safetensors({"a": torch.zeros(2, 3)}), read_checkpoint
    ),
    "state of a pre-training": Reader("state.pt", _checkpoint, read_state),
    "folder's table, CSV": Reader(
        "t.csv",
        lambda: b"file,split,label,patient\na.png,train,x,1\nb.png,test,y,2\n",
        lambda path: list_table(path.parent, path, "train"),
    ),
    "scores, CSV": Reader(
        "s.csv",
        lambda: b"encoder,task,score,value\na,t,logme,1.5\nb,t,logme,\n",
        read_scores_csv,
    ),
    "outcomes, CSV": Reader(
        "o.csv",
        lambda: b"encoder,task,metric,value\na,t,linear,0.5\nb,t,linear,0.6\n",
        read_outcomes,
    ),
    "published results, CSV": Reader("p.csv", _published, _import),
    "PNG": Reader("i.png", lambda: _picture("PNG"), lambda path: read_image(path, channels=3)),
    "mask, PNG": Reader("i.png", lambda: _picture("PNG"), read_mask),
    "JPEG": Reader("i.jpg", lambda: _picture("JPEG"), lambda path: read_image(path, channels=1)),
    "TIFF": Reader("i.tif", lambda: _picture("TIFF"), lambda path: read_image(path, channels=1)),
    "DICOM": Reader("i.dcm", _dicom, lambda path: read_image(path, channels=1)),
    "NIfTI": Reader("v.nii", _nifti, _read_volume),
    "tar archive": Reader("a.tar.gz", _tar, _extract),
    "zip archive": Reader("a.zip", _zip, _extract),
}
"""Every reader of files that others write, by what it reads."""
