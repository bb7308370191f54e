"""Boards of published results: scores, comparisons and verdicts."""

from __future__ import annotations

import copy
import re

import pandas as pd
import pytest
from scipy import stats

from medtransfer.ranking.published.board import Published, published_board
from medtransfer.ranking.published.markdown import render_published
from medtransfer.ranking.published.study import PublishedEncoder, Study
from medtransfer.specs.encoder import EncoderCard
from tests.helpers.published import MAPPING, finding, publish, varied


def test_scores_are_averaged_from_the_inside_out() -> None:
    """Draws, budgets, targets, domains: a domain weighs the same however many it has."""

    def score(task: str, budget: str) -> float:
        values = [varied("xray", task, budget, draw, "auroc") for draw in range(3)]
        return sum((value - 0.5) / 0.5 for value in values) / 3

    board = published_board(publish(varied, draws=3))
    row = board.table.loc["xray"]
    full = (score("lungs", "full") + score("tb", "full")) / 2
    few = (score("lungs", "1-shot") + score("tb", "1-shot")) / 2
    cats = (score("cats", "full") + score("cats", "1-shot")) / 2
    assert row["intra_full"] == pytest.approx(full)
    assert row["intra_few_shot"] == pytest.approx(few)
    assert row["inter_full"] == pytest.approx(score("cats", "full"))
    assert row["inter_few_shot"] == pytest.approx(score("cats", "1-shot"))
    assert row["overall"] == pytest.approx(((full + few) / 2 + cats) / 2)
    domains = board.domains.set_index(["domain", "regime", "encoder"])
    assert domains.loc[("chest-xray", "full", "xray"), "score"] == pytest.approx(full)
    assert domains.loc[("chest-xray", "full", "xray"), "relation"] == "intra"
    assert domains.loc[("natural", "few-shot", "xray"), "relation"] == "inter"
    ranked = board.table.sort_values("overall", ascending=False)
    assert list(board.table.index) == list(ranked.index)
    assert list(board.table["rank"]) == [1, 2, 3]


def test_an_encoder_without_a_cell_is_not_ranked() -> None:
    """One missing draw takes the views that need it, and the rank; nobody else's score changes."""

    def but_one(encoder: str, task: str, budget: str, draw: int, metric: str) -> float | None:
        if (encoder, task, budget, draw) == ("photos-big", "tb", "1-shot", 1):
            return None
        return 0.99 if encoder == "photos-big" else varied(encoder, task, budget, draw, metric)

    whole, partial = published_board(publish(varied)), published_board(publish(but_one))
    row = partial.table.loc["photos-big"]
    assert pd.isna(row[["overall", "rank", "inter_few_shot"]]).all()
    assert row[["inter_full", "intra_full", "intra_few_shot"]].tolist() == pytest.approx([0.98] * 3)
    assert (row["have"], row["expected"]) == (11, 12)
    assert partial.table.index[-1] == "photos-big"
    others = ["photos-small", "xray"]
    views = ["intra_full", "inter_few_shot", "overall"]
    pd.testing.assert_frame_equal(whole.table.loc[others, views], partial.table.loc[others, views])
    results = partial.results.set_index(["encoder", "task", "budget", "metric"])
    hole = results.loc[("photos-big", "tb", "1-shot", "auroc")]
    assert pd.isna(hole[["mean", "std", "rank"]]).all()
    assert (hole["have"], hole["draws"], hole["ranked"]) == (1, 2, 2)
    few = partial.domains.query("domain == 'chest-xray' and regime == 'few-shot'")
    assert few["encoder"].iloc[-1] == "photos-big"
    assert (few["have"].iloc[-1], few["expected"].iloc[-1]) == (3, 4)
    assert "| photos-big | inter | 0.980 | 1 | 3/4 cells | - |" in render_published(
        [publish(but_one)]
    )


def test_an_empty_study_has_a_board() -> None:
    """Without a record nobody is ranked and every comparison lacks data."""
    empty = publish(lambda *_: None, findings=[finding()])
    board = published_board(empty)
    assert board.table["rank"].isna().all()
    assert board.findings["verdict"].tolist() == ["no data"]
    assert "0 of 3 encoders have every cell" in render_published([empty])


def test_another_primary_metric_and_chance() -> None:
    """The score is of the target's own primary metric, above its own chance."""
    targets = copy.deepcopy(MAPPING["targets"])
    targets["Cats"] |= {"metric": "accuracy", "chance": 0.2}
    board = published_board(
        publish(lambda *cell: 0.6 if cell[-1] == "accuracy" else 0.9, targets=targets)
    )
    assert board.table.loc["xray", "inter_full"] == pytest.approx(0.5)
    assert board.table.loc["xray", "intra_full"] == pytest.approx(0.8)


