"""The figures of the leaderboard's README: their numbers, their bytes, their files."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import ImageFont

from medtransfer import ranking
from medtransfer.core.text import shorten
from medtransfer.ranking import Board, Submission
from medtransfer.ranking.report.charts import draw
from medtransfer.ranking.report.figures import Figure, figures
from medtransfer.specs.record import Cell
from tests.helpers.boards import MIXED, MIXED_SUITES, QUICK, card, rank, submission

ROOT = Path(__file__).parents[2]
FILES = ["README.md", "leaderboard.csv", "scores.csv"]
HOSTILE = [
    "<script>alert(1)</script>&amp;\"']]>",
    "x" * 10_000,
    "\u202eturned\u200f\u2066",
    "line\nbreak\r\n\tnul\0",
    "{{datum.x}} ${1} =cmd()",
    "中文 العربية \ud800",
    f"{'w' * 40}u{'w' * 39}",
    f"{'w' * 40}v{'w' * 39}",
]


def spread(name: str, **fields: Any) -> Submission:
    """An encoder whose cells all have different values, cheap ones for names early in the order."""

    def vary(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        draft["task"]["domain"] = "natural" if cell.task == "shapes" else "ct"
        text = f"{name}{cell.task}{cell.budget}{cell.adaptation}{cell.draw}"
        value = 0.5 + sum(text.encode()) % 97 / 200
        draft["cost"]["adaptation_flops"] = 10 ** (9 + ord(name[0]) % 7)
        return {**draft, "metrics": {"in_domain": {"auroc": value}}}

    return submission(name, change=vary, **fields)


def crowd(names: list[str]) -> Board:
    """A board with these names, best first."""
    board = rank(*map(spread, "abcdefgh"))
    turns = [board.table.index[at % 8] for at in range(len(names))]
    table = pd.concat([board.table.loc[[one]] for one in turns]).set_axis(names)
    steps = range(len(names))
    table["in_domain"] = [0.9 - 0.01 * step for step in steps]
    table["rank"] = pd.array([step + 1 for step in steps], dtype="Int64")
    of = board.results.groupby("encoder")
    results = [of.get_group(one).assign(encoder=name) for one, name in zip(turns, names)]  # noqa: B905
    return replace(board, table=table, results=pd.concat(results, ignore_index=True))


def picture(figure: Figure) -> str:
    return draw(figure.chart, figure.rows, title=figure.title)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.text]


def tags(svg: str) -> set[str]:
    return {element.tag for element in ElementTree.fromstring(svg).iter()}


def score(figure: Figure, panel: str, budget: str) -> float:
    """Of the one encoder of the curves."""
    [found] = [
        row["score"]
        for row in figure.rows
        if row["panel"].startswith(panel) and row["budget"] == budget
    ]
    return found


# Numbers


def test_curves_are_means_as_on_the_board() -> None:
    """Over draws, adaptations, tasks, domains: the board's columns are weighted sums of them."""
    board = rank(spread("a"))
    row, curves = board.table.loc["a"], figures(board)["curves"]
    frozen = {budget: score(curves, "Frozen", budget) for budget in ("1-shot", "10-shot", "full")}
    tuned = {budget: score(curves, "Fine-tuned", budget) for budget in ("10-shot", "full")}
    assert len(set(frozen.values()) | set(tuned.values())) == 5
    # Frozen are knn and linear, so two cells of each task.
    assert (2 * frozen["full"] + tuned["full"]) / 3 == pytest.approx(row["full"], abs=1e-4)
    few = 2 * frozen["1-shot"] + 2 * frozen["10-shot"] + tuned["10-shot"]
    assert few / 5 == pytest.approx(row["few_shot"], abs=1e-4)
    assert sum(frozen.values()) / 3 == pytest.approx(row["frozen"], abs=1e-4)


