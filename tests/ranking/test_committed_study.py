"""The committed study agrees with its CSV file and with the paper."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from medtransfer.ranking import load_submissions
from medtransfer.ranking.published.board import Published, load_published, published_board
from medtransfer.ranking.published.csv_import import import_results, write_study
from medtransfer.ranking.published.markdown import render_published
from tests.conftest import ROOT
from tests.helpers.published import COMMITTED, PLAIN, put

ORIGINAL = ROOT.parent / "shared" / "published" / "cherti-jitsev-2021.csv"


def test_committed_records_are_what_the_csv_gives(tmp_path: Path) -> None:
    """`bench import` of the authors' numbers gives the committed bytes."""
    if not ORIGINAL.is_file():
        pytest.skip(f"no {ORIGINAL}")
    folder = COMMITTED / "cherti-jitsev-2021"
    imported = import_results(ORIGINAL, folder / "study.yaml")
    written = write_study(imported, folder / "study.yaml", tmp_path)
    for name in ("study.yaml", "records.jsonl"):
        assert (written / name).read_bytes() == (folder / name).read_bytes()


def test_tuberculosis_equals_the_paper(cherti: Published) -> None:
    """Mean AUC in per cent at 1 shot, 10 shots and full, of the three encoders quoted."""
    results = published_board(cherti).results
    rows = results[(results["task"] == "tuberculosis") & (results["metric"] == "auroc")]
    means = (100 * rows.set_index(["encoder", "budget"])["mean"]).round(1)
    for encoder, quoted in {
        "imagenet1k-r50x1": [71.4, 75.5, 89.6],
        "imagenet21k-r152x4": [64.5, 75.7, 92.8],
        "chexpert-mimic-nih-padchest-r152x4": [73.9, 75.8, 95.9],
    }.items():
        assert [means[encoder, budget] for budget in ("1-shot", "10-shot", "full")] == quoted


def test_the_traps_of_the_study_are_seen(cherti: Published) -> None:
    """All 1,440 runs are there, nine of them marked as cut short; what is missing is null."""
    assert len(cherti.records) == 1440
    assert all(len(record.metrics) == 3 for record in cherti.records)
    cut = [record for record in cherti.records if record.marks]
    assert len(cut) == 9
    assert {record.budget for record in cut} == {"1-shot"}
    board = published_board(cherti)
    assert board.table["rank"].dropna().index.tolist() == [
        "imagenet21k-r152x4",
        "imagenet1k-r152x4",
        "imagenet21k-r50x1",
    ]
    assert board.table.loc["imagenet1k-r50x1", ["have", "expected"]].tolist() == [176, 180]
    results = board.results.set_index(["encoder", "task", "budget", "metric"])
    assert results.loc[("chexpert-mimic-r50x1", "padchest", "10-shot", "auroc"), "have"] == 4
    assert results.loc[("nih-r152x4", "tuberculosis", "1-shot", "auroc"), "marked"] == 4


def test_the_three_findings(cherti: Published) -> None:
    """Larger is better intra-domain, at full alone; PadChest reverses; COVIDx flips."""
    board = published_board(cherti)
    shown = board.findings.groupby("finding")["verdict"].agg(lambda v: (v == "as claimed").all())
    assert shown.tolist() == [True, False, True, True]
    larger, few, reversal, flip = (part for _, part in board.findings.groupby("finding"))
    assert len(larger) == 11
    assert larger["low"].min() > 0.01
    assert not few.query("budget == '1-shot'")["verdict"].eq("as claimed").any()
    assert (reversal.query("budget == '10-shot'")["high"] < -0.015).all()
    assert (reversal.query("budget == 'full'")["low"] > 0.005).all()
    auroc, accuracy = flip.to_dict("records")
    assert (auroc["rank_a"], auroc["rank_b"]) == (1, 4)
    assert (accuracy["rank_a"], accuracy["rank_b"]) == (5, 1)
    assert auroc["difference"] == pytest.approx(0.0126, abs=1e-4)
    assert accuracy["difference"] == pytest.approx(-0.041, abs=1e-4)


def test_the_committed_section(cherti: Published) -> None:
    """The page says whose numbers these are, and the same records give the same bytes."""
    text = render_published([cherti])
    assert text.startswith("## Published results, not measured here\n")
    assert text == render_published(load_published(COMMITTED))
    assert text.count("**Shown.**") == 3
    assert "10 shots and better at full" in text
    assert all(line.count("\\|") == 0 for line in text.splitlines())


def test_published_records_are_never_among_the_measured(cherti: Published) -> None:
    """Neither as submissions nor as records of one."""
    measured = {s.card.name for s in load_submissions([COMMITTED.parent])}
    assert measured.isdisjoint(cherti.study.encoder_cards)


def test_the_import_waits_for_no_torch(tmp_path: Path) -> None:
    """Reading a table needs no torch."""
    path, mapping = put(tmp_path, **PLAIN)
    code = f"""
import sys
sys.argv = ["bench", "import", {str(path)!r}, "--mapping", {str(mapping)!r}, "--out", "out"]
from medtransfer.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
from pathlib import Path
from medtransfer.ranking.published.board import load_published
from medtransfer.ranking.published.markdown import render_published
assert render_published(load_published(Path("out")))
assert not {{"torch", "timm", "skimage"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
