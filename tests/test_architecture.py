"""The house: imports run one way, light commands stay light, cards and README are true."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import medtransfer
from tests.conftest import ROOT
from tests.helpers.rooms import FLOORS

SOURCE = ROOT / "benchmark" / "medtransfer"
TESTS = ROOT / "tests"

# Packages that a finished command, a list or the leaderboard imports: they must stay light.
LIGHT = {"core": {"torch", "pandas"}, "specs": {"torch", "pandas"}, "ranking": {"torch"}}


def imports(path: Path) -> set[str]:
    """Dotted names that a module imports anywhere but for its type hints."""
    tree = ast.parse(path.read_text())
    hints = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and ast.unparse(guard.test) == "TYPE_CHECKING"
        for node in ast.walk(guard)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hints:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def find_modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in SOURCE.rglob("*.py")
    }


def test_every_module_is_in_a_room() -> None:
    """No module lies loose at the package's top, and each package stands on one floor."""
    assert [path.name for path in SOURCE.glob("*.py")] == ["__init__.py"]
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set.union(*FLOORS)


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*/**/*.py")), ids=lambda p: p.stem)
def test_imports_run_one_way(path: Path) -> None:
    """No module imports a package beside or above its own; there is no exemption."""
    room = path.relative_to(SOURCE).parts[0]
    floor = next(number for number, rooms in enumerate(FLOORS) if room in rooms)
    below = set[str]().union(*FLOORS[:floor])
    parts = [name.split(".") for name in imports(path)]
    used = {part[1] for part in parts if part[0] == "medtransfer" and len(part) > 1}
    assert used <= below | {room}, path
    assert not {part[0] for part in parts} & LIGHT.get(room, set()), path


def test_no_import_circles() -> None:
    """Modules can be put in an order in which each imports only earlier ones."""
    modules = find_modules()

    def home(name: str) -> str:
        while name not in modules and "." in name:
            name = name.rpartition(".")[0]
        return name

    graph = {
        name: {home(used) for used in imports(path) if used.startswith("medtransfer")} - {name}
        for name, path in modules.items()
    }
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "encoders"],
        ["list", "tasks"],
        ["list", "scores"],
        ["show", "v1"],
        ["leaderboard", "--out", "board", "--submissions", "few"],
        ["validate", str(ROOT / "tasks" / "suites.yaml")],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_light_commands_do_not_import_torch(arguments: list[str], tmp_path: Path) -> None:
    """Help, lists and the leaderboard do not wait for torch."""
    code = f"""
import sys
sys.argv = ["bench", *{arguments!r}]
from medtransfer.cli import main
try:
    main()
except SystemExit:
    pass
heavy = sorted({{"torch", "timm", "torchvision", "skimage"}} & set(sys.modules))
print("HEAVY", heavy)
"""
    for name in ("hog", "published"):
        shutil.copytree(ROOT / "submissions" / name, tmp_path / "few" / name)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert run.stdout.splitlines()[-1] == "HEAVY []"


def test_help_imports_neither_pandas_nor_pydantic() -> None:
    """`bench --help` stays under its 0.4 s because it imports next to nothing."""
    code = """
import sys
sys.argv = ["bench", "--help"]
from medtransfer.cli import main
try:
    main()
except SystemExit:
    pass
print("HEAVY", sorted({"pandas", "numpy", "pydantic"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "HEAVY []"


def test_public_names() -> None:
    """The public interface is exactly these names, and each can be had."""
    assert medtransfer.__all__ == [
        "EncoderCard",
        "Record",
        "evaluate",
        "leaderboard",
        "load_encoder",
        "register",
    ]
    for name in medtransfer.__all__:
        assert getattr(medtransfer, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = medtransfer.evalute


def test_modules_stay_short() -> None:
    """No module is over 400 lines, and no test file either."""
    long = {
        str(path.relative_to(ROOT)): count
        for folder in (SOURCE, ROOT / "baselines", TESTS)
        for path in folder.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_tests_mirror_the_package() -> None:
    """Every folder of tests has the name of a package, or is one that all of them share."""
    shared = {"golden", "helpers", "performance", "faults", "hostile"}
    folders = {path.name for path in TESTS.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= set.union(*FLOORS) | shared


def test_no_test_file_imports_another() -> None:
    """Several test files share what is in ``tests.helpers`` or a ``conftest``."""
    names = {name for path in TESTS.rglob("*.py") for name in imports(path)}
    assert not [name for name in names if name.startswith("tests.") and ".test_" in name]


def test_every_package_ships() -> None:
    """The distribution names every package; one that is missing fails only when installed."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["version"] == medtransfer.__version__
    setuptools = settings["tool"]["setuptools"]
    mapped = {name for name in setuptools["package-dir"] if name}
    folders = {
        ".".join(path.parent.relative_to(SOURCE.parent).parts)
        for path in SOURCE.rglob("__init__.py")
    }
    assert set(setuptools["packages"]) == folders | mapped


def test_ci_runs_the_readme_as_written() -> None:
    """The README's first two shell blocks are the two promised commands, one line each."""
    blocks = [
        block.split("```")[0].strip()
        for block in (ROOT / "README.md").read_text().split("```sh\n")[1:3]
    ]
    assert all("\n" not in block for block in blocks)
    assert "bench evaluate --encoder resnet18 --protocol quick" in blocks[0]
    assert blocks[1].endswith("python -m pytest")
    assert "block 1" in (ROOT / ".ci" / "run").read_text()


def test_no_weights_or_large_files_are_committed() -> None:
    """Git holds small text and arrays only."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert not [f.name for f in files if f.suffix in {".pt", ".pth", ".safetensors", ".png"}]
    limits = {"index.html": 3 * 2**20}  # the page, with its charting library
    large = [f for f in files if f.exists() and f.stat().st_size > limits.get(f.name, 2**20)]
    assert not [f.name for f in large]


def test_show_prints_json_of_everything_listed(bench: object) -> None:
    """Whatever `bench list` names, `bench show NAME --json` prints as JSON."""
    for kind in ("tasks", "encoders", "suites", "scores", "protocols"):
        rows = json.loads(bench("list", kind, "--json").out)  # type: ignore[operator]
        assert rows
        for row in rows:
            shown = bench("show", next(iter(row.values())), "--json")  # type: ignore[operator]
            assert shown.code == 0
            assert json.loads(shown.out)
