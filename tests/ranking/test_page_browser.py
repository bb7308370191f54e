"""The page in a real browser, opened from disk."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medtransfer import ranking
from medtransfer.ranking import Board, Submission
from medtransfer.ranking.published.board import Published, load_published, published_board
from medtransfer.ranking.report.page import render_page
from medtransfer.specs.protocol import OPTIONAL
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite
from tests.ranking.test_judgement import several
from tests.ranking.test_page import ATTACK, many
from tests.ranking.test_published import COMMITTED, MAPPING, finding, publish, varied
from tests.ranking.test_ranking import (
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
PUBLISHED = "#board=published%3Acherti-jitsev-2021"


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


def write(
    folder: Path,
    boards: list[Board],
    encoders: list[Submission],
    studies: Sequence[Published] = (),
) -> Path:
    path = folder / "index.html"
    cards = {one.card.name: one.card for one in encoders}
    path.write_text(render_page(boards, cards, studies=studies))
    return path


@pytest.fixture(scope="module")
def board_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One board."""
    boards = ranking.boards(ENCODERS, SUITES, {"quick": QUICK})
    return write(tmp_path_factory.mktemp("page"), boards, ENCODERS)


@pytest.fixture(scope="module")
def cherti() -> Published:
    [published] = [p for p in load_published(COMMITTED) if p.study.name == "cherti-jitsev-2021"]
    return published


@pytest.fixture(scope="module")
def boards_file(tmp_path_factory: pytest.TempPathFactory, cherti: Published) -> Path:
    """Two boards, of which the second ranks one encoder more, and a published one."""
    suites = {**SUITES, "ct": Suite(tasks=["slices", "retina"])}
    boards = ranking.boards(ENCODERS, suites, {"quick": QUICK})
    return write(tmp_path_factory.mktemp("pages"), boards, ENCODERS, studies=[cherti])


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


def scores(results: pd.DataFrame, *, outside: bool = False) -> pd.Series[float]:
    """Means over splits, budgets and adaptations, tasks, domains; null unless all are there."""
    elsewhere = results["split"] != "in_domain"
    rows = results[(elsewhere == outside) & ~results["adaptation"].isin(OPTIONAL)]
    found = rows.assign(score=(rows["mean"] - rows["chance"]) / (1 - rows["chance"]))
    cell = ["encoder", "domain", "task", "adaptation", "budget"]
    for by in (cell, cell[:3], cell[:2], cell[:1]):
        found = found.groupby(by)["score"].agg(lambda v: v.mean(skipna=False)).reset_index()
    return found.set_index("encoder")["score"]


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
    results = ranking.boards(ENCODERS, SUITES, {"quick": QUICK})[0].results
    page = open_page()
    for state, query in PARTS.items():
        visit(page, state)
        part = results.query(query)
        complete = scores(part).notna()
        assert complete["partial"] == ("finetune" not in state)
        for outside, title in ((False, "In-domain"), (True, "Out-of-domain")):
            expected = scores(part, outside=outside).where(complete).dropna().to_dict()
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


def test_the_unranked_stand_by_what_they_have(open_page: Open, tmp_path: Path) -> None:
    """As on the board: after the ranked ones, those with more cells first, whatever their names."""
    found = [
        submission("a", cells=[cell for cell in CELLS if cell.task != "chest"]),
        submission("b", change=at(FINETUNED, **FAILURE)),
        submission("c"),
    ]
    boards = ranking.boards(found, SUITES, {"quick": QUICK})
    page = open_page("", write(tmp_path, boards, found))
    assert encoders(page) == list(boards[0].table.index) == ["c", "b", "a"]


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

    curves = rows_of(page, "curves")
    assert len(curves) == 3 * (3 + 3 + 2)
    for encoder, adaptation, budget, score in curves:
        part = board.results.query(f"adaptation == '{adaptation}' and budget == '{budget}'")
        assert float(score) == pytest.approx(scores(part)[encoder], abs=6e-4)

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


def test_a_published_board_is_that_of_pandas(
    open_page: Open, boards_file: Path, cherti: Published
) -> None:
    """Scores of the study, and of a part of it by the filters, are those of its own board."""
    board = published_board(cherti)
    page = open_page(PUBLISHED, boards_file)
    assert encoders(page) == list(board.table.index)
    for column, title in (("overall", "Score"), ("intra_full", "Intra, full")):
        shown = {name: value for name, value in numbers(page, title).items() if value is not None}
        assert shown == pytest.approx(board.table[column].dropna().to_dict(), abs=6e-4)

    full = board.domains.query("domain == 'chest-xray' and regime == 'full'").set_index("encoder")
    page.click("button[data-section=domains]")
    assert numbers(page, "chest-xray, full") == nullable(full["score"])
    visit(page, f"{PUBLISHED}&domain=chest-xray&budget=full")
    assert numbers(page, "Score") == nullable(full["score"])
    assert numbers(page, "Rank") == nullable(full["rank"])


