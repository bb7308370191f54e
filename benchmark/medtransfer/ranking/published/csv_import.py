"""Convert a CSV of published results to records, by the mapping of its study."""

from __future__ import annotations

import csv
import difflib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medtransfer.core.errors import InputError, suggest, unwritable
from medtransfer.core.files import replacing
from medtransfer.ranking.published.study import PublishedRecord, RowCondition, Study, load_study
from medtransfer.ranking.statistics.contamination import plain_name
from medtransfer.specs.task import load_tasks

_KEY = ["encoder", "task", "budget", "draw"]


@dataclass(frozen=True)
class Imported:
    """Content of a CSV.

    Attributes:
        study: The mapping.
        records: In the order of the study's lists, whatever the order of the rows.
        notes: For people: what was left out, marked, repeated or missing.
    """

    study: Study
    records: tuple[PublishedRecord, ...]
    notes: tuple[str, ...]


def import_results(path: Path, mapping: Path) -> Imported:
    """Read the CSV at ``path`` through the study's YAML at ``mapping``.

    Rows that occur twice with equal values are one; the same metric of the same cell with two
    values is an error, because nothing says which of them is right.

    Raises:
        InputError: Naming the file, the line, the column, the value and what would be right.
    """
    study = load_study(mapping)
    notes = _misspelt(study)
    text = _read(path, _needed(path, mapping, study))
    out = _matching(text, study.left_out, f"{mapping}: left_out")
    notes += [
        f"left out {_rows(matching.sum())} with {condition}: {condition.reason}"
        for condition, matching in zip(study.left_out, out, strict=True)
    ]
    marked = _matching(text, study.marked.values(), f"{mapping}: marked")
    for matching in out:
        text = text[~matching[text.index]]
    if text.empty:
        raise InputError(f"{path}: no row of results is left")
    table = _translate(path, text, study)
    notes += _mixed_scales(text, table, study)
    marks: dict[str, set[tuple[int, ...]]] = {}
    for (mark, condition), every in zip(study.marked.items(), marked, strict=True):
        matching = every[text.index]
        marks[mark] = set(table.loc[matching, _KEY].itertuples(index=False, name=None))
        notes.append(
            f"marked '{mark}' {_rows(matching.sum())} with {condition}: {condition.reason}"
        )
    once = _unique(path, table, study)
    if repeated := len(table) - len(once):
        notes.append(f"rows that repeat another: {repeated}")
    records = _records(once, marks, study)
    if missing := len(study.cells) - len(records):
        notes.append(f"cells of the study without a result: {missing} of {len(study.cells)}")
    return Imported(study, records, tuple(notes))


def write_study(imported: Imported, mapping: Path, out: Path) -> Path:
    """Write ``<out>/<study>/study.yaml`` (the mapping) and ``records.jsonl``: whole or not at all.

    Returns:
        The study's folder.

    Raises:
        InputError: When the folder cannot be written.
        RunError: When the disk is full.
    """
    folder = out / imported.study.name
    lines = "".join(f"{record.line()}\n" for record in imported.records)
    content = mapping.read_bytes()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            replacing(folder / "study.yaml") as study,
            replacing(folder / "records.jsonl") as records,
        ):
            study.write_bytes(content)
            records.write_bytes(lines.encode())
    except OSError as error:
        raise unwritable(f"--out: {folder}", error) from None
    return folder


