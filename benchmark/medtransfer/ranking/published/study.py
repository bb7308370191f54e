"""Published studies: the mapping that reads a table of their results, and what is made of it.

Published results are never mixed with measured ones: they have records, and boards, of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, StringConstraints, ValidationError, model_validator

from medtransfer.core.documents import read_yaml
from medtransfer.core.errors import InputError, reason, suggest
from medtransfer.specs.base import Spec, explain
from medtransfer.specs.encoder import PretrainingCard
from medtransfer.specs.task import Kind, Name, Slug

PublishedBudget = Annotated[str, StringConstraints(pattern=r"^([1-9][0-9]{0,8}-shot|full)$")]
PublishedMetric = Literal["auroc", "average_precision", "accuracy", "balanced_accuracy", "dice"]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Share = Annotated[float, Field(ge=0, le=1)]

# Of a constant prediction, whatever the classes; the other metrics' depends on the classes.
_CHANCE = {"auroc": 0.5, "dice": 0.0}


class PublishedCell(NamedTuple):
    """The key of a record within its study."""

    encoder: str
    task: str
    budget: str
    draw: int

    def __str__(self) -> str:
        """Name the cell in messages."""
        return f"{self.encoder} on {self.task} {self.budget} #{self.draw}"


class Columns(Spec):
    """Columns of the CSV by role. A row is one metric of one run."""

    encoder: Text = Field(description="Column of the encoder.")
    task: Text = Field(description="Column of the target.")
    budget: Text = Field(description="Column of the number of shots.")
    draw: Text = Field(description="Column of the draw or seed.")
    metric: Text = Field(description="Column of the metric's name.")
    value: Text = Field(description="Column of the metric's value.")


class RowCondition(Spec):
    """Rows with one of these values in a column, and why they are treated apart."""

    column: Text = Field(description="Any column of the CSV.")
    values: list[str | int] = Field(min_length=1, description="As the CSV spells them.")
    reason: Text = Field(description="Shown on the board.")

    def __str__(self) -> str:
        """The condition in words."""
        return f"{self.column} {' or '.join(repr(str(value)) for value in self.values)}"


class PublishedEncoder(Spec):
    """An encoder of the study."""

    name: Name = Field(description="Unique in the study.")
    title: str = Field(default="", description="Title in one line.")
    parameters: int | None = Field(default=None, ge=1, description="Without the head.")
    pretraining: PretrainingCard = Field(description="The transfer relation follows from it.")


class PublishedTarget(Spec):
    """A target task of the study, and which of its cells an encoder needs to be ranked."""

    name: Name = Field(description="Unique in the study.")
    title: str = Field(default="", description="Title in one line.")
    domain: Slug = Field(description="natural, chest-xray, ct, oct, ...")
    kind: Kind = Field(description="Kind of prediction.")
    metric: PublishedMetric = Field(description="The primary metric.")
    chance: float = Field(ge=0, lt=1, description="The primary metric of a constant prediction.")
    budgets: list[PublishedBudget] = Field(min_length=1, description="Those of the study.")

    @model_validator(mode="after")
    def _consistent(self) -> PublishedTarget:
        right = _CHANCE.get(self.metric, self.chance)
        if self.chance != right:
            raise ValueError(f"chance: of {self.metric} it is {right}")
        return self


class Pair(Spec):
    """Two encoders, compared on some targets."""

    a: Name = Field(description="Name of an encoder.")
    b: Name = Field(description="Name of another.")
    tasks: list[Name] = Field(min_length=1, description="Names of targets.")


class Expectation(Spec):
    """Expected order of each pair if the finding holds."""

    budget: PublishedBudget = Field(description="At this budget ...")
    metric: PublishedMetric = Field(description="... and by this metric ...")
    a: Literal["above", "below"] = Field(description="... a is above or below b.")


class Finding(Spec):
    """A claim of the study, as comparisons that its numbers can confirm or contradict."""

    title: Text = Field(description="The claim in short.")
    text: Text = Field(description="The claim, its source, and its reading here.")
    pairs: list[Pair] = Field(min_length=1, description="Compared under every expectation.")
    expect: list[Expectation] = Field(min_length=1, description="All must hold, for all pairs.")


class Study(Spec):
    """A study, and how the CSV of its results is read. Keys of mappings are the CSV's spelling."""

    name: Slug = Field(description="Also the name of the folder.")
    title: Text = Field(description="Title of the paper.")
    citation: Text = Field(description="Publication to cite.")
    licence: Text = Field(description="Licence of the numbers.")
    url: str = Field(default="", description="Source of the numbers.")
    adaptation: Slug = Field(description="Adaptation of all rows: finetune, linear, ...")
    notes: list[Text] = Field(default=[], description="Notes for readers of the board.")
    columns: Columns = Field(description="Columns by role.")
    ignored: list[Text] = Field(default=[], description="Columns that are not read.")
    scale: Literal["fraction", "percent"] = Field(description="Scale of the values.")
    left_out: list[RowCondition] = Field(default=[], description="Rows that are not read.")
    marked: dict[Slug, RowCondition] = Field(
        default={}, description="Rows that are read, and whose records bear this mark."
    )
    encoders: dict[str, PublishedEncoder] = Field(min_length=1, description="By spelling.")
    targets: dict[str, PublishedTarget] = Field(min_length=1, description="By spelling.")
    budgets: dict[str, PublishedBudget] = Field(min_length=1, description="By spelling.")
    draws: list[str | int] = Field(min_length=1, description="Spellings of draws 0, 1, ...")
    metrics: dict[str, PublishedMetric] = Field(min_length=1, description="By spelling.")
    findings: list[Finding] = Field(default=[], description="The study's claims, recomputed.")

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        _once("encoders", (encoder.name for encoder in self.encoders.values()))
        _once("targets", (target.name for target in self.targets.values()))
        _once("budgets", self.budgets.values())
        _once("metrics", self.metrics.values())
        _once("draws", map(str, self.draws))
        _once("columns", self.columns.model_dump().values())
        for target in self.targets.values():
            where = f"targets: {target.name}"
            _once(f"{where}: budgets", target.budgets)
            _known(f"{where}: metric", target.metric, self.metrics.values())
            for budget in target.budgets:
                _known(f"{where}: budgets", budget, self.budgets.values())
        for number, finding in enumerate(self.findings):
            self._check_finding(f"findings: {number}", finding)
        return self

    def _check_finding(self, where: str, finding: Finding) -> None:
        budgets = {target.name: target.budgets for target in self.targets.values()}
        for pair in finding.pairs:
            for name in (pair.a, pair.b):
                _known(f"{where}: pairs", name, self.encoder_cards)
            if pair.a == pair.b:
                raise ValueError(f"{where}: pairs: '{pair.a}' is compared with itself")
            for task in pair.tasks:
                _known(f"{where}: tasks", task, budgets)
                for expected in finding.expect:
                    _known(f"{where}: {task}: budget", expected.budget, budgets[task])
        for expected in finding.expect:
            _known(f"{where}: metric", expected.metric, self.metrics.values())

    @property
    def encoder_cards(self) -> dict[str, PublishedEncoder]:
        """The encoders by name."""
        return {encoder.name: encoder for encoder in self.encoders.values()}

    @property
    def target_cards(self) -> dict[str, PublishedTarget]:
        """The targets by name."""
        return {target.name: target for target in self.targets.values()}

    @property
    def ordered_budgets(self) -> list[str]:
        """The budgets by size, full last."""
        return sorted(self.budgets.values(), key=_shots)

    @property
    def remarks(self) -> list[str]:
        """Notes of the board: those of the study, rows left out, and meanings of marks."""
        out = [
            f"Left out, because {condition.reason}: rows with {condition}."
            for condition in self.left_out
        ]
        marks = [f"† {mark}: {condition.reason}." for mark, condition in self.marked.items()]
        return [f"Adaptation: {self.adaptation}.", *self.notes, *out, *marks]

    @property
    def cells(self) -> list[PublishedCell]:
        """Cells of a complete table: every encoder on every target, budget and draw."""
        return [
            PublishedCell(encoder, target.name, budget, draw)
            for encoder in self.encoder_cards
            for target in self.targets.values()
            for budget in sorted(target.budgets, key=_shots)
            for draw in range(len(self.draws))
        ]


