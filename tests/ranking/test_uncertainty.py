"""Intervals and ties: the paired bootstrap against known truth, and its laws."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from medtransfer import ranking
from medtransfer.core.errors import InputError
from medtransfer.ranking.boards.comparison import compare_pair
from medtransfer.ranking.boards.layout import lay_out
from medtransfer.ranking.records.submissions import Submission
from medtransfer.ranking.statistics.bootstrap import resample, weigh
from medtransfer.ranking.statistics.pareto import best_under, mark_fronts
from medtransfer.ranking.statistics.uncertainty import (
    clusters,
    compare_over_tasks,
    interval,
    rank_intervals,
    task_replicates,
    tie_groups,
)
from medtransfer.specs.record import ArrayRef, Cell
from tests.conftest import Bench
from tests.ranking.test_ranking import (
    CELLS,
    DIVERGED,
    QUICK,
    SUITES,
    at,
    card,
    made,
    rank,
    submission,
    without,
)

STORED = 200


def measured(
    folder: Path, name: str, *, value: float = 0.8, seed: int | None = None, **options: Any
) -> Submission:
    """A submission with replicates of every ok cell around its value, kept in a folder."""
    plain = submission(name, value=value, **options)
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.mkdir()
    rng = np.random.default_rng(seed if seed is not None else zlib.crc32(name.encode()))
    arrays, records = {}, []
    for record in plain.records:
        if record.status == "ok":
            key = "/".join(map(str, record.cell))
            for split in ("in_domain", "scanner", "corrupted"):
                centre = record.metrics.get(split, {"auroc": value - 0.2})
                centre = next(iter(centre.values()))
                arrays[f"{key}/{split}"] = (centre + 0.02 * rng.normal(size=STORED)).astype("f4")
            record = record.model_copy(
                update={"replicates": ArrayRef(file="replicates.npz", key=key)}
            )
        records.append(record)
    np.savez(path / "replicates.npz", **arrays)
    text = yaml.safe_dump(plain.card.model_dump(mode="json"))
    (path / "encoder.yaml").write_text(text, encoding="utf-8")
    (path / "records.jsonl").write_text("".join(f"{record.line()}\n" for record in records))
    return made(plain.card, records, path)


# Ranks


def simulate(rng: np.random.Generator, gap: float, *, encoders: int = 30, items: int = 150):
    """Whether each encoder's rank interval holds its true rank, in one data set.

    Encoder e scores -e * gap + an effect of the item, which all share, + noise on each item, so
    that gap is in units of the noise of an encoder's mean.
    """
    truth = -np.arange(encoders) * gap / math.sqrt(items)
    scores = truth[:, None] + 2 * rng.normal(size=items) + rng.normal(size=(encoders, items))
    weights = rng.multinomial(items, np.full(items, 1 / items), size=200) / items
    low, high = rank_intervals(scores @ weights.T)
    true_rank = np.arange(1, encoders + 1)
    return (low <= true_rank) & (true_rank <= high)


@pytest.mark.parametrize("gap", [0.04, 0.1])
def test_rank_intervals_hold_the_true_rank(gap: float) -> None:
    """In 93 to 97 of 100 cases, over 200 data sets of 30 encoders of known order."""
    rng = np.random.default_rng(0)
    held = np.array([simulate(rng, gap) for _ in range(200)])
    assert 0.93 <= held.mean() <= 0.97


def test_clear_and_equal_encoders() -> None:
    """Where the noise is small the interval is the rank; equal encoders share all ranks."""
    noise = np.random.default_rng(0).normal(size=(1, 500))
    apart = np.arange(4)[::-1, None] + 0.1 * noise
    assert [bound.tolist() for bound in rank_intervals(apart)] == [[1, 2, 3, 4]] * 2
    equal = np.repeat(noise, 4, axis=0)
    assert [bound.tolist() for bound in rank_intervals(equal)] == [[1] * 4, [4] * 4]
    assert tie_groups(equal.mean(axis=1), equal).tolist() == [1] * 4


def test_tie_groups_follow_their_leader() -> None:
    """A member is compared with the leader, not with the next one; the rest has its own leader."""
    rng = np.random.default_rng(0)
    scores = np.array([0.0, -1.5, -3.0, -4.5])
    replicates = scores[:, None] + rng.normal(scale=0.7, size=(4, 4000))
    # The difference of two has a standard deviation of 1: 1.5 is within 1.96, 3 is not.
    assert tie_groups(scores, replicates).tolist() == [1, 1, 2, 2]
    shuffled = [2, 0, 3, 1]
    assert tie_groups(scores[shuffled], replicates[shuffled]).tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize("rounds", [1, 2, 200, 1000])
def test_intervals_are_those_of_numpy(rounds: int) -> None:
    """For any shape; with a NaN there is none."""
    values = np.random.default_rng(rounds).normal(size=(3, 4, rounds))
    np.testing.assert_allclose(interval(values), np.percentile(values, [2.5, 97.5], axis=-1))
    values[1, 2, 0] = np.nan
    assert np.isnan(interval(values)).sum() == 2


# Replicates


def groups_of(*submissions: Submission):
    [layout] = [
        layout
        for layout in lay_out(submissions, SUITES, {"quick": QUICK}, single=True)
        if layout.suite == next(iter(SUITES)) and not layout.kind
    ]
    return layout


def test_the_variance_of_few_draws_is_not_underestimated(tmp_path: Path) -> None:
    """Of three draws it is that of their mean, s^2 / 3, not 2/3 of it."""
    rng = np.random.default_rng(1)
    cells = [Cell("chest", "1-shot", "knn", draw) for draw in range(3)]
    records = [r for r in submission("a").records if r.cell in cells]
    results, expected = {}, {}
    for number in range(60):
        folder = tmp_path / str(number)
        folder.mkdir()
        own = 0.5 + 0.1 * rng.normal(size=3)
        expected[str(number)] = (own / 0.5).var(ddof=1) / 3
        arrays = {f"{draw}/in_domain": np.full(STORED, own[draw]) for draw in range(3)}
        np.savez(folder / "replicates.npz", **arrays)
        keyed = [
            record.model_copy(
                update={"replicates": ArrayRef(file="replicates.npz", key=str(record.draw))}
            )
            for record in records
        ]
        results[str(number)] = made(card("a"), keyed, folder).cells
    group = {"task": "chest", "budget": "1-shot", "adaptation": "knn", "draws": 3}
    found = resample(results, pd.DataFrame([{**group, "has_in_domain": True}]), single=True)
    ratio = [found.inside[name][0].var() / expected[name] for name in expected]
    assert 0.9 < np.mean(ratio) < 1.1


def test_one_draw_has_the_variance_of_its_items(tmp_path: Path) -> None:
    """The interval of a single cell is that of its stored replicates."""
    one = measured(tmp_path, "a", seed=0)
    layout = groups_of(one)
    cell = next(c for c in layout.cells if c.budget == "full")
    groups = layout.replicates.groups
    [row] = np.flatnonzero((groups == [cell.task, cell.budget, cell.adaptation]).all(axis=1))
    archive = np.load(tmp_path / "a" / "replicates.npz")
    stored = archive["/".join(map(str, cell)) + "/in_domain"]
    expected = (np.percentile(stored, [2.5, 97.5]) - 0.5) / 0.5
    np.testing.assert_allclose(layout.replicates.bounds["a"][:, row], expected, atol=0.01)


def test_weights_are_the_mean_of_means() -> None:
    """Over groups, then tasks, then domains: a task counts by its domain, not by its cells."""
    groups = pd.DataFrame(
        [("a", "1", "k"), ("a", "f", "k"), ("b", "f", "k"), ("c", "f", "k")],
        columns=["task", "budget", "adaptation"],
    )
    weights = weigh(groups, {"a": "ct", "b": "ct", "c": "oct"})
    np.testing.assert_allclose(weights, [1 / 8, 1 / 8, 1 / 4, 1 / 2])


def test_the_headline_interval_is_around_the_score(tmp_path: Path) -> None:
    """And the replicates' mean is the score of the board."""
    board = rank(*[measured(tmp_path, name, value=v) for name, v in (("a", 0.8), ("b", 0.7))])
    for row in board.table.itertuples():
        assert row.in_domain_low < row.in_domain < row.in_domain_high
        assert row.in_domain_high - row.in_domain_low < 0.05
    assert board.table["rank_high"].tolist() == [1, 2]
    assert board.table["tie"].tolist() == [1, 2]


