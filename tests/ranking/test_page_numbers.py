"""Numbers on the page, in a real browser, are those of pandas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medtransfer import ranking
from medtransfer.ranking.published.board import Published, published_board
from medtransfer.specs.protocol import OPTIONAL
from tests.helpers.boards import CELLS, FAILURE, FINETUNED, QUICK, SUITES, at, submission
from tests.helpers.browser import (
    CHROMIUM,
    ENCODERS,
    PUBLISHED,
    Open,
    encoders,
    numbers,
    vary,
    visit,
    write,
)
from tests.helpers.scores import several

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path"),
    pytest.mark.xdist_group("browser"),
]


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
