"""Published results: a CSV and its mapping in, records and a board of their own out."""

from __future__ import annotations

import copy
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from scipy import stats

from medtransfer.core.errors import InputError
from medtransfer.ranking import load_submissions
from medtransfer.ranking.published.board import Published, load_published, published_board
from medtransfer.ranking.published.csv_import import Imported, import_results, write_study
from medtransfer.ranking.published.markdown import render_published
from medtransfer.ranking.published.study import PublishedEncoder, PublishedRecord, Study
from medtransfer.specs.encoder import EncoderCard
from tests.conftest import ROOT, Bench

COMMITTED = ROOT / "submissions" / "published"
ORIGINAL = ROOT.parent / "shared" / "published" / "cherti-jitsev-2021.csv"

MAPPING: dict[str, Any] = {
    "name": "doe-2020",
    "title": "A study",
    "citation": "Doe 2020",
    "licence": "CC0",
    "adaptation": "linear",
    "columns": {
        "encoder": "model",
        "task": "dataset",
        "budget": "shot",
        "draw": "seed",
        "metric": "metric",
        "value": "value",
    },
    "ignored": ["host"],
    "scale": "percent",
    "left_out": [{"column": "step", "values": ["warm up"], "reason": "not a result"}],
    "marked": {"short": {"column": "step", "values": [400], "reason": "was cut"}},
    "encoders": {
        "photos big": {"name": "photos-big", "pretraining": {"domains": ["natural"]}},
        "photos": {"name": "photos-small", "pretraining": {"domains": ["natural"]}},
        "xray": {"name": "xray", "pretraining": {"domains": ["chest-xray"]}},
    },
    "targets": {
        name: {
            "name": name.lower(),
            "domain": domain,
            "kind": "multiclass",
            "metric": "auroc",
            "chance": 0.5,
            "budgets": ["1-shot", "full"],
        }
        for name, domain in [("Cats", "natural"), ("Lungs", "chest-xray"), ("TB", "chest-xray")]
    },
    "budgets": {"all": "full", "1": "1-shot"},
    "draws": [7, 11],
    "metrics": {"auc": "auroc", "acc": "accuracy"},
}
PLAIN: dict[str, Any] = {"left_out": [], "marked": {}, "ignored": ["host", "step"]}
HEAD = "model,dataset,shot,seed,metric,value,step,host"
ROWS = [
    f"{model},{dataset},{shot},{seed},{metric},{50 + 3 * i},{500},a"
    for i, (model, dataset, shot, seed, metric) in enumerate(
        [
            ("photos", "Cats", "all", 7, "auc"),
            ("photos", "Cats", "all", 11, "auc"),
            ("photos", "Cats", "all", 7, "acc"),
            ("photos", "Cats", "1", 7, "auc"),
            ("photos big", "Lungs", "1", 11, "auc"),
            ("xray", "Lungs", "1", 7, "auc"),
            ("xray", "TB", "all", 7, "auc"),
        ]
    )
]


def put(
    folder: Path, *, rows: list[str] = ROWS, head: str = HEAD, **fields: Any
) -> tuple[Path, Path]:
    """Write a CSV and its mapping; fields change the mapping, null drops one."""
    mapping = {**copy.deepcopy(MAPPING), **fields}
    path = folder / "results.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    study = folder / "mapping.yaml"
    kept = {name: value for name, value in mapping.items() if value is not None}
    study.write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return path, study


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


