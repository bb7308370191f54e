"""Specs: strict, frozen, hashed, and readable for ever."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from medtransfer.core.documents import packaged
from medtransfer.core.errors import InputError, suggest
from medtransfer.encoders.registry import registered
from medtransfer.encoders.resolution import dump_card
from medtransfer.specs import protocol as protocols
from medtransfer.specs.base import Spec
from medtransfer.specs.encoder import Architecture, EncoderCard, PretrainingCard
from medtransfer.specs.protocol import KINDS, Partial, Protocol, list_protocols, load_protocol
from medtransfer.specs.record import Record, read_records
from medtransfer.specs.score import FILE as SCORES
from medtransfer.specs.score import read_scores
from medtransfer.specs.task import (
    TaskCard,
    find_task,
    load_card,
    load_suites,
    load_tasks,
    resolve_tasks,
)
from medtransfer.specs.verification import FILE as VERIFICATION
from medtransfer.specs.verification import Verification, read_status
from tests.conftest import ROOT, Bench, Small, write_card

# Of the golden cards, written down when they were.
IDENTITY, FINGERPRINT = "23695a5d48f00a79", "22112a277d902b1f"
GOLDEN = ROOT / "tests" / "golden" / "records" / "schema-1.jsonl"


def every_spec(base: type[Spec] = Spec) -> list[type[Spec]]:
    """All models, found by inheritance."""
    found = base.__subclasses__()
    return found + [deeper for cls in found for deeper in every_spec(cls)]


@pytest.mark.parametrize("model", every_spec(), ids=lambda m: m.__name__)
def test_every_field_is_explained(model: type[Spec]) -> None:
    """Each field of each spec carries a description where it is declared."""
    assert model.model_fields
    assert not [name for name, info in model.model_fields.items() if not info.description]
    assert model.model_config["frozen"]
    assert model.model_config["extra"] == "forbid"


def test_golden_records_still_load() -> None:
    """Records written by the first release load, and are written back byte for byte."""
    records = read_records(GOLDEN)
    assert [record.status for record in records] == ["ok", "ok", "diverged", "not_applicable"]
    lines = GOLDEN.read_text().splitlines()
    assert [json.loads(record.line()) for record in records] == [json.loads(x) for x in lines]


def test_golden_scores_and_verifications_still_load(tmp_path: Path) -> None:
    """So do the other files of a submission, and they are written back as they were."""
    for name, file in (("scores-1.jsonl", SCORES), ("verification-1.json", VERIFICATION)):
        (tmp_path / file).write_bytes(GOLDEN.with_name(name).read_bytes())
    lines = (tmp_path / SCORES).read_text().splitlines()
    assert [json.loads(s.line()) for s in read_scores(tmp_path)] == [json.loads(x) for x in lines]
    found = Verification.model_validate_json((tmp_path / VERIFICATION).read_bytes())
    found.write(tmp_path)
    assert json.loads((tmp_path / VERIFICATION).read_text()) == json.loads(
        GOLDEN.with_name("verification-1.json").read_text()
    )


def test_golden_cards_still_load(tmp_path: Path) -> None:
    """Cards of the first release load, mean what they meant, and keep their hashes.

    A record is compared with others by these hashes, so that a change of them is a change of all
    results that were ever made.
    """
    folder = GOLDEN.parents[1] / "cards"
    data = yaml.safe_load((folder / "encoder-1.yaml").read_text())
    card = EncoderCard.parse(data, origin="encoder-1.yaml")
    assert yaml.safe_load(dump_card(card)) == data
    assert card.identity("weights")[:16] == IDENTITY
    task = load_card(folder / "pneumonia-1.yaml")
    hashes = {name: name for name in ("train", "validation", "in_domain", "nih-adult", "corrupted")}
    assert task.fingerprint(hashes)[:16] == FINGERPRINT


@pytest.mark.parametrize("name", ["records.jsonl", SCORES, VERIFICATION])
def test_a_newer_file_names_the_version_that_wrote_it(
    name: str, tmp_path: Path, bench: Bench
) -> None:
    """Whatever fields a later format has, one line says which version is needed."""
    folder = tmp_path / "hog"
    shutil.copytree(ROOT / "submissions" / "hog", folder)
    path = folder / name
    first, *rest = path.read_text().splitlines() if name != VERIFICATION else [path.read_text()]
    later = json.loads(first) | {"schema": 2, "a field of later": 1, "medtransfer": "9.1"}
    later["environment"] = {"medtransfer": "9.1"}
    path.write_text("\n".join([json.dumps(later), *rest]) + "\n")
    outcome = bench("validate", folder)
    if name == VERIFICATION:  # nobody has to believe it: the submission counts as unverified
        assert outcome.code == 0 and read_status(folder) == "changed"
        return
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert f"{name}: line 1: the document: written in " in outcome.err
    assert "format 2 by medtransfer 9.1; 0.1.0, which is installed, reads up to" in outcome.err


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A record of a future format is refused by naming file, line and both versions."""
    line = json.loads(GOLDEN.read_text().splitlines()[0])
    line |= {"schema": 2, "a field of later": 1, "environment": {"medtransfer": "9.1"}}
    (tmp_path / "records.jsonl").write_text(json.dumps(line) + "\n")
    expected = r"records.jsonl: line 1: .*format 2 by medtransfer 9.1; .* reads up to format 1"
    with pytest.raises(InputError, match=expected):
        read_records(tmp_path / "records.jsonl")


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    """What a killed writer left of its last line is not an error; damage elsewhere is."""
    path = tmp_path / "records.jsonl"
    whole = GOLDEN.read_text()
    path.write_text(whole + whole.splitlines()[0][:200])
    assert len(read_records(path)) == len(whole.splitlines())
    path.write_text("{broken\n" + whole)
    with pytest.raises(InputError, match="line 1"):
        read_records(path)


