"""Page of the leaderboard: one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template

from medtransfer.ranking.boards.board import Board
from medtransfer.ranking.published.board import Published
from medtransfer.ranking.report.charts import chart_library
from medtransfer.ranking.report.site.payload import embed_json, payload
from medtransfer.specs.encoder import EncoderCard

_STATIC = files("medtransfer.ranking.report.site")
# In the order in which they build on each other.
_SCRIPTS = ("elements", "data", "state", "table", "figures", "transfer", "study", "encoder", "main")


def render_page(
    boards: Sequence[Board],
    cards: Mapping[str, EncoderCard],
    *,
    studies: Sequence[Published] = (),
) -> str:
    """Write the page, byte for byte reproducible.

    All that a card or a record says stands in one block of JSON; only the scripts and the style
    whose hashes the page's security policy names can run, and nothing can be loaded.

    Args:
        boards: In the order in which the page offers them.
        cards: By encoder; every encoder of a board needs its card.
        studies: Published results, each on a board of its own after the measured ones.
    """
    style = _read("style.css")
    scripts = "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
    code = [chart_library(), f'(() => {{\n"use strict";\n{scripts}}})();\n']
    library, script = (text.replace("</script", r"<\/script") for text in code)
    return Template(_read("template.html")).substitute(
        script_hashes=f"{_hash(library)} {_hash(script)}",
        style_hash=_hash(style),
        style=style,
        data=embed_json(payload(boards, cards, studies)),
        library=library,
        script=script,
    )


def _read(name: str) -> str:
    return _STATIC.joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression of a content security policy for exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
