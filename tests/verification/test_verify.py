"""`bench verify` on whole submissions: encoders, folders, suites and hostile files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.task import load_tasks
from medtransfer.verification.coverage import Coverage, measure_coverage
from tests.conftest import Bench
from tests.helpers.segmentation import MAPS
from tests.helpers.tampering import (
    LATER,
    change_array,
    change_card,
    edit,
    evaluate,
    lead_out,
    nudge_all,
    put,
    repair,
    rewrite,
    verify,
)


def test_masks_of_an_encoder_that_is_not_at_hand(made: Path, tmp_path: Path, bench: Bench) -> None:
    """Masks are compared again; the identity of a user's own code is said to be declared."""
    copy = Path(shutil.copytree(made / "out" / "maps", tmp_path / "maps"))
    outcome = verify(bench, made, copy)
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert "note: encoder.sha256: declared" in outcome.out
    assert "ok: recomputed: 1 cells" in outcome.out
    cell = "discs 10-shot decoder 0"
    for number, message in ((1, "metrics.in_domain.dice"), (7, "predicted must be 0 to 2")):
        change_array(
            "predictions/discs.npz",
            "10-shot/decoder/in_domain",
            lambda masks, number=number: np.full_like(masks, number),
            "predictions",
            cell,
        )(copy)
        outcome = verify(bench, made, copy)
        assert outcome.code == 2 and message in outcome.err, outcome.err
    refused = verify(bench, made, made / "out" / "maps", "--rerun", 1)
    assert refused.code == 2 and refused.out == ""
    assert "neither shipped nor installed; name its .py file with --encoder" in refused.err


def test_the_encoder_may_be_named(made: Path, tmp_path: Path, bench: Bench) -> None:
    """With --encoder the user's own code is run again; other code is refused, in one line."""
    copy = Path(shutil.copytree(made / "out" / "maps", tmp_path / "maps"))
    other = tmp_path / "maps.py"
    other.write_text(MAPS + "\n")
    refused = verify(bench, made, copy, "--encoder", other)
    assert refused.code == 2 and refused.out == ""
    assert "maps.py' is not the evaluated encoder" in refused.err
    assert len(refused.err.splitlines()) == 1
    outcome = verify(bench, made, copy, "--encoder", made / "maps.py", "--rerun", 1)
    assert outcome.code == 0, outcome.err
    assert "identity computed from the card" in outcome.out
    assert "ok: run again: discs 10-shot decoder #0" in outcome.out
    assert "status: verified: 1 cells; " in outcome.out


def test_a_name_is_no_file(
    made: Path, copy: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the encoder's name in the current folder is not taken for its weights."""
    (copy.parent / "elsewhere").mkdir()
    monkeypatch.chdir(copy.parent / "elsewhere")
    Path("pixels").touch()
    outcome = verify(bench, made, copy, "--encoder", "pixels")
    assert outcome.code == 0, outcome.err


def test_weights_that_are_not_beside_the_card(made: Path, tmp_path: Path, bench: Bench) -> None:
    """They are named with --encoder, or laid beside the card; others are refused."""
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    own, name = tmp_path / "own", "tiny"
    own.mkdir()
    for file, seed in (("weights.pt", 0), ("others.pt", 1)):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), own / file)
    card = {"name": name, "architecture": {"timm": "test_vit"}, "input": {"size": 160}}
    card["weights"] = {"path": "weights.pt"}
    (own / "encoder.yaml").write_text(json.dumps(card))
    for part in ("cards", "few.npz"):
        (tmp_path / part).symlink_to(made / part)
    evaluate(tmp_path, own, "--task", "few", "--budget", "1-shot", "--adaptation", "knn")
    folder = tmp_path / "out" / name
    refused = verify(bench, made, folder, "--rerun", 1)
    assert refused.code == 2 and refused.out == ""
    assert (
        "weights.path: 'weights.pt' is missing; put the weights beside encoder.yaml, or"
        in refused.err
    )
    refused = verify(bench, made, folder, "--encoder", own / "others.pt")
    assert refused.code == 2 and "others.pt' is not the evaluated encoder" in refused.err
    for encoder in (own / "weights.pt", own):
        outcome = verify(bench, made, folder, "--encoder", encoder, "--rerun", 1)
        assert outcome.code == 0 and "status: verified: 3 cells; " in outcome.out, outcome.err
    shutil.copy(own / "weights.pt", folder)
    outcome = verify(bench, made, folder, "--rerun", 1)
    assert outcome.code == 0 and "status: verified: " in outcome.out, outcome.err


def test_another_encoders_results_are_known(made: Path, copy: Path, bench: Bench) -> None:
    """The results of one encoder under two names are found from either, whatever the hashes say."""
    thief = copy.parent / "mine"
    shutil.copytree(copy, thief)
    change_card("name: pixels", "name: mine")(thief)
    edit(thief, put("encoder", "name", "mine"), cell="")
    rewrite(thief, "predictions/small.npz", lambda arrays: arrays.update(nudge_all(arrays)))
    repair(thief, "predictions")
    outcome = verify(bench, made, thief)
    assert (
        outcome.code == 2
        and "replicates: identical to those of encoder 'pixels' in " in outcome.err
    )
    # Of the cells of single neighbours, which can coincide, nothing is said.
    assert "(and so in 10 more records)" in outcome.err, outcome.err
    outcome = verify(bench, made, copy)
    assert (
        outcome.code == 2 and "replicates: identical to those of encoder 'mine' in " in outcome.err
    )


