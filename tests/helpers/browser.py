"""The leaderboard page in a real browser: its boards, and how to read it."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medtransfer.ranking import Board, Submission
from medtransfer.ranking.published.board import Published
from medtransfer.ranking.report.page import render_page
from medtransfer.specs.record import Cell
from tests.helpers.boards import FINETUNED, submission

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]
Open = Callable[..., Any]
PUBLISHED = "#board=published%3Acherti-jitsev-2021"


def vary(seed: int) -> Callable[[Cell, dict[str, Any]], dict[str, Any]]:
    """Other numbers in every cell and split, the same for the same seed."""

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        rng = random.Random(f"{seed} {cell}")
        draft["task"]["domain"] = {"slices": "ct", "retina": "ct"}.get(
            cell.task, draft["task"]["domain"]
        )
        draft["cost"]["adaptation_flops"] *= 4 - seed
        values = {name: {"auroc": rng.uniform(0.4, 1)} for name in draft["metrics"]}
        return {**draft, "metrics": values}

    return change


def lack(split: str, seed: int) -> Callable[[Cell, dict[str, Any]], dict[str, Any]]:
    """The same, with no value on one split of one cell."""

    def change(cell: Cell, draft: dict[str, Any]) -> dict[str, Any]:
        draft = vary(seed)(cell, draft)
        if cell == FINETUNED:
            draft["metrics"][split] = {"auroc": None}
        return draft

    return change


ENCODERS: list[Submission] = [
    submission(
        "alpha",
        change=vary(1),
        pretraining={"domains": ["ct"], "objective": "mae", "cost": {"flops": 1e18}},
        url="https://example.org/alpha",
    ),
    submission("beta", change=vary(2), pretraining={"domains": ["natural"]}),
    submission("gamma", change=lack("scanner", 3), architecture={"timm": "vit_tiny_patch16_224"}),
    submission("partial", change=lack("in_domain", 0)),
]


def write(
    folder: Path,
    boards: list[Board],
    encoders: list[Submission],
    studies: Sequence[Published] = (),
) -> Path:
    path = folder / "index.html"
    cards = {one.card.name: one.card for one in encoders}
    path.write_text(render_page(boards, cards, studies=studies))
    return path


def visit(page: Any, state: str) -> None:
    """Follow a link to another state, in the same page."""
    page.evaluate(
        """state => new Promise(done => {
            addEventListener("hashchange", () => setTimeout(done), {once: true});
            location.hash = state;
        })""",
        state,
    )
    page.wait_for_selector("body[data-drawn]")


def encoders(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".board th[scope=row] a").all_inner_texts()]


def numbers(page: Any, title: str) -> dict[str, float | None]:
    """A column of the table by encoder, as shown."""
    titles = [text.strip() for text in page.locator(".board thead th").all_inner_texts()]
    position = titles.index(title) + 1
    cells = page.locator(f".board tbody tr > :nth-child({position})").all_inner_texts()
    shown = [re.match(r"[\u2212\d.]+", cell.strip()) for cell in cells]
    values = [float(found.group().replace("\u2212", "-")) if found else None for found in shown]
    return dict(zip(encoders(page), values, strict=True))
