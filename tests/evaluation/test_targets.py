"""Multi-label tasks and corrupted splits through the real command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score

import medtransfer
from medtransfer.adaptation.probes import _count_votes
from medtransfer.adaptation.targets import TARGETS
from medtransfer.core.errors import InputError
from medtransfer.core.seeds import seed_of
from medtransfer.corruptions import corrupt
from medtransfer.data.store import open_task
from medtransfer.metrics import item_weights
from medtransfer.metrics.multilabel import MULTILABEL
from medtransfer.specs.record import read_records
from medtransfer.specs.task import TaskCard, load_card
from tests.conftest import Bench, write_card, write_npz
from tests.helpers.evaluation import write_encoder
from tests.helpers.replicates import load_arrays

Arrays = dict[str, Any]


def draw_findings(items: int, *, seed: int, unknown: float) -> tuple[Any, Any]:
    """Images with any of three bright quarters, and their labels, some of them unknown."""
    rng = np.random.default_rng(seed)
    truth = rng.random((items, 3)) < [0.4, 0.3, 0.15]
    images = rng.normal(100, 30, (items, 16, 16))
    for label, (row, column) in enumerate(((0, 0), (0, 8), (8, 0))):
        images[truth[:, label], row : row + 8, column : column + 8] += 40
    labels = np.where(rng.random((items, 3)) < unknown, -1, truth.astype(int))
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def findings(tmp_path: Path) -> tuple[Path, Path]:
    """A multi-label task with unknown labels in every split, and corruptions of its test."""
    arrays: Arrays = {}
    for seed, (split, items) in enumerate((("train", 160), ("val", 60), ("test", 80))):
        images, labels = draw_findings(items, seed=seed, unknown=0.1)
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    write_npz(tmp_path / "findings.npz", **arrays)
    card = write_card(
        tmp_path / "cards",
        "findings",
        "findings.npz",
        kind="multilabel",
        out_of_domain={
            "corrupted": {
                "corrupt": "in_domain",
                "kinds": ["gaussian-noise", "contrast-down"],
                "severities": [1, 5],
                "items": 50,
            }
        },
    )
    return tmp_path, card


def test_multi_label_task_runs_the_whole_way(
    findings: tuple[Path, Path], tmp_path: Path, bench: Bench
) -> None:
    """Every cell of a multi-label task with unknown labels gets finite metrics above chance."""
    folder, _ = findings
    encoder = write_encoder(tmp_path)
    options = ("--tasks", folder / "cards", "--data", folder, "--protocol", "quick")
    outcome = bench("evaluate", "--encoder", encoder, *options, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    records = read_records(tmp_path / "out" / "tiny" / "records.jsonl")
    assert {record.status for record in records} == {"ok"}
    for record in records:
        assert set(record.metrics["in_domain"]) >= set(MULTILABEL)
        assert record.metrics["in_domain"]["classes_scored"] == 3
        assert record.task.kind == "multilabel" and record.task.chance == 0.5
        shots = 160 if record.budget == "full" else int(record.budget.removesuffix("-shot"))
        assert all(count >= min(shots, 14) for count in record.counts)
    full = {record.adaptation: record for record in records if record.budget == "full"}
    assert set(full) == {"knn", "linear", "finetune"}
    assert all(record.metrics["in_domain"]["auroc"] > 0.6 for record in full.values())  # type: ignore[operator]

    # The recorded AUROC is scikit-learn's on the items whose label is known.
    linear = full["linear"]
    assert linear.predictions is not None
    stored = np.load(tmp_path / "out" / "tiny" / linear.predictions.file, allow_pickle=False)
    probabilities = stored[f"{linear.predictions.key}/in_domain"]
    _, labels = draw_findings(80, seed=2, unknown=0.1)
    known = labels >= 0
    expected = [
        roc_auc_score(labels[known[:, k], k], probabilities[known[:, k], k]) for k in range(3)
    ]
    assert linear.metrics["in_domain"]["auroc"] == pytest.approx(np.mean(expected), abs=1e-9)

    board = bench("leaderboard", "--submissions", tmp_path / "out", "--out", tmp_path / "board")
    assert board.code == 0, board.err
    [tasks] = (tmp_path / "board" / "tasks").glob("*.md")
    assert "findings" in tasks.read_text()


def test_corrupted_splits_are_scored_and_collapse(
    findings: tuple[Path, Path], tmp_path: Path
) -> None:
    """Each kind and severity is a split; their mean has replicates, paired over the same items."""
    folder, _ = findings
    records = medtransfer.evaluate(
        "pixels",
        protocol="quick",
        out=tmp_path / "out",
        data=folder,
        task_folder=folder / "cards",
        adaptations=["linear"],
        budgets=["full"],
    )
    (record,) = records
    names = [
        f"corrupted/{kind}/{s}" for kind in ("gaussian-noise", "contrast-down") for s in (1, 5)
    ]
    assert list(record.metrics) == ["in_domain", *names]
    assert all(record.metrics[name]["n"] == 50 for name in names)
    assert list(record.intervals) == ["in_domain", "corrupted"]
    assert record.replicates is not None
    stored = load_arrays(tmp_path / "out" / "pixels" / record.replicates.file)
    assert f"{record.replicates.key}/corrupted" in stored
    assert f"{record.replicates.key}/{names[0]}" not in stored
    mean = np.mean([record.metrics[name]["auroc"] for name in names])
    replicates = stored[f"{record.replicates.key}/corrupted"]
    low, high = record.intervals["corrupted"]["auroc"]  # type: ignore[misc]
    assert np.quantile(replicates, 0.025) == pytest.approx(low, abs=1e-6)
    assert low < mean < high


def test_corrupted_split_holds_the_corrupted_images_of_some_items(
    findings: tuple[Path, Path],
) -> None:
    """The items are the same for every kind and severity; the labels are theirs."""
    folder, path = findings
    card = load_card(path)
    task = open_task(card, folder=folder)
    clean = task.splits["in_domain"]
    row = {name: position for position, name in enumerate(clean.ids)}
    first = task.splits["corrupted/gaussian-noise/1"]
    for name, split in task.tests.items():
        if name == "in_domain":
            continue
        _, kind, severity = name.split("/")
        assert split.ids == first.ids and len(split) == 50
        np.testing.assert_array_equal(split.labels, clean.labels[[row[i] for i in split.ids]])
        for place in (0, 49):
            identity = split.ids[place]
            expected = corrupt(
                np.array(clean.images[row[identity]]),
                kind=kind,
                severity=int(severity),
                seed=seed_of(kind, identity),
            )
            np.testing.assert_array_equal(split.images[place], expected)


def test_fingerprint_of_corruptions_is_that_of_their_recipe(findings: tuple[Path, Path]) -> None:
    """Severities and kinds change the fingerprint; the last bit of a library does not."""
    folder, path = findings
    card = load_card(path)
    task = open_task(card, folder=folder)
    text = path.read_text()
    path.write_text(text.replace("- 5", "- 4"))
    other = open_task(load_card(path), folder=folder)
    assert other.fingerprint != task.fingerprint
    same = {name: split.sha256 for name, split in task.splits.items()}
    path.write_text(text)
    assert {n: s.sha256 for n, s in open_task(card, folder=folder).splits.items()} == same


def test_corruptions_may_stand_before_the_split_they_corrupt(
    findings: tuple[Path, Path],
) -> None:
    """The order of a card's splits is the reader's choice."""
    folder, path = findings
    card = yaml.safe_load(path.read_text())
    again = {"npz": "findings.npz", "split": "val"}
    corrupted = {"corrupt": "again", "kinds": ["jpeg"], "severities": [3]}
    path.write_text(yaml.safe_dump({**card, "out_of_domain": {"corrupted": corrupted}}))
    with pytest.raises(InputError, match="corrupt: 'again' is no test split of this card"):
        load_card(path)
    both = {"corrupted": corrupted, "again": again}
    path.write_text(yaml.safe_dump({**card, "out_of_domain": both}, sort_keys=False))
    task = open_task(load_card(path), folder=folder)
    assert list(task.tests) == ["in_domain", "corrupted/jpeg/3", "again"]
    assert task.tests["corrupted/jpeg/3"].ids == task.tests["again"].ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": ["jpg"]}, "unknown kind 'jpg'; did you mean 'jpeg'"),
        ({"kinds": ["jpeg", "jpeg"]}, "kinds: a value occurs twice"),
        ({"severities": [0]}, "severities"),
        ({"severities": []}, "severities"),
        ({"corrupt": "train"}, "corrupt: 'train' is no test split"),
        ({"corrupt": "corrupted"}, "corrupt: 'corrupted' is no test split"),
    ],
)
def test_wrong_corruptions_are_refused_on_the_card(
    findings: tuple[Path, Path], change: dict[str, Any], message: str
) -> None:
    """Nothing is decoded to find out that a card is wrong."""
    _, path = findings
    card = yaml.safe_load(path.read_text())
    corrupted = {"corrupt": "in_domain", **change}
    path.write_text(yaml.safe_dump({**card, "out_of_domain": {"corrupted": corrupted}}))
    with pytest.raises(InputError, match=message) as error:
        load_card(path)
    assert str(error.value).startswith(f"{path}: ") and "out_of_domain" in str(error.value)
    path.write_text(yaml.safe_dump({**card, "out_of_domain": {"graded": corrupted}}))
    with pytest.raises(InputError, match="names that start with 'corrupted'|" + message):
        load_card(path)


def test_colour_kind_on_grey_images_names_the_split(findings: tuple[Path, Path]) -> None:
    """The card cannot know that its images are grey; the data do."""
    folder, path = findings
    card = yaml.safe_load(path.read_text())
    corrupted = {"corrupt": "in_domain", "kinds": ["saturation-down"], "severities": [1]}
    path.write_text(yaml.safe_dump({**card, "out_of_domain": {"corrupted": corrupted}}))
    message = "findings: corrupted/saturation-down/1: findings.npz: kinds: 'saturation-down' leaves"
    with pytest.raises(InputError, match=message):
        open_task(load_card(path), folder=folder)


def test_split_in_which_nothing_can_be_told_apart(findings: tuple[Path, Path]) -> None:
    """A test split with one class has no AUROC: said before anything is trained."""
    folder, path = findings
    images, labels = draw_findings(80, seed=2, unknown=0)
    arrays = dict(np.load(folder / "findings.npz"))
    arrays |= {"test_images": images, "test_labels": np.where(labels == 1, 1, -1)}
    np.savez(folder / "findings.npz", **arrays)
    with pytest.raises(
        InputError, match=r"findings: in_domain: findings\.npz: only one class; two are needed"
    ):
        open_task(load_card(path), folder=folder)


def test_votes_of_neighbours_who_know() -> None:
    """A label's probability is the share of the votes of those whose label is known."""
    votes = torch.tensor([[0.5, 0.3, 0.2]])
    truth = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])
    known = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])
    found = _count_votes(votes, truth * known, known)
    assert found[0].tolist() == pytest.approx([0.5 / 0.8, 0.5])