def test_a_curve_is_over_the_same_tasks_everywhere() -> None:
    """Masks have no 1-shot budget, so they are in no frozen curve, and the panel says so."""
    value = 0.9
    encoders = [
        submission(name, cells=MIXED, value=value, change=lambda cell, draft: draft)
        for name in "ab"
    ]
    board = ranking.boards(encoders, MIXED_SUITES, {"quick": QUICK})[0]
    curves = figures(board)["curves"]
    assert {row["panel"] for row in curves.rows} == {
        "Frozen (knn, linear), 1 task",
        "Fine-tuned, 3 tasks",
    }
    assert {row["score"] for row in curves.rows if row["panel"].startswith("Frozen")} == {0.8}


def test_figures_are_of_ranked_encoders_of_whole_suites() -> None:
    """A board of one kind of task, or where nobody has a rank, has none."""
    whole, *parts = ranking.boards([submission("a", cells=MIXED)], MIXED_SUITES, {"quick": QUICK})
    assert set(figures(whole)) == {"scores", "curves"}
    assert [figures(part) for part in parts] == [{}, {}]
    unfinished = submission("b", change=lambda cell, draft: None if cell.draw else draft)
    assert figures(rank(unfinished)) == {}
    [row] = figures(rank(submission("a"), unfinished))["scores"].rows
    assert row["encoder"] == "1 a"


def test_scores_are_in_rank_order_with_their_intervals() -> None:
    """Each row has the board's score, interval and rank, in the board's order."""
    board = crowd(list("badc"))
    table = board.table.assign(in_domain_low=0.1, in_domain_high=0.95, rank_low=1, rank_high=3)
    [first, second, *_] = figures(replace(board, table=table))["scores"].rows
    assert first == {
        "encoder": "1 b",
        "score": 0.9,
        "low": 0.1,
        "high": 0.95,
        "note": "0.900, rank 1 to 3",
    }
    assert second["encoder"] == "2 a"


def test_large_boards_show_the_best_and_say_so() -> None:
    """30 encoders, 8 with curves; the front keeps its place among the points."""
    found = figures(crowd([f"encoder-{at}" for at in range(200)]))
    assert [row["encoder"] for row in found["scores"].rows][-1] == "30 encoder-29"
    assert "The best: 30 of 200." in found["scores"].caption
    assert len(found["cost"].rows) == 30 and "30 of 200" in found["cost"].caption
    assert len({row["encoder"] for row in found["curves"].rows}) == 8
    board = crowd([f"encoder-{at}" for at in range(60)])
    board.table["pareto_adaptation"] = board.table.index == "encoder-59"
    cost = figures(board)["cost"]
    assert [row["encoder"] for row in cost.rows if row["best"] == "yes"] == ["encoder-59"]


def test_names_stand_where_there_is_room() -> None:
    """Of three points on each other two have names, and the caption says that some are missing."""
    board = crowd(list("abcd"))
    board.table["adaptation_flops"] = [1e12, 1e12, 1e12, 1e15]
    board.table["in_domain"] = [0.9, 0.9, 0.9, 0.2]
    cost = figures(board)["cost"]
    named = {row["encoder"] for row in cost.rows if row["left"] or row["right"]}
    assert "d" in named and len(named) == 3
    assert "where there is room" in cost.caption
    board.table["in_domain"] = [0.9, 0.7, 0.5, 0.2]
    assert "room" not in figures(board)["cost"].caption


def test_sources_against_targets() -> None:
    """One row a source and target; none with a single source; outlined where they are the same."""
    home = spread("a", pretraining={"domains": ["ct"], "datasets": []})
    away = spread("b", pretraining={"domains": ["natural"], "datasets": []})
    assert "domains" not in figures(rank(home))
    board = rank(home, away)
    rows = figures(board)["domains"].rows
    assert len(rows) == 4
    for row in rows:
        assert (row["intra"] == "yes") == (row["source"] == row["target"])
        expected = board.sources.scores.loc[row["source"], row["target"]]
        assert row["score"] == pytest.approx(expected, abs=1e-4)


# Pictures


def test_equal_scores_are_no_empty_scale() -> None:
    """Where all scores are the same, they stand at that score on the axis."""
    found = figures(rank(submission("a"), submission("b")))
    assert "cost" not in found
    assert "0.60" in texts(picture(found["scores"]))


