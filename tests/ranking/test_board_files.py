"""Files of a board: their text, their check, and the summary of an evaluation."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medtransfer import ranking
from medtransfer.ranking.report.files import csv_field
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite
from tests.helpers.boards import (
    CELLS,
    FAILURE,
    FINETUNED,
    QUICK,
    SUITES,
    at,
    card,
    made,
    rank,
    record,
    save,
    submission,
    without,
)


def test_text_of_others_is_escaped() -> None:
    """Nothing that a card or a record says becomes markup or a formula."""
    nasty = "=1+1 | <script>`x`</script>\n# [a](b) *c* _d_"
    device = record("b", CELLS[0])["cost"] | {"device": "a|b"}
    title = submission("a", title=nasty, change=lambda _, draft: {**draft, "cost": device})
    error = submission("b", change=at(FINETUNED, **FAILURE | {"error": nasty}))
    board = rank(title, error)
    text = ranking.render_markdown([board])
    escaped = r"=1+1 \| &lt;script&gt;\`x\`&lt;/script&gt; # \[a\](b) \*c\* \_d\_"
    assert text.count(escaped) == 2 and r"a\|b" in text
    assert "<script>" not in text and "\n# [" not in text
    [row] = [r for r in csv.DictReader(io.StringIO(ranking.render_csv([board]))) if r["rank"]]
    assert row["title"].startswith("'=1+1 | <script>")
    assert ranking.escape("a\r\n\tb\u2028c\\") == r"a b c\\"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.25, "-0.25"),
        (-1e-9, "0.0"),
        (1 / 3, "0.333333"),
        (2.0e16, "20000000000000000"),
        (None, ""),
        ("-x", "'-x"),
        ("@x", "'@x"),
        ("+x", "'+x"),
        ("x-y", "x-y"),
    ],
)
def test_values_in_the_csv(value: Any, text: str) -> None:
    """Six decimals, whole numbers exact, null empty; only text can need an apostrophe."""
    assert csv_field(value) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (-0.0004, "score", "0.000"),
        (3_640_000_000, "FLOP", "3.6 GFLOP"),
        (999.99e9, "FLOP", "1.0 TFLOP"),
        (45_100_000, "count", "45.1 M"),
        (512, "count", "512"),
        (1_900_000_000, "bytes", "1.9 GB"),
        (95.04, "seconds", "95.0 s"),
        (1800, "seconds", "30 min"),
        (7560, "seconds", "2.1 h"),
        (float("nan"), "FLOP", "-"),
    ],
)
def test_quantities_for_people(value: float, unit: Any, text: str) -> None:
    """Numbers keep two to four digits and carry their unit."""
    assert ranking.quantity(value, unit) == text


def test_relations_come_from_the_card() -> None:
    """Intra, inter and none are computed; undeclared is unknown."""
    known = submission("a", pretraining={"domains": ["ct"], "objective": "supervised"})
    board = rank(known, submission("b", value=0.7))
    table = ranking.tidy([board]).set_index("encoder")
    assert table.loc["a", ["relation_ct", "relation_oct"]].tolist() == ["intra", "inter"]
    text = ranking.render_markdown([board])
    assert "| 1 | a | 0.600 | 0.600 (intra) |" in text
    assert "| 2 | b | 0.400 (unknown) |" in text


def test_check_finds_a_changed_byte(tmp_path: Path) -> None:
    """What was written is current; one other byte, or a missing file, is not."""
    one = submission("a")
    found, cards = [rank(one)], {"a": one.card}
    out, names = tmp_path / "leaderboard", ["README.md", "leaderboard.csv", "scores.csv"]
    names += ["index.html"]
    names += ["figures/quick_phantom_scores.svg", "figures/quick_phantom_curves.svg"]
    assert ranking.check_leaderboard(found, out, cards=cards) == names
    assert ranking.write_leaderboard(found, out, cards=cards) == names
    there = [path.relative_to(out).as_posix() for path in out.rglob("*.*")]
    assert sorted(there) == sorted(names)
    assert ranking.check_leaderboard(found, out, cards=cards) == []
    table = out / "leaderboard.csv"
    table.write_bytes(table.read_bytes().replace(b"0.6", b"0.7", 1))
    assert ranking.check_leaderboard(found, out, cards=cards) == ["leaderboard.csv"]


def test_leaderboard_takes_the_shipped_suites_and_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python interface: folders in, one row per board and encoder out."""
    monkeypatch.setattr(ranking, "load_suites", lambda: SUITES)
    save(tmp_path, submission("a"), submission("b", value=0.7))
    table = ranking.leaderboard(tmp_path)
    assert table[["protocol", "suite", "rank", "encoder"]].to_numpy().tolist() == [
        ["quick", "phantom", 1, "a"],
        ["quick", "phantom", 2, "b"],
    ]
    pd.testing.assert_frame_equal(table, ranking.leaderboard([tmp_path]))


def test_no_records_at_all() -> None:
    """An empty leaderboard is a page, not an error."""
    assert ranking.boards([], SUITES, {"quick": QUICK}) == []
    empty = made(card("a"), [])
    assert ranking.boards([empty], SUITES, {"quick": QUICK}) == []
    assert "No records yet" in ranking.render_markdown([])
    assert ranking.render_csv([]).startswith("protocol,suite,kind,rank,encoder")


def test_summary_compares_the_same_cells() -> None:
    """Only encoders with all the given cells, protocol and data are shown, best first."""
    cells = {cell for cell in CELLS if cell.task in ("chest", "slices")}
    fingerprints = {"chest": "chest 1", "slices": "slices 1"}

    def revised(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return {**draft, "task": {**draft["task"], "fingerprint": "another"}}

    pool = [
        submission("low", value=0.7, cells=cells),
        submission("high", value=0.9),
        submission("partial", value=0.99, change=without(FINETUNED)),
        submission("revised", value=0.99, change=revised),
    ]
    table = ranking.summary(pool, cells=cells, protocol=QUICK, fingerprints=fingerprints)
    assert list(table["encoder"]) == ["high", "low"]
    assert list(table.columns[1:]) == [
        "in_domain",
        "out_of_domain",
        "chest",
        "slices",
        "adaptation_flops",
    ]
    assert table["in_domain"].tolist() == pytest.approx([0.8, 0.4])
    assert table["chest"].tolist() == pytest.approx([0.9, 0.7])
    assert table["adaptation_flops"].tolist() == [len(cells) * 10**12] * 2
    board, _ = ranking.boards(pool[:2], {"two": Suite(tasks=["chest", "slices"])}, {"quick": QUICK})
    assert table["in_domain"].tolist() == board.table["in_domain"].tolist()


def test_summary_of_nothing() -> None:
    """Nobody has the cells: an empty table, not an error."""
    nothing = ranking.summary([], cells={FINETUNED}, protocol=QUICK, fingerprints={"chest": "x"})
    assert nothing.empty


def test_ranking_imports_no_torch() -> None:
    """`bench leaderboard` starts fast: the ranking knows records, not models."""
    code = "import sys, medtransfer.ranking; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
