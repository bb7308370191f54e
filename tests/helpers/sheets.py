"""Colours of contact sheets."""

from __future__ import annotations

TRUTH, PREDICTION, GROUND = (255, 222, 33), (70, 170, 255), (22, 24, 28)
