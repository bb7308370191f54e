"""Tables of `bench list` and `bench data list`, and cards of `bench show`.

Imports no torch; downloads and decodes nothing.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtransfer.core.errors import InputError, suggest
from medtransfer.core.text import quantity
from medtransfer.data.draws import feasible, groups
from medtransfer.data.files.remote import RemoteFile
from medtransfer.data.survey import Found, Survey, survey_files, survey_task
from medtransfer.encoders.registry import registered
from medtransfer.specs.protocol import BUDGETS, list_protocols, load_protocol, shots
from medtransfer.specs.split_name import SplitName
from medtransfer.specs.task import (
    TaskCard,
    find_task,
    load_suites,
    load_tasks,
)
from medtransfer.transferability.registry import INPUTS, Score, registered_scores

Rows = list[tuple[str, ...]]


def listing(
    kind: str, *, folder: Path | None = None, data: Path | None = None
) -> tuple[tuple[str, ...], Rows]:
    """Head and rows of a list.

    Args:
        kind: ``tasks``, ``encoders``, ``suites``, ``scores`` or ``protocols``.
        folder: Folder of the user's own task cards.
        data: Folder with the data files.
    """
    if kind == "tasks":
        head = ("task", "domain", "kind", "train / validation / test", "out-of-domain", "data")
        columns = (*head, "on disk", "licence", "title")
        return columns, [_task_row(card, data) for card in load_tasks(folder).values()]
    if kind == "encoders":
        return ("encoder", "weights", "pre-trained on", "input", "title"), [
            (
                card.name,
                "random" if card.weights.random else (card.weights.hub or "file"),
                ", ".join(card.pretraining.datasets or ()) or "-",
                f"{card.input.size} px",
                card.title,
            )
            for card in (registration.card for registration in registered().values())
        ]
    if kind == "suites":
        return ("suite", "title", "budgets", "tasks"), [
            (name, suite.title, ", ".join(suite.budgets or ["all"]), ", ".join(suite.tasks))
            for name, suite in load_suites().items()
        ]
    if kind == "scores":
        return ("score", "of tasks", "computed from", "title"), [
            (name, ", ".join(score.kinds), ", ".join(score.needs), score.title)
            for name, score in registered_scores().items()
        ]
    rows: Rows = []
    for name in list_protocols():
        protocol = load_protocol(name)
        kinds = {kind: protocol.adaptations(kind) for kind in ("multiclass", "segmentation")}
        names = "; ".join(
            f"{kind}: {', '.join([*a, *(f'({extra})' for extra in protocol.optional(kind))])}"
            for kind, a in kinds.items()
            if a
        )
        prints = ", ".join(protocol.fingerprint(kind, a[0])[:12] for kind, a in kinds.items() if a)
        rows.append((name, names, prints, protocol.title))
    return ("protocol", "adaptations (optional)", "fingerprints", "title"), rows


def _task_row(card: TaskCard, data: Path | None) -> tuple[str, ...]:
    survey = survey_task(card, data)
    return (
        card.name,
        card.domain,
        f"{card.kind}, {len(card.classes)}",
        " / ".join(_number(survey.items[name]) for name in ("train", "validation", "in_domain")),
        _out_of_domain(card, survey),
        _state(survey),
        quantity(survey.on_disk, "bytes") if survey.on_disk else "-",
        card.licence,
        card.title,
    )


def _number(items: int | None) -> str:
    return "?" if items is None else str(items)


def _out_of_domain(card: TaskCard, survey: Survey) -> str:
    """Each split with its size; for corruptions the number of splits."""
    texts = []
    for name in card.out_of_domain:
        if name in card.sources:
            texts.append(f"{name} {_number(survey.items[name])}")
        else:
            sizes = [
                n for split, n in survey.items.items() if SplitName.parse(split).family == name
            ]
            texts.append(f"{name} {len(sizes)} x {_number(sizes[0])}")
    return ", ".join(texts) or "-"


def _state(survey: Survey) -> str:
    if survey.missing and math.isnan(survey.to_download):
        return "would download files whose size is not published"
    if survey.missing:
        return f"would download {quantity(survey.to_download, 'bytes')} or less"
    return survey.absent or "ready"


def _bound(file: RemoteFile) -> str:
    return "?" if file.at_most is None else f"at most {quantity(file.at_most, 'bytes')}"


def list_files(cards: Mapping[str, TaskCard], data: Path | None) -> tuple[tuple[str, ...], Rows]:
    """Published files of some tasks, with size, path, licence and tasks."""
    tasks: dict[Found, list[str]] = {}
    for name, card in cards.items():
        for entry in survey_files(card, data):
            tasks.setdefault(entry, []).append(name)
    rows: Rows = [
        (
            entry.file.name,
            quantity(entry.path.stat().st_size, "bytes") if entry.path else _bound(entry.file),
            str(entry.path) if entry.path else f"missing; {entry.file.url}",
            entry.file.licence,
            ", ".join(names),
        )
        for entry, names in tasks.items()
    ]
    return ("file", "size", "where", "licence", "tasks"), rows


def find(name: str, *, folder: Path | None = None, data: Path | None = None) -> dict[str, Any]:
    """Look up a card, suite, protocol or transferability score, as plain data.

    Raises:
        InputError: When nothing has that name, with the closest one.
    """
    tasks, encoders, suites = load_tasks(folder), registered(), load_suites()
    if (card := find_task(name, tasks)) is not None:
        return {"task": card.model_dump(mode="json", exclude_none=True), **_facts(card, data)}
    if name in encoders:
        return {"encoder": encoders[name].card.model_dump(mode="json")}
    if name in suites:
        return {"suite": {"name": name, **suites[name].model_dump(exclude_none=True)}}
    if name in list_protocols():
        protocol = load_protocol(name)
        values = protocol.model_dump(mode="json")
        fingerprints: dict[str, dict[str, str]] = {}
        for (kind, adaptation), fingerprint in protocol.fingerprints.items():
            fingerprints.setdefault(kind, {})[adaptation] = fingerprint
        return {"protocol": {**values, "fingerprints": fingerprints}}
    if name in (scores := registered_scores()):
        return {"score": _describe(scores[name])}
    names = {*tasks, *encoders, *suites, *list_protocols(), *scores}
    raise InputError(f"nothing is called '{name}'{suggest(name, names)}")


def _describe(score: Score) -> dict[str, Any]:
    """A score with its inputs and its fixed values under v1."""
    about = inspect.getdoc(score.function) or ""
    return {
        "name": score.name,
        "title": score.title,
        "paper": score.paper,
        "kinds": list(score.kinds),
        "computed_from": {name: INPUTS[name] for name in score.needs},
        "fixed": score.options(load_protocol("v1").scores),
        "about": " ".join(about.partition("\n\nArgs:")[0].split()),
    }


def _facts(card: TaskCard, data: Path | None) -> dict[str, Any]:
    """Sizes, class counts and feasible budgets of a task."""
    survey = survey_task(card, data)
    splits: dict[str, Any] = {}
    for name, items in survey.items.items():
        if (split := SplitName.parse(name)).corrupted:
            entry = splits.setdefault(split.family, {"splits": [], "items": items})
            entry["splits"].append(name)
            continue
        splits[name] = {"items": items}
        if name in survey.counts:
            splits[name]["counts"] = dict(zip(card.classes, survey.counts[name], strict=True))
    state = {"state": _state(survey), "bytes_on_disk": survey.on_disk}
    return {"data": state, "splits": splits, "budgets": _budgets(card, survey)}


def _budgets(card: TaskCard, survey: Survey) -> dict[str, str]:
    """Training items of each budget, and the classes with too few."""
    items, share = survey.items["train"], load_protocol("v1").infeasible_share
    if items is None:
        return {}
    taken = groups(card.kind, len(card.classes))
    texts: dict[str, str] = {}
    for budget in BUDGETS:
        count = shots(budget)
        if count is None:
            texts[budget] = f"all {items} items"
        elif not feasible(items=items, groups=taken, shots=count, share=share):
            texts[budget] = f"not applicable: {share:.0%} or more of the {items} items"
        else:
            counts = dict(zip(card.classes, survey.counts.get("train", ()), strict=False))
            few = [f"{name} has {n}" for name, n in counts.items() if n < count]
            texts[budget] = f"at most {count * taken} of {items} items" + (
                f" ({', '.join(few)})" if few else ""
            )
    return texts
