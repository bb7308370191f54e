"""How well scores predict: statistics, their bootstrap, imported numbers, trajectories."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medtransfer import ranking
from medtransfer.core.errors import InputError
from medtransfer.ranking.predictions.predictions import tabulate_judgement
from medtransfer.ranking.predictions.score_validation import (
    RANDOM,
    STATISTICS,
    judge_scores,
    verdict,
    weighted_tau,
)
from medtransfer.ranking.predictions.scores_csv import read_outcomes, read_scores_csv
from medtransfer.specs.record import EncoderRef
from tests.helpers.boards import rank, submission
from tests.helpers.scores import scored, several


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    encoders=st.integers(2, 12),
    decimals=st.sampled_from([0, 1, 8]),
)
def test_correlations_are_scipys(seed: int, encoders: int, decimals: int) -> None:
    """Of items drawn several times, with and without ties; null where one does not vary."""
    generator = np.random.default_rng(seed)
    first = generator.normal(size=encoders).round(decimals)
    second = (first + generator.normal(size=encoders)).round(decimals)
    drawn = [np.arange(encoders), *generator.integers(0, encoders, (4, encoders))]
    counts = np.stack([np.bincount(own, minlength=encoders) for own in drawn])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for name, how in (
            ("weighted_tau", stats.weightedtau),
            ("spearman", stats.spearmanr),
            ("pearson", stats.pearsonr),
        ):
            expected = [how(first[own], second[own]).statistic for own in drawn]
            found = STATISTICS[name](first, second, counts)
            np.testing.assert_allclose(found, expected, atol=1e-9)


def test_regret_and_top_several() -> None:
    """The best outcome less that of the top-scored; ties at the top share, and go against it."""
    outcome, once = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.ones((1, 5), int)
    regret, top = STATISTICS["regret"], STATISTICS["top3"]
    assert regret(np.array([1.0, 5, 2, 3, 4]), outcome, once) == pytest.approx([0.1])
    assert regret(np.array([1.0, 5, 5, 3, 4]), outcome, once) == pytest.approx([0.15])
    assert top(np.array([3.0, 5, 4, 2, 1]), outcome, once) == [1]
    assert top(np.array([3.0, 5, 4, 3, 1]), outcome, once) == [0]
    drawn = np.array([[4, 0, 0, 1, 0], [0, 2, 2, 0, 1]])  # the best one four times is one encoder
    assert top(np.array([3.0, 5, 4, 9, 1]), outcome, drawn).tolist() == [1, 1]
    assert regret(np.array([3.0, 5, 4, 9, 1]), outcome, drawn) == pytest.approx([0.3, 0])


def tables(
    *, encoders: int = 9, tasks: int = 4, noise: float = 0.1
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A score that follows the outcome, one that does not, and one that runs against it."""
    generator = np.random.default_rng(1)
    said, came = [], []
    for task in range(tasks):
        truth = np.linspace(0.5, 0.9, encoders)[generator.permutation(encoders)]
        scores = {
            "good": truth + noise * generator.normal(size=encoders) / 10,
            "blind": generator.normal(size=encoders),
            "wrong": -truth,
        }
        for number in range(encoders):
            key = {"encoder": f"e{number}", "task": f"t{task}"}
            came.append({**key, "outcome": "finetune", "value": truth[number], "flops": 100.0})
            said += [
                {**key, "score": name, "value": values[number], "flops": 10.0}
                for name, values in scores.items()
            ]
    return pd.DataFrame(said), pd.DataFrame(came)


def test_a_judgement_says_what_was_put_in() -> None:
    """The good score is better than chance, the wrong one worse, the blind one neither."""
    judgement = judge_scores(*tables())
    own = judgement.summary.set_index("score")
    said = {
        name: verdict(row["weighted_tau_low"], row["weighted_tau_high"], encoders=row["encoders"])
        for name, row in own.iterrows()
    }
    assert said == {
        "good": "better than chance",
        "blind": "no better than chance",
        "wrong": "worse than chance",
        RANDOM: "cannot be told",
    }
    assert own.at["wrong", "weighted_tau"] == pytest.approx(-1)
    assert own.at["wrong", "regret"] == pytest.approx(0.4)
    assert own.at[RANDOM, "regret"] == pytest.approx(0.2)
    assert own.at[RANDOM, "top3"] == pytest.approx(1 / 3)
    assert own.at["good", "relative_cost"] == pytest.approx(0.1)
    assert (own["tasks"] == 4).all() and (own["encoders"] == 9).all()
    assert own.at["good", "regret_low"] <= own.at["good", "regret"] <= own.at["good", "regret_high"]


