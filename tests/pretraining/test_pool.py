"""Images in the order of their steps."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medtransfer.core.errors import InputError
from medtransfer.pretraining.pool import choose_items, share_out
from tests.helpers.pools import make_pool, make_split


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(4, 40), min_size=1, max_size=3), st.integers(2, 50))
def test_each_pass_sees_every_image_once(sizes: list[int], batch: int) -> None:
    """Batches cut passes over all images; any pass holds each once, whatever the batch."""
    pool = make_pool(*sizes, batch=batch)
    steps = -(-3 * len(pool) // batch)
    stream = np.concatenate([pool.batch(step) for step in range(steps)])
    for number in range(3):
        seen = stream[number * len(pool) : (number + 1) * len(pool)]
        assert sorted(seen) == list(range(len(pool)))
    assert not np.array_equal(stream[: len(pool)], stream[len(pool) : 2 * len(pool)])


def test_a_batch_depends_on_its_step_alone() -> None:
    """Whoever asks for a step gets its images, without the steps before it."""
    pool, other = make_pool(30, 20), make_pool(30, 20)
    expected = [pool.batch(step) for step in range(20)]
    assert all(np.array_equal(other.batch(step), expected[step]) for step in (17, 3, 11))


def test_balanced_passes_see_classes_equally_often() -> None:
    """Each class of each source gets the same share of a pass, however rare it is."""
    pool = make_pool(40, 12, batch=52, balanced=True)
    labels = np.concatenate([10 * i + source.labels for i, source in enumerate(pool.sources)])
    counts = np.unique(labels[pool.batch(0)], return_counts=True)[1]
    assert len(counts) == 6
    assert counts.max() - counts.min() <= 1


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 200), st.data())
def test_fewer_images_are_among_more(size: int, data: st.DataObject) -> None:
    """Subsets are nested, and each class keeps its share to within one image."""
    split = make_split(np.array([0, 0, 1, 2])[np.arange(size) % 4])
    few = data.draw(st.integers(1, size))
    more = data.draw(st.integers(few, size))
    chosen = choose_items(split, few, task="a")
    assert len(set(chosen)) == few
    assert set(chosen) <= set(choose_items(split, more, task="a"))
    for label in range(3):
        share = (split.labels == label).mean() * few
        assert abs((split.labels[chosen] == label).sum() - share) <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 500), min_size=1, max_size=5), st.data())
def test_sources_give_in_proportion(sizes: list[int], data: st.DataObject) -> None:
    """The parts add up, none is over its source, and more images never take from a source."""
    total = sum(sizes)
    wanted = data.draw(st.integers(1, total))
    try:
        counts = share_out(sizes, wanted)
    except InputError:
        assert wanted < total
        return
    assert sum(counts) == wanted
    more = share_out(sizes, data.draw(st.integers(wanted, total)))
    assert all(few <= many for few, many in zip(counts, more, strict=True))
    assert all(0 < count <= size for count, size in zip(counts, sizes, strict=True))
    assert all(abs(c - wanted * s / total) <= 2 for c, s in zip(counts, sizes, strict=True))
    assert share_out(sizes, 1.0) == sizes == share_out(sizes, None)
