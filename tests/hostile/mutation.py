"""Damage and malice: bytes changed at random places, values replaced by what no author writes."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import strategies as st

__all__ = ["damaged", "hostile_json", "hostile_yaml"]

_PIECES = [
    b"\x00",
    b"\xff\xfe",
    b"\n",
    b"\r\n",
    b'"',
    b",",
    b"{",
    b"]",
    b"- ",
    b": ",
    b"&a [*a, *a]",
    b"!!python/object/apply:os.system ['true']",
    b"\x1b[2J",
    b"9" * 400,
    b"1e999",
    b"NaN",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"- " * 3000,
    b"PK\x03\x04",
    b"PK\x05\x06" + bytes(18),
    b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
    b"\xff" * 8,
    "\u202e\U0001f4a3".encode(),
]
_VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    10**40,
    2**63,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x" * 5000,
    "a\x00b",
    "\x1b[31mred",
    "../../../../etc/passwd",
    "/etc/passwd",
    "C:\\windows",
    "\\\\host\\share",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\U0001f4a3\u202e",
    "1_000",
    "0x10",
    [],
    {},
    [[]],
    {"": {}},
    [None] * 50,
    {str(i): i for i in range(50)},
    "2026-01-01",
]


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with up to four changes: flipped bits, cuts, insertions, repetitions."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(found) - 1)))
        length = draw(st.sampled_from([1, 1, 2, 4, 8, 64, 1024]))
        match draw(st.sampled_from(["flip", "set", "cut", "delete", "insert", "repeat", "zero"])):
            case "flip" if found:
                found[place] ^= 1 << draw(st.integers(0, 7))
            case "set":
                found[place : place + 4] = draw(st.binary(min_size=4, max_size=4))
            case "cut":
                del found[place:]
            case "delete":
                del found[place : place + length]
            case "insert":
                found[place:place] = draw(st.sampled_from(_PIECES))
            case "repeat":
                found[place:place] = found[place : place + length]
            case "zero":
                found[place : place + length] = bytes(len(found[place : place + length]))
    return bytes(found)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value inside a document, and to the document."""
    inner = (
        tree.items() if isinstance(tree, dict) else enumerate(tree if type(tree) is list else [])
    )
    return [path, *(place for key, value in inner for place in _places(value, (*path, key)))]


@st.composite
def _replaced(draw: st.DrawFn, document: Any) -> Any:
    """The document with up to three values or keys that no author writes."""
    found = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(found)))
        value = copy.deepcopy(draw(st.sampled_from(_VALUES)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return value
            continue
        inside = found
        for key in path[:-1]:
            inside = inside[key]
        match draw(st.sampled_from(["value", "value", "value", "remove", "key"])):
            case "remove":
                del inside[path[-1]]
            case "key" if isinstance(inside, dict):
                inside[
                    draw(st.sampled_from(["", "x", "schema", "__class__", "../x", "a" * 300]))
                ] = value
            case _:
                inside[path[-1]] = value
    return found


def hostile_yaml(content: bytes) -> st.SearchStrategy[bytes]:
    """A YAML document, damaged in its bytes or in its values."""
    document = yaml.safe_load(content)
    dumped = _replaced(document).map(lambda d: yaml.safe_dump(d, allow_unicode=True).encode())
    return st.one_of(damaged(content), dumped, dumped)


def hostile_json(content: bytes) -> st.SearchStrategy[bytes]:
    """Lines of JSON, of which one is damaged in its bytes or in its values."""
    lines = content.splitlines()
    values = _replaced(json.loads(lines[0])).map(
        lambda d: b"\n".join([json.dumps(d).encode(), *lines[1:]]) + b"\n"
    )
    return st.one_of(damaged(content), values, values)