def nullable(values: pd.Series[Any]) -> Any:
    """By encoder, as a page that shows three decimals has them."""
    known = values.astype(object).where(values.notna(), None).to_dict()
    return {n: v if v is None else pytest.approx(float(v), abs=6e-4) for n, v in known.items()}


def test_further_pretraining_stands_beside_its_parents(open_page: Open, tmp_path: Path) -> None:
    """Scores against compute, of encoders that began from another one and of these alone."""
    told = {"domains": ["ct"], "objective": "mae"}
    run = {
        **{"recipe": "simclr", "fingerprint": "f", "tasks": {}, "images": 10, "epochs": 1},
        **{"steps": 5, "batch": 2, "images_seen": 10, "flops": 10**15, "seconds": 1},
        **{"trainable": "hybrid:2:1", "share_of_full": 0.8},
    }
    found = [
        submission(
            "child",
            change=vary(1),
            architecture={"timm": "resnet18", "drop_stages": 1},
            pretraining={"init": "parent", "cost": {"flops": 3e18}, "run": run},
        ),
        submission("parent", change=vary(2), pretraining={**told, "cost": {"flops": 1e18}}),
        submission("stranger", change=vary(3), pretraining=told),
    ]
    boards = ranking.boards(found, SUITES, {"quick": QUICK})
    page = open_page("", write(tmp_path, boards, found))
    rows = page.locator("section[aria-labelledby=adapted] tbody tr")
    cells = rows.evaluate_all("all => all.map(r => [...r.children].map(c => c.textContent))")
    assert [row[:3] for row in cells] == [
        ["parent", "\u2013", "\u2013"],
        ["child", "parent", "hybrid:2:1, 1 stage dropped, 80 % of the FLOPs of full"],
    ]
    assert [row[-1] for row in cells] == ["1.0 EFLOP", "3.0 EFLOP"]
    scores = boards[0].table["in_domain"]
    assert [float(row[3]) for row in cells] == pytest.approx(
        [scores["parent"], scores["child"]], abs=6e-4
    )


def test_scores_stand_beside_outcomes(open_page: Open, tmp_path: Path) -> None:
    """How well transferability scores did, over all tasks, and folded below task by task."""
    found = several()
    boards = ranking.boards(found, SUITES, {"quick": QUICK})
    page = open_page("", write(tmp_path, boards, found))
    section = page.locator("section[aria-labelledby=outcomes]")
    rows = section.locator("tbody tr")
    cells = rows.evaluate_all("all => all.map(r => [...r.children].map(c => c.textContent))")
    assert cells[0][:3] == ["knn", "logme", "better than chance"]
    assert len(cells) == len(boards[0].judgement.summary)
    section.locator("summary").click()
    page.wait_for_selector("section[aria-labelledby=outcomes] details table")
    assert rows.count() == len(cells) + len(boards[0].judgement.tasks)


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


# What others published


def test_a_study_says_whose_it_is(open_page: Open, boards_file: Path, cherti: Published) -> None:
    """Origin, citation, licence and address as text; what it claims, with a verdict each."""
    page = open_page(PUBLISHED, boards_file)
    origin = page.inner_text(".origin")
    study = cherti.study
    for text in ("not measured here", study.title, study.citation, study.licence, study.url):
        assert text in origin
    assert page.locator(".origin a").count() == 0
    findings = page.locator("section[aria-labelledby=findings]")
    assert findings.locator("h3").all_inner_texts() == [one.title for one in study.findings]
    verdicts = findings.locator(".finding strong").all_inner_texts()
    assert verdicts == ["Shown.", "Not shown.", "Shown.", "Shown."]
    assert "10-shot, auroc: 3 of 3 below" in findings.inner_text()
    findings.locator("summary").first.focus()
    page.keyboard.press("Enter")
    findings.locator("tbody tr").first.wait_for()
    assert findings.locator("tbody tr").count() == 11
    targets = page.locator("section[aria-labelledby=targets]")
    targets.locator("summary", has_text="covidx").click()
    targets.locator("h3").first.wait_for()
    assert targets.locator("h3").all_inner_texts() == [
        "auroc (primary)",
        "average_precision",
        "accuracy",
    ]
    row = targets.locator("tr", has_text="imagenet21k-r152x4").first.inner_text()
    results = published_board(cherti).results.set_index(["encoder", "task", "budget", "metric"])
    mean = results.loc[("imagenet21k-r152x4", "covidx", "full", "auroc"), "mean"]
    assert f"{mean:.3f} \u00b1" in row