def test_where_the_folder_is(made: Path, copy: Path, bench: Bench) -> None:
    """A misspelt folder, one of several submissions and a renamed one are each one clear line."""
    for folder, message in (
        (made / "out" / "pixel", "no such folder; did you mean 'pixels'?"),
        (made / "out", "holds no encoder.yaml; the folder of a submission is expected; name one "),
        (made / "cards", "holds no encoder.yaml; the folder of a submission is expected\n"),
    ):
        outcome = verify(bench, made, folder)
        assert (outcome.code, outcome.out) == (2, "")
        assert message in outcome.err and len(outcome.err.splitlines()) == 1
    outcome = verify(bench, made, copy.rename(copy.parent / "renamed"))
    assert outcome.code == 2 and "but the folder is 'renamed'" in outcome.err


def test_the_suite_is_what_the_tasks_are_of() -> None:
    """A part of a suite is counted against the whole; tasks of several, or a user's own, alone."""
    cards = load_tasks()
    protocol = load_protocol("quick")

    def measure(*names: str) -> Coverage:
        [found] = measure_coverage([], {name: cards[name] for name in names}, [protocol])
        return found

    whole = measure("phantom_ct")
    assert (whole.of, whole.planned, len(whole.missing)) == ("suite phantom", 100, 100)
    part = measure("phantom_lungs", "phantom_organs")
    assert part.of == "suite phantom-segmentation"
    assert measure("organ_axial", "organ_coronal", "organ_sagittal").of == "suite ct"
    mixed = measure("phantom_ct", "phantom_organs")
    assert mixed.of == "these tasks" and {cell.task for cell in mixed.missing} == {
        "phantom_ct",
        "phantom_organs",
    }


def test_absent_data_are_said(made: Path, copy: Path, bench: Bench, tmp_path: Path) -> None:
    """Without its data a task is called not recomputed; what needs none is still checked."""
    command = ("verify", copy, "--tasks", made / "cards", "--data", tmp_path)
    outcome = bench(*command)
    assert outcome.code == 0, outcome.err
    assert "note: not recomputed: small, 14 cells: " in outcome.out
    assert "ok: recomputed: 0 cells" in outcome.out
    refused = bench(*command, "--rerun", 1)
    assert refused.code == 2 and "the data of few, small are missing" in refused.err
    edit(copy, put("task", "domain", "oct"))
    assert bench(*command).code == 2


def test_a_hostile_ledger_is_one_line_each(made: Path, copy: Path, bench: Bench) -> None:
    """Escape codes, endless names, deep lists and huge numbers end in lines, not in tracebacks."""
    edit(copy, put("budget", "\x1b[2J\n" + "x" * 100_000))
    edit(copy, put("cost", "adaptation_flops", 10**400), cell=LATER)
    edit(copy, put("selected", {"l2": [[]], "lr": {}}), cell="small full linear 0")
    edit(copy, put("metrics", {"../../x": {"auroc": 1}}), cell="small full knn 0")
    outcome = verify(bench, made, copy)
    assert outcome.code == 2 and "Traceback" not in outcome.err
    lines = outcome.err.splitlines()
    assert all(line.startswith("error: ") and len(line) < 1100 for line in lines), outcome.err
    assert "\x1b" not in outcome.err
    assert bench("verify", copy / "predictions").code == 2


def test_a_line_that_cannot_be_read(made: Path, copy: Path, bench: Bench) -> None:
    """It is one line of error: its arrays and files are not said to belong to no record."""
    ledger = copy / "records.jsonl"
    first, *rest = ledger.read_bytes().splitlines(keepends=True)
    for lines in ([first.replace(b'"draw":', b'"drew":'), *rest], [b"{}\n"]):
        ledger.write_bytes(b"".join(lines))
        outcome = verify(bench, made, copy)
        assert outcome.code == 2 and outcome.err.startswith("error: records.jsonl: line 1: ")
        assert outcome.err.count("\n") == 1, outcome.err
        assert outcome.out.endswith("status: problems found; not verified\n")
    assert "0 cells" not in outcome.out
    assert "a file; the folder of a submission is expected" in bench("verify", ledger).err


def test_validate_follows_no_path_out(made: Path, copy: Path, bench: Bench) -> None:
    """`bench validate` looks at no file outside the submission."""
    assert bench("validate", copy).code == 0
    lead_out(copy)
    outcome = bench("validate", copy)
    assert outcome.code == 2 and "'replicates.npz' is right" in outcome.err


def test_verifying_needs_no_torch(made: Path) -> None:
    """Only masks and cells that are run again need torch."""
    options = ["--tasks", str(made / "cards"), "--data", str(made)]
    code = f"""
import sys
sys.argv = ["bench", "verify", {str(made / "out" / "pixels")!r}, *{options!r}]
from medtransfer.cli import main
try:
    main()
except SystemExit:
    pass
print("HEAVY", sorted({{"torch", "timm"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "HEAVY []", run.stdout
    assert "ok: recomputed" in run.stdout
