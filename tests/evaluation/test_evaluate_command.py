"""Options and folders that `bench evaluate` refuses in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import Bench, Small, write_card
from tests.helpers.evaluation import arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--encoder", "resnt18"], "unknown encoder 'resnt18'; did you mean 'resnet18'?"),
        (["--encoder", "nowhere.pt"], "nowhere.pt: no such file"),
        (["--suite", "fantom"], "unknown suite 'fantom'; did you mean 'phantom'?"),
        (["--task", "phantom_tc"], "unknown task 'phantom_tc'; did you mean 'phantom_ct'?"),
        (["--protocol", "quik"], "unknown protocol 'quik'; did you mean 'quick'?"),
        (["--budget", "10-shots"], "no budget '10-shots'; did you mean '10-shot'?"),
        (["--budget", "5-shot"], "no budget '5-shot'; it has: 1-shot, 10-shot, full"),
        (["--adaptation", "fine-tune"], "no adaptation 'fine-tune'; did you mean 'finetune'?"),
        (["--task", "nope"], "--task: unknown task 'nope' (`bench list tasks` shows the shipped"),
        (["--tasks", "nowhere"], "--tasks: nowhere: no such folder of task cards"),
        (["--encoder", ""], "--encoder: empty; give a path"),
        (["--encodr", "pixels"], "--encodr"),
        (["--jobs", "0"], "--jobs"),
        (["--jobs", "two"], "--jobs"),
        (["--device", "gpu"], "'gpu'"),
        (["--architecture", "resnet18"], "--architecture: only goes with a checkpoint file"),
    ],
)
def test_misspelt_options(
    options: list[str], message: str, tmp_path: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt option ends in exit code 2 and one line that says what would be right."""
    monkeypatch.chdir(tmp_path)
    base = {"--encoder": "pixels", "--protocol": "quick"} | {options[0]: options[1]}
    outcome = bench("evaluate", *(part for pair in base.items() for part in pair))
    assert outcome.code == 2
    assert outcome.err.startswith("error: ") and message in outcome.err, outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "submissions").exists()


def test_output_that_cannot_be_written(small: Small, tmp_path: Path, bench: Bench) -> None:
    """An output that is a file, or that the system refuses, is said before any cell runs."""
    (tmp_path / "file").write_text("mine")
    outcome = bench(*arguments(small, "pixels", tmp_path / "file" / "x"))
    assert outcome.code == 2 and "--out:" in outcome.err
    assert (tmp_path / "file").read_text() == "mine"
    if Path("/proc/self").exists():
        outcome = bench(*arguments(small, "pixels", "/proc/nowhere"))
        assert outcome.code == 2 and "cannot be written" in outcome.err, outcome.err


def test_two_evaluations_do_not_write_into_one_folder(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """While one evaluation writes to a submission, a second one is refused."""
    folder = tmp_path / "pixels"
    folder.mkdir()
    with FileLock(folder / "records.jsonl.lock"):
        outcome = bench(*arguments(small, "pixels", tmp_path))
    assert outcome.code == 2, outcome.err
    said = "another evaluation is writing there; wait for it, or choose another --out"
    assert said in outcome.err
    assert not (folder / "records.jsonl").exists()


def test_a_protocol_without_segmentation_skips_it_saying_so(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """A kind that the protocol does not have is named and left out; alone it is an error."""
    write_card(small.cards, "masks", "small.npz", kind="segmentation", metric="dice")
    command = [x if x != "quick" else "medmnist" for x in arguments(small, "pixels", tmp_path)]
    outcome = bench(*command, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "skipped masks: protocol medmnist has no segmentation" in outcome.out
    alone = bench(*command, "--task", "masks")
    assert alone.code == 2 and "no cell is left to run: protocol medmnist has no segm" in alone.err