def test_the_mean_over_tasks_is_that_of_the_tasks() -> None:
    """Each number of the summary is the plain mean of the rows of single tasks."""
    judgement = judge_scores(*tables())
    rows = judgement.summary.set_index(["outcome", "score"])
    for key, part in judgement.tasks.groupby(["outcome", "score"]):
        row = rows.loc[key]
        for name in STATISTICS:
            assert row[name] == pytest.approx(part[name].mean(), nan_ok=True)


def test_bootstrap_interval_of_one_task_is_that_of_encoders_alone() -> None:
    """With one task, the interval is the percentiles of scipy's tau over drawn encoders."""
    said, came = tables(tasks=1, noise=2)
    judgement = judge_scores(said, came, replicates=4000)
    row = judgement.summary.set_index("score").loc["good"]
    values = said.query("score == 'good'")["value"].to_numpy(), came["value"].to_numpy()
    generator = np.random.default_rng(5)
    drawn = []
    for _ in range(4000):
        picks = generator.integers(0, 9, 9)
        drawn.append(stats.weightedtau(*(own[picks] for own in values)).statistic)
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    assert row["weighted_tau_low"] == pytest.approx(low, abs=0.06)
    assert row["weighted_tau_high"] == pytest.approx(high, abs=0.06)


def test_the_same_numbers_give_the_same_judgement_in_any_order() -> None:
    """Rows may come in any order; nothing is drawn from a global generator."""
    said, came = tables()
    first = judge_scores(said, came).summary
    shuffled = judge_scores(
        said.sample(frac=1, random_state=0), came.sample(frac=1, random_state=1)
    ).summary
    keys = ["outcome", "score"]
    pd.testing.assert_frame_equal(
        first.sort_values(keys, ignore_index=True), shuffled.sort_values(keys, ignore_index=True)
    )


def test_undefined_scores_and_missing_outcomes_are_left_out() -> None:
    """A null score or outcome takes its encoder out; below three encoders nothing is said."""
    said, came = tables(tasks=2)
    said.loc[(said["score"] == "good") & (said["encoder"] == "e3"), "value"] = np.nan
    came.loc[came["encoder"] == "e4", "value"] = np.nan
    own = judge_scores(said, came).tasks.query("score == 'good'")
    assert (own["encoders"] == 7).all()
    blind = judge_scores(said, came).tasks.query("score == @RANDOM")
    assert (blind["encoders"] == 8).all()  # all that have an outcome, whatever the scores lack
    few = came[came["encoder"].isin(["e0", "e1"])]
    assert judge_scores(said, few).summary.empty
    assert judge_scores(said.iloc[:0], came).summary.empty


def test_tables_for_people() -> None:
    """The outcomes in turn, the best scores first, a blind pick last."""
    head, rows = tabulate_judgement(judge_scores(*tables()).summary)
    assert head[:3] == ["Outcome", "Score", "Its ranking is"] and head[-1].startswith("Cost")
    assert [row[1] for row in rows] == ["good", "blind", "wrong", RANDOM]
    assert rows[0][2] == "better than chance" and rows[0][-1] == "10 %" and rows[-1][2] == "-"


def test_a_board_judges_the_scores_of_its_encoders(tmp_path: Path) -> None:
    """A view, and a table of single tasks; parts of a sweep are not among them."""
    board = rank(*several())
    own = board.judgement.tasks
    assert set(own["score"]) == {"logme", "gbc", RANDOM}
    by_score = own.groupby("score")["regret"].max()
    assert by_score["logme"] == pytest.approx(0) and by_score["gbc"] == pytest.approx(0.25)
    assert set(own["outcome"]) == {"knn", "linear", "finetune"}
    text = ranking.render_markdown([board])
    assert "### Predicting transfer without fine-tuning" in text
    assert "| linear | logme | better than chance | 1.00 (1.00 to 1.00) |" in text
    cards = {one.card.name: one.card for one in several()}
    ranking.write_leaderboard([board], tmp_path, cards=cards)
    table = pd.read_csv(tmp_path / "scores.csv")
    assert len(table) == len(own) and table["protocol"].eq("quick").all()


