"""Derive seeds of local random generators from text."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """Derive a 63-bit seed from the parts' text."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
