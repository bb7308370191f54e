"""Colours, small screens, barriers and long text of the page, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtransfer import ranking
from medtransfer.ranking.report.page import render_page
from medtransfer.specs.record import Cell
from tests.helpers.boards import QUICK, SUITES, card, submission
from tests.helpers.browser import CHROMIUM, PUBLISHED, Open, visit, write
from tests.helpers.page import many

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
    pytest.mark.xdist_group("browser"),
]


def test_light_and_dark(open_page: Open) -> None:
    """The system's preference holds until the button is pressed; charts follow."""
    page = open_page(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    label = "getComputedStyle(document.querySelector('.chart text')).fill"
    dark, dark_label = page.evaluate(paper), page.evaluate(label)
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    page.click("#theme")
    page.wait_for_selector("body[data-drawn]")
    assert page.evaluate(paper) == "rgb(255, 255, 255)" != dark
    assert page.evaluate(label) != dark_label
    page.reload()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    assert "theme" not in page.url


STATES = ["#section=cost", "#encoder=alpha", "#domain=ct"]


def test_no_sideways_scroll_on_a_phone(open_page: Open, boards_file: Path) -> None:
    """Wide tables scroll in a box of their own."""
    page = open_page("", boards_file, viewport={"width": 390, "height": 844})
    root = "document.documentElement"
    for state in ["", *STATES, PUBLISHED]:
        if state:
            visit(page, state)
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), state


def test_no_serious_barrier(open_page: Open, boards_file: Path) -> None:
    """axe-core finds nothing serious in light or dark, contrast included."""
    for scheme in ("light", "dark"):
        page = open_page("", boards_file, color_scheme=scheme)
        for state in ["", *STATES[1:], PUBLISHED]:
            if state:
                visit(page, state)
            for summary in page.locator("main summary").all():
                summary.click()
            found = [
                (one["id"], one["nodes"][0]["html"][:120])
                for one in axe.Axe().run(page).response["violations"]
                if one["impact"] in ("serious", "critical")
            ]
            assert found == [], (scheme, state)


def test_skip_link_and_focus(open_page: Open) -> None:
    """The first stop of the keyboard leads past the head, and changes no state."""
    page = open_page("#section=cost")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url.endswith("#section=cost")


def test_names_beside_points_do_not_meet(open_page: Open, tmp_path: Path) -> None:
    """Every point has its name where there is room, and no name lies on another or on a point."""
    board, names = many(60)
    rng = np.random.default_rng(0)
    board.table["adaptation_flops"] = 10 ** rng.uniform(9, 14, len(names))
    path = tmp_path / "index.html"
    path.write_text(render_page([board], {name: card(name) for name in names}))
    page = open_page("", path)
    boxes = page.locator("section[aria-labelledby=cost] .mark-text.role-mark text").evaluate_all(
        "all => all.filter(t => t.textContent).map(t => t.getBoundingClientRect().toJSON())"
    )
    points = page.locator("section[aria-labelledby=cost] .mark-symbol path").evaluate_all(
        "all => all.map(p => p.getBoundingClientRect().toJSON())"
    )
    assert len(points) == 60 and 20 < len(boxes) <= 60
    for position, a in enumerate(boxes):
        for b in [*boxes[:position], *points]:
            # A pixel is what the letters' box has above and below them.
            apart = a["right"] <= b["left"] or b["right"] <= a["left"]
            assert apart or a["bottom"] - 2 <= b["top"] or b["bottom"] <= a["top"] + 2, (a, b)


def test_every_point_of_a_few_has_its_name(open_page: Open) -> None:
    """Those off the front, too."""
    names = open_page().locator("section[aria-labelledby=cost] .mark-text.role-mark text")
    assert sorted(filter(None, names.all_text_contents())) == ["alpha", "beta", "gamma"]


def test_long_text_wraps(open_page: Open, tmp_path: Path) -> None:
    """A list of devices makes a row higher, not the table wider than it must be."""

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return {**draft, "cost": draft["cost"] | {"device": f"Processor of {cell.adaptation}"}}

    one = submission("a", change=change)
    file = write(tmp_path, ranking.boards([one], SUITES, {"quick": QUICK}), [one])
    cell = open_page("#section=cost", file).locator(".board td.text bdi")
    assert cell.inner_text().count("Processor of") == 3
    box = cell.bounding_box()
    assert box["width"] < 300 and box["height"] > 30