def test_another_encoder_changes_nothing_of_the_others(tmp_path: Path) -> None:
    """Scores, intervals and paired differences stay to the last bit, in any order of files."""
    a, b, c = (
        measured(tmp_path, name, value=v) for name, v in zip("abc", (0.8, 0.79, 0.85), strict=True)
    )
    two, three, turned = rank(a, b), rank(a, b, c), rank(c, b, a)
    columns = ["in_domain", "in_domain_low", "in_domain_high", "few_shot", "out_of_domain"]
    pd.testing.assert_frame_equal(two.table[columns], three.table.loc[["a", "b"], columns])
    pd.testing.assert_frame_equal(three.table, turned.table)
    assert ranking.render_markdown([three]) == ranking.render_markdown([turned])
    few, many = groups_of(a, b), groups_of(a, b, c)
    assert compare_pair(few.ranked, few.replicates, "a", "b") == compare_pair(
        many.ranked, many.replicates, "a", "b"
    )


def test_identical_encoders_tie(tmp_path: Path) -> None:
    """The same numbers give the same rank, one tie group, half the wins and no difference."""
    a, b = measured(tmp_path, "a", seed=3), measured(tmp_path, "b", seed=3)
    board = rank(a, b)
    assert board.table["rank"].tolist() == [1, 1]
    assert board.table["tie"].tolist() == [1, 1]
    assert board.table["rank_low"].tolist() == [1, 1] and board.table["rank_high"].tolist() == [
        2,
        2,
    ]
    assert board.table["win_rate"].tolist() == [0.5, 0.5]
    layout = groups_of(a, b)
    found = compare_pair(layout.ranked, layout.replicates, "a", "b")
    assert {row.verdict for row in found} == {"none"}
    assert all(row.low == row.high == 0 for row in found)


