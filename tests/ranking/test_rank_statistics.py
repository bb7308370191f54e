"""Statistics over tasks, the front of prices, and their limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from medtransfer import ranking
from medtransfer.ranking.statistics.pareto import best_under, mark_fronts
from medtransfer.ranking.statistics.uncertainty import (
    clusters,
    compare_over_tasks,
    interval,
    task_replicates,
)
from tests.helpers.boards import CELLS, rank
from tests.helpers.uncertainty import measured


def test_tasks_of_one_corpus_belong_together() -> None:
    """Directly or through a third task."""
    number = clusters({"a": ["x"], "b": ["y"], "c": ["x", "y"], "d": [], "e": ["z"], "f": []})
    assert number["a"] == number["b"] == number["c"]
    assert len({number[task] for task in "adef"}) == 4


def test_other_tasks_add_uncertainty() -> None:
    """An encoder that is better on average only is not so on every choice of tasks."""
    rng = np.random.default_rng(0)
    domains = {task: f"domain {number}" for number, task in enumerate("wxyz")}
    gains = np.array([[0.3], [-0.2], [0.1], [0.1]])
    better = rng.normal(scale=0.01, size=(4, 500)) + gains
    both = np.stack([better, np.zeros_like(better)])
    drawn = task_replicates(both, list(domains), domains, {})
    low, high = interval(drawn[0] - drawn[1])
    assert low < 0 < high
    assert interval(both[0].mean(axis=0) - both[1].mean(axis=0))[0] > 0
    one = task_replicates(both, list(domains), domains, {task: ["one"] for task in domains})
    assert one is None


def test_resampled_tasks_are_averaged_by_domain() -> None:
    """By a plain loop over the replicates; a domain of which no task is drawn does not count."""
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(2, 5, 40))
    tasks, corpora = list("abcde"), {"b": ["shared"], "c": ["shared"]}
    domains = {"a": "ct", "b": "ct", "c": "oct", "d": "oct", "e": "natural"}
    found = task_replicates(scores, tasks, domains, corpora)
    counts = np.random.default_rng(0).multinomial(4, np.full(4, 1 / 4), size=40)
    number = clusters({task: corpora.get(task, ()) for task in tasks})
    places = sorted(set(number.values()))
    for replicate in range(40):
        times = [counts[replicate, places.index(number[task])] for task in tasks]
        for encoder in range(2):
            means = []
            for domain in sorted(set(domains.values())):
                drawn = [
                    scores[encoder, at, replicate]
                    for at, task in enumerate(tasks)
                    if domains[task] == domain
                    for _ in range(times[at])
                ]
                means += [np.mean(drawn)] if drawn else []
            assert found[encoder, replicate] == pytest.approx(np.mean(means))


def test_tests_over_tasks_are_those_of_scipy() -> None:
    """Friedman's, the signed-rank test of each pair, and Holm's correction by its definition."""
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(rng.normal(loc=[1.5, 0.5, 0, 0], size=(9, 4)), columns=list("abcd"))
    found = compare_over_tasks(scores)
    assert found.friedman == stats.friedmanchisquare(*scores.to_numpy().T).pvalue
    p = {}
    for row in found.pairs.itertuples():
        p[row.better, row.worse] = stats.wilcoxon(scores[row.better], scores[row.worse]).pvalue
        assert scores[row.better].mean() >= scores[row.worse].mean()
        assert row.p == pytest.approx(p[row.better, row.worse])
    largest = 0.0
    for place, (pair, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, value * (len(p) - place)))
        row = found.pairs[(found.pairs["better"] == pair[0]) & (found.pairs["worse"] == pair[1])]
        assert row["holm"].item() == pytest.approx(largest)


def test_the_front_is_who_cannot_be_beaten_for_less() -> None:
    """Equal score for more is beaten; equal in both is not; an unknown price is on no front."""
    table = pd.DataFrame(
        {
            "in_domain": [0.5, 0.6, 0.6, 0.4, 0.6, np.nan, 0.9],
            "adaptation_flops": [1e9, 1e10, 1e11, 1e10, 1e10, 1.0, np.nan],
        },
        index=list("abcdefg"),
    ).assign(inference_flops_per_image=1.0, total_flops=1.0)
    marks = mark_fronts(table)["pareto_adaptation"]
    assert marks.index[marks.fillna(False).astype(bool)].tolist() == ["a", "b", "e"]
    assert marks.index[marks.isna()].tolist() == ["f", "g"]
    best = best_under(table, "adaptation_flops")
    assert list(zip(best["budget"], best["encoder"], strict=True)) == [(1e9, "a"), (1e10, "b")]


def test_numbers_far_from_their_replicates_are_named(tmp_path: Path) -> None:
    """Who raises a metric and not the replicates is still ranked, but the board says so."""
    measured(tmp_path, "a", value=0.8)
    measured(tmp_path, "b", value=0.7)
    ledger = tmp_path / "b" / "records.jsonl"
    untouched = ranking.load_submissions([tmp_path])
    assert not rank(*untouched).notes
    lines = ledger.read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace("0.7", "0.99", 1)
    ledger.write_text("".join(lines))
    [note] = rank(*ranking.load_submissions([tmp_path])).notes
    cell = CELLS[0]
    assert note.startswith("b: 1 result far outside of the bootstrap replicates handed in with it")
    assert f"{cell.task} {cell.budget} {cell.adaptation}" in note


def test_too_few_tasks_for_so_many_pairs(tmp_path: Path) -> None:
    """Where no pair could be shown, however clear, the page says so instead of testing."""
    scores = pd.DataFrame(np.arange(24.0).reshape(4, 6) + np.eye(4, 6), columns=list("abcdef"))
    found = compare_over_tasks(scores)
    assert len(found.pairs) == 15 and found.pairs[["p", "holm"]].isna().all(axis=None)
    encoders = [measured(tmp_path, name, value=0.6 + 0.05 * n) for n, name in enumerate("abcd")]
    assert "4 are too few to show one of 6 pairs to differ" in ranking.render_markdown(
        [rank(*encoders)]
    )


def test_ranks_and_ties_never_contradict_each_other(tmp_path: Path) -> None:
    """Whoever is in the first tie group may have the first rank, and the reverse."""
    for seed in range(12):
        values = 0.8 - 0.002 * np.arange(6)
        table = rank(
            *[
                measured(tmp_path / str(seed), f"e{n}", value=value, seed=100 * seed + n)
                for n, value in enumerate(values)
            ]
        ).table
        first = table["tie"] == 1
        leader = table.index[0]
        above = table.loc[table.index != leader, "rank_low"] > 1
        assert (table.loc[leader, "rank_high"] >= first.sum()) and table.loc[leader, "tie"] == 1
        assert above[~first.drop(leader)].all()
