"""Names of test splits: what is read is what was written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtransfer.specs.source import CorruptSource
from medtransfer.specs.split_name import SplitName
from medtransfer.specs.task import load_tasks

SLUGS = st.text(alphabet="abz09-", min_size=1, max_size=8)
NAMES = st.builds(SplitName, SLUGS) | st.builds(SplitName, SLUGS, SLUGS, st.integers(1, 5))


@settings(deadline=None)
@given(NAMES)
def test_a_name_survives_its_text(name: SplitName) -> None:
    """Written and read again, a name is the same, and so is what it says of the split."""
    assert SplitName.parse(str(name)) == name
    assert str(name).count("/") == (2 if name.corrupted else 0)


@settings(deadline=None)
@given(st.text(alphabet="ab1/-0 ", max_size=12))
def test_no_two_texts_are_one_name(text: str) -> None:
    """Whatever is read gives the very same text; all else is refused."""
    try:
        name = SplitName.parse(text)
    except ValueError as error:
        assert "is not the name of a test split" in str(error)
    else:
        assert str(name) == text


@pytest.mark.parametrize("text", ["a/b", "a/b/c", "a/b/01", "a/b/1/c", "a/b/-1", "a/b/²"])
def test_other_texts_are_refused(text: str) -> None:
    """A part that is missing, too many, or no number is no name."""
    with pytest.raises(ValueError, match="is not the name of a test split"):
        SplitName.parse(text)


def test_every_card_has_names_that_say_what_the_split_is() -> None:
    """Of each shipped card: the family stands on the card, kind and severity in the source."""
    for card in load_tasks().values():
        for text, source in card.test_splits.items():
            name = SplitName.parse(text)
            assert name.family in {"in_domain", *card.out_of_domain}
            assert name.corrupted == isinstance(source, CorruptSource)
            if isinstance(source, CorruptSource):
                assert (source.kinds, source.severities) == ([name.kind], [name.severity])
