"""The page in a real browser, opened from disk."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medtransfer import ranking
from medtransfer.ranking import Board, Submission
from medtransfer.ranking.frame import frame
from medtransfer.ranking.page import render_page
from medtransfer.ranking.table import average, cell_scores, grid
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite
from tests.test_page import ATTACK, many
from tests.test_ranking import (
    CELLS,
    FAILURE,
    FINETUNED,
    QUICK,
    SUITES,
    at,
    card,
    submission,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
    pytest.mark.xdist_group("browser"),
]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
Open = Callable[..., Any]


def vary(seed: int) -> Callable[[Cell, dict[str, Any]], dict[str, Any]]:
    """Other numbers in every cell and split, the same for the same seed."""

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        rng = random.Random(f"{seed} {cell}")
        draft["task"]["domain"] = {"slices": "ct", "retina": "ct"}.get(
            cell.task, draft["task"]["domain"]
        )
        draft["cost"]["adaptation_flops"] *= 4 - seed
        values = {name: {"auroc": rng.uniform(0.4, 1)} for name in draft["metrics"]}
        return {**draft, "metrics": values}

    return change


def lack(split: str, seed: int) -> Callable[[Cell, dict[str, Any]], dict[str, Any]]:
    """The same, with no value on one split of one cell."""

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        draft = vary(seed)(cell, draft)
        if cell == FINETUNED:
            draft["metrics"][split] = {"auroc": None}
        return draft

    return change


ENCODERS: list[Submission] = [
    submission(
        "alpha",
        change=vary(1),
        pretraining={"domains": ["ct"], "objective": "mae", "cost": {"flops": 1e18}},
        url="https://example.org/alpha",
    ),
    submission("beta", change=vary(2), pretraining={"domains": ["natural"]}),
    submission("gamma", change=lack("scanner", 3), architecture={"timm": "vit_tiny_patch16_224"}),
    submission("partial", change=lack("in_domain", 0)),
]


def write(folder: Path, boards: list[Board], encoders: list[Submission]) -> Path:
    path = folder / "index.html"
    path.write_text(render_page(boards, {one.card.name: one.card for one in encoders}))
    return path


@pytest.fixture(scope="module")
def board_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    suites = {**SUITES, "ct": Suite(tasks=["slices", "retina"])}
    boards = ranking.boards(ENCODERS, suites, {"quick": QUICK})
    return write(tmp_path_factory.mktemp("page"), boards, ENCODERS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, board_file: Path) -> Iterator[Open]:
    """Open a file at a state; at the end, nothing may be on the console or the network."""
    complaints: list[str] = []
    contexts = []

    def start(state: str = "", file: Path = board_file, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto(f"{file.as_uri()}{state}")
        opened = f"{file.as_uri()}"
        complaints[:] = [text for text in complaints if not text.startswith(opened)]
        page.wait_for_selector("body[data-drawn]")
        return page

    yield start
    for context in contexts:
        context.close()
    # Opening a file is the one request of a page.
    assert [text for text in complaints if not text.startswith("file:")] == []


def visit(page: Any, state: str) -> None:
    """Follow a link to another state, in the same page."""
    page.evaluate(
        """state => new Promise(done => {
            addEventListener("hashchange", () => setTimeout(done), {once: true});
            location.hash = state;
        })""",
        state,
    )
    page.wait_for_selector("body[data-drawn]")


def encoders(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".board th[scope=row] a").all_inner_texts()]


def numbers(page: Any, title: str) -> dict[str, float | None]:
    """A column of the table by encoder, as shown."""
    titles = [text.strip() for text in page.locator(".board thead th").all_inner_texts()]
    position = titles.index(title) + 1
    cells = page.locator(f".board tbody tr > :nth-child({position})").all_inner_texts()
    shown = [re.match(r"[\u2212\d.]+", cell.strip()) for cell in cells]
    values = [float(found.group().replace("\u2212", "-")) if found else None for found in shown]
    return dict(zip(encoders(page), values, strict=True))


# Numbers


PARTS = {
    "domain=ct": "domain == 'ct'",
    "budget=1-shot": "budget == '1-shot'",
    "adaptation=finetune": "adaptation == 'finetune'",
    "domain=natural&budget=10-shot&adaptation=knn": (
        "domain == 'natural' and budget == '10-shot' and adaptation == 'knn'"
    ),
}


def test_scores_of_a_part_are_those_of_pandas(open_page: Open) -> None:
    """A filter averages draws, budgets and adaptations, tasks, domains; none of what is partial."""
    names = [one.card.name for one in ENCODERS]
    cells = cell_scores(grid(frame(ENCODERS), CELLS, names))
    page = open_page()
    for state, query in PARTS.items():
        visit(page, state)
        part = cells.query(query)
        complete = average(part, "in_domain").notna()
        assert complete["partial"] == ("finetune" not in state)
        for column, title in (("in_domain", "In-domain"), ("out_of_domain", "Out-of-domain")):
            expected = average(part, column).where(complete).dropna().to_dict()
            shown = numbers(page, title)
            assert set(shown) == set(names)
            known = {name: value for name, value in shown.items() if value is not None}
            assert known == pytest.approx(expected, abs=6e-4), state


def test_the_whole_board_is_that_of_pandas(open_page: Open) -> None:
    """Without a filter the page shows the board's own scores; the incomplete come last."""
    table = ranking.boards(ENCODERS, SUITES, {"quick": QUICK})[0].table
    page = open_page()
    assert encoders(page) == list(table.index)
    shown = numbers(page, "In-domain")
    assert shown.pop("partial") is None
    assert shown == pytest.approx(table["in_domain"].dropna().to_dict(), abs=6e-4)
    assert "63 of 64 cells" in page.locator("tr.unranked").inner_text()


