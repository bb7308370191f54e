"""Published results: a CSV file and its mapping in, records out."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from medtransfer.core.errors import InputError
from medtransfer.ranking.published.csv_import import Imported, import_results
from tests.helpers.published import HEAD, MAPPING, PLAIN, ROWS, finding, put


def clean(folder: Path, *, rows: list[str] = ROWS, **fields: Any) -> Imported:
    """Import rows that need no conditions."""
    return import_results(*put(folder, rows=rows, **{**PLAIN, **fields}))


def test_rows_become_records(tmp_path: Path) -> None:
    """One record a cell, with every metric as a fraction, in the study's order, marked, once."""
    rows = [
        *ROWS,
        "nobody,Nothing,3,warm,up,,warm up,a",
        "photos,Cats,1,11,auc,57.1,400,a",
        "photos,Cats,1,11,auc,57.10,500,b",
        "",
    ]
    imported = import_results(*put(tmp_path, rows=rows))
    lines = [json.loads(record.line()) for record in imported.records]
    assert [
        tuple(line[key] for key in ("encoder", "task", "budget", "draw")) for line in lines
    ] == [
        ("photos-big", "lungs", "1-shot", 1),
        ("photos-small", "cats", "1-shot", 0),
        ("photos-small", "cats", "1-shot", 1),
        ("photos-small", "cats", "full", 0),
        ("photos-small", "cats", "full", 1),
        ("xray", "lungs", "1-shot", 0),
        ("xray", "tb", "full", 0),
    ]
    assert lines[2] == {
        "schema": 1,
        "origin": "published",
        "study": "doe-2020",
        "encoder": "photos-small",
        "task": "cats",
        "budget": "1-shot",
        "adaptation": "linear",
        "draw": 1,
        "metrics": {"auroc": 0.571},
        "marks": ["short"],
    }
    assert lines[3]["metrics"] == {"accuracy": 0.56, "auroc": 0.5}
    assert [line["marks"] for line in lines].count([]) == 6
    assert imported.notes == (
        "left out 1 row with step 'warm up': not a result",
        "marked 'short' 1 row with step '400': was cut",
        "rows that repeat another: 1",
        "cells of the study without a result: 29 of 36",
    )


def test_a_repeated_row_keeps_its_mark(tmp_path: Path) -> None:
    """A cell is marked when any of its rows is, also one that repeats an unmarked row."""
    rows = [*ROWS, ROWS[0].replace(",500,", ",400,")]
    imported = import_results(*put(tmp_path, rows=rows, left_out=[]))
    assert [record.cell.encoder for record in imported.records if record.marks] == ["photos-small"]


def test_the_bytes_depend_on_the_results_alone(tmp_path: Path) -> None:
    """Neither the order of rows and columns nor a byte-order mark or CRLF changes the records."""
    first = clean(tmp_path)
    rows = [",".join(reversed(row.split(","))) for row in ROWS]
    random.Random(0).shuffle(rows)
    head = ",".join(reversed(HEAD.split(",")))
    path, mapping = put(tmp_path, rows=rows, head=head, **PLAIN)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert import_results(path, mapping).records == first.records


def test_fractions_are_kept_to_the_last_digit(tmp_path: Path) -> None:
    """Under scale fraction a value is stored as it was written."""
    rows = [re.sub(r",(\d\d),500", r",0.\g<1>0871,500", row) for row in ROWS]
    records = clean(tmp_path, rows=rows, scale="fraction").records
    assert records[-1].metrics == {"auroc": 0.680871}


