"""Build the site from pages that also read well on a forge.

Some pages stand at the top of the checkout, where a forge looks for them. The site takes them from
there, so that each text exists once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
PUBLIC = ["evaluate", "leaderboard", "load_encoder", "register", "EncoderCard", "Record"]
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages at the top of the checkout."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at pages of the site; another file of the checkout is named instead."""
    top = page.file.src_uri in PAGES.values()
    markdown = _LINK.sub(lambda match: _redirect(match, top=top), markdown)
    reference = "\n".join(f"::: medtransfer.{name}\n" for name in PUBLIC)
    return markdown.replace("<!-- reference -->", reference)


def _redirect(match: re.Match[str], *, top: bool) -> str:
    text, target, anchor = match[1], match[2], match[3] or ""
    if "://" in target or not target:
        return match[0]
    path = (ROOT if top else ROOT / "docs").joinpath(target).resolve()
    name = path.relative_to(ROOT).as_posix()
    if name in PAGES:
        return f"[{text}]({PAGES[name]}{anchor})"
    if path.parent == ROOT / "docs":
        return f"[{text}]({path.name}{anchor})"
    return text if name in text else f"{text} (`{name}`)"