def rows_of(page: Any, figure: str) -> list[list[str]]:
    """The numbers that stand folded below a chart."""
    rows = page.locator(f"section[aria-labelledby={figure}] details tbody tr")
    return rows.evaluate_all("all => all.map(r => [...r.children].map(c => c.textContent))")


def test_the_numbers_of_the_charts_are_those_of_pandas(open_page: Open) -> None:
    """Front, few-shot curves and heat map, and only of encoders that have every cell."""
    board = ranking.boards(ENCODERS, SUITES, {"quick": QUICK})[0]
    table = board.table[board.table["rank"].notna()]
    page = open_page()
    front = {name: best == "yes" for name, *_, best in rows_of(page, "cost")}
    assert front == table["pareto_adaptation"].to_dict()

    cells = cell_scores(grid(frame(ENCODERS), CELLS, list(table.index)))
    curves = rows_of(page, "curves")
    assert len(curves) == 3 * (3 + 3 + 2)
    for encoder, adaptation, budget, score in curves:
        part = cells.query(f"adaptation == '{adaptation}' and budget == '{budget}'")
        assert float(score) == pytest.approx(average(part, "in_domain")[encoder], abs=6e-4)

    sources = {"alpha": "ct", "beta": "natural", "gamma": "not declared"}
    shown = {(row[0], row[1]): float(row[2]) for row in rows_of(page, "domains")}
    expected = {
        (source, domain): table.loc[name, f"domain_{domain}"]
        for name, source in sources.items()
        for domain in ("ct", "natural", "chest-xray")
    }
    assert shown == pytest.approx(expected, abs=6e-4)


def test_relations_choose_cells_by_encoder(open_page: Open) -> None:
    """Means over different domains get no rank; on one domain they do."""
    page = open_page("#relation=intra")
    assert set(encoders(page)) == {"alpha", "beta"}
    assert page.locator(".rank").all_inner_texts() == ["\u2013", "\u2013"]
    assert "there are no ranks" in page.inner_text(".above")
    visit(page, "#relation=intra&domain=ct")
    assert encoders(page) == ["alpha"]
    assert page.inner_text(".rank") == "1"


# What one does


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