def swapped(old: str, new: str, *, at: int = 0) -> list[str]:
    """The rows with a change in one of them."""
    assert old in ROWS[at]
    return [row.replace(old, new) if i == at else row for i, row in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (swapped("photos", "photo"), r"line 2: column 'model': 'photo' is no encoder .*'photos'\?"),
        (swapped("Cats", "cats", at=3), r"line 5: column 'dataset': 'cats' .* mean 'Cats'\?"),
        (swapped(",all,", ",full,"), r"line 2: column 'shot': 'full' is no budget .*known: 1, all"),
        (swapped(",7,", ",8,"), r"line 2: column 'seed': '8' is no draw .*known: 11, 7"),
        (
            swapped("auc", "AUC"),
            r"line 2: column 'metric': 'AUC' is no metric .*did you mean 'auc'",
        ),
        (swapped(",50,", ",,"), r"line 2: column 'value': '' is no number from 0 to 100 .*missing"),
        (swapped(",50,", ",nan,"), r"line 2: .*'nan' is no number"),
        (swapped(",50,", ",inf,"), r"line 2: .*'inf' is no number"),
        (swapped(",50,", ",101,"), r"line 2: .*'101' is no number from 0 to 100"),
        (swapped(",50,", ",-1,"), r"line 2: .*'-1' is no number from 0 to 100"),
        (swapped(",50,", ',"5,1",'), r"line 2: .*'5,1' is no number"),
        (
            [*ROWS, "", ROWS[1].replace(",53,", ",54,")],
            r"line 10: .* as on line 3, but 0.54 .*0.53",
        ),
        ([*ROWS, "xray,TB"], r"line 9: column 'shot': '' is no budget"),
        ([*ROWS, ROWS[0] + ",more"], r"Expected 8 fields in line 9, saw 9"),
        ([row + ",more" for row in ROWS], r"rows have more fields than the header"),
        ([*ROWS, '"xray'], r"EOF inside string"),
        (swapped("photos", "x" * 999), r"line 2: column 'model': 'x{60}\.\.\.' is no encoder"),
        (swapped("photos", "\x1b[2J"), r"line 2: column 'model': '\\x1b\[2J' is no encoder"),
        ([], r"no row of results is left"),
        (ROWS[:5], r"column 'model': no row has the mapping's encoder 'xray'"),
        (ROWS[:6], r"column 'dataset': no row has the mapping's task 'TB'"),
        (
            [re.sub(r",(\d\d),500", r",0.\1,500", row) for row in ROWS],
            r"no value is above 1; with s",
        ),
    ],
)
def test_wrong_rows(rows: list[str], message: str, tmp_path: Path) -> None:
    """What the mapping does not explain is refused, by line, column and value, with a remedy."""
    with pytest.raises(InputError, match=message) as error:
        clean(tmp_path, rows=rows)
    assert "results.csv: " in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": "fraction"}, r"line 2: .*'50' is no number from 0 to 1 .*scale: percent\?"),
        ({"ignored": ["step"]}, r"line 1: column 'host' is not in the mapping"),
        (
            {"columns": {**MAPPING["columns"], "draw": "sed"}},
            r"column 'sed' \(.*mapping.yaml: columns: draw\) is not in the header.*'seed'\?",
        ),
        ({"left_out": [{"column": "stop", "values": [1], "reason": "r"}]}, r"'stop' .*left_out: 0"),
        (
            {"marked": {"short": {"column": "step", "values": [4000], "reason": "r"}}},
            r"mapping.yaml: marked: no row has step '4000'",
        ),
        ({"left_out": [{"column": "step", "values": [500], "reason": "r"}]}, r"no row of results"),
        ({"metric": "auroc"}, r"mapping.yaml: metric: unknown field; did you mean 'metrics'\?"),
        ({"citation": None}, r"citation: required, but missing"),
        ({"name": "../up"}, r"name: String should match"),
        ({"draws": [7, "7"]}, r"draws: '7' occurs twice"),
        ({"budgets": {"1": "one", "all": "full"}}, r"budgets.1: String should match"),
        ({"budgets": {"all": "full"}}, r"targets: cats: budgets: '1-shot' is not in the study"),
        ({"metrics": {"acc": "accuracy"}}, r"targets: cats: metric: 'auroc' is not in the study"),
        (
            {
                "encoders": {
                    k: {**MAPPING["encoders"][k], "name": "same"} for k in ("photos", "xray")
                }
            },
            r"encoders: 'same' occurs twice",
        ),
        (
            {"targets": {"Cats": {**MAPPING["targets"]["Cats"], "chance": 0.1}}},
            r"targets.Cats: chance: of auroc it is 0.5",
        ),
        (
            {
                "targets": {
                    **MAPPING["targets"],
                    "TB": {**MAPPING["targets"]["TB"], "budgets": ["1-shot"]},
                }
            },
            r"line 8: column 'shot': 'all' is no budget of 'TB' in the mapping",
        ),
    ],
)
def test_wrong_mappings(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A mapping that contradicts itself or the CSV is refused, naming its field."""
    with pytest.raises(InputError, match=message):
        clean(tmp_path, **fields)


@pytest.mark.parametrize(
    ("domain", "corpus", "notes"),
    [
        ("chest-xray", "nih-chestxray14", []),
        ("mammography", "chexpert", []),
        ("natural", "cifar-1000", []),
        ("chestxry", "chexpert", ["domain 'chestxry' is not .*; did you mean 'chest-xray'\\?"]),
        ("ct", "NIH ChestX-ray14", ["data set 'NIH .* did you mean 'nih-chestxray14'\\?"]),
    ],
)
def test_misspelt_domains_and_corpora(
    domain: str, corpus: str, notes: list[str], tmp_path: Path
) -> None:
    """A name that is almost a known one is noted, once; names of the study's own are not."""
    encoders = copy.deepcopy(MAPPING["encoders"])
    for name in ("photos", "xray"):
        encoders[name]["pretraining"] = {"domains": [domain], "datasets": [corpus]}
    found = clean(tmp_path, encoders=encoders).notes
    noted = [note for note in found if "did you mean" in note]
    assert len(noted) == len(notes)
    for note, expected in zip(noted, notes, strict=True):
        assert re.match(expected, note)


def test_a_misspelt_target_domain(tmp_path: Path) -> None:
    """It would turn an intra target into an inter one."""
    targets = copy.deepcopy(MAPPING["targets"])
    targets["TB"]["domain"] = "chest-x-ray"
    notes = clean(tmp_path, targets=targets).notes
    assert any("domain 'chest-x-ray'" in note for note in notes)


def test_fractions_among_percentages(tmp_path: Path) -> None:
    """They are noted by metric, with the first line; zero is the same in both."""
    rows = [
        ROWS[0].replace(",50,", ",0,"),
        *ROWS[1:5],
        *(r.replace(",6", ",0.6") for r in ROWS[5:]),
    ]
    notes = clean(tmp_path, rows=rows).notes
    [note] = [note for note in notes if "fractions" in note]
    assert note.startswith(
        "metric 'auc': 2 rows of at most 1 per cent, the first on line 7: '0.65'"
    )
    assert not any("fractions" in note for note in clean(tmp_path).notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"a": "photo-big"},
            r"pairs: 'photo-big' is not in the study; did you mean 'photos-big'\?",
        ),
        ({"a": "xray"}, r"pairs: 'xray' is compared with itself"),
        ({"tasks": ["lung"]}, r"tasks: 'lung' is not in the study; did you mean 'lungs'\?"),
        ({"budget": "5-shot"}, r"lungs: budget: '5-shot' is not in the study"),
        ({"metric": "dice"}, r"metric: 'dice' is not in the study"),
        ({"side": "over"}, r"findings.0.expect.0.a: Input should be 'above' or 'below'"),
    ],
)
def test_wrong_findings(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A finding about what the study does not have is refused."""
    with pytest.raises(InputError, match=message):
        clean(tmp_path, findings=[finding(**change)])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\xff\xfem\x00", "UTF-8"),
        (b"", "'model' .* is not in the header"),
        (f"{HEAD},model\n".encode(), "column 'model' .* stands 2 times in the header"),
        (HEAD.replace(",", ";").encode(), "'model' .* is not in the header; known: model;dataset"),
    ],
)
def test_wrong_files(header: bytes, message: str, tmp_path: Path) -> None:
    """What is no such table is refused in one line."""
    path, mapping = put(tmp_path)
    path.write_bytes(header)
    with pytest.raises(InputError, match=message):
        import_results(path, mapping)


def test_missing_files(tmp_path: Path) -> None:
    """A path that is not there, or is a folder, is named."""
    path, mapping = put(tmp_path)
    for wrong in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match=re.escape(str(wrong))):
            import_results(wrong, mapping)
        with pytest.raises(InputError, match=re.escape(str(wrong))):
            import_results(path, wrong)
