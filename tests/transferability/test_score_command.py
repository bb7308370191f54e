"""`bench score` as users run it: scores, judgement, trajectories, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medtransfer.encoders.loading import load_encoder
from medtransfer.specs.protocol import load_protocol
from medtransfer.specs.score import ScoreRecord, read_scores
from medtransfer.specs.task import load_tasks
from medtransfer.transferability import registry
from medtransfer.transferability.inputs import ScoreInputs
from medtransfer.transferability.registry import Undefined, registered_scores
from medtransfer.transferability.scoring import plan_scores, score_all
from tests.conftest import Bench, Small, write_card, write_npz

ENCODERS = ["pixels", "hog", "random-convolutions"]


def options(small: Small, out: Path, *encoders: object) -> list[object]:
    """The common options of a run on the small task."""
    named = [part for encoder in encoders for part in ("--encoder", encoder)]
    where = ["--tasks", small.cards, "--data", small.data, "--protocol", "quick", "--out", out]
    return [*named, *where]


@pytest.fixture
def own_registry() -> Iterator[None]:
    """Forget what a test registers."""
    registered_scores()
    before = dict(registry._REGISTRY)
    yield
    registry._REGISTRY.clear()
    registry._REGISTRY.update(before)


def test_scores_are_printed_kept_and_not_computed_again(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """One line of JSON a score beside the encoder's card; the second run changes no byte."""
    out = tmp_path / "out"
    run = bench("score", *options(small, out, "random-convolutions"))
    assert run.code == 0, run.err
    assert "logme" in run.out and "robustness is undefined: the encoder gives one vec" in run.out
    records = read_scores(out / "random-convolutions")
    assert {record.score for record in records} == {
        name for name, score in registered_scores().items() if "multiclass" in score.kinds
    }
    for record in records:
        assert record.images == 60 and record.protocol == "quick"
        assert (record.flops > 0) == (record.value is not None)
    assert (out / "random-convolutions" / "encoder.yaml").is_file()
    assert not list((out / "random-convolutions").glob(".*"))
    before = (out / "random-convolutions" / "scores.jsonl").read_bytes()
    again = bench("score", *options(small, out, "random-convolutions"))
    assert again.code == 0 and "0 new, 9 from an earlier call" in again.out
    assert again.out.splitlines()[1:] == run.out.splitlines()[1:]
    assert (out / "random-convolutions" / "scores.jsonl").read_bytes() == before