class PublishedRecord(Spec):
    """One cell of a published study."""

    schema_: Literal[1] = Field(default=1, alias="schema", description="Version of this format.")
    origin: Literal["published"] = Field(default="published", description="Not measured here.")
    study: Slug = Field(description="Name of the study.")
    encoder: Name = Field(description="Name of the encoder in the study.")
    task: Name = Field(description="Name of the target in the study.")
    budget: PublishedBudget = Field(description="1-shot ... full.")
    adaptation: Slug = Field(description="As the study says.")
    draw: int = Field(ge=0, description="Position in the study's list of draws.")
    metrics: dict[PublishedMetric, Share] = Field(min_length=1, description="As fractions.")
    marks: list[Slug] = Field(default=[], description="Keys of the study's ``marked``.")

    @property
    def cell(self) -> PublishedCell:
        """The record's key within its study."""
        return PublishedCell(self.encoder, self.task, self.budget, self.draw)

    def line(self) -> str:
        """The record as one line of JSON, without the line's end."""
        return self.model_dump_json(by_alias=True)


def load_study(path: Path) -> Study:
    """Read a study's YAML, which is also the mapping of its CSV.

    Raises:
        InputError: Naming the file, the field and what would be right.
    """
    return Study.parse(read_yaml(path), origin=str(path))


def read_published(path: Path, study: Study) -> list[PublishedRecord]:
    """Read the records of a study, one a line.

    Raises:
        InputError: Naming the file and the line that is no record of this study.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {reason(error)}") from None
    expected, seen = set(study.cells), dict[PublishedCell, int]()
    records = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {number}"
        try:
            record = PublishedRecord.model_validate_json(line)
        except ValidationError as error:
            raise InputError(f"{where}: {explain(PublishedRecord, error)}") from None
        if record.study != study.name or record.adaptation != study.adaptation:
            raise InputError(
                f"{where}: study: a record of '{record.study}' ({record.adaptation}) among those "
                f"of '{study.name}' ({study.adaptation}); run bench import again"
            )
        if record.cell not in expected:
            raise InputError(f"{where}: {record.cell} is no cell of study.yaml; import it again")
        for field, names, source, allowed in (
            ("marks", record.marks, "marked", study.marked),
            ("metrics", record.metrics, "metrics", study.metrics.values()),
        ):
            for name in names:
                if name not in allowed:
                    raise InputError(f"{where}: {field}: '{name}' is not in study.yaml's {source}")
        if record.cell in seen:
            raise InputError(f"{where}: {record.cell} is on line {seen[record.cell]}, too")
        seen[record.cell] = number
        records.append(record)
    return records


def _once(where: str, names: Iterable[str]) -> None:
    seen = set[str]()
    for name in names:
        if name in seen:
            raise ValueError(f"{where}: '{name}' occurs twice")
        seen.add(name)


def _known(where: str, name: str, allowed: Iterable[str]) -> None:
    names = list(allowed)
    if name not in names:
        raise ValueError(f"{where}: '{name}' is not in the study{suggest(name, names)}")


def _shots(budget: str) -> float:
    match = re.match(r"\d+", budget)
    return float(match[0]) if match else float("inf")
