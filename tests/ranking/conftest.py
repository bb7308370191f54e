"""The page in a browser, and the committed study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medtransfer import ranking
from medtransfer.ranking.published.board import Published, load_published
from medtransfer.specs.task import Suite
from tests.helpers.boards import QUICK, SUITES
from tests.helpers.browser import CHROMIUM, ENCODERS, FLAGS, Open, write
from tests.helpers.published import COMMITTED


@pytest.fixture(scope="session")
def board_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One board."""
    boards = ranking.boards(ENCODERS, SUITES, {"quick": QUICK})
    return write(tmp_path_factory.mktemp("page"), boards, ENCODERS)


@pytest.fixture(scope="session")
def cherti() -> Published:
    [published] = [p for p in load_published(COMMITTED) if p.study.name == "cherti-jitsev-2021"]
    return published


@pytest.fixture(scope="session")
def boards_file(tmp_path_factory: pytest.TempPathFactory, cherti: Published) -> Path:
    """Two boards, of which the second ranks one encoder more, and a published one."""
    suites = {**SUITES, "ct": Suite(tasks=["slices", "retina"])}
    boards = ranking.boards(ENCODERS, suites, {"quick": QUICK})
    return write(tmp_path_factory.mktemp("pages"), boards, ENCODERS, studies=[cherti])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, board_file: Path) -> Iterator[Open]:
    """Open a file at a state; at the end, nothing may be on the console or the network."""
    complaints: list[str] = []
    contexts = []

    def start(state: str = "", file: Path = board_file, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto(f"{file.as_uri()}{state}")
        opened = f"{file.as_uri()}"
        complaints[:] = [text for text in complaints if not text.startswith(opened)]
        page.wait_for_selector("body[data-drawn]")
        return page

    yield start
    for context in contexts:
        context.close()
    # Opening a file is the one request of a page.
    assert [text for text in complaints if not text.startswith("file:")] == []