def test_the_first_settled_record_of_a_cell_stands(tmp_path: Path) -> None:
    """A failed cell is superseded by a later result; a result by nothing."""
    path = tmp_path / "records.jsonl"
    first = json.loads(GOLDEN.read_text().splitlines()[0])
    failed = {**first, "status": "failed", "error": "no", "metrics": {}, "intervals": {}}
    later = {**first, "finished": "2030-01-01T00:00:00+00:00"}
    path.write_text("".join(json.dumps(x) + "\n" for x in (failed, first, later)))
    assert [json.loads(record.line()) for record in read_records(path)] == [first]


def test_protocol_hash_ignores_words_and_nothing_else() -> None:
    """A corrected title keeps the fingerprint; every value changes it."""
    original = load_protocol("v1")
    assert original.model_copy(update={"title": "x", "name": "y"}).fingerprint(
        "multiclass", "finetune"
    ) == (original.fingerprint("multiclass", "finetune"))
    seen = {original.fingerprint("multiclass", "finetune")}
    assert original.linear is not None and original.finetune is not None
    for change in (
        {"revision": 2},
        {"max_size": 192},
        {"bootstrap": 100},
        {"linear": original.linear.model_copy(update={"folds": 4})},
        {"finetune": original.finetune.model_copy(update={"clip": None})},
    ):
        seen.add(original.model_copy(update=change).fingerprint("multiclass", "finetune"))
    assert len(seen) == 6


def test_optional_adaptations_do_not_touch_the_others() -> None:
    """Their values are in their own hash alone, so they can be added to a protocol with records."""
    original = load_protocol("v1")
    changed = original.model_copy(update={"partial": Partial(share=0.5), "lora": None})
    for kind in KINDS:
        ranked = {original.fingerprint(kind, name) for name in original.adaptations(kind)}
        assert ranked == {changed.fingerprint(kind, name) for name in original.adaptations(kind)}
        own = {original.fingerprint(kind, name) for name in original.optional(kind)}
        assert len(own | ranked) == len(own) + 1
        assert changed.optional(kind) == ("partial",)
        assert changed.fingerprint(kind, "partial") not in own


@pytest.mark.parametrize("name", list_protocols())
def test_protocols_are_complete(name: str) -> None:
    """Every ranked adaptation of a shipped protocol has budgets, and reads back as written."""
    protocol = load_protocol(name)
    assert all(
        protocol.budgets(adaptation, kind)
        for kind in KINDS
        for adaptation in (*protocol.adaptations(kind), *protocol.optional(kind))
    )
    assert Protocol.model_validate(protocol.model_dump()) == protocol


