"""The page as text: what it holds, that nothing escapes, and that it is the same every time."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from medtransfer import ranking
from medtransfer.ranking import Submission
from medtransfer.ranking.published.board import published_board
from medtransfer.ranking.published.page import describe_study
from medtransfer.ranking.report.charts import chart_library, chart_specifications
from medtransfer.ranking.report.page import render_page
from medtransfer.ranking.report.site.cards import describe
from medtransfer.ranking.report.site.columns import page_columns
from medtransfer.ranking.report.site.payload import SCALE, embed_json, payload
from medtransfer.specs.record import Cell
from medtransfer.specs.task import Suite
from tests.helpers.boards import (
    CELLS,
    DOMAINS,
    FAILURE,
    FINETUNED,
    QUICK,
    at,
    card,
    rank,
    submission,
)
from tests.helpers.page import ATTACK, many
from tests.helpers.published import finding, publish, varied


def render(*submissions: Submission) -> str:
    return render_page([rank(*submissions)], {one.card.name: one.card for one in submissions})


def data(html: str) -> Any:
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    return json.loads(text)


class Elements(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, html: str) -> None:  # noqa: D107
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: D102
        self.found.append((tag, dict(attrs)))


def unpack(packed: str) -> list[float | None]:
    whole = np.frombuffer(base64.b64decode(packed), "<i2")
    return [None if value == -(2**15) else value / SCALE for value in whole]


def series(found: Any, **wanted: str) -> dict[str, Any]:
    """The one series of the first board that is of this task, split, adaptation and budget."""
    names = ["task", "domain", "metric", "split", "adaptation", "budget", "chance", "series"]
    rows = [dict(zip(names, row, strict=True)) for row in found["boards"][0]["results"]]
    [row] = [row for row in rows if wanted.items() <= row.items()]
    return found["series"][row["series"]]


CELL = {"task": "chest", "adaptation": "finetune", "budget": "full", "split": "in_domain"}


def test_same_boards_same_bytes() -> None:
    """Neither the order of the submissions nor that of the cards changes the page."""
    one, two = submission("a"), submission("b", value=0.7)
    assert render(one, two) == render(two, one)


def test_nobody_has_records() -> None:
    """An empty leaderboard is a page, not an error."""
    assert data(render_page([], {}))["boards"] == []


def test_text_of_others_stays_in_the_block_of_data() -> None:
    """Whatever a card or a record says, the page has the elements that it has without it."""
    long = ATTACK + "x" * 10_000
    plain = submission("a", title="A", change=at(FINETUNED, **FAILURE))
    hostile = submission(
        "a",
        title=long,
        url="javascript:hacked=1",
        citation=ATTACK,
        change=at(FINETUNED, **FAILURE | {"error": ATTACK}),
    )
    html = render(hostile)
    assert Elements(html).found == Elements(render(plain)).found
    found = data(html)
    [encoder] = found["encoders"]
    assert encoder["title"] == long
    assert ["Address", "javascript:hacked=1"] in encoder["facts"]
    assert found["boards"][0]["values"]["error"]["texts"] == [ATTACK]


def test_json_cannot_end_its_element() -> None:
    """The block is ASCII without a character that HTML reads."""
    text = embed_json({"<!--": "\u2028\u2029</script>&\ud800"})
    assert text.isascii() and not set("<>&") & set(text)
    assert json.loads(text) == {"<!--": "\u2028\u2029</script>&\ud800"}


def test_policy_allows_these_scripts_and_nothing_else() -> None:
    """The hashes are of the scripts and the style; nothing is loaded, nothing is unsafe."""
    html = render(submission("a"))
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert (len(scripts), len(styles)) == (2, 1)
    for name, texts in (("script-src", scripts), ("style-src", styles)):
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts]
        listed = " ".join(f"'sha256-{value.decode()}'" for value in hashes)
        assert f"{name} {listed};" in policy
    for tag, attributes in Elements(html).found:
        assert not {"src", "style"} & set(attributes), tag
        assert (attributes.get("href") or "#").startswith("#")


def test_metrics_survive_packing() -> None:
    """Means and what is missing are read back, to within rounding."""
    table = rank(submission("a", value=0.87654), submission("b", change=at(FINETUNED, **FAILURE)))
    found = data(render_page([table], {name: card(name) for name in table.table.index}))
    kept = series(found, **CELL)
    assert unpack(kept["mean"]) == [pytest.approx(0.87654, abs=0.5 / SCALE), None]
    assert (kept["draws"], kept["have"], kept["diverged"]) == (1, {"1": 0}, {})
    outside = series(found, **CELL | {"split": "scanner"})
    assert set(outside) == {"mean", "draws"}


def test_metrics_beyond_the_packed_range_are_kept() -> None:
    """A number that no metric should have is shown as it is, not clipped."""
    board = rank(submission("a"))
    beyond = replace(board, results=board.results.assign(mean=1234.5))
    found = payload([beyond], {"a": card("a")})
    assert series(found, **CELL)["mean"] == [1234.5]


def test_a_task_on_two_boards_is_stored_once() -> None:
    """A board that is a part of another adds no results."""
    one = submission("a")
    suites = {"all": Suite(tasks=list(DOMAINS)), "ct": Suite(tasks=["slices"])}
    found = ranking.boards([one], suites, {"quick": QUICK})
    whole, both = (payload(part, {"a": one.card})["series"] for part in (found[:1], found))
    assert len(found) == 2 and whole == both


def test_ranks_and_costs_are_those_of_the_board() -> None:
    """The table of the page is the table of the board."""
    board = rank(submission("a", value=0.9), submission("b", change=at(FINETUNED, **FAILURE)))
    values = payload([board], {name: card(name) for name in "ab"})["boards"][0]["values"]
    assert values["rank"] == [1, None]
    assert unpack(values["in_domain"]) == [0.8, None]
    flops = np.frombuffer(base64.b64decode(values["adaptation_flops"]["float32"]), "<f4")
    assert flops.tolist() == [pytest.approx(len(CELLS) * 1e12), pytest.approx(np.nan, nan_ok=True)]
    assert "relation_ct" not in values, "nobody declares one"


def test_boards_rank_by_their_order() -> None:
    """Encoders stand in the order of their names, and the order of the board beside them."""
    board = rank(submission("a", value=0.6), submission("b", value=0.9), submission("c"))
    names = ["a", "b", "c"]
    [shown] = payload([board], {name: card(name) for name in names})["boards"]
    assert [names[position] for position in shown["encoders"]] == names
    assert [names[at] for at in shown["order"]] == list(board.table.index) != names


def test_boards_that_rank_otherwise_share_results() -> None:
    """A board of a part with other ranks adds no series."""

    def worse(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        values = {name: {"auroc": 0.51} for name in draft["metrics"]}
        return {**draft, "metrics": values} if cell.task == "slices" else draft

    both = [submission("a", value=0.9, change=worse), submission("b", value=0.8)]
    suites = {"all": Suite(tasks=list(DOMAINS)), "ct": Suite(tasks=["slices"])}
    found = ranking.boards(both, suites, {"quick": QUICK})
    assert [list(board.table.index) for board in found] == [["a", "b"], ["b", "a"]]
    cards = {one.card.name: one.card for one in both}
    whole, both_boards = (payload(part, cards)["series"] for part in (found[:1], found))
    assert whole == both_boards


def test_studies_stand_after_the_boards_with_their_own_encoders() -> None:
    """Published encoders are not among the measured ones, and add nothing to their boards."""
    board = rank(submission("a"))
    alone = payload([board], {"a": card("a")})
    both = payload([board], {"a": card("a")}, [publish(varied, findings=[finding()])])
    assert both["boards"][:-1] == alone["boards"]
    assert (both["encoders"], both["series"]) == (alone["encoders"], alone["series"])
    study = both["boards"][-1]
    assert study["id"] == "published:doe-2020"
    assert {one["name"] for one in study["cards"]} == {"photos-big", "photos-small", "xray"}
    assert [one["title"] for one in study["published"]["findings"]] == ["A claim"]
    assert render_page([], {}, studies=[publish(varied)]) == render_page(
        [], {}, studies=[publish(varied)]
    )


def test_draws_that_a_study_lacks_are_null() -> None:
    """The mean of a cell with a missing draw is unknown, and how many there are is said."""

    def but_one(encoder: str, task: str, budget: str, draw: int, metric: str) -> float | None:
        missing = (encoder, task, budget, draw) == ("xray", "tb", "1-shot", 1)
        return None if missing else varied(encoder, task, budget, draw, metric)

    board = describe_study(published_board(publish(but_one)))
    names = [one["name"] for one in board["cards"]]
    [row] = [row for row in board["results"] if (row[0], row[5]) == ("tb", "1-shot")]
    series = board["series"][row[-1]]
    at = names.index("xray")
    assert series["mean"][at] is None and series["have"] == {at: 1}
    assert None not in [mean for place, mean in enumerate(series["mean"]) if place != at]
    assert board["values"]["rank"][at] is None


def test_columns_have_sections_and_the_empty_ones_are_left_out() -> None:
    """Scores stand before costs; what nobody has is not there, but for the ranking score."""
    board = rank(submission("a"))
    names = [column["name"] for column in page_columns(board)]
    sections = {column["name"]: column["section"] for column in page_columns(board)}
    assert names[0] == "in_domain" and "inter_full" not in names and len(set(names)) == len(names)
    assert sections["domain_ct"] == "domains" and sections["seconds"] == "cost"
    nobody = rank(submission("a", change=at(FINETUNED, **FAILURE)))
    assert page_columns(nobody)[0]["name"] == "in_domain"


def test_optional_adaptations_nobody_ran_are_left_out() -> None:
    """They appear with their first record."""
    lora = Cell("chest", "full", "lora", 0)

    def adaptations(*submissions: Submission) -> set[str]:
        return {row[4] for row in data(render(*submissions))["boards"][0]["results"]}

    assert adaptations(submission("a")) == {"knn", "linear", "finetune"}
    assert "lora" in adaptations(submission("a", cells=[*CELLS, lora]))


@pytest.mark.parametrize(
    ("fields", "source", "family"),
    [
        ({}, "not declared", "resnet"),
        ({"pretraining": {"objective": "none", "domains": []}}, "random weights", "resnet"),
        ({"pretraining": {"domains": ["oct", "ct"]}}, "ct + oct", "resnet"),
        ({"architecture": {"timm": "vit_tiny_patch16_224"}}, "not declared", "vit"),
        ({"architecture": {"python": "hog:build"}}, "not declared", "other"),
    ],
)
def test_sources_and_families(fields: dict[str, Any], source: str, family: str) -> None:
    """The rows of the heat map and the filter of architectures come from the card."""
    described = describe(card("a", **fields))
    assert (described["source"], described["family"]) == (source, family)


def test_cards_say_what_is_not_declared() -> None:
    """Unknown and none are told apart; empty fields are left out."""
    facts = dict(describe(card("a", pretraining={"datasets": []}))["facts"])
    assert facts["Pre-training domains"] == "not declared"
    assert facts["Pre-training data"] == "none"
    assert "Citation" not in facts and "Pre-training compute" not in facts


def test_charts_name_no_data() -> None:
    """Specifications have fixed fields and no address but their schema's."""
    assert chart_specifications() == chart_specifications()
    for chart in chart_specifications().values():
        assert chart.pop("$schema").startswith("https://vega.github.io/schema/")
        assert "http" not in json.dumps(chart) and chart["data"] == {"name": "rows"}
    assert "</script" not in chart_library().lower()


def test_two_hundred_encoders_on_twenty_tasks_fit() -> None:
    """The page stays under 3 MB where every number is another."""
    board, names = many(200, tasks=5)
    html = render_page([board], {name: card(name) for name in names})
    assert 1_500_000 < len(html.encode()) < 3_000_000


def test_a_task_that_nobody_ran_is_empty() -> None:
    """It is expected, so it is shown, without a number."""
    cells = [cell for cell in CELLS if cell.task != "chest"]
    found = data(render(submission("a", cells=cells)))
    kept = series(found, task="chest", adaptation="knn", budget="full", split="in_domain")
    assert unpack(kept["mean"]) == [None] and kept["have"] == {"0": 0}