def test_another_board(open_page: Open) -> None:
    """The menu of boards changes the board; filters that it has no values for fall away."""
    page = open_page("#domain=natural")
    page.select_option("select[name=board]", "quick/ct")
    page.wait_for_function("document.title.startsWith('quick: ct')")
    assert page.input_value("select[name=domain]") == ""
    assert numbers(page, "In-domain")["partial"] is not None


def test_an_address_is_a_view(open_page: Open) -> None:
    """Opened again, an address shows the same; another one shows something else."""
    page = open_page()
    views = {page.inner_text("main")}
    states = [
        "#section=domains&sort=-domain_ct&text=a",
        "#board=quick%2Fct&budget=full&sort=name",
        "#encoder=beta",
        "#cost=total_flops",
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


# Looks


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


def test_no_sideways_scroll_on_a_phone(open_page: Open) -> None:
    """Wide tables scroll in a box of their own."""
    page = open_page(viewport={"width": 390, "height": 844})
    root = "document.documentElement"
    for state in ["", *STATES]:
        if state:
            visit(page, state)
        assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"), state


def test_no_serious_barrier(open_page: Open) -> None:
    """axe-core finds nothing serious in light or dark, contrast included."""
    for scheme in ("light", "dark"):
        page = open_page(color_scheme=scheme)
        for state in ["", *STATES[1:]]:
            if state:
                visit(page, state)
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


# What others write


def test_attacks_do_nothing(open_page: Open, tmp_path: Path) -> None:
    """Hostile cards, errors and addresses are shown as text, cut, and never run."""
    fields = {
        "title": ATTACK + "y" * 10_000,
        "citation": ATTACK,
        "licence": "\u202e" + ATTACK,
        "url": "javascript:hacked=1",
        "pretraining": {"datasets": [ATTACK], "objective": ATTACK, "init": "`|`\n\n# x"},
        "architecture": {"timm": ATTACK, "options": {"<b>": ATTACK}},
    }
    device = {"device": ATTACK}

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return {**draft, "cost": draft["cost"] | device}

    hostile = [
        submission("a", change=change, **fields),
        submission("b", change=at(FINETUNED, **FAILURE | {"error": ATTACK}), **fields),
    ]
    file = write(tmp_path, ranking.boards(hostile, SUITES, {"quick": QUICK}), hostile)
    page = open_page("", file)
    titles = page.locator(".title bdi").first.get_attribute("title")
    assert len(titles) > 10_000
    for state in ("#section=cost", "#encoder=a", "#encoder=b"):
        visit(page, state)
        assert page.evaluate("typeof hacked") == "undefined"
        assert page.locator("main script, main img, main a[href^=javascript]").count() == 0
        lengths = page.locator("main bdi").evaluate_all("all => all.map(e => e.innerText.length)")
        assert max(lengths) <= 500
        assert "</script><script>hacked=1" in page.inner_text("main")


def test_nothing_to_show(open_page: Open, tmp_path: Path, browser: Any) -> None:
    """An empty leaderboard, and an empty chart, say in a sentence what would fill them."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(write(tmp_path, [], []).as_uri())
    assert "No records yet" in page.inner_text("main")
    context.close()
    nobody = [submission("a", change=at(FINETUNED, **FAILURE))]
    file = write(tmp_path, ranking.boards(nobody, SUITES, {"quick": QUICK}), nobody)
    assert open_page("", file).inner_text("main").count("would fill it") == 3


def test_two_hundred_encoders_open_soon(open_page: Open, tmp_path: Path) -> None:
    """The table stands in 2 s and is sorted at once; twice that, as others may use the machine."""
    board, names = many(200)
    path = tmp_path / "index.html"
    path.write_text(render_page([board], {name: card(name) for name in names}))
    page = open_page("", path)
    assert len(encoders(page)) == 200
    shown = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    sorting = page.evaluate(
        "() => { const start = performance.now();"
        "document.querySelector('[data-sort=name]').click();"
        "return performance.now() - start; }"
    )
    assert shown < 4000 and sorting < 1000