def test_hostile_names_are_short_text() -> None:
    """A name is a piece of text, one line, seen as it reads; it adds no element to a picture."""
    found, plain = figures(crowd(HOSTILE)), figures(crowd(list("abcdefgh")))
    assert set(found) == set(plain)
    for chart, figure in found.items():
        svg = picture(figure)
        assert tags(svg) == tags(picture(plain[chart]))
        assert not re.search("[\0-\t\r\u200e-\u2025\u2028-\u202e\u2066-\u2069\ud800]", svg)
        assert max(map(len, texts(svg))) < 100
        assert len(figure.alt) < 1000
    assert "3 turned" in texts(picture(found["scores"]))
    names = {row["encoder"] for row in found["curves"].rows}
    assert len(names) == len(HOSTILE), "names that are cut stay apart"
    page = ranking.render_markdown([crowd(HOSTILE)])
    assert "<script" not in page and "\n# " not in page.replace("# Leaderboard", "")


def test_cut_in_the_middle() -> None:
    """The beginning and the end of a name tell most; what fits stays as it is."""
    assert shorten("chexpert-mimic-r152x4", 11) == "chexp…152x4"
    assert shorten("12345678901", 11) == "12345678901"
    assert shorten(" a\u2028b\t c\u202e", 11) == "a b c"


# Bytes

RENDER = """
import json, sys, vl_convert
from medtransfer.ranking.report.charts import draw
for chart, rows, title in json.load(sys.stdin):
    print(draw(chart, rows, title=tuple(title)))
text = {"mark": "text", "encoding": {"text": {"field": "a"}, "y": {"field": "a"}}}
sys.stderr.write(vl_convert.vegalite_to_svg(
    {**text, "data": {"values": [{"a": "wide"}]}, "config": {"font": "Helvetica"}}
))
"""


def renamed(font: bytes, family: str) -> bytes:
    """The font under another name: a new table of names takes the place of its own."""
    (count,) = struct.unpack_from(">H", font, 4)
    [entry] = [at for at in range(12, 12 + 16 * count, 16) if font[at : at + 4] == b"name"]
    text = family.encode("utf-16-be")
    kinds = (1, 6)  # the family, and the name in PostScript
    table = struct.pack(">3H", 0, len(kinds), 6 + 12 * len(kinds))
    table += b"".join(struct.pack(">6H", 3, 1, 0x409, kind, len(text), 0) for kind in kinds) + text
    font += b"\0" * (-len(font) % 4)
    place = struct.pack(">II", len(font), len(table))
    return font[: entry + 8] + place + font[entry + 16 :] + table


