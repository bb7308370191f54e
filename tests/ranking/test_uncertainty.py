"""Intervals and ties: the paired bootstrap against known truth, and its laws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medtransfer import ranking
from medtransfer.core.errors import InputError
from medtransfer.ranking.boards.comparison import compare_pair
from medtransfer.ranking.statistics.bootstrap import resample, weigh
from medtransfer.ranking.statistics.uncertainty import interval, rank_intervals, tie_groups
from medtransfer.specs.record import ArrayRef, Cell
from tests.helpers.boards import CELLS, DIVERGED, at, card, made, rank, submission, without
from tests.helpers.uncertainty import STORED, groups_of, measured


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
