"""The documentation: its examples run, its commands parse, its links lead somewhere."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer
import yaml

import medtransfer
from medtransfer.cli.app import app
from medtransfer.encoders import registry as encoders
from medtransfer.encoders.loading import load_encoder
from medtransfer.specs.pretraining import Grid, load_recipe
from medtransfer.transferability import registry as scores
from tests.conftest import ROOT, Bench
from tests.helpers.rooms import FLOORS

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def head(self) -> str:
        """Its first line, without the sign of a comment; a path names the file that it is."""
        line = self.text.partition("\n")[0]
        return line.removeprefix("# ") if line.startswith("# ") else ""

    @property
    def body(self) -> str:
        """All but the first line."""
        return self.text.partition("\n")[2]


def read_blocks(name: str) -> list[Block]:
    """The fenced blocks of a page of ``docs/``."""
    text = (ROOT / "docs" / name).read_text()
    return [Block(match[2], match[3]) for match in _FENCE.finditer(text)]


def section(name: str, title: str) -> list[Block]:
    """The blocks of a page between a heading and the next one of its level."""
    text = (ROOT / "docs" / name).read_text()
    _, found, rest = text.partition(f"\n## {title}\n")
    assert found, f"{name}: no section '{title}'"
    return [Block(m[2], m[3]) for m in _FENCE.finditer(re.split(r"^## ", rest, flags=re.M)[0])]


def write_files(blocks: list[Block], folder: Path) -> None:
    """Write the blocks that begin with the name of a file."""
    for block in blocks:
        if re.fullmatch(r"[\w/.-]+\.(py|yaml)", block.head):
            path = folder / block.head
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body)


def iterate_commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run_walkthrough(blocks: list[Block], folder: Path, bench: Bench) -> None:
    """Write the files, run the commands in their order, compare what the last one prints."""
    write_files(blocks, folder)
    printed = ""
    for block in blocks:
        if block.language == "text":
            check_output(block.text, printed)
        for words in iterate_commands(block.text) if block.language == "sh" else ():
            if words[0] == "python":
                runpy.run_path(str(folder / words[1]), run_name="__main__")
                continue
            outcome = bench(*words[1:])
            assert outcome.code == 0, f"{shlex.join(words)}\n{outcome.out}{outcome.err}"
            printed = outcome.out


def check_output(expected: str, printed: str) -> None:
    """Compare what a page shows with what was printed; three dots stand for anything."""
    parts = [" ".join(part.split()) for part in expected.split("...")]
    pattern = ".*".join(re.escape(part) for part in parts)
    assert re.fullmatch(pattern, " ".join(printed.split())), printed


_DRIVER = """
import json, runpy, sys
from medtransfer.cli import main
sys.modules["altair"] = None  # the page and the figures would take most of the time
for words in json.loads(sys.argv[1]):
    sys.argv = words
    try:
        if words[:2] == ["python", "-m"]:
            sys.argv = words[2:]
            runpy.run_module(words[2], run_name="__main__")
        elif words[0] == "python":
            runpy.run_path(words[1], run_name="__main__")
        else:
            main()
    except SystemExit as end:
        assert not end.code, words
"""


def run_changed(blocks: list[Block], checkout: Path) -> str:
    """Run the commands of some blocks in one process, with the changed copy of the package."""
    commands = [w for b in blocks if b.language == "sh" for w in iterate_commands(b.text)]
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, json.dumps(commands)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout / "benchmark")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package in which the documentation's changes of code are made."""
    folder = tmp_path / "checkout"
    package = folder / "benchmark" / "medtransfer"
    skipped = shutil.ignore_patterns("__pycache__", "*.npz")
    shutil.copytree(ROOT / "benchmark" / "medtransfer", package, ignore=skipped)
    for name in ("tasks", "baselines"):
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
        (package / name).symlink_to(folder / name)
    for name in ("hog", "pixels"):
        shutil.copytree(ROOT / "submissions" / name, folder / "submissions" / name)
    (folder / "submissions" / "__init__.py").touch()
    (package / "submissions").symlink_to(folder / "submissions")
    return folder