def test_a_missing_cell_never_helps(tmp_path: Path) -> None:
    """Without its worst cell an encoder has no rank, no interval, and helps nobody."""
    a = measured(tmp_path, "a", value=0.8)
    worst = at(CELLS[0], metrics={"in_domain": {"auroc": 0.1, "n": 400}})
    whole = measured(tmp_path, "b", value=0.79, change=worst)
    part = measured(tmp_path / "part", "b", value=0.79, change=without(CELLS[0]))
    assert rank(a, whole).table.loc["b", "rank"] == 2
    table = rank(a, part).table
    assert pd.isna(table.loc["b", ["rank", "in_domain", "in_domain_low", "rank_low", "tie"]]).all()
    assert table.loc["a", ["rank_low", "rank_high"]].tolist() == [1, 1]


def test_a_diverged_cell_is_chance_in_every_replicate(tmp_path: Path) -> None:
    """It has no arrays, and no uncertainty of its items."""
    one = measured(tmp_path, "a", change=at(Cell("chest", "full", "finetune", 0), **DIVERGED))
    layout = groups_of(one)
    groups = layout.replicates.groups
    chosen = (groups == ["chest", "full", "finetune"]).all(axis=1)
    assert chosen.any() and not layout.replicates.inside["a"][chosen].any()


def test_a_draw_that_nobody_asked_for_changes_nothing(tmp_path: Path) -> None:
    """More draws than planned are left out; another draw does not stand for a missing one."""
    plain = measured(tmp_path / "plain", "a", seed=1)
    [task] = {cell.task for cell in CELLS[:1]}
    extra = Cell(task, CELLS[0].budget, CELLS[0].adaptation, 7)
    more = measured(tmp_path / "more", "a", seed=1, cells=[*CELLS, extra])
    columns = ["in_domain", "in_domain_low", "in_domain_high", "rank_high", "tie"]
    pd.testing.assert_frame_equal(rank(plain).table[columns], rank(more).table[columns])
    instead = measured(tmp_path / "instead", "a", cells=[*CELLS[1:], extra])
    group = rank(instead).results.query(
        "task == @extra.task and budget == @extra.budget and adaptation == @extra.adaptation "
        "and split == 'in_domain'"
    )
    assert group[["mean", "low", "high"]].isna().all(axis=None)


def test_records_without_arrays_have_no_interval(tmp_path: Path) -> None:
    """They are ranked by their scores; what is not known of them is left open."""
    table = rank(measured(tmp_path, "a"), submission("b", value=0.9)).table
    assert table["rank"].tolist() == [1, 2] and table.index.tolist() == ["b", "a"]
    assert table.loc["b", ["in_domain_low", "rank_low", "tie"]].isna().all()
    assert table.loc["a", ["rank_low", "rank_high"]].tolist() == [1, 2]


def test_arrays_that_a_record_names_must_be_there(tmp_path: Path) -> None:
    """One line names the file and the cell."""
    one = measured(tmp_path, "a")
    (tmp_path / "a" / "replicates.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"replicates\.npz: cannot be read"):
        rank(one)
    (tmp_path / "a" / "replicates.npz").unlink()  # as where only the records are installed
    assert rank(one).table["rank_low"].isna().all()


# Two encoders


def test_compare_says_who_is_better(tmp_path: Path, bench: Bench) -> None:
    """First one sentence; then a view, a domain and a task each have a row, and a star who is."""
    measured(tmp_path, "strong", value=0.8)
    measured(tmp_path, "weak", value=0.7)
    measured(tmp_path, "twin", value=0.8, seed=zlib.crc32(b"strong"))
    outcome = bench("compare", "strong", "weak", "--submissions", tmp_path)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].startswith("In-domain, strong is better than weak by 0.200 (95 %: 0.")
    assert lines[1].startswith("Out-of-domain, ")
    assert max(map(len, lines)) <= 100
    inside, outside = (
        {line.split()[0]: line.split()[1:4] for line in part.splitlines() if line.strip()}
        for part in outcome.out.partition("in-domain  ")[2].split("out-of-domain  ")
    )
    assert inside["overall"] == ["0.600*", "0.400", "+0.200"]
    assert {"chest-xray", "full"} <= inside.keys() and "chest" in outside
    turned = bench("compare", "weak", "strong", "--submissions", tmp_path).out
    assert "In-domain, strong is better than weak by 0.200 (95 %: 0." in turned
    assert "0.600*      -0.200" in turned
    same = bench("compare", "strong", "twin", "--submissions", tmp_path).out
    assert "neither is shown to be better: strong minus twin is" in same