def _needed(path: Path, mapping: Path, study: Study) -> list[str]:
    """Choose the columns to read, after checking the header against the mapping."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8: {error}") from None
    roles = {f"columns: {role}": name for role, name in study.columns.model_dump().items()}
    roles |= {f"left_out: {i}": row.column for i, row in enumerate(study.left_out)}
    roles |= {f"marked: {mark}": row.column for mark, row in study.marked.items()}
    for role, name in roles.items():
        if header.count(name) != 1:
            problem = f"stands {header.count(name)} times" if name in header else "is not"
            raise InputError(
                f"{path}: line 1: column '{name}' ({mapping}: {role}) {problem} in the header"
                + ("" if name in header else suggest(name, header))
            )
    for name in header:
        if name not in {*roles.values(), *study.ignored}:
            raise InputError(
                f"{path}: line 1: column '{name}' is not in the mapping; name it in {mapping} "
                "under columns, left_out or marked, or under ignored"
            )
    return list(dict.fromkeys(roles.values()))


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read the columns as text, indexed by line number (if no field has line breaks)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # No usecols: it silently drops fields beyond the header.
            text = pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                skip_blank_lines=False,
                index_col=False,
                encoding="utf-8-sig",
            )
    except pd.errors.ParserWarning:
        raise InputError(f"{path}: rows have more fields than the header") from None
    except (ValueError, OSError) as error:
        message = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
        raise InputError(f"{path}: cannot be read as CSV in UTF-8: {message}") from None
    text.index += 2
    return text.loc[(text != "").any(axis="columns"), columns]


def _matching(
    text: pd.DataFrame, conditions: Iterable[RowCondition], where: str
) -> list[pd.Series[bool]]:
    """For each condition the rows that meet it; one that no row meets is a slip of the pen."""
    masks = []
    for condition in conditions:
        mask = text[condition.column].isin([str(value) for value in condition.values])
        if not mask.any():
            raise InputError(f"{where}: no row has {condition}")
        masks.append(mask)
    return masks


def _translate(path: Path, text: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Names of the CSV to positions in the study's lists; values to fractions."""
    lists: dict[str, list[str]] = {
        "encoder": list(study.encoders),
        "task": list(study.targets),
        "budget": sorted(
            study.budgets, key=lambda spelling: study.ordered_budgets.index(study.budgets[spelling])
        ),
        "draw": [str(draw) for draw in study.draws],
        "metric": list(study.metrics),
    }
    columns = study.columns.model_dump()
    table = pd.DataFrame(index=text.index)
    for role, synonyms in lists.items():
        codes = text[columns[role]].map({name: code for code, name in enumerate(synonyms)})
        if codes.isna().any():
            line = codes.index[codes.isna()][0]
            value = str(text.at[line, columns[role]])
            raise InputError(
                f"{path}: line {line}: column '{columns[role]}': {_shown(value)} is no {role} of "
                f"the mapping{suggest(value, synonyms)}"
            )
        if role in ("encoder", "task"):
            absent = sorted(set(range(len(synonyms))) - set(codes))
            if absent:
                name = synonyms[absent[0]]
                raise InputError(
                    f"{path}: column '{columns[role]}': no row has the mapping's {role} "
                    f"'{name}'{suggest(name, text[columns[role]].unique())}"
                )
        table[role] = codes.astype("int64")
    offered = [
        (number, study.ordered_budgets.index(budget))
        for number, target in enumerate(study.targets.values())
        for budget in target.budgets
    ]
    wrong = table.index[~pd.MultiIndex.from_frame(table[["task", "budget"]]).isin(offered)]
    if len(wrong):
        line = wrong[0]
        budget, task = (str(text.at[line, columns[role]]) for role in ("budget", "task"))
        raise InputError(
            f"{path}: line {line}: column '{columns['budget']}': '{budget}' is no budget of "
            f"'{task}' in the mapping; add it to the target's budgets"
        )
    table["value"] = _values(path, text[columns["value"]], study)
    return table


def _values(path: Path, text: pd.Series[str], study: Study) -> pd.Series[float]:
    values = pd.to_numeric(text, errors="coerce").astype(float)
    top = 1 if study.scale == "fraction" else 100
    wrong = text.index[~values.between(0, top)]  # also what is no number
    if len(wrong):
        line = wrong[0]
        missing = "; a missing result has no row, or is left out" if pd.isna(values[line]) else ""
        other = "; with scale: percent?" if top == 1 and 1 < values[line] <= 100 else ""
        raise InputError(
            f"{path}: line {line}: column '{study.columns.value}': {_shown(text[line])} is no "
            f"number from 0 to {top} (scale: {study.scale}){missing}{other}"
        )
    if top == 100 and values.max() <= 1:
        raise InputError(
            f"{path}: column '{study.columns.value}': no value is above 1; with scale: fraction?"
        )
    # A division by 100 leaves rounding errors in the last digits, which look like precision.
    return values if top == 1 else (values / top).round(12)


