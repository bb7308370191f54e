"""Sorting, filters, links and boards of the page, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medtransfer import ranking
from tests.helpers.boards import QUICK, SUITES
from tests.helpers.browser import CHROMIUM, ENCODERS, PUBLISHED, Open, encoders, numbers, visit

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
    pytest.mark.xdist_group("browser"),
]


def test_sort_by_mouse_and_keyboard(open_page: Open) -> None:
    """A heading sorts, its second press turns the order, and what is unknown stays last."""
    page = open_page()
    page.click("thead button:text-is('Few-shot')")
    heading = page.locator("th", has_text="Few-shot")
    assert heading.get_attribute("aria-sort") == "descending"
    values = list(numbers(page, "Few-shot").values())
    assert values[:3] == sorted(values[:3], reverse=True) and values[3] is None
    assert "sort=-few_shot" in page.url
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    values = list(numbers(page, "Few-shot").values())
    assert values[:3] == sorted(values[:3]) and values[3] is None
    assert page.locator("[aria-sort]").count() == 1
    visit(page, "section=domains&sort=domain_chest-xray")
    heading = page.locator("th", has_text="chest-xray")
    assert heading.get_attribute("aria-sort") == "ascending"
    values = [value for value in numbers(page, "chest-xray").values() if value is not None]
    assert values == sorted(values)


def test_filters_leave_rows(open_page: Open) -> None:
    """Text and architecture choose rows, change no number, and are undone at once."""
    page = open_page()
    before = numbers(page, "In-domain")
    page.fill("input[name=text]", "THE a")
    assert encoders(page) and set(encoders(page)) == {n for n in before if "a" in n}
    page.fill("input[name=text]", "")
    page.select_option("select[name=family]", "vit")
    assert numbers(page, "In-domain") == {"gamma": before["gamma"]}
    assert page.inner_text("#count").startswith("1 of 4 encoders")
    page.fill("input[name=text]", "nobody")
    assert "No encoder is left" in page.inner_text("#view")
    page.click("button[type=reset]")
    assert numbers(page, "In-domain") == before
    assert page.input_value("select[name=family]") == ""
    assert page.url.endswith("#")


def test_open_an_encoder_and_go_back(open_page: Open) -> None:
    """Its view has its card and its results; Back returns to the same board."""
    page = open_page("#section=cost")
    page.click("text=alpha")
    assert page.inner_text("h2#encoder") == "alpha"
    assert page.evaluate("document.activeElement.id") == "encoder"
    assert "intra: ct" in page.inner_text("article")
    link = page.locator(".card a")
    assert link.get_attribute("href") == "https://example.org/alpha"
    assert "noopener" in link.get_attribute("rel")
    row = page.locator("tr", has_text="slices").first
    mean = ranking.boards(ENCODERS, SUITES, {"quick": QUICK})[0].results.query(
        "encoder == 'alpha' and task == 'slices' and split == 'in_domain' and "
        "adaptation == 'knn' and budget == 'full'"
    )["mean"]
    assert f"{mean.item():.3f}" in row.inner_text()
    page.go_back()
    page.wait_for_selector(".board")
    assert page.locator("button[data-section=cost]").get_attribute("aria-pressed") == "true"


def test_tooltip_of_a_point(open_page: Open) -> None:
    """A point says whose it is and what it is; a click opens the encoder."""
    page = open_page()
    points = page.locator("section[aria-labelledby=cost] .mark-symbol path")
    assert points.count() == 3
    points.first.hover(force=True)
    text = page.inner_text("#tooltip")
    assert re.search(
        r"Encoder\s+(alpha|beta|gamma)\s+Score\s+.?\d\.\d{3}\s+FLOPs\s+(64|128|192)T", text
    )
    points.first.click(force=True)
    page.wait_for_selector("h2#encoder")
    assert page.locator("#tooltip").is_hidden()


def test_another_board(open_page: Open, boards_file: Path) -> None:
    """The menu of boards changes the board; filters that it has no values for fall away."""
    page = open_page("#board=quick%2Fphantom&domain=natural", boards_file)
    page.select_option("select[name=board]", "quick/ct")
    page.wait_for_function("document.title.startsWith('quick: ct')")
    assert numbers(page, "In-domain")["partial"] is not None
    assert page.inner_text("#count").strip() == "4 encoders, 4 ranked."
    assert page.locator("select[name=domain]").count() == 0, "of one domain there is no choice"


def test_the_page_opens_on_the_board_with_most_ranks(open_page: Open, boards_file: Path) -> None:
    """A newcomer sees ranked encoders first; an address wins."""
    page = open_page("", boards_file)
    assert page.input_value("select[name=board]") == "quick/ct"
    visit(page, "#board=quick%2Fphantom")
    assert page.inner_text("#count").strip() == "4 encoders, 3 ranked."


def test_an_address_is_a_view(open_page: Open, boards_file: Path) -> None:
    """Opened again, an address shows the same; another one shows something else."""
    page = open_page("", boards_file)
    views = {page.inner_text("main")}
    states = [
        "#section=domains&sort=-domain_ct&text=a",
        "#board=quick%2Fphantom&budget=full&sort=name",
        "#encoder=beta",
        "#cost=total_flops",
        PUBLISHED,
        f"{PUBLISHED}&domain=chest-xray&budget=full&sort=-in_domain",
        f"{PUBLISHED}&encoder=nih-r152x4",
    ]
    for state in states:
        visit(page, state)
        view = page.inner_text("main")
        page.reload()
        page.wait_for_selector("body[data-drawn]")
        assert page.url.endswith(state) and page.inner_text("main") == view
        views.add(view)
    assert len(views) == 1 + len(states)


def test_an_address_that_means_nothing_is_the_board(open_page: Open) -> None:
    """Unknown values fall back to what is shown without them."""
    page = open_page()
    view = page.inner_text("main")
    for state in ("sort=<script>&domain=constructor", "encoder=__proto__&cost=x", "board=nothing"):
        visit(page, f"#{state}")
        assert page.inner_text("main") == view
