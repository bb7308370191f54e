"""Metrics of an evaluation by the keys of a record."""

from __future__ import annotations

from medtransfer.metrics import Evaluation


def test_classes_follow_the_metrics_and_counts_come_last() -> None:
    """Each foreground class has its name; the background has no value."""
    evaluation = Evaluation({"dice": 0.5}, 1, 7, {}, {}, {"dice": [0.4, None]})
    assert list(evaluation.flatten(["none", "liver", "spleen"]).items()) == [
        ("dice", 0.5),
        ("dice/liver", 0.4),
        ("dice/spleen", None),
        ("classes_scored", 1),
        ("n", 7),
    ]


def test_without_classes_only_the_metrics() -> None:
    """Classification has values of the whole only."""
    evaluation = Evaluation({"auroc": None}, 0, 3, {}, {})
    assert evaluation.flatten(["a", "b"]) == {"auroc": None, "classes_scored": 0, "n": 3}