def test_compare_over_what_both_have(tmp_path: Path, bench: Bench) -> None:
    """A group that one lacks a draw of is left out for both; a task with none has no row."""
    gone = [cell for cell in CELLS if cell.task == "chest" or cell == CELLS[0]]

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any] | None:
        return None if cell in gone else draft

    layout = groups_of(measured(tmp_path, "a", value=0.8), measured(tmp_path, "b", change=change))
    found = compare_pair(layout.ranked, layout.replicates, "a", "b")
    tasks = {row.view for row in found if row.part == "task"}
    assert tasks == {cell.task for cell in CELLS} - {"chest"}
    assert all(np.isfinite([row.first, row.second, row.low, row.high]).all() for row in found)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "bb"), "no submission of encoder 'bb'; did you mean 'b'?"),
        (("a", "a"), "'a' twice; name two encoders"),
        (("a", "b"), "share no complete task, budget and adaptation"),
    ],
)
def test_what_cannot_be_compared(
    names: tuple[str, str], message: str, tmp_path: Path, bench: Bench
) -> None:
    """One line says why."""
    measured(tmp_path, "a", cells=CELLS[:3])
    measured(tmp_path, "b", cells=CELLS[-3:])
    outcome = bench("compare", *names, "--submissions", tmp_path)
    assert outcome.code == 2 and message in outcome.err


# Seen before


def test_declared_data_mark_a_submission_and_make_a_second_rank(tmp_path: Path) -> None:
    """Names of corpora are compared without case, dashes and dots; who says nothing is unknown."""
    seen = {"pretraining": {"domains": ["natural"], "datasets": ["CIFAR-10"]}}
    clean = {"pretraining": {"domains": [], "datasets": [], "objective": "none"}}
    at_chest = {c: {"in_domain": {"auroc": 0.95, "n": 400}} for c in CELLS if c.task == "chest"}

    def lucky(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        return {**draft, "metrics": at_chest.get(cell, draft["metrics"])}

    encoders = (
        measured(tmp_path, "seen", value=0.75, change=lucky, **seen),
        measured(tmp_path, "clean", value=0.78, **clean),
        measured(tmp_path, "silent", value=0.6),
    )
    lineages = {"chest": ["cifar10"], "slices": ["other"]}
    [board] = ranking.boards(encoders, SUITES, {"quick": QUICK}, lineages=lineages)
    table = board.table
    assert table["contamination"].to_dict() == {
        "seen": "overlap",
        "clean": "clean",
        "silent": "unknown",
    }
    assert table["rank"].to_dict() == {"seen": 1, "clean": 2, "silent": 3}
    assert table["clean_rank"].to_dict() == {"seen": 2, "clean": 1, "silent": 3}
    text = ranking.render_markdown([board])
    assert "Unseen tasks only" in text and "chest (seen)" in text


def test_further_pretraining_stands_beside_its_parent(tmp_path: Path) -> None:
    """By declared compute; and where there is none, the board says what would fill the view."""
    run = {
        **{"recipe": "simclr", "fingerprint": "f", "tasks": {}, "images": 10, "epochs": 1},
        **{"steps": 5, "batch": 2, "images_seen": 10, "flops": 10**15, "seconds": 1},
        **{"trainable": "partial:layer4|`", "share_of_full": 0.413},
    }
    child = {"pretraining": {"init": "parent", "cost": {"flops": 2e15}, "run": run}}
    parent = {"pretraining": {"cost": {"flops": 1e15}}}
    encoders = [
        measured(tmp_path, "child", value=0.8, **child),
        measured(tmp_path, "parent", value=0.75, **parent),
        measured(tmp_path, "other", value=0.7),
    ]
    text = ranking.render_markdown([rank(*encoders)])
    view = text[text.index("Further pre-training, by its compute") :].split("###")[0]
    rows = [line.split(" | ") for line in view.splitlines() if line.startswith("|")][2:]
    assert [row[0].strip("| ") for row in rows] == ["parent", "child"]
    assert rows[0][2] == "-"
    assert rows[1][2] == "partial:layer4\\|\\`, 41 % of the FLOPs of full"
    assert rows[1][1] == "parent" and rows[1][-1].strip("| ") == "2.0 PFLOP"
    assert "names its parent" in ranking.render_markdown([rank(*encoders[1:])])


# Other tasks


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


# Prices


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
