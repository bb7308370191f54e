"""Names of test splits: plain ones, and graded corruptions by kind and severity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

IN_DOMAIN = "in_domain"


@dataclass(frozen=True, slots=True)
class SplitName:
    """The name of a test split.

    Records and archives hold it as text: ``<family>``, or ``<family>/<kind>/<severity>`` for a
    graded corruption.

    Attributes:
        family: Name on the task card, which all of its corruptions share.
        kind: Kind of the corruption; ``None`` for a plain split.
        severity: Severity of the corruption, from 1; ``None`` for a plain split.
    """

    family: str
    kind: str | None = None
    severity: int | None = None

    @classmethod
    def parse(cls, text: str) -> SplitName:
        """Read a name as records hold it.

        Raises:
            ValueError: When the text is neither form.
        """
        return _parse(text)

    @property
    def corrupted(self) -> bool:
        """Return whether the split is a graded corruption of another one."""
        return self.kind is not None

    def __str__(self) -> str:
        """Return the name as records hold it."""
        return f"{self.family}/{self.kind}/{self.severity}" if self.corrupted else self.family


@lru_cache(maxsize=4096)  # a board reads the same few hundred names millions of times
def _parse(text: str) -> SplitName:
    family, *rest = text.split("/")
    if not rest:
        return SplitName(family)
    if len(rest) == 2 and rest[1].isdecimal():
        name = SplitName(family, rest[0], int(rest[1]))
        if str(name) == text:
            return name
    raise ValueError(f"'{text[:80]}' is not the name of a test split")