def test_a_torn_last_line_is_dropped_and_computed_again(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """What a killed writer leaves is no score; the rest stays."""
    out = tmp_path / "out"
    chosen = ["--score", "logme", "--score", "parc"]
    assert bench("score", *options(small, out, "pixels"), *chosen).code == 0
    path = out / "pixels" / "scores.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert bench("score", *options(small, out, "pixels"), *chosen).code == 0
    values = [json.loads(line)["value"] for line in whole.splitlines()]
    assert [record.value for record in read_scores(path.parent)] == values


def test_only_training_images_are_looked_at(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Other validation and test images and labels change no score."""
    arrays = dict(np.load(small.npz))
    found = []
    for turn, folder in enumerate(("one", "two")):
        if turn:
            for name in ("val_images", "test_images"):
                arrays[name] = 255 - arrays[name]
            for name in ("val_labels", "test_labels"):
                arrays[name] = arrays[name][::-1].copy()
            np.savez_compressed(small.npz, **arrays)
        out = tmp_path / folder
        assert bench("score", *options(small, out, "hog")).code == 0
        found.append({r.score: r.value for r in read_scores(out / "hog")})
    assert found[0] == found[1]


def test_scores_are_judged_by_outcomes(small: Small, tmp_path: Path, bench: Bench) -> None:
    """With three evaluated encoders: tau, regret and what was picked; the board shows it, too."""
    out = tmp_path / "out"
    run = bench("score", *options(small, out, *ENCODERS))
    assert "not validated: 3 encoders with scores and outcomes" in run.out
    for encoder in ENCODERS:
        chosen = ["--adaptation", "linear", "--adaptation", "knn"]
        assert bench("evaluate", *options(small, out, encoder), *chosen).code == 0
    where = ["--tasks", small.cards, "--data", small.data]
    run = bench("verify", out / "hog", *where)
    assert run.code == 0, run.err
    path = out / "hog" / "scores.jsonl"
    content = path.read_text()
    path.write_text(content.replace('"sha256":"', '"sha256":"0', 1))
    run = bench("verify", out / "hog", *where)
    assert run.code == 2 and "the encoder of no record" in run.out + run.err
    path.write_text(content)
    run = bench("score", *options(small, out, *ENCODERS))
    assert run.code == 0, run.err
    for text in ("Weighted tau", "Regret", "random pick", "Cost", "95 % intervals"):
        assert text in run.out
    judged = [line.split() for line in run.out.splitlines() if "random pick" in line]
    assert {line[0] for line in judged} >= {"linear", "knn"}


def test_sweep_of_the_robustness(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Every level, pooled or not, distance and margin, once; the fixed one is among them."""
    out = tmp_path / "out"
    chosen = ["--score", "robustness", "--sweep"]
    run = bench("score", *options(small, out, "vit_mini"), *chosen)
    assert run.code == 0, run.err
    records = read_scores(out / "vit_mini")
    assert len(records) == 4 * 2 * 3 * 5  # one of them as plain robustness
    assert {record.score for record in records} >= {"robustness", "robustness[0,map,mse,1]"}
    assert all(record.value is not None for record in records)
    margins = {r.options["margin"]: r.value for r in records if "[3,pooled,mse" in r.score}
    assert margins[0.0] > margins[0.25] > margins[1.0]  # a larger margin loses more
    assert "[" not in run.out.split("robustness", 1)[1].split("not validated")[0]
    assert bench("score", *options(small, out, "vit_mini"), *chosen).code == 0
    assert len(read_scores(out / "vit_mini")) == len(records)


def test_a_score_of_ones_own(
    small: Small, tmp_path: Path, bench: Bench, own_registry: None
) -> None:
    """A file with one function; its fixed values stand in the record."""
    file = tmp_path / "spread.py"
    file.write_text(
        "from medtransfer.transferability.registry import register_score\n"
        "@register_score(title='Spread', paper='none')\n"
        "def spread(features, *, power=2):\n"
        "    return float((abs(features) ** power).mean())\n"
    )
    out = tmp_path / "out"
    assert bench("score", *options(small, out, "pixels"), "--score", file).code == 0
    (record,) = read_scores(out / "pixels")
    assert record.score == "spread" and record.options == {"power": 2}
    assert record.value == pytest.approx(1)  # features have length sqrt(D)
    # What was edited is computed again; what fails is one line, and what was done is kept.
    registry._REGISTRY.pop("spread")
    file.write_text(file.read_text().replace("mean()", "mean() / 2"))
    assert bench("score", *options(small, out, "pixels"), "--score", file).code == 0
    assert [record.value for record in read_scores(out / "pixels")] == pytest.approx([1, 0.5])
    registry._REGISTRY.pop("spread")
    file.write_text(file.read_text().replace("mean()", "mean(7)"))
    run = bench("score", *options(small, out, "pixels"), "--score", "logme", "--score", file)
    assert run.code == 1 and "score spread of small failed: AxisError" in run.err
    assert read_scores(out / "pixels")[-1].score == "logme"


def pretrain(small: Small, out: Path, bench: Bench, recipe: str = "supervised") -> None:
    run = bench(
        *("pretrain", "--recipe", recipe, "--task", "small", "--tasks", small.cards),
        *("--data", small.data, "--architecture", "resnet_mini", "--size", 32),
        *("--epochs", 4, "--checkpoints", "0,1,2,4", "--out", out),
    )
    assert run.code == 0, run.err


def test_a_trajectory(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Checkpoints by images seen, what each score keeps, and how well that did, with a figure."""
    made, out = tmp_path / "made", tmp_path / "out"
    pretrain(small, made, bench)
    write_npz(small.data / "other.npz", classes=2, train=40)
    write_card(small.cards, "other", "other.npz", classes=2)
    trajectory = ["--trajectory", made, "--task", "other"]
    run = bench("score", *options(small, out), *trajectory)
    assert run.code == 0, run.err
    assert "not validated: outcomes of at least 3 checkpoints" in run.out
    assert "4 of 4" in run.out and "last checkpoint" in run.out and "source accuracy" in run.out
    checkpoints = sorted(made.glob("checkpoints/*"))
    assert len(checkpoints) == 4
    for checkpoint in checkpoints:
        chosen = ["--task", "other", "--adaptation", "linear"]
        assert bench("evaluate", *options(small, out, checkpoint), *chosen).code == 0
    figure = tmp_path / "trajectory.svg"
    run = bench("score", *options(small, out), *trajectory, "--figure", figure)
    assert run.code == 0, run.err
    assert "Epochs saved" in run.out and "random pick" in run.out
    assert figure.read_text().startswith("<svg") and "made: other" in figure.read_text()
    names = [name for name in (out.iterdir()) if name.is_dir()]
    scores = {name.name: {r.score: r for r in read_scores(name)} for name in names}
    last = scores["made-epoch-4"]
    assert last["source_accuracy"].task.name == "small"
    assert last["source_accuracy"].value is not None
    # The classifier of pre-training is kept beside the weights, so LEEP has what it needs.
    assert last["leep"].value is not None and last["leep"].value < 0
    assert scores["made-epoch-0"]["leep"].value == pytest.approx(
        np.log(0.5), abs=1e-3
    )  # that of the untrained one says nothing


def test_self_supervised_encoders_have_no_classifier(
    small: Small, tmp_path: Path, bench: Bench
) -> None:
    """LEEP is then undefined, and says why."""
    made, out = tmp_path / "made", tmp_path / "out"
    pretrain(small, made, bench, "simclr")
    assert not (made / "source_head.safetensors").exists()
    run = bench("score", *options(small, out, made), "--score", "leep")
    assert "leep is undefined: the encoder comes without the classifier" in run.out


def test_scores_of_masks() -> None:
    """On a segmentation task: robustness and class consistency, the same when asked again."""
    from medtransfer.data.store import open_task

    card = load_tasks()["phantom_lungs"]
    data = open_task(card, folder=None, corruptions=False)
    protocol = load_protocol("quick")
    few = protocol.scores.model_copy(update={"images": 24, "masks": 4, "pixels": 16})
    encoder = load_encoder("resnet_mini", max_size=64, device="cpu")
    found = []
    for _ in range(2):
        material = ScoreInputs(encoder, data, few)
        scores = list(registered_scores().values())
        planned = plan_scores(scores, protocol, kind="segmentation", head=None)
        found.append({r.score: r.value for r in score_all(material, planned, protocol)})
    assert found[0] == found[1] and set(found[0]) == {"robustness", "ccfv"}
    assert None not in found[0].values()
    pixels = material.pixels
    assert len(pixels) == 4 and set(pixels[0]) == set(range(len(card.classes)))
    for level, channels in zip(pixels, encoder.pyramid_channels, strict=True):
        for images in level.values():
            assert len(images) == 4
            assert all(v.shape[1] == channels and len(v) <= 16 for v in images)


@pytest.mark.parametrize("size", [64, 48])
def test_pixels_are_read_where_the_mask_has_them(size: int) -> None:
    """A map that holds its own coordinates gives back the places of the mask's pixels."""
    import torch

    encoder = load_encoder("resnet_mini", max_size=size, device="cpu")
    material = ScoreInputs.__new__(ScoreInputs)
    material.encoder = encoder
    covered = 64 / size  # what a map covers, the image being 1
    rows = (torch.arange(16) + 0.5) / 16 * covered
    features = torch.stack(torch.meshgrid(rows, rows, indexing="ij"))[None]
    places = np.array([[30, 60], [64, 64], [100, 20]])
    read = material._read(features, places, (128, 128))
    np.testing.assert_allclose(read, (places + 0.5) / 128, atol=1e-5)


def test_an_encoder_without_maps_says_so() -> None:
    """Scores that need them are undefined; the others are not."""
    from medtransfer.data.store import open_task

    data = open_task(load_tasks()["phantom_lungs"], folder=None, corruptions=False)
    material = ScoreInputs(
        load_encoder("pixels", device="cpu"), data, load_protocol("quick").scores
    )
    for name in ("views", "pixels"):
        with pytest.raises(Undefined, match="gives one vector per image and no feature maps"):
            material.get(name)
    assert material.get("features").shape[0] == len(material.train)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--encoder: name at least one, or --trajectory"),
        (["--score", "logmee", "-e", "pixels"], "unknown score 'logmee'; did you mean 'logme'"),
        (["-e", "pixels", "-e", "pixels"], "two encoders are called 'pixels'"),
        (["-e", "pixels", "--trajectory", "x"], "--trajectory: not with --encoder"),
        (["-e", "pixels", "--figure", "x.svg"], "--figure: the name of an .svg file, with --tr"),
        (["-e", "pixels", "--device", "tpu"], "--device: 'tpu' is not supported"),
        (
            ["-e", "pixels", "--score", "ccfv"],
            "--score: small: nothing to compute for a task of kind multiclass",
        ),
        (["-e", "pixels", "--score", "parc", "--sweep"], "--sweep: needs the score robustness"),
        (["-e", "pixel"], "unknown encoder 'pixel'; did you mean 'pixels'"),
        (["--trajectory", "nothing"], "--trajectory: nothing: no such folder"),
    ],
)
def test_wrong_options(
    small: Small, tmp_path: Path, bench: Bench, arguments: list[str], message: str
) -> None:
    """One line, exit code 2, nothing written."""
    out = tmp_path / "out"
    run = bench("score", *options(small, out), *arguments)
    assert run.code == 2 and message in run.err and run.err.count("\n") == 1, run.err
    assert not out.exists()


def test_another_encoder_of_the_name_is_refused(small: Small, tmp_path: Path, bench: Bench) -> None:
    """Scores of other weights are not mixed in."""
    out = tmp_path / "out"
    assert bench("score", *options(small, out, "pixels"), "--score", "logme").code == 0
    path = out / "pixels" / "scores.jsonl"
    record = ScoreRecord.model_validate_json(path.read_text())
    other = record.model_copy(
        update={"encoder": record.encoder.model_copy(update={"sha256": "0" * 64})}
    )
    path.write_text(other.line() + "\n")
    run = bench("score", *options(small, out, "pixels"))
    assert run.code == 2 and "made with another encoder of the name pixels" in run.err
    path.write_text('{"schema": 1}\n')
    run = bench("score", *options(small, out, "pixels"))
    assert run.code == 2 and f"{path}: line 1: encoder: required, but missing" in run.err


def test_imported_numbers_are_judged(tmp_path: Path, bench: Bench) -> None:
    """The same judgement on numbers that others published."""
    scores, outcomes = tmp_path / "s.csv", tmp_path / "o.csv"
    generator = np.random.default_rng(0)
    said, came = ["encoder,task,score,value"], ["encoder,task,metric,value"]
    for task in ("one", "two"):
        for number in range(8):
            value = generator.uniform(0.5, 1)
            came.append(f"e{number},{task},auc,{value}")
            said.append(f"e{number},{task},oracle,{value**2}")
    scores.write_text("\n".join(said) + "\n")
    outcomes.write_text("\n".join(came) + "\n")
    run = bench("score", "--import", scores, "--outcomes", outcomes)
    assert run.code == 0, run.err
    assert "oracle" in run.out and "better than chance" in run.out and "1.00 (" in run.out
    run = bench("score", "--import", scores)
    assert run.code == 2 and "both are needed" in run.err
    run = bench("score", "--import", scores, "--outcomes", outcomes, "-e", "pixels")
    assert run.code == 2 and "--encoder: not with --import" in run.err
    outcomes.write_text("encoder,task,metric,value\nx,one,auc,1\n")
    run = bench("score", "--import", scores, "--outcomes", outcomes)
    assert run.code == 2 and "have no encoder in common" in run.err
