"""Published studies and hostile text on the page, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medtransfer import ranking
from medtransfer.ranking.published.board import Published, published_board
from medtransfer.ranking.report.page import render_page
from medtransfer.specs.record import Cell
from tests.helpers.boards import FAILURE, FINETUNED, QUICK, SUITES, at, card, submission
from tests.helpers.browser import (
    CHROMIUM,
    ENCODERS,
    PUBLISHED,
    Open,
    encoders,
    numbers,
    visit,
    write,
)
from tests.helpers.page import ATTACK, many
from tests.helpers.published import MAPPING, finding, publish, varied

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
    pytest.mark.xdist_group("browser"),
]


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