def test_protocol_errors_name_the_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong protocol file is refused by file and field."""
    monkeypatch.setattr(protocols, "_FOLDER", tmp_path)
    text = (Path(protocols.__file__).parent.parent / "protocols" / "quick.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("neighbours", "neighbors"))
    with pytest.raises(InputError, match=r"mine.yaml: knn.neighbors: unknown field"):
        load_protocol("mine")


def test_suites_name_tasks_that_exist() -> None:
    """No suite lists a task without a card, and every shipped task is in a suite."""
    cards = load_tasks()
    named = {task for suite in load_suites().values() for task in suite.tasks}
    assert all(find_task(name, cards) is not None for name in named)
    assert set(cards) <= named


@pytest.mark.parametrize("name", sorted(load_tasks()))
def test_task_cards_hold_what_the_board_needs(name: str) -> None:
    """A shipped card has an out-of-domain split, a lineage, and its domain's folder."""
    card = load_tasks()[name]
    (path,) = packaged("tasks").rglob(f"{name}.yaml")
    assert card.out_of_domain and card.lineage and card.licence and card.citation
    assert path.parent.name.replace("_", "-") == card.domain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": "x"}, r"titel: unknown field; did you mean 'title'\?"),
        ({"title": None}, "title: required, but missing"),
        ({"classes": ["a", "b", "a"]}, "classes: a name occurs twice"),
        ({"metric": "dice"}, "metric: for multiclass use one of auroc"),
        ({"train": {"npz": "a.npz", "phantom": "ct", "split": "train"}}, "exactly one of"),
        ({"train": {"nzp": "a.npz", "split": "train"}}, "exactly one of: npz, phantom"),
        ({"train": {"npz": "a.npz", "split": "training"}}, "train: npz: split: "),
        ({"train": {"npz": "../a.npz", "split": "train"}}, "inside the data folder"),
        ({"train": "a.npz"}, "train"),
        ({"out_of_domain": {"in_domain": {"npz": "a.npz", "split": "test"}}}, "out_of_domain"),
        ({"domain": "Chest X-ray"}, "domain"),
        ({"revision": 0}, "revision"),
    ],
)
def test_wrong_task_cards(
    change: dict[str, Any], message: str, tmp_path: Path, bench: Bench
) -> None:
    """A wrong card ends in exit code 2 and one line with the file and the field."""
    card = write_card(tmp_path, "wrong", "small.npz")
    fields = {**yaml.safe_load(card.read_text()), **change}
    card.write_text(yaml.safe_dump({k: v for k, v in fields.items() if v is not None}))
    outcome = bench("validate", card)
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    assert re.search(rf"wrong.yaml: .*{message}", outcome.err), outcome.err


def test_names_are_taken_once(small: Small) -> None:
    """Two cards of one name in a folder are refused; a user's card stands for a shipped one."""
    write_card(small.cards / "deeper", "small", "small.npz")
    with pytest.raises(InputError, match="the name 'small' is taken by"):
        resolve_tasks(names=[], suite=None, folder=small.cards)
    others = small.cards.parent / "others"
    write_card(others, "phantom_ct", "small.npz", title="Mine")
    assert (
        resolve_tasks(names=["phantom_ct"], suite=None, folder=others)["phantom_ct"].title == "Mine"
    )
    assert load_tasks()["phantom_ct"].title != "Mine"


def test_yaml_aliases_and_size_are_refused(tmp_path: Path) -> None:
    """A document that would expand without bound is refused before it is loaded."""
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    for text, message in ((bomb, "aliases"), ("x: " + "y" * 1_000_001, "larger than 1 MB")):
        path = tmp_path / "bomb.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            resolve_tasks(names=[], suite=None, folder=tmp_path)


@pytest.mark.parametrize("name", sorted(registered()))
def test_encoder_cards_survive_their_file(name: str) -> None:
    """A card written to a submission reads back as itself, and declares what it has seen."""
    card = registered()[name].card
    assert EncoderCard.model_validate(yaml.safe_load(dump_card(card))) == card
    assert card.pretraining.domains is not None and card.pretraining.datasets is not None


def test_relation_is_computed_from_the_card() -> None:
    """Intra when the domain was seen, inter when not, none for random weights, else unknown."""

    def relation(**fields: Any) -> str | None:
        card = EncoderCard(
            name="e",
            architecture=Architecture(timm="resnet18"),
            pretraining=PretrainingCard(**fields),
        )
        return card.relation("ct")

    assert relation(objective="none", domains=[]) == "none"
    assert relation(objective="mae", domains=["natural", "ct"]) == "intra"
    assert relation(objective="mae", domains=["natural"]) == "inter"
    assert relation(objective="mae") is None


def test_specs_are_frozen() -> None:
    """Nobody changes a card after it was checked."""
    card = load_tasks()["phantom_ct"]
    with pytest.raises(ValidationError, match="frozen"):
        card.title = "x"  # type: ignore[misc]
    assert isinstance(card, TaskCard) and Record.model_config["frozen"]


def test_suggestions() -> None:
    """A close name is suggested; a short list is shown; a long one is not."""
    assert suggest("resnt18", ["resnet18", "vit"]) == "; did you mean 'resnet18'?"
    assert suggest("zzz", ["a", "b"]) == "; known: a, b"
    assert suggest("zzz", [f"name{i}" for i in range(20)]) == ""
