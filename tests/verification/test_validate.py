"""`bench validate` and `bench leaderboard`, on what `bench evaluate` writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import medtransfer
from tests.conftest import ROOT, Bench, Small, write_card, write_npz
from tests.helpers.replicates import load_arrays, save_arrays
from tests.helpers.tampering import double_record


@pytest.fixture
def submission(small: Small, tmp_path: Path) -> Path:
    """A submission of raw pixels on the small task, all cells."""
    medtransfer.evaluate(
        "pixels", protocol="quick", out=tmp_path / "out", data=small.data, task_folder=small.cards
    )
    return tmp_path / "out" / "pixels"


def test_cards_are_checked_against_their_data(small: Small, bench: Bench) -> None:
    """With --data sizes, prevalence and duplicates are said; wrong labels are refused."""
    outcome = bench("validate", small.cards, "--data", small.data)
    assert outcome.code == 0
    assert "train: small.npz: 60 images of 16 x 16, values " in outcome.out
    assert "; first 33.3%, second 33.3%, third 33.3%; patients unknown" in outcome.out
    assert "again: no image is in train" in outcome.out
    arrays = dict(np.load(small.npz))
    arrays["test_images"][3] = arrays["train_images"][7]
    np.savez(small.npz, **arrays)
    outcome = bench("validate", small.cards, "--data", small.data)
    assert "note: in_domain: 1 exact and 0 near duplicates" in outcome.out
    assert "(train item = in_domain item: 7 = 3)" in outcome.out
    assert "no data folder given; pass --data DIR" in bench("validate", small.card).out
    absent = write_card(small.cards, "absent", "smal.npz")
    outcome = bench("validate", absent, "--data", small.data)
    assert outcome.code == 2 and "smal.npz: not found" in outcome.err
    absent.unlink()
    write_npz(small.npz, classes=4)
    outcome = bench("validate", small.card, "--data", small.data)
    assert outcome.code == 2
    assert "label 3 is outside the card's 3 classes" in outcome.err


@pytest.mark.parametrize(
    "folder", sorted(p.parent for p in (ROOT / "submissions").glob("*/encoder.yaml"))
)
def test_committed_submissions_are_valid(folder: Path, bench: Bench) -> None:
    """Every committed submission validates, and all of its cells were settled."""
    outcome = bench("validate", folder)
    assert outcome.code == 0, outcome.err
    assert "failed" not in outcome.out


def test_the_readme_shows_the_committed_leaderboard() -> None:
    """The tables in README and docs are the first rows of tables of the generated pages."""
    page, readme, docs = (
        [part for part in text.split("\n\n") if part.startswith("| Rank | Encoder |")]
        for text in (
            "\n\n".join(path.read_text() for path in (ROOT / "leaderboard").rglob("*.md")),
            (ROOT / "README.md").read_text(),
            (ROOT / "docs" / "submissions.md").read_text(),
        )
    )
    assert (len(readme), len(docs)) == (1, 2)
    for table in [*readme, *docs]:
        assert len(table.splitlines()) > 5
        assert [whole for whole in page if whole.startswith(table)], table.splitlines()[2]


def test_every_file_of_a_folder_is_checked(small: Small, bench: Bench) -> None:
    """What is wrong with one card is a line, and the others are looked at all the same."""
    write_card(small.cards, "bad", "small.npz", metric="acuracy")
    write_card(small.cards / "more", "worse", "small.npz", kind=None)
    outcome = bench("validate", small.cards)
    assert outcome.code == 2 and "small.yaml: task small" in outcome.out
    lines = outcome.err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
    assert "bad.yaml: metric: " in lines[0] and "worse.yaml: kind: required" in lines[1]
    (small.cards / "bad.yaml").unlink()
    (small.cards / "more" / "worse.yaml").unlink()
    (small.cards / "suites.yaml").write_text("mine: [small, smal]\n")
    outcome = bench("validate", small.cards)
    assert outcome.code == 2
    assert outcome.err.endswith("mine: unknown task 'smal'; did you mean 'small'?\n")


def test_a_folder_of_submissions(submission: Path, bench: Bench) -> None:
    """Each submission of a folder has its line, right or wrong; a misspelt one has a hint."""
    folder = submission.parent
    assert "encoder pixels, 16 ok" in bench("validate", folder).out
    for name in ("a", "z"):
        shutil.copytree(submission, folder / name)
    arrays = load_arrays(folder / "a" / "replicates.npz")
    gone = arrays.popitem()[0]
    save_arrays(folder / "a" / "replicates.npz", arrays)
    (folder / "z" / "encoder.yaml").unlink()
    outcome = bench("validate", folder)
    lines = outcome.err.splitlines()
    assert outcome.code == 2 and "encoder pixels, 16 ok" in outcome.out and len(lines) == 2
    assert f"/a: replicates.npz: {gone}: is missing, but a record needs it" in lines[0]
    assert "/z: holds no encoder.yaml" in lines[1]
    outcome = bench("validate", folder / "pixel")
    assert outcome.code == 2 and "no such file or folder; did you mean 'pixels'?" in outcome.err


def test_submission_errors(submission: Path, tmp_path: Path, bench: Bench) -> None:
    """A missing file, a damaged ledger and a foreign card are each named."""
    assert "encoder pixels, 16 ok" in bench("validate", submission).out
    for damage, message in (
        (lambda p: (p / "replicates.npz").unlink(), "replicates.npz: is missing"),
        (lambda p: (p / "records.jsonl").write_text("{}\n"), "records.jsonl: line 1"),
        (lambda p: (p / "encoder.yaml").write_text("name: pixels\n"), "encoder.yaml"),
        (double_record, "is settled in line 1 already; keep one"),
    ):
        copy = tmp_path / "copy" / "pixels"
        shutil.copytree(submission, copy)
        damage(copy)
        outcome = bench("validate", copy)
        assert outcome.code == 2 and message in outcome.err, outcome.err
        assert len(outcome.err.splitlines()) == 1
        shutil.rmtree(copy)
    assert bench("validate", tmp_path / "nowhere").code == 2


def test_a_board_of_ones_own(submission: Path, tmp_path: Path, bench: Bench) -> None:
    """A user's own tasks get a board: the same bytes twice, and --check sees a change."""
    folders = ("--submissions", submission.parent, "--out", tmp_path / "board")
    assert bench("leaderboard", *folders).code == 0
    page = tmp_path / "board" / "README.md"
    before = page.read_bytes()
    assert b"| 1 | pixels |" in before
    assert bench("leaderboard", *folders).code == 0 and page.read_bytes() == before
    assert bench("leaderboard", "--check", *folders).code == 0
    page.write_bytes(before.replace(b"pixels", b"pixies", 1))
    outcome = bench("leaderboard", "--check", *folders)
    assert outcome.code == 2 and "README.md" in outcome.err