def apply_changes(blocks: list[Block], folder: Path) -> None:
    """Write new files, and insert into others what their blocks say, where they say it."""
    write_files(blocks, folder)
    for block in blocks:
        name, _, place = block.head.partition(", ")
        if not place:
            continue
        path = folder / name
        text = path.read_text()
        how, _, anchor = place.rpartition(" ")
        if place == "with the imports":
            at = text.index("from medtransfer.")
        else:
            assert how in ("above", "at the end of"), block.head
            at = re.search(rf"^{anchor}\b", text, re.M).start()  # type: ignore[union-attr]
            if how == "at the end of":
                at += re.search(r"^[)}\]]", text[at:], re.M).start()  # type: ignore[union-attr]
        gap = "\n\n" if how == "above" else ""
        path.write_text(text[:at] + block.body.rstrip("\n") + "\n" + gap + text[at:])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_task(desk: Path, bench: Bench) -> None:
    """The task of `docs/tasks.md` is made, validated and evaluated as it is written there."""
    run_walkthrough(section("tasks.md", "Add a task"), desk, bench)


def test_a_source_kind(checkout: Path) -> None:
    """The kind of source of `docs/tasks.md` reads its arrays once its code is in place."""
    blocks = section("tasks.md", "Add a kind of source")
    apply_changes(blocks, checkout)
    [expected] = [block for block in blocks if block.language == "text"]
    check_output(f"{expected.text}...2 passed...", run_changed(blocks, checkout))


def test_encoders(desk: Path, bench: Bench) -> None:
    """The encoders of `docs/encoders.md` load, and give what the page says."""
    run_walkthrough(section("encoders.md", "A folder with encoder.yaml"), desk, bench)
    run_walkthrough(section("encoders.md", "A Python file"), desk, bench)
    encoder = load_encoder("my_pyramid.py")
    assert encoder.pyramid_channels == [16, 32, 64, 128]
    assert encoder(torch.zeros(2, 40, 50, dtype=torch.uint8)).shape == (2, 128)


def test_a_shipped_encoder(checkout: Path) -> None:
    """A file in `baselines/` is enough for an encoder to be listed and shown."""
    blocks = section("encoders.md", "Add an encoder to the shipped ones")
    write_files(blocks, checkout)
    assert "mobilenetv3" in run_changed(blocks, checkout)


def test_a_recipe(desk: Path, bench: Bench) -> None:
    """The recipe of `docs/pretraining.md` pre-trains an encoder; its grid is one."""
    run_walkthrough(section("pretraining.md", "Add a recipe"), desk, bench)
    assert load_recipe("gentle.yaml").name == "gentle"
    write_files(section("pretraining.md", "A study in one file"), desk)
    Grid.parse(yaml.safe_load((desk / "study.yaml").read_text()), origin="study.yaml")