def test_command(bench: Bench, tmp_path: Path) -> None:
    """`bench import` writes a study that loads as it was read; a wrong CSV writes nothing."""
    path, mapping = put(tmp_path, **PLAIN)
    out = tmp_path / "out"
    outcome = bench("import", path, "--mapping", mapping, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "wrote 6 records of 3 encoders on 3 targets" in outcome.out
    assert "cells of the study without a result: 30 of 36" in outcome.out
    [published] = load_published(out)
    assert published.records == import_results(path, mapping).records
    folder = out / "doe-2020"
    assert {file.name for file in folder.iterdir()} == {"study.yaml", "records.jsonl"}
    before = (folder / "records.jsonl").read_bytes()

    # Again, from the study's own copy of the mapping: the same bytes.
    assert bench("import", path, "--mapping", folder / "study.yaml", "--out", out).code == 0
    assert (folder / "records.jsonl").read_bytes() == before
    assert (folder / "study.yaml").read_bytes() == mapping.read_bytes()

    path.write_text(path.read_text().replace("photos,", "photo,"))
    outcome = bench("import", path, "--mapping", mapping, "--out", out / "new")
    assert outcome.code == 2
    assert re.fullmatch(r"error: .*line 2: column 'model': 'photo' .*\n", outcome.err)
    assert not (out / "new").exists()


def test_one_of_each_is_no_plural(bench: Bench, tmp_path: Path) -> None:
    """A study of one record says so in English."""
    one = {"encoders": {"xray": MAPPING["encoders"]["xray"]}}
    one["targets"] = {"TB": MAPPING["targets"]["TB"]}
    path, mapping = put(tmp_path, rows=[ROWS[6]], **PLAIN, **one)
    outcome = bench("import", path, "--mapping", mapping, "--out", tmp_path / "out")
    assert "wrote 1 record of 1 encoder on 1 target to" in outcome.out


def test_published_results_make_a_leaderboard(bench: Bench, tmp_path: Path) -> None:
    """Where nothing was measured, published results are the board; where nothing is, an error."""
    folder = tmp_path / "all"
    folder.mkdir()
    out = tmp_path / "board"
    outcome = bench("leaderboard", "--submissions", folder, "--out", out)
    assert outcome.code == 2 and "holds no submission" in outcome.err and not out.exists()
    path, mapping = put(tmp_path, **PLAIN)
    write_study(import_results(path, mapping), mapping, folder / "published")
    outcome = bench("leaderboard", "--submissions", folder, "--out", out)
    assert outcome.code == 0, outcome.err
    assert "## Published results" in (out / "README.md").read_text()
    assert bench("leaderboard", "--submissions", folder, "--out", out, "--check").code == 0


def test_nothing_is_half_written(tmp_path: Path) -> None:
    """A folder that cannot take one of the two files keeps what it had of the other."""
    path, mapping = put(tmp_path, **PLAIN)
    imported = import_results(path, mapping)
    with pytest.raises(InputError, match="cannot be written"):
        write_study(imported, mapping, path)
    folder = write_study(imported, mapping, tmp_path / "out")
    (folder / "records.jsonl").unlink()
    (folder / "records.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_study(imported, mapping, tmp_path / "out")
    assert {file.name for file in folder.iterdir()} == {"study.yaml", "records.jsonl"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda line: line[:-9], r"line 1: the document: Invalid JSON"),
        (
            lambda line: line.replace("doe-2020", "roe-2020"),
            r"line 1: study: a record of 'roe-2020'",
        ),
        (lambda line: line.replace("linear", "knn"), r"line 1: study: .*\(knn\)"),
        (lambda line: line.replace('"lungs"', '"legs"'), r"line 1: photos-big on legs .*no cell"),
        (lambda line: line.replace('"draw":1', '"draw":2'), r"1-shot #2 is no cell"),
        (lambda line: line.replace("[]", '["odd"]'), r"marks: 'odd' is not in"),
        (lambda line: line.replace("auroc", "dice"), r"metrics: 'dice' is not in"),
        (lambda line: line.replace("0.62", "1.62"), r"metrics.auroc: Input should be less"),
        (
            lambda line: line.replace("published", "measured"),
            r"origin: Input should be 'published'",
        ),
        (
            lambda line: f"{line}\n{line}",
            r"line 2: photos-big on lungs 1-shot #1 is on line 1, too",
        ),
    ],
)
def test_tampered_records(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    """Records that the study cannot have made are refused, by file and line."""
    path, mapping = put(tmp_path, **PLAIN)
    folder = write_study(import_results(path, mapping), mapping, tmp_path / "out")
    ledger = folder / "records.jsonl"
    first, *others = ledger.read_text().splitlines()
    assert change(first) != first
    ledger.write_text("\n".join([change(first), *others]) + "\n")
    with pytest.raises(InputError, match=f"records.jsonl: .*{message}"):
        load_published(tmp_path / "out")


def test_wrong_folders(tmp_path: Path) -> None:
    """No folder, no studies; a study under another's name, or without its files, is refused."""
    assert load_published(tmp_path / "nowhere") == []
    assert render_published([]) == ""
    path, mapping = put(tmp_path, **PLAIN)
    folder = write_study(import_results(path, mapping), mapping, tmp_path / "out")
    moved = folder.rename(folder.with_name("roe-2020"))
    with pytest.raises(InputError, match=r"name: 'doe-2020', but its folder is 'roe-2020'"):
        load_published(tmp_path / "out")
    (moved / "study.yaml").unlink()
    with pytest.raises(InputError, match=r"study.yaml: cannot be read"):
        load_published(tmp_path / "out")


# Boards


def finding(
    *,
    a: str = "photos-big",
    tasks: list[str] | None = None,
    budget: str = "full",
    metric: str = "auroc",
    side: str = "above",
) -> dict[str, Any]:
    return {
        "title": "A claim",
        "text": "What was claimed.",
        "pairs": [{"a": a, "b": "xray", "tasks": tasks or ["lungs"]}],
        "expect": [{"budget": budget, "metric": metric, "a": side}],
    }


Value = Callable[[str, str, str, int, str], float | None]


def publish(value: Value, *, draws: int = 2, **fields: Any) -> Published:
    """A study with ``value(encoder, task, budget, draw, metric)`` in each cell; null: none."""
    fields = {"left_out": [], "draws": list(range(draws)), **fields}
    study = Study.model_validate({**MAPPING, **fields})
    records = []
    for cell in study.cells:
        metrics = {m: value(*cell, m) for m in ("auroc", "accuracy")}
        if kept := {m: v for m, v in metrics.items() if v is not None}:
            record = {"study": study.name, "adaptation": study.adaptation, "metrics": kept}
            records.append({**record, **cell._asdict()})
    return Published(study, tuple(PublishedRecord.model_validate(record) for record in records))


def varied(encoder: str, task: str, budget: str, draw: int, metric: str) -> float:
    """A number of its own for every cell."""
    seed = random.Random(f"{encoder}/{task}/{budget}/{draw}/{metric}")
    return 0.4 + 0.5 * seed.random()


def test_scores_are_averaged_from_the_inside_out() -> None:
    """Draws, budgets, targets, domains: a domain weighs the same however many it has."""

    def score(task: str, budget: str) -> float:
        values = [varied("xray", task, budget, draw, "auroc") for draw in range(3)]
        return sum((value - 0.5) / 0.5 for value in values) / 3

    board = published_board(publish(varied, draws=3))
    row = board.table.loc["xray"]
    full = (score("lungs", "full") + score("tb", "full")) / 2
    few = (score("lungs", "1-shot") + score("tb", "1-shot")) / 2
    cats = (score("cats", "full") + score("cats", "1-shot")) / 2
    assert row["intra_full"] == pytest.approx(full)
    assert row["intra_few_shot"] == pytest.approx(few)
    assert row["inter_full"] == pytest.approx(score("cats", "full"))
    assert row["inter_few_shot"] == pytest.approx(score("cats", "1-shot"))
    assert row["overall"] == pytest.approx(((full + few) / 2 + cats) / 2)
    domains = board.domains.set_index(["domain", "regime", "encoder"])
    assert domains.loc[("chest-xray", "full", "xray"), "score"] == pytest.approx(full)
    assert domains.loc[("chest-xray", "full", "xray"), "relation"] == "intra"
    assert domains.loc[("natural", "few-shot", "xray"), "relation"] == "inter"
    ranked = board.table.sort_values("overall", ascending=False)
    assert list(board.table.index) == list(ranked.index)
    assert list(board.table["rank"]) == [1, 2, 3]


def test_an_encoder_without_a_cell_is_not_ranked() -> None:
    """One missing draw takes the views that need it, and the rank; nobody else's score changes."""

    def but_one(encoder: str, task: str, budget: str, draw: int, metric: str) -> float | None:
        if (encoder, task, budget, draw) == ("photos-big", "tb", "1-shot", 1):
            return None
        return 0.99 if encoder == "photos-big" else varied(encoder, task, budget, draw, metric)

    whole, partial = published_board(publish(varied)), published_board(publish(but_one))
    row = partial.table.loc["photos-big"]
    assert pd.isna(row[["overall", "rank", "inter_few_shot"]]).all()
    assert row[["inter_full", "intra_full", "intra_few_shot"]].tolist() == pytest.approx([0.98] * 3)
    assert (row["have"], row["expected"]) == (11, 12)
    assert partial.table.index[-1] == "photos-big"
    others = ["photos-small", "xray"]
    views = ["intra_full", "inter_few_shot", "overall"]
    pd.testing.assert_frame_equal(whole.table.loc[others, views], partial.table.loc[others, views])
    results = partial.results.set_index(["encoder", "task", "budget", "metric"])
    hole = results.loc[("photos-big", "tb", "1-shot", "auroc")]
    assert pd.isna(hole[["mean", "std", "rank"]]).all()
    assert (hole["have"], hole["draws"], hole["ranked"]) == (1, 2, 2)
    few = partial.domains.query("domain == 'chest-xray' and regime == 'few-shot'")
    assert few["encoder"].iloc[-1] == "photos-big"
    assert (few["have"].iloc[-1], few["expected"].iloc[-1]) == (3, 4)
    assert "| photos-big | inter | 0.980 | 1 | 3/4 cells | - |" in render_published(
        [publish(but_one)]
    )


def test_an_empty_study_has_a_board() -> None:
    """Without a record nobody is ranked and every comparison lacks data."""
    empty = publish(lambda *_: None, findings=[finding()])
    board = published_board(empty)
    assert board.table["rank"].isna().all()
    assert board.findings["verdict"].tolist() == ["no data"]
    assert "0 of 3 encoders have every cell" in render_published([empty])


def test_another_primary_metric_and_chance() -> None:
    """The score is of the target's own primary metric, above its own chance."""
    targets = copy.deepcopy(MAPPING["targets"])
    targets["Cats"] |= {"metric": "accuracy", "chance": 0.2}
    board = published_board(
        publish(lambda *cell: 0.6 if cell[-1] == "accuracy" else 0.9, targets=targets)
    )
    assert board.table.loc["xray", "inter_full"] == pytest.approx(0.5)
    assert board.table.loc["xray", "intra_full"] == pytest.approx(0.8)


@pytest.mark.parametrize("domains", [None, [], ["ct"], ["ct", "oct"]])
@pytest.mark.parametrize("objective", ["none", "supervised"])
def test_the_relation_is_that_of_measured_encoders(
    domains: list[str] | None, objective: str
) -> None:
    """Published and measured encoders are intra, inter or none by one rule."""
    fields = {"name": "x", "pretraining": {"domains": domains, "objective": objective}}
    measured = EncoderCard.model_validate({**fields, "architecture": {"timm": "resnet18"}})
    assert PublishedEncoder.model_validate(fields).relation("ct") == measured.relation("ct")


def test_undeclared_domains_are_unknown() -> None:
    """An encoder that declares no domains has no relation, and is ranked overall all the same."""
    encoders = copy.deepcopy(MAPPING["encoders"])
    encoders["xray"]["pretraining"] = {}
    published = publish(varied, encoders=encoders)
    row = published_board(published).table.loc["xray"]
    assert pd.isna(row[["intra_full", "inter_full"]]).all()
    assert not pd.isna(row["rank"])
    assert "| xray | unknown |" in render_published([published])


def test_comparisons_are_paired_by_draw() -> None:
    """Difference and interval are those of a paired t-test over the draws that both have."""

    def but_one(encoder: str, task: str, budget: str, draw: int, metric: str) -> float | None:
        missing = (encoder, draw) == ("xray", 2)
        return None if missing else varied(encoder, task, budget, draw, metric)

    board = published_board(publish(but_one, draws=6, findings=[finding()]))
    [row] = board.findings.to_dict("records")
    a, b = (
        [varied(name, "lungs", "full", draw, "auroc") for draw in (0, 1, 3, 4, 5)]
        for name in ("photos-big", "xray")
    )
    test = stats.ttest_rel(a, b)
    interval = test.confidence_interval(0.95)
    assert row["n"] == 5
    assert row["difference"] == pytest.approx(sum(a) / 5 - sum(b) / 5)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert pd.isna(row["rank_b"])


@pytest.mark.parametrize(
    ("gaps", "side", "verdict"),
    [
        ((0.10, 0.11, 0.12), "above", "as claimed"),
        ((0.10, 0.11, 0.12), "below", "opposite"),
        ((-0.10, -0.11, -0.12), "below", "as claimed"),
        ((-0.10, -0.11, -0.12), "above", "opposite"),
        ((0.10, 0.11, -0.12), "above", "not resolved"),
        ((0.0, 0.0, 0.0), "above", "not resolved"),
        ((0.1, None, None), "above", "no data"),
    ],
)
def test_verdicts(gaps: tuple[float | None, ...], side: str, verdict: str) -> None:
    """A claim is shown when the interval lies on its side of zero, and only then."""

    def value(encoder: str, task: str, budget: str, draw: int, metric: str) -> float | None:
        gap = gaps[draw]
        if encoder != "photos-big":
            return 0.5
        return None if gap is None else 0.5 + gap

    published = publish(value, draws=3, findings=[finding(side=side)])
    [found] = published_board(published).findings["verdict"]
    assert found == verdict
    shown = "**Shown.**" in render_published([published])
    assert shown == (verdict == "as claimed")


def test_a_finding_needs_all_of_its_comparisons() -> None:
    """One target that does not show it is enough to say so."""

    def value(encoder: str, task: str, budget: str, draw: int, metric: str) -> float:
        higher = 0.1 if encoder == "photos-big" and task == "lungs" else 0.0
        return 0.6 + higher + 0.001 * draw

    text = render_published([publish(value, findings=[finding(tasks=["lungs", "tb"])])])
    assert "**Not shown.**" in text
    assert "full, auroc: 1 of 2 above, 1 not resolved; difference +0.000 to +0.100" in text


def test_marks_and_conditions_are_shown() -> None:
    """Readers see which results bear a mark, what it means, and what was left out."""
    published = publish(varied)
    first = published.records[0].model_copy(update={"marks": ["short"]})
    marked = Published(
        published.study.model_copy(update={"left_out": Study.model_validate(MAPPING).left_out}),
        (first, *published.records[1:]),
    )
    text = render_published([marked])
    assert "Left out, because not a result: rows with step 'warm up'." in text
    assert "† short: was cut." in text
    assert text.count(" † |") == 2  # its cell, under both metrics
    assert " † |" not in render_published([published])


def test_hostile_words_do_no_harm() -> None:
    """Titles and notes with markup stay one line of text, in tables and out of them."""
    bad = "<script>alert(1)</script>|`x`\n\n# head [a](b) $x$"
    targets = copy.deepcopy(MAPPING["targets"])
    targets["Cats"]["title"] = bad
    text = render_published(
        [
            publish(
                varied,
                title=bad,
                citation=bad,
                notes=[bad],
                targets=targets,
                findings=[{**finding(), "title": bad, "text": bad}],
            )
        ]
    )
    assert "<script" not in text
    assert not re.search(r"^#+ head", text, re.MULTILINE)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


# The committed study


@pytest.fixture(scope="module")
def cherti() -> Published:
    [published] = [p for p in load_published(COMMITTED) if p.study.name == "cherti-jitsev-2021"]
    return published


def test_committed_records_are_what_the_csv_gives(tmp_path: Path) -> None:
    """`bench import` of the authors' numbers gives the committed bytes."""
    if not ORIGINAL.is_file():
        pytest.skip(f"no {ORIGINAL}")
    folder = COMMITTED / "cherti-jitsev-2021"
    imported = import_results(ORIGINAL, folder / "study.yaml")
    written = write_study(imported, folder / "study.yaml", tmp_path)
    for name in ("study.yaml", "records.jsonl"):
        assert (written / name).read_bytes() == (folder / name).read_bytes()


def test_tuberculosis_equals_the_paper(cherti: Published) -> None:
    """Mean AUC in per cent at 1 shot, 10 shots and full, of the three encoders quoted."""
    results = published_board(cherti).results
    rows = results[(results["task"] == "tuberculosis") & (results["metric"] == "auroc")]
    means = (100 * rows.set_index(["encoder", "budget"])["mean"]).round(1)
    for encoder, quoted in {
        "imagenet1k-r50x1": [71.4, 75.5, 89.6],
        "imagenet21k-r152x4": [64.5, 75.7, 92.8],
        "chexpert-mimic-nih-padchest-r152x4": [73.9, 75.8, 95.9],
    }.items():
        assert [means[encoder, budget] for budget in ("1-shot", "10-shot", "full")] == quoted


def test_the_traps_of_the_study_are_seen(cherti: Published) -> None:
    """All 1,440 runs are there, nine of them marked as cut short; what is missing is null."""
    assert len(cherti.records) == 1440
    assert all(len(record.metrics) == 3 for record in cherti.records)
    cut = [record for record in cherti.records if record.marks]
    assert len(cut) == 9
    assert {record.budget for record in cut} == {"1-shot"}
    board = published_board(cherti)
    assert board.table["rank"].dropna().index.tolist() == [
        "imagenet21k-r152x4",
        "imagenet1k-r152x4",
        "imagenet21k-r50x1",
    ]
    assert board.table.loc["imagenet1k-r50x1", ["have", "expected"]].tolist() == [176, 180]
    results = board.results.set_index(["encoder", "task", "budget", "metric"])
    assert results.loc[("chexpert-mimic-r50x1", "padchest", "10-shot", "auroc"), "have"] == 4
    assert results.loc[("nih-r152x4", "tuberculosis", "1-shot", "auroc"), "marked"] == 4


def test_the_three_findings(cherti: Published) -> None:
    """Larger is better intra-domain, at full alone; PadChest reverses; COVIDx flips."""
    board = published_board(cherti)
    shown = board.findings.groupby("finding")["verdict"].agg(lambda v: (v == "as claimed").all())
    assert shown.tolist() == [True, False, True, True]
    larger, few, reversal, flip = (part for _, part in board.findings.groupby("finding"))
    assert len(larger) == 11
    assert larger["low"].min() > 0.01
    assert not few.query("budget == '1-shot'")["verdict"].eq("as claimed").any()
    assert (reversal.query("budget == '10-shot'")["high"] < -0.015).all()
    assert (reversal.query("budget == 'full'")["low"] > 0.005).all()
    auroc, accuracy = flip.to_dict("records")
    assert (auroc["rank_a"], auroc["rank_b"]) == (1, 4)
    assert (accuracy["rank_a"], accuracy["rank_b"]) == (5, 1)
    assert auroc["difference"] == pytest.approx(0.0126, abs=1e-4)
    assert accuracy["difference"] == pytest.approx(-0.041, abs=1e-4)


def test_the_committed_section(cherti: Published) -> None:
    """The page says whose numbers these are, and the same records give the same bytes."""
    text = render_published([cherti])
    assert text.startswith("## Published results, not measured here\n")
    assert text == render_published(load_published(COMMITTED))
    assert text.count("**Shown.**") == 3
    assert "10 shots and better at full" in text
    assert all(line.count("\\|") == 0 for line in text.splitlines())


def test_published_records_are_never_among_the_measured(cherti: Published) -> None:
    """Neither as submissions nor as records of one."""
    measured = {s.card.name for s in load_submissions([COMMITTED.parent])}
    assert measured.isdisjoint(cherti.study.encoder_cards)


def test_the_import_waits_for_no_torch(tmp_path: Path) -> None:
    """Reading a table needs no torch."""
    path, mapping = put(tmp_path, **PLAIN)
    code = f"""
import sys
sys.argv = ["bench", "import", {str(path)!r}, "--mapping", {str(mapping)!r}, "--out", "out"]
from medtransfer.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
from pathlib import Path
from medtransfer.ranking.published.board import load_published
from medtransfer.ranking.published.markdown import render_published
assert render_published(load_published(Path("out")))
assert not {{"torch", "timm", "skimage"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
