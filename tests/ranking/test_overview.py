"""The overview of the leaderboard and the pages that it links to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medtransfer import ranking
from medtransfer.ranking import Board
from medtransfer.ranking.report.overview import render_pages
from tests.conftest import ROOT
from tests.helpers.boards import MIXED, MIXED_SUITES, QUICK, card, submission

MOST = 40_000  # bytes


@pytest.fixture
def boards() -> list[Board]:
    """A suite with both kinds of tasks, and so three boards."""
    encoders = [submission("a", cells=MIXED), submission("b", cells=MIXED, value=0.9)]
    return ranking.boards(encoders, MIXED_SUITES, {"quick": QUICK})


def test_the_committed_overview_is_short_and_its_links_lead_somewhere() -> None:
    """Whoever opens the folder can load the page, and follow each link of each page."""
    folder = ROOT / "leaderboard"
    assert (folder / "README.md").stat().st_size <= MOST
    pages = list(folder.rglob("*.md"))
    assert len(pages) > 8
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)", page.read_text()):
            assert (page.parent / link).is_file(), (page, link)


def test_every_page_is_linked(boards: list[Board]) -> None:
    """A board, and the single tasks of a suite, have a page each, which the overview names."""
    overview, *pages = render_pages(boards)
    assert overview == "README.md"
    assert pages == [
        "boards/quick_mixed.md",
        "tasks/quick_mixed.md",
        "boards/quick_mixed_classification.md",
        "boards/quick_mixed_segmentation.md",
    ]
    text = render_pages(boards)["README.md"]
    assert all(f"]({page})" in text for page in pages)


def test_pages_without_a_board_are_removed(boards: list[Board], tmp_path: Path) -> None:
    """What an earlier run wrote goes with its board; a file of somebody else's stays."""
    cards = {name: card(name) for name in ("a", "b")}
    ranking.write_leaderboard(boards, tmp_path, cards=cards)
    mine = tmp_path / "boards" / "mine.md"
    mine.write_text("# Mine\n")
    stale = "boards/quick_mixed_segmentation.md"
    assert stale in ranking.check_leaderboard(boards[:2], tmp_path, cards=cards)
    ranking.write_leaderboard(boards[:2], tmp_path, cards=cards)
    assert not (tmp_path / stale).exists() and mine.exists()
    assert ranking.check_leaderboard(boards[:2], tmp_path, cards=cards) == []
