"""Submissions that were changed: `bench verify` finds each change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medtransfer.verification.copies import find_copies
from medtransfer.verification.entries import read_entries
from tests.conftest import ROOT, Bench
from tests.helpers.tampering import (
    LATER,
    PREDICTION,
    REPLICATE,
    add_key,
    add_link,
    add_mark,
    add_member_twice,
    change_array,
    change_card,
    change_line,
    claim_inapplicable,
    copy_draw,
    cut_line,
    double_record,
    drop,
    edit,
    flip,
    inflate_array,
    lead_out,
    link_predictions,
    nudge,
    pickle_array,
    put,
    remove_record,
    replace_replicates,
    rewrite,
    spoil,
    swap_draws,
    swap_predictions,
    verify,
)

TAMPERINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "metric": (
        change_line("metrics", "in_domain", "auroc", lambda x: x + 1e-6),
        "linear #0): metrics.in_domain.auroc",
    ),
    "metric of a later draw": (
        change_line("metrics", "elsewhere", "auroc", lambda x: 1 - x / 4, cell=LATER),
        "linear #1): metrics.elsewhere.auroc",
    ),
    "accuracy of a later draw": (
        change_line("metrics", "in_domain", "accuracy", lambda x: x + 0.01, cell=LATER),
        "metrics.in_domain.accuracy",
    ),
    "metric of a corrupted split": (
        change_line("metrics", "corrupted/gaussian-noise/3", "auroc", 0.01),
        "metrics.corrupted.auroc",
    ),
    "metric out of range": (
        change_line("metrics", "in_domain", "brier", 2.5, cell=LATER),
        "metrics.in_domain.brier: 2.5; 0 to 2 is possible",
    ),
    "metric null": (
        change_line("metrics", "in_domain", "ece", None, cell=LATER),
        "metrics.in_domain.ece: null; the labels define it",
    ),
    "metric left out": (
        lambda f: edit(f, lambda line: line["metrics"]["in_domain"].pop("ece"), cell=LATER),
        "metrics.in_domain: [",
    ),
    "split left out": (
        lambda f: edit(f, lambda line: line["metrics"].pop("elsewhere"), cell=LATER),
        "metrics: [",
    ),
    "NaN": (change_line("selected", "validation", float("nan")), "line 11: a number is NaN"),
    "interval": (
        change_line("intervals", "in_domain", "auroc", lambda x: [x[0] + 1e-4, x[1]], cell=LATER),
        "intervals.in_domain.auroc, lower end",
    ),
    "interval of another metric": (
        change_line("intervals", "elsewhere", "f1", lambda x: [x[0], x[1] + 1e-6]),
        "intervals.elsewhere.f1, upper end",
    ),
    "interval upside down": (
        change_line("intervals", "elsewhere", "f1", lambda x: x[::-1], cell=LATER),
        "intervals.elsewhere.f1",
    ),
    "replicate": (change_array("replicates.npz", REPLICATE, nudge), "replicates.sha256"),
    "replicate and hash": (
        change_array("replicates.npz", REPLICATE, nudge, "replicates"),
        "replicates.in_domain",
    ),
    "replicates of a later draw and hash": (
        change_array(
            "replicates.npz",
            "small/10-shot/linear/1/in_domain",
            lambda x: x + (1 - x) / 10,
            "replicates",
            LATER,
        ),
        "intervals.in_domain.auroc",
    ),
    "replicate of NaN": (
        change_array("replicates.npz", REPLICATE, spoil(np.nan), "replicates"),
        "in_domain.auroc",
    ),
    "replicates pickled": (
        pickle_array,
        f"replicates.npz: {REPLICATE}: holds pickled Python objects",
    ),
    "replicates left out": (
        lambda f: rewrite(f, "replicates.npz", lambda arrays: drop(arrays, REPLICATE)),
        f"replicates.npz: {REPLICATE}: is missing",
    ),
    "replicates of another shape": (
        change_array("replicates.npz", REPLICATE, lambda x: x[:100], "replicates"),
        "float32 of 200 is expected",
    ),
    "replicates of a better draw": (
        lambda f: replace_replicates(f, 2),
        "replicates: a copy of those of small 10-shot linear #",
    ),
    "prediction": (
        change_array("predictions/small.npz", PREDICTION, flip),
        "predictions.sha256: is not the hash of 10-shot/linear",
    ),
    "prediction and hash": (
        change_array("predictions/small.npz", PREDICTION, flip, "predictions"),
        "the stored predictions give",
    ),
    "prediction of NaN": (
        change_array("predictions/small.npz", PREDICTION, spoil(np.nan), "predictions"),
        "predictions.in_domain: a probability is not between 0 and 1",
    ),
    "prediction that is no probability": (
        change_array("predictions/small.npz", PREDICTION, spoil(0.999), "predictions"),
        "predictions.in_domain: probabilities not summing to one",
    ),
    "predictions swapped": (swap_predictions, "10-shot knn #0): metrics.in_domain.auroc"),
    "archive damaged": (
        lambda f: (f / "replicates.npz").write_bytes(b"PK"),
        "replicates.npz: cannot be read, damaged",
    ),
    "array of no record": (
        lambda f: rewrite(f, "replicates.npz", lambda a: a.update({"mine": np.zeros(3)})),
        "replicates.npz: 'mine': belongs to no record",
    ),
    "array twice": (add_member_twice, "'small/full/knn/0/in_domain': occurs 2 times"),
    "draw copied": (copy_draw, "10-shot linear #1): replicates: a copy of those of small 10-shot"),
    "record twice": (double_record, "cell: is settled in line 1 already"),
    "record left out": (remove_record, "linear/1/in_domain': belongs to no record"),
    "line cut off": (cut_line, "records.jsonl: line 21: incomplete"),
    "no JSON": (lambda f: (f / "records.jsonl").write_text("{}\n"), "records.jsonl: line 1: "),
    "n": (change_line("metrics", "elsewhere", "n", 36, cell=LATER), "n: 36; the split has 33"),
    "classes_scored": (
        change_line("metrics", "elsewhere", "classes_scored", 2, cell=LATER),
        "classes_scored: 2; the labels give 3",
    ),
    "counts": (change_line("counts", [10, 10, 20]), "counts: [10, 10, 20]; draw 0 of the data"),
    "chance": (change_line("task", "chance", 0.2), "task.chance: 0.2; auroc has 0.5"),
    "domain": (change_line("task", "domain", "oct"), "task.domain: oct; the task's card says ct"),
    "task fingerprint": (change_line("task", "fingerprint", "0" * 64), "task.fingerprint: 000"),
    "task unknown": (change_line("task", "name", "smaller"), "no card is called 'smaller'"),
    "protocol": (change_line("protocol", "name", "quik"), "'quik' is no protocol; did you mean"),
    "protocol fingerprint": (
        change_line("protocol", "fingerprint", "0" * 64),
        "protocol.fingerprint: 000",
    ),
    "budget": (change_line("budget", "5-shot"), "'5-shot'; of linear protocol quick has 1-shot"),
    "draw": (change_line("draw", 3, cell=LATER), "draw: 3; protocol quick has 0 to 2"),
    "adaptation": (change_line("adaptation", "decoder"), "adaptation: 'decoder'; for multiclass"),
    "encoder hash": (
        lambda f: edit(f, put("encoder", "sha256", "0" * 64), cell=""),
        "encoder.sha256: 000",
    ),
    "encoder name": (change_line("encoder", "name", "pixel"), "encoder.name: pixel; encoder.yaml"),
    "card's input": (change_card("size: ", "size: 1"), "encoder.yaml: input: not that of the"),
    "card's pre-training": (
        change_card("pretraining:", "pretraining:\n  images_seen: 5\n  init: resnet18 #"),
        "encoder.yaml: ",
    ),
    "selected": (change_line("selected", "l2", 0.5), "selected.l2: 0.5; the protocol offers 1e-06"),
    "selected neighbours": (
        change_line("selected", "neighbours", 20, cell="small 10-shot knn 1"),
        "selected.neighbours: 20; the protocol offers 10",
    ),
    "FLOPs": (
        change_line("cost", "adaptation_flops", lambda x: x // 2, cell=LATER),
        "10-shot linear #1): cost.adaptation_flops",
    ),
    "parameters": (
        change_line("cost", "parameters", lambda x: x + 1, cell=LATER),
        "cost.parameters: ",
    ),
    "more trained than there are": (
        change_line("cost", "parameters", lambda x: x - 1, cell=LATER),
        "line 12: cost: trainable_parameters: 9219 of 9218",
    ),
    "images seen": (change_line("cost", "images_seen", 29), "images_seen: 29; the draw has 30"),
    "seconds": (change_line("cost", "seconds", -1.0), "line 11: cost.seconds: Input should"),
    "too many seconds": (change_line("cost", "seconds", 9e5), "cost.seconds: 900000; it started"),
    "finished": (
        change_line("finished", "2020-01-01T00:00:00+00:00"),
        "finished: '2020-01-01T00:00:00+00:00' is before it started",
    ),
    "in the future": (
        change_line("finished", "2999-01-01T00:00:00+00:00"),
        "finished: '2999-01-01T00:00:00+00:00' is in the future",
    ),
    "key twice": (add_key, "records.jsonl: line 1: 'draw' occurs twice; keep one"),
    "mark before the first line": (add_mark, "records.jsonl: line 1: the document: Invalid JSON"),
    "bomb": (inflate_array, f"{REPLICATE}: cannot be read, damaged: not the bytes of shape"),
    "draws swapped": (swap_draws, "10-shot linear #0): metrics.in_domain.auroc"),
    "predictions left out": (
        lambda f: (f / "predictions" / "small.npz").unlink(),
        "predictions/small.npz: is missing, but a record needs it",
    ),
    "linked folder": (link_predictions, "predictions: a link; a submission holds plain files only"),
    "weights": (change_line("environment", "weights", "0" * 64), "environment.weights: 000"),
    "failed called ok": (
        change_line("status", "ok", cell="few 10-shot knn 0"),
        "few 10-shot knn #0): ",
    ),
    "applicable called not": (claim_inapplicable, "status: 'not_applicable', but the budget"),
    "another file": (lambda f: (f / "run.py").write_text("print()"), "run.py: belongs to no"),
    "link": (add_link, "replicates.npz: a link"),
    "path that leads out": (
        lead_out,
        "replicates.file: '../secret.npz'; 'replicates.npz' is right",
    ),
    "key": (
        change_line("replicates", "key", "small/10-shot/linear/1"),
        "replicates.key: 'small/10-shot/linear/1'; 'small/10-shot/linear/0' is right",
    ),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_tampering_is_found(kind: str, made: Path, copy: Path, bench: Bench) -> None:
    """Each kind of tampering ends in exit code 2 and a line that names what was changed."""
    tamper, message = TAMPERINGS[kind]
    tamper(copy)
    outcome = verify(bench, made, copy)
    lines = outcome.err.splitlines()
    assert outcome.code == 2, outcome.out
    assert message in outcome.err, outcome.err
    assert all(line.startswith("error: ") for line in lines)
    assert len(lines) <= 15, outcome.err


def test_what_was_not_touched_passes(made: Path, copy: Path, bench: Bench) -> None:
    """An untouched submission passes every check, and so it does in another order of lines."""
    outcome = verify(bench, made, copy)
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert "ok: cards: 3 not_applicable, 18 ok; encoder pixels, identity computed" in outcome.out
    assert "ok: recomputed: 8 cells of draw 0 from their predictions" in outcome.out
    assert "note: missing: few 1-shot linear #0, " in outcome.out
    assert outcome.out.splitlines()[-1] == (
        "status: declared: 21 cells; 11 of the 32 ranked cells of these tasks, protocol quick, are "
        "missing; to verify it, run some cells again with --rerun 3"
    )
    path = copy / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    np.random.default_rng(0).shuffle(lines)
    path.write_text("".join(lines))
    outcome = verify(bench, made, copy)
    assert (outcome.code, outcome.err) == (0, ""), outcome.err


def test_single_neighbours_may_agree() -> None:
    """Of an encoder that was trained on a task, two draws of one image a class can be alike.

    A copied draw of anything but single neighbours is still found.
    """
    folder = ROOT / "submissions" / "resnet_mini-phantom-xray-supervised"
    with np.load(folder / "replicates.npz", allow_pickle=False) as file:
        arrays = {}
        for entry in read_entries(folder)[0]:
            if (reference := entry.record.replicates) is not None:
                names = ("in_domain", "other-scanner")
                arrays[entry] = {name: file[f"{reference.key}/{name}"] for name in names}
    alike = [e for e in arrays if str(e.record.cell).startswith("phantom_chest_xray 1-shot knn")]
    assert np.array_equal(arrays[alike[0]]["in_domain"], arrays[alike[2]]["in_domain"])
    assert list(find_copies(arrays)) == []
    several = [entry for entry in arrays if "10-shot linear" in str(entry.record.cell)]
    [fault] = find_copies({**arrays, several[1]: arrays[several[0]]})
    assert "replicates: a copy of those of" in fault