def test_same_bytes_whatever_fonts_there_are(tmp_path: Path) -> None:
    """No fonts, the machine's own, and a false Helvetica; a chart of the usual kind tells them."""
    sources = rank(*(spread(name, pretraining={"domains": [name * 40]}) for name in "ab"))
    crowds = crowd(HOSTILE), crowd([f"encoder-of-a-long-name-{at}" for at in range(40)])
    drawn = [figure for board in (sources, *crowds) for figure in figures(board).values()]
    rows = json.dumps([[figure.chart, figure.rows, figure.title] for figure in drawn])
    assert {figure.chart for figure in drawn} == {"scores", "cost", "curves", "domains"}
    environments: dict[str, dict[str, str]] = {"own": {}}
    for name in ("none", "false"):
        (tmp_path / name).mkdir()
        config = tmp_path / f"{name}.conf"
        config.write_text(f"<fontconfig><dir>{tmp_path / name}</dir></fontconfig>")
        environments[name] = {"FONTCONFIG_FILE": str(config)}
    font = ImageFont.load_default(10)
    assert isinstance(font, ImageFont.FreeTypeFont)
    (tmp_path / "false" / "font.ttf").write_bytes(renamed(font.font_bytes, "Helvetica"))
    runs = {
        name: subprocess.run(
            [sys.executable, "-c", RENDER],
            input=rows,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        for name, environment in environments.items()
    }
    assert runs["none"].stderr != runs["false"].stderr, "the fonts make no difference to anything"
    assert runs["none"].stdout.count("<svg") == len(drawn)
    assert runs["none"].stdout == runs["false"].stdout == runs["own"].stdout


def test_numbers_are_rounded() -> None:
    """The last bits of a mean differ between machines; six digits are more than can be seen."""
    board = crowd(list("abc"))
    shaken = replace(
        board,
        table=board.table.assign(in_domain=board.table["in_domain"] * (1 + 1e-12)),
        results=board.results.assign(mean=board.results["mean"] * (1 - 1e-12)),
    )
    assert figures(board) == figures(shaken)


# Files


def write(*boards: Board, out: Path) -> list[str]:
    return ranking.write_leaderboard(boards, out, cards=CARDS)


def check(*boards: Board, out: Path) -> list[str]:
    return ranking.check_leaderboard(boards, out, cards=CARDS)


CARDS = {name: card(name) for name in "ab"}


def test_files_of_figures_come_and_go(tmp_path: Path) -> None:
    """What no board shows any more is named, then removed; what somebody else put there stays."""
    board = rank(spread("a"), spread("b"))
    names = write(board, out=tmp_path)
    pictures = [name for name in names if name.startswith("figures/")]
    assert pictures == [
        f"figures/quick_phantom_{chart}.svg" for chart in ("scores", "cost", "curves")
    ]
    assert check(board, out=tmp_path) == []
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(
        Path(name).name for name in pictures
    )
    (tmp_path / pictures[0]).write_text("another")
    (tmp_path / "figures" / "mine.svg").write_text("<svg/>")
    assert check(board, out=tmp_path) == pictures[:1]
    assert write(board, out=tmp_path) == names

    alone = rank(spread("a"))
    assert pictures[1] in check(alone, out=tmp_path)
    assert write(alone, out=tmp_path) == [name for name in names if name != pictures[1]]
    assert check(alone, out=tmp_path) == []
    write(out=tmp_path)
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.svg"]


def test_links_lead_to_the_figures(tmp_path: Path) -> None:
    """Every picture of the page is a file that was written, with its text, and the reverse."""
    names = write(rank(spread("a"), spread("b")), out=tmp_path)
    links = re.findall(r"!\[(.+?)\]\((.+?)\)", (tmp_path / "README.md").read_text())
    assert sorted(name for _, name in links) == sorted(names[4:])
    assert all(len(alt) > 40 for alt, _ in links)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same README and table; page and figures are neither written, compared nor removed."""
    board = rank(spread("a"), spread("b"))
    names = write(board, out=tmp_path / "with")
    monkeypatch.setitem(sys.modules, "altair", None)
    assert write(board, out=tmp_path / "without") == FILES
    for name in FILES:
        both = [(tmp_path / folder / name).read_bytes() for folder in ("with", "without")]
        assert both[0] == both[1]
    assert not (tmp_path / "without" / "figures").exists()
    assert check(board, out=tmp_path / "without") == check(board, out=tmp_path / "with") == []
    write(out=tmp_path / "with")
    assert all((tmp_path / "with" / name).exists() for name in names)


def test_the_readme_shows_a_committed_figure() -> None:
    """Its picture is one of the leaderboard's."""
    [name] = re.findall(r"!\[.+?\]\((leaderboard/figures/.+?)\)", (ROOT / "README.md").read_text())
    assert (ROOT / name).is_file()


# The text around them


def test_a_column_that_repeats_another_is_left_out() -> None:
    """Without corruptions all that is out-of-domain is external."""

    def plain(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        splits = {
            "in_domain": draft["metrics"]["in_domain"],
            "scanner": draft["metrics"]["scanner"],
        }
        return {**draft, "metrics": splits}

    assert "| External |" not in ranking.render_markdown([rank(submission("a", change=plain))])
    assert "| External | Corrupted |" in ranking.render_markdown([rank(submission("a"))])
    free = ranking.render_markdown(
        [rank(submission("a", pretraining={"objective": "none", "domains": []}))]
    )
    assert "Total FLOPs" not in free
    paid = submission("a", pretraining={"domains": [], "cost": {"flops": 1e15}})
    assert "| Total FLOPs |" in ranking.render_markdown([rank(paid)])