def test_a_transferability_score(desk: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score of `docs/scores.md` is computed from its file."""
    keep_registries(monkeypatch)
    run_walkthrough(section("scores.md", "Add a score"), desk, bench)


def test_a_board_column(checkout: Path) -> None:
    """The column of `docs/submissions.md` stands in the CSV and in the Markdown."""
    blocks = section("submissions.md", "Add a board column")
    apply_changes(blocks, checkout)
    run_changed(blocks, checkout)
    assert "one_shot" in (checkout / "my-board" / "leaderboard.csv").read_text()
    page = checkout / "my-board" / "boards" / "quick_phantom_classification.md"
    assert "| 1-shot |" in page.read_text()


def test_python_examples(desk: Path) -> None:
    """The blocks of `docs/python.md` run one after the other."""
    names: dict[str, object] = {}
    for block in read_blocks("python.md"):
        exec(compile(block.text, "python.md", "exec"), names)
    assert names["vectors"].shape[0] == 2  # type: ignore[attr-defined]


def keep_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget, after the test, what an example registers."""
    for module, loaded in ((encoders, encoders.registered), (scores, scores.registered_scores)):
        loaded()
        monkeypatch.setattr(module, "_REGISTRY", dict(module._REGISTRY))


EXAMPLES = [*medtransfer.__all__]
EXAMPLES += ["encoders.registry.built_by", "transferability.registry.register_score"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_examples(name: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each public function has an example in its docstring, and it gives what it says."""
    keep_registries(monkeypatch)
    module, _, own = name.rpartition(".")
    home = importlib.import_module(f"medtransfer.{module}") if module else medtransfer
    documented = getattr(home, own)
    names = {"medtransfer": medtransfer, own: documented}
    text = inspect.getdoc(documented) or ""
    examples = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert examples.examples
    printed: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(examples, out=printed.append).failed == 0, "".join(printed)


def find_bench(words: list[str]) -> Iterator[list[str]]:
    """The `bench` commands in a line, alone, behind a launcher or in a quoted argument."""
    for place, word in enumerate(words):
        if word.startswith("bench "):
            yield shlex.split(word)
        elif word == "bench" and place + 1 < len(words):
            yield words[place:]
            return


def parse(words: list[str]) -> None:
    """Read a command as the real command line does, without running it."""
    command, arguments = typer.main.get_command(app), words[1:]
    context = command.make_context("bench", [], resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, arguments)
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    command.make_context(name, list(arguments), parent=context.parent)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_parse(page: Path) -> None:
    """Every `bench` command of every page has the options that the real command line knows."""
    for match in _FENCE.finditer(page.read_text()):
        for words in iterate_commands(match[3]) if match[2] == "sh" else ():
            for found in find_bench(words):
                parse(found)
    for code in re.findall(r"`(bench [a-z]+ [^`<>]*--[^`<>]+)`", _FENCE.sub("", page.read_text())):
        try:
            parse(shlex.split(code))
        except Exception as error:  # a sentence may leave out what it does not speak of
            assert type(error).__name__ in ("MissingParameter", "BadOptionUsage", "Exit"), code


def test_a_wrong_option_is_noticed() -> None:
    """The test above fails on an option that does not exist."""
    parse(["bench", "data", "fetch", "--suite", "main-28"])
    with pytest.raises(Exception, match="--suit"):
        parse(["bench", "evaluate", "--encoder", "hog", "--suit", "phantom"])


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as forges and the site make them."""
    text = _FENCE.sub("", path.read_text())
    heads = re.findall(r"^#+ (.+)$", text, re.M)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[(.+?)\]\(.*?\)", r"\1", head)) for head in heads]
    return {head.strip().lower().replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_resolve(page: Path) -> None:
    """Links between pages lead to files and headings that are there."""
    text = _FENCE.sub("", page.read_text())
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_named_files_exist(page: Path) -> None:
    """A file of the checkout that a page names is there, unless the page tells how to make it."""
    text = page.read_text()
    made = {Block(match[2], match[3]).head for match in _FENCE.finditer(text)}
    text = _FENCE.sub("", text)
    named = re.findall(
        r"`((?:benchmark|tests|baselines|docs)/[\w./-]+|[a-z_]+/[\w/]+\.(?:py|yaml))`", text
    )
    for name in {name for name in named if not re.match(r"my-|ward_|results/|my_", name)} - made:
        places = [ROOT / name, ROOT / "benchmark" / "medtransfer" / name]
        places += [ROOT / "benchmark" / "medtransfer" / "ranking" / name]
        assert any(place.exists() for place in places), f"{page.name}: {name}"


def test_the_picture_of_the_rooms() -> None:
    """The floors in `CONTRIBUTING.md` are those that the test of imports enforces, top first."""
    picture = (ROOT / "CONTRIBUTING.md").read_text().partition("## The rooms")[2].split("```")[1]
    floors = [set(line.strip().split("   ")[0].split("  ")) for line in picture.splitlines()[1:]]
    assert [floor for floor in floors if floor not in ({"|"}, {""})] == FLOORS[::-1]


def test_the_readme_is_short() -> None:
    """A visitor reads it in a few minutes: at most 8 KB, and every page is linked from it."""
    text = (ROOT / "README.md").read_bytes()
    assert len(text) <= 8192
    for path in (ROOT / "docs").glob("*.md"):
        assert f"docs/{path.name}".encode() in text, path.name


def test_every_page_is_on_the_site() -> None:
    """The site's menu names each page once."""
    menu = re.findall(r"(\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert sorted(menu) == sorted([*pages, "contributing.md", "security.md", "changelog.md"])


def test_the_citation_is_current() -> None:
    """`CITATION.cff` has the fields that its format requires, and this version."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] == medtransfer.__version__
    assert citation["license"] == project["license"]