@pytest.mark.parametrize("domains", [None, [], ["ct"], ["ct", "oct"]])
@pytest.mark.parametrize("objective", ["none", "supervised"])
def test_the_relation_is_that_of_measured_encoders(
    domains: list[str] | None, objective: str
) -> None:
    """Published and measured encoders are intra, inter or none by one rule."""
    fields = {"name": "x", "pretraining": {"domains": domains, "objective": objective}}
    measured = EncoderCard.model_validate({**fields, "architecture": {"timm": "resnet18"}})
    assert PublishedEncoder.model_validate(fields).relation("ct") == measured.relation("ct")


def test_undeclared_domains_are_unknown() -> None:
    """An encoder that declares no domains has no relation, and is ranked overall all the same."""
    encoders = copy.deepcopy(MAPPING["encoders"])
    encoders["xray"]["pretraining"] = {}
    published = publish(varied, encoders=encoders)
    row = published_board(published).table.loc["xray"]
    assert pd.isna(row[["intra_full", "inter_full"]]).all()
    assert not pd.isna(row["rank"])
    assert "| xray | unknown |" in render_published([published])


def test_comparisons_are_paired_by_draw() -> None:
    """Difference and interval are those of a paired t-test over the draws that both have."""

    def but_one(encoder: str, task: str, budget: str, draw: int, metric: str) -> float | None:
        missing = (encoder, draw) == ("xray", 2)
        return None if missing else varied(encoder, task, budget, draw, metric)

    board = published_board(publish(but_one, draws=6, findings=[finding()]))
    [row] = board.findings.to_dict("records")
    a, b = (
        [varied(name, "lungs", "full", draw, "auroc") for draw in (0, 1, 3, 4, 5)]
        for name in ("photos-big", "xray")
    )
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval(0.95)
    assert row["n"] == 5
    assert row["difference"] == pytest.approx(sum(a) / 5 - sum(b) / 5)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert pd.isna(row["rank_b"])


@pytest.mark.parametrize(
    ("gaps", "side", "verdict"),
    [
        ((0.10, 0.11, 0.12), "above", "as claimed"),
        ((0.10, 0.11, 0.12), "below", "opposite"),
        ((-0.10, -0.11, -0.12), "below", "as claimed"),
        ((-0.10, -0.11, -0.12), "above", "opposite"),
        ((0.10, 0.11, -0.12), "above", "not resolved"),
        ((0.0, 0.0, 0.0), "above", "not resolved"),
        ((0.1, None, None), "above", "no data"),
    ],
)
def test_verdicts(gaps: tuple[float | None, ...], side: str, verdict: str) -> None:
    """A claim is shown when the interval lies on its side of zero, and only then."""

    def value(encoder: str, task: str, budget: str, draw: int, metric: str) -> float | None:
        gap = gaps[draw]
        if encoder != "photos-big":
            return 0.5
        return None if gap is None else 0.5 + gap

    published = publish(value, draws=3, findings=[finding(side=side)])
    [found] = published_board(published).findings["verdict"]
    assert found == verdict
    shown = "**Shown.**" in render_published([published])
    assert shown == (verdict == "as claimed")


def test_a_finding_needs_all_of_its_comparisons() -> None:
    """One target that does not show it is enough to say so."""

    def value(encoder: str, task: str, budget: str, draw: int, metric: str) -> float:
        higher = 0.1 if encoder == "photos-big" and task == "lungs" else 0.0
        return 0.6 + higher + 0.001 * draw

    text = render_published([publish(value, findings=[finding(tasks=["lungs", "tb"])])])
    assert "**Not shown.**" in text
    assert "full, auroc: 1 of 2 above, 1 not resolved; difference +0.000 to +0.100" in text


def test_marks_and_conditions_are_shown() -> None:
    """Readers see which results bear a mark, what it means, and what was left out."""
    published = publish(varied)
    first = published.records[0].model_copy(update={"marks": ["short"]})
    marked = Published(
        published.study.model_copy(update={"left_out": Study.model_validate(MAPPING).left_out}),
        (first, *published.records[1:]),
    )
    text = render_published([marked])
    assert "Left out, because not a result: rows with step 'warm up'." in text
    assert "† short: was cut." in text
    assert text.count(" † |") == 2  # its cell, under both metrics
    assert " † |" not in render_published([published])


def test_hostile_words_do_no_harm() -> None:
    """Titles and notes with markup stay one line of text, in tables and out of them."""
    bad = "<script>alert(1)</script>|`x`\n\n# head [a](b) $x$"
    targets = copy.deepcopy(MAPPING["targets"])
    targets["Cats"]["title"] = bad
    text = render_published(
        [
            publish(
                varied,
                title=bad,
                citation=bad,
                notes=[bad],
                targets=targets,
                findings=[{**finding(), "title": bad, "text": bad}],
            )
        ]
    )
    assert "<script" not in text
    assert not re.search(r"^#+ head", text, re.MULTILINE)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