def _mixed_scales(text: pd.DataFrame, table: pd.DataFrame, study: Study) -> Iterator[str]:
    """Notes on metrics in per cent of which some values look like fractions."""
    if study.scale != "percent":
        return
    metric, value = study.columns.metric, study.columns.value
    for code, name in enumerate(study.metrics):
        values = table.loc[table["metric"] == code, "value"]
        small = values.index[values.between(0, 0.01, inclusive="right")]
        if len(small):
            first = small[0]
            yield (
                f"{metric} {_shown(name)}: {_rows(len(small))} of at most 1 per "
                f"cent, the first on line {first}: {_shown(str(text.at[first, value]))}; "
                "fractions among percentages?"
            )


def _unique(path: Path, table: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Drop rows that repeat another."""
    key = [*_KEY, "metric"]
    once = table.drop_duplicates([*key, "value"])
    clash = once.index[once.duplicated(key)]
    if len(clash):
        line = clash[0]
        same = once.index[(once[key] == once.loc[line, key]).all(axis="columns")][0]
        first, second = once["value"][same], once["value"][line]
        raise InputError(
            f"{path}: line {line}: column '{study.columns.value}': the same cell and metric as on "
            f"line {same}, but {second:g} instead of {first:g}; keep one, or leave one out"
        )
    return once


def _records(
    table: pd.DataFrame, marks: Mapping[str, Set[tuple[int, ...]]], study: Study
) -> tuple[PublishedRecord, ...]:
    """Make one record a cell, in the order of the study's lists."""
    encoders, targets = list(study.encoder_cards), list(study.target_cards)
    budgets, metrics = study.ordered_budgets, list(study.metrics.values())
    columns = sorted(range(len(metrics)), key=metrics.__getitem__)
    wide = table.set_index([*_KEY, "metric"])["value"].unstack("metric").reindex(columns=columns)
    return tuple(
        PublishedRecord(
            study=study.name,
            encoder=encoders[key[0]],
            task=targets[key[1]],
            budget=budgets[key[2]],
            adaptation=study.adaptation,
            draw=key[3],
            metrics={
                metrics[code]: value
                for code, value in zip(columns, row, strict=True)
                if value == value  # not missing
            },
            marks=[mark for mark, cells in marks.items() if key in cells],
        )
        for key, row in zip(wide.index, wide.to_numpy().tolist(), strict=True)
    )


def _rows(count: int) -> str:
    return f"{count} row{'s' if count != 1 else ''}"


def _shown(value: str) -> str:
    """Shorten a value from the file to one line."""
    return repr(value if len(value) <= 60 else value[:60] + "...")


def _misspelt(study: Study) -> list[str]:
    """Notes on domains and corpora that are almost spelt as those of the shipped tasks.

    The transfer relation and the check for contamination go by these names. A study may have
    domains and corpora of its own, so nothing is refused.
    """
    cards = load_tasks().values()
    targets, encoders = study.targets.values(), study.encoders.values()
    domains = [target.domain for target in targets]
    domains += [name for encoder in encoders for name in encoder.pretraining.domains or ()]
    corpora = [name for encoder in encoders for name in encoder.pretraining.datasets or ()]
    kinds = {
        "domain": (domains, {card.domain for card in cards}),
        "data set": (corpora, {name for card in cards for name in card.corpora}),
    }
    return [
        f"{kind} {name!r} is not among those of the shipped tasks; did you mean '{near}'?"
        for kind, (names, candidates) in kinds.items()
        for name in dict.fromkeys(names)
        if (near := _near(name, candidates))
    ]


def _near(name: str, candidates: Set[str]) -> str | None:
    """Suggest a known name close to this one, of the same digits (cifar-10, cifar-100)."""
    if name in candidates:
        return None
    plain = {plain_name(other): other for other in sorted(candidates)}
    matches = difflib.get_close_matches(plain_name(name), plain, n=1, cutoff=0.82)
    return plain[matches[0]] if matches and _digits(matches[0]) == _digits(name) else None


def _digits(name: str) -> list[str]:
    return re.findall(r"\d+", name)