def test_scores_of_other_data_weights_or_values_are_not_mixed_in() -> None:
    """Scores stand beside records of the same weights and data, made in the same way."""
    others = [
        {"encoder": EncoderRef(name="x", sha256="other")},
        {"protocol": "v1"},
        {"fingerprint": "of other fixed values"},
    ]
    for change in others:
        own = rank(*several(), scored("x", 0.4, **change)).judgement.tasks
        assert own.query("score != @RANDOM")["encoders"].eq(6).all()
    assert rank(*several(), scored("x", 0.4)).judgement.tasks["encoders"].eq(7).all()
    assert rank(submission("a"), submission("b")).judgement.summary.empty


SCORES_CSV = "encoder,task,score,value\na,t,s,1\nb,t,s,2\nc,t,s,\n"


def test_imported_scores_and_outcomes(tmp_path: Path) -> None:
    """Columns in any order, an empty score is undefined, a byte order mark is skipped."""
    scores, outcomes = tmp_path / "s.csv", tmp_path / "o.csv"
    scores.write_text("\ufeff" + SCORES_CSV)
    outcomes.write_text("value,metric,task,encoder\n0.5,auc,t,a\n\n0.75,auc,t,b\n")
    read = read_scores_csv(scores)
    assert list(read.columns) == ["encoder", "task", "score", "value"]
    assert read["value"].isna().tolist() == [False, False, True]
    assert read_outcomes(outcomes)["outcome"].tolist() == ["auc", "auc"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoder,task,scores,value\n", "line 1: no column 'score'; did you mean 'scores'"),
        ("encoder,task,score,value,value\n", "line 1: 2 columns 'value'"),
        ("encoder,task,score,value\n", "holds no row below its head"),
        ("", "line 1: no column 'encoder'"),
        (SCORES_CSV + "d,t,s\n", "line 5: 3 fields; 4 are expected"),
        (SCORES_CSV + "d,,s,1\n", "line 5: task: is empty"),
        (SCORES_CSV + "a,t,s,4\n", "line 5: a second value of a, t, s"),
        (SCORES_CSV + "d,t,s,high\n", "line 5: value: 'high'; a number is expected"),
        (SCORES_CSV + "d,t,s,inf\n", "line 5: value: 'inf'; a number is expected"),
    ],
)
def test_wrong_csv_is_said_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    """The file, the line and what would be right."""
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_scores_csv(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_that_is_none(tmp_path: Path) -> None:
    """Bytes that are no text, a file that is not there, an outcome that is empty."""
    path = tmp_path / "scores.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a CSV in UTF-8"):
        read_scores_csv(path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_scores_csv(tmp_path / "nothing.csv")
    path.write_text("encoder,task,metric,value\na,t,auc,\n")
    with pytest.raises(InputError, match="value: ''; a number is expected"):
        read_outcomes(path)


def test_weighted_tau_counts_the_top_most() -> None:
    """A swap at the top costs more than one at the bottom."""
    order, once = np.arange(8, dtype=float), np.ones((1, 8), int)
    top, bottom = order.copy(), order.copy()
    top[[7, 6]], bottom[[0, 1]] = order[[6, 7]], order[[1, 0]]
    assert weighted_tau(top, order, once) < weighted_tau(bottom, order, once) < 1


def test_blind_scores_are_seldom_called_better_when_tasks_lack_encoders() -> None:
    """Encoders are drawn once for all tasks, also where each task lacks another one."""
    wrong = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        quality, blind = generator.normal(size=(2, 10))
        rows = [
            {"encoder": f"e{n}", "task": f"t{task}", "value": quality[n] + 0.1 * noise}
            for task in range(10)
            for n, noise in enumerate(generator.normal(size=10))
        ]
        came = pd.DataFrame(rows).assign(outcome="finetune")
        said = came[["encoder", "task"]].assign(score="blind")
        said["value"] = said["encoder"].map({f"e{n}": value for n, value in enumerate(blind)})
        lacking = said["encoder"].str[1:] == said["task"].str[1:]
        row = judge_scores(said[~lacking], came, replicates=300).summary.iloc[0]
        said_of = verdict(row["weighted_tau_low"], row["weighted_tau_high"], encoders=9)
        wrong += said_of in ("better than chance", "worse than chance")
    assert wrong <= 8  # of independent draws for each task it would be every third


def test_few_encoders_show_nothing() -> None:
    """Below six, a perfect order is called nothing."""
    judgement = judge_scores(*tables(encoders=4, tasks=1, noise=0))
    [row] = [r for r in tabulate_judgement(judgement.summary)[1] if r[1] == "good"]
    assert row[2] == "cannot be told" and row[3].startswith("1.00")