def test_an_encoders_folder_is_valid_whatever_stands_beside_it(
    tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with encoder.yaml validates from within, under any name, beside any neighbour."""
    folder = tmp_path / "somewhere"
    folder.mkdir()
    (tmp_path / "neighbour").mkdir()
    card = "name: mine\narchitecture: {timm: resnet18}\npretraining: {domains: [octt]}\n"
    (folder / "encoder.yaml").write_text(card)
    monkeypatch.chdir(folder)
    for path in (folder, "."):
        outcome = bench("validate", path)
        assert outcome.code == 0 and "encoder mine" in outcome.out, outcome.err
        assert "no shipped task has domain 'octt'; did you mean 'oct'?" in outcome.out
    (folder / "encoder.yaml").write_text(card.replace("domains", "domain"))
    assert (
        "pretraining.domain: unknown field; did you mean 'domains'?" in bench("validate", ".").err
    )


def test_the_python_leaderboard_takes_strings(submission: Path) -> None:
    """`medtransfer.leaderboard` takes a path or several, as text or as paths."""
    folder = submission.parent
    for given in (folder, str(folder), [str(folder)], [folder]):
        assert list(medtransfer.leaderboard(given)["encoder"]) == ["pixels"]


def test_no_submissions(tmp_path: Path, bench: Bench) -> None:
    """A folder that is not there, or holds nothing, is named, and no board is written."""
    outcome = bench("leaderboard", "--submissions", tmp_path / "nowhere", "--out", tmp_path)
    assert outcome.code == 2 and "nowhere" in outcome.err
    (tmp_path / "empty").mkdir()
    outcome = bench("leaderboard", "--submissions", tmp_path / "empty", "--out", tmp_path)
    assert outcome.code == 2 and "holds no submission" in outcome.err
    assert not (tmp_path / "README.md").exists()