def test_published_and_measured_are_apart(open_page: Open, tmp_path: Path) -> None:
    """An encoder of one name in a study and among the measured is two encoders."""
    mapping = {**MAPPING["encoders"], "xray": {**MAPPING["encoders"]["xray"], "name": "alpha"}}
    study = publish(varied, encoders=mapping)
    boards = ranking.boards(ENCODERS, SUITES, {"quick": QUICK})
    page = open_page("#encoder=alpha", write(tmp_path, boards, ENCODERS, [study]))
    groups = page.locator("optgroup")
    assert groups.evaluate_all("all => all.map(g => [g.label, g.children.length])") == [
        ["Measured", 1],
        ["Published by others", 1],
    ]
    table = page.locator("article table").first
    assert table.locator("tbody th").all_inner_texts() == ["quick: phantom"]
    assert page.locator(".origin").count() == 0
    visit(page, "#board=published%3Adoe-2020&encoder=alpha")
    assert table.locator("tbody th").all_inner_texts() == ["cats", "lungs", "tb"]
    assert "mae" not in page.inner_text("article") and page.locator(".origin").count() == 1
    visit(page, "#board=published%3Adoe-2020&encoder=beta")
    assert set(encoders(page)) == {"photos-big", "photos-small", "alpha"}


def test_published_results_alone(open_page: Open, tmp_path: Path) -> None:
    """Where nothing was measured, the page opens on the study; one without findings says so."""
    page = open_page("", write(tmp_path, [], [], [publish(varied)]))
    assert page.inner_text("#count").strip() == "3 encoders, 3 ranked."
    assert "(findings), would fill it" in page.inner_text("main")


def test_a_study_of_an_optional_adaptation_is_ranked(open_page: Open, tmp_path: Path) -> None:
    """What is optional here need not be so for others."""
    page = open_page("#budget=full", write(tmp_path, [], [], [publish(varied, adaptation="lora")]))
    assert page.inner_text("#count").strip() == "3 encoders, 3 ranked."
    assert None not in numbers(page, "Score").values()


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


def test_attacks_of_a_study_do_nothing(open_page: Open, tmp_path: Path) -> None:
    """Titles, notes, findings and addresses of a mapping are shown as text, cut, and never run."""
    targets = {name: {**target, "title": ATTACK} for name, target in MAPPING["targets"].items()}
    hostile = publish(
        varied,
        title=ATTACK + "y" * 10_000,
        citation=ATTACK,
        licence=ATTACK,
        url="javascript:hacked=1",
        notes=[ATTACK],
        targets=targets,
        findings=[{**finding(), "title": ATTACK, "text": ATTACK + "z" * 10_000}],
    )
    page = open_page("", write(tmp_path, [], [], [hostile]))
    for summary in page.locator("main summary").all():
        summary.click()
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.locator("main script, main img, main a[href^=javascript]").count() == 0
    assert "</script><script>hacked=1" in page.inner_text("main")
    lengths = page.locator("main bdi").evaluate_all("all => all.map(e => e.innerText.length)")
    assert max(lengths) <= 1000


def test_nothing_to_show(open_page: Open, tmp_path: Path, browser: Any) -> None:
    """An empty leaderboard, and an empty chart, say in a sentence what would fill them."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(write(tmp_path, [], []).as_uri())
    assert "No records yet" in page.inner_text("main")
    context.close()
    nobody = [submission("a", change=at(FINETUNED, **FAILURE))]
    file = write(tmp_path, ranking.boards(nobody, SUITES, {"quick": QUICK}), nobody)
    assert open_page("", file).inner_text("main").count("would fill it") == 5


def test_two_hundred_encoders(open_page: Open, tmp_path: Path) -> None:
    """All have a row, and are sorted by their names when asked."""
    board, names = many(200)
    path = tmp_path / "index.html"
    path.write_text(render_page([board], {name: card(name) for name in names}))
    page = open_page("", path)
    assert encoders(page) == list(board.table.index)
    page.click("[data-sort=name]")
    assert encoders(page) == sorted(names)