@pytest.mark.parametrize("seed", range(5))
def test_losses_count_what_is_known(seed: int) -> None:
    """Unknown labels change neither the loss nor its gradient nor the selection's score."""
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=(20, 4)), requires_grad=True)
    labels = rng.integers(-1, 2, (20, 4))
    target = TARGETS["multilabel"]
    loss = target.loss(logits, torch.from_numpy(labels))
    (gradient,) = torch.autograd.grad(loss, logits)
    known = labels >= 0
    probabilities: NDArray[np.float64] = target.probabilities(logits).detach().numpy()
    chosen = np.where(labels == 1, probabilities, 1 - probabilities)[known]
    assert loss.item() == pytest.approx(-np.log(chosen).mean())
    assert target.log_loss(probabilities, labels) == pytest.approx(loss.item())
    assert (gradient.numpy()[~known] == 0).all() and (gradient.numpy()[known] != 0).all()
    changed = np.where(known, probabilities, rng.random((20, 4)))
    assert target.primary(changed, labels) == target.primary(probabilities, labels)


def write_ward(folder: Path, table: str, patients: dict[str, list[str]]) -> None:
    """Write two images a patient, and the CSV that says which split they are in."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = ["file,label,patient,split"]
    for split, names in patients.items():
        for name in names:
            for number in range(2):
                file = f"{table}-{name}-{number}.png"
                Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(folder / file)
                rows.append(f"{file},{['first', 'second'][number]},{name},{split}")
    (folder / table).write_text("\n".join(rows) + "\n")


def ward_card(tmp_path: Path, tests: str) -> TaskCard:
    """Train and validation of one table, the test split of another one of the same ward."""
    source = {"folder": "ward", "size": 16, "channels": 1}
    fields: Arrays = {
        "train": {**source, "table": "a.csv", "split": "train"},
        "validation": {**source, "table": "a.csv", "split": "validation"},
        "in_domain": {**source, "table": tests, "split": "test"},
        "out_of_domain": None,
    }
    return load_card(write_card(tmp_path / "cards", "ward", "", classes=2, **fields))


def test_patients_are_resampled_whole_and_never_shared(tmp_path: Path) -> None:
    """The bootstrap draws whole patients; a patient in two splits is refused by name."""
    own = {"train": ["p1", "p2", "p3"], "validation": ["p4"], "test": ["p5", "p6", "p7"]}
    write_ward(tmp_path / "ward", "a.csv", own)
    task = open_task(ward_card(tmp_path, "a.csv"), folder=tmp_path)
    test = task.splits["in_domain"]
    assert test.patients is not None and len(set(test.patients)) == 3
    weights = item_weights("ward", "in_domain", len(test), groups=test.patients)
    for patient in set(test.patients):
        columns = weights[:, [name == patient for name in test.patients]]
        assert columns.shape == (200, 2) and (columns[:, 0] == columns[:, 1]).all()
    records = medtransfer.evaluate(
        "pixels",
        protocol="quick",
        out=tmp_path / "out",
        data=tmp_path,
        task_folder=tmp_path / "cards",
        adaptations=["knn"],
        budgets=["full"],
    )
    # Three patients of both classes: resampling them never loses a class, resampling items would.
    assert records[0].status == "ok"
    assert records[0].replicates is not None
    stored = load_arrays(tmp_path / "out" / "pixels" / records[0].replicates.file)
    assert np.isfinite(stored[f"{records[0].replicates.key}/in_domain"]).all()

    # Who is whose patient changes the intervals, so it changes the fingerprint.
    before, table = task.fingerprint, tmp_path / "ward" / "a.csv"
    table.write_text(table.read_text().replace(",p6,test", ",p7,test", 1))
    assert open_task(ward_card(tmp_path, "a.csv"), folder=tmp_path).fingerprint != before

    write_ward(tmp_path / "ward", "b.csv", {"test": ["p8", "p2"]})
    with pytest.raises(InputError, match=r"ward: patient folder: ward: p2 is in train and in in_d"):
        open_task(ward_card(tmp_path, "b.csv"), folder=tmp_path)
