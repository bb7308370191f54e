"""Map the labels of a corpus to the classes of a card."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medtransfer.core.errors import InputError, suggest
from medtransfer.data.sources.decoded import Decoded
from medtransfer.specs.task import TaskCard

_NOT_THERE = 255  # marks mask ids that belong to no class


def count_labels(labels: NDArray[np.int64], classes: int) -> list[int]:
    """Count the items of each class (N,), or the positives of each label (N, L)."""
    if labels.ndim == 2:
        return [int(count) for count in (labels == 1).sum(axis=0)]
    return [int(count) for count in np.bincount(labels, minlength=classes)]


def find_classes(masks: NDArray[np.uint8], *, enough: int) -> set[int]:
    """Find the ids that occur in masks (N, H, W), mask by mask until there are ``enough``."""
    ids: set[int] = set()
    for mask in masks:
        ids |= set(np.flatnonzero(np.bincount(mask.reshape(-1))).tolist())
        if len(ids) >= enough:
            break
    return ids


def conform(decoded: Decoded, card: TaskCard, select: dict[str, list[str]] | None) -> Decoded:
    """Map a split to the card's classes, dropping items of no class.

    Args:
        decoded: The split as its source returns it.
        card: The task.
        select: For each class the labels of the source that fall into it, or ``None`` where the
            source's labels are the classes.

    Returns:
        The split with labels in the form of the card's kind (see `Decoded`).

    Raises:
        InputError: When labels, names or masks contradict the card.
    """
    if card.kind == "segmentation":
        return _conform_masks(decoded, card, select)
    if decoded.masks is not None and decoded.labels.shape[1:] == (0,):
        raise InputError(
            f"{decoded.origin}: holds masks, but the card's kind is {card.kind}; "
            "kind: segmentation is expected"
        )
    names = decoded.label_names
    if names is not None and decoded.labels.ndim == 1:
        wrong = decoded.labels[(decoded.labels < 0) | (decoded.labels >= len(names))]
        if wrong.size:
            raise InputError(f"{decoded.origin}: label {wrong[0]} has no name among {names}")
    if select is None and names is not None:
        select = _select_by_name(decoded, card)
    if select is None:
        _check_labels(decoded.labels, card, decoded.origin)
        return replace(decoded, label_names=card.classes, masks=None)
    matches, known = _match(decoded, card, select)
    if card.kind == "multilabel":
        labels = np.where(matches, 1, np.where(known, 0, -1)).astype(np.int64)
        return replace(decoded, labels=labels, label_names=card.classes, masks=None)
    # An unknown label of a selected class may be true, and the item would fit two classes.
    named = [card.classes.index(name) for name in select]
    keep = (matches.sum(axis=1) == 1) & (matches | known)[:, named].all(axis=1)
    if not keep.any():
        raise InputError(f"{decoded.origin}: select: no item fits any class")
    chosen = replace(decoded, labels=matches.argmax(axis=1).astype(np.int64), masks=None)
    return _filter(replace(chosen, label_names=card.classes), keep)


def _select_by_name(decoded: Decoded, card: TaskCard) -> dict[str, list[str]] | None:
    """Map equal names onto each other in any order; ``None`` where the order is the same."""
    assert decoded.label_names is not None
    given, expected = _normalise(decoded.label_names, card.classes)
    if given == expected:
        return None
    unknown = [name for name in given if name not in expected]
    if unknown:
        name = decoded.label_names[given.index(unknown[0])]
        raise InputError(
            f"{decoded.origin}: label names {decoded.label_names} contradict the card's classes "
            f"{card.classes}: unknown class '{name}'{suggest(name, card.classes)}"
        )
    if card.kind == "multilabel" and (missing := [n for n in expected if n not in given]):
        name = card.classes[expected.index(missing[0])]
        raise InputError(f"{decoded.origin}: label names {decoded.label_names} lack '{name}'")
    return {
        name: [decoded.label_names[given.index(key)]]
        for name, key in zip(card.classes, expected, strict=True)
        if key in given
    }


def _normalise(*lists: list[str]) -> tuple[list[str], ...]:
    """Drop case and punctuation of class names: 'non-COVID' and 'non_covid' are one class.

    Both are kept where two classes differ in nothing else: 'ER+' and 'ER-' are two.
    """
    lower = tuple([name.lower() for name in names] for names in lists)
    bare = tuple(["".join(c for c in name if c.isalnum()) for name in names] for names in lower)
    for form in (bare, lower):
        if all(len(set(names)) == len(names) for names in form):
            return form
    return lists


def _check_labels(labels: NDArray[np.int64], card: TaskCard, origin: str) -> None:
    """Refuse labels outside the card's classes."""
    classes = len(card.classes)
    if card.kind == "multilabel":
        if labels.ndim != 2 or labels.shape[1] != classes:
            raise InputError(
                f"{origin}: labels of shape {labels.shape}; the card has {classes} labels, so "
                f"(N, {classes}) with 1, 0 and -1 for unknown is expected, or a table of files"
            )
        low, high = -1, 1
    else:
        if labels.ndim != 1:
            raise InputError(
                f"{origin}: {labels.shape[1]} labels an item, but the card's kind is multiclass; "
                "use kind: multilabel, or select: to map them onto its classes"
            )
        low, high = 0, classes - 1
    wrong = labels[(labels < low) | (labels > high)]
    if wrong.size and card.kind == "multilabel":
        raise InputError(f"{origin}: label {wrong[0]}; 1, 0 and -1 (unknown) are expected")
    if wrong.size:
        raise InputError(
            f"{origin}: label {wrong[0]} is outside the card's {classes} classes (0 to {high})"
        )


def _match(
    decoded: Decoded, card: TaskCard, select: dict[str, list[str]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Map items (rows) to classes (columns), and mark which entries are known.

    A class that ``select`` does not name is unknown: the corpus may not have annotated it.
    """
    labels = decoded.labels
    matches = np.zeros((len(labels), len(card.classes)), dtype=bool)
    labelled = np.zeros_like(matches)
    for name, wanted in select.items():
        column = card.classes.index(name)
        positions = [_position(label, decoded, name) for label in wanted]
        if labels.ndim == 2:
            chosen = labels[:, positions] if wanted else labels
            positive = (chosen == 1).any(axis=1)
            complete = (chosen >= 0).all(axis=1)
            matches[:, column] = positive if wanted else complete & ~positive
            labelled[:, column] = positive | complete
        elif wanted:
            matches[:, column] = np.isin(labels, positions)
            labelled[:, column] = True
        else:
            raise InputError(
                f"{decoded.origin}: select: {name}: an empty list takes items without any label, "
                "but here every item has one"
            )
    return matches, labelled


def _position(label: str, decoded: Decoded, name: str) -> int:
    names = decoded.label_names
    if names is None:
        raise InputError(f"{decoded.origin}: select: {name}: the labels have no names here")
    if label not in names:
        raise InputError(
            f"{decoded.origin}: select: {name}: no label '{label}'{suggest(label, names)}"
        )
    return names.index(label)


def _filter(decoded: Decoded, keep: NDArray[np.bool_]) -> Decoded:
    """Keep the marked items."""
    if keep.all():
        return decoded
    rows = np.flatnonzero(keep)
    patients = decoded.patients
    return replace(
        decoded,
        origin=f"{decoded.origin} ({len(rows)} of {len(keep)} items selected)",
        shape=(len(rows), *decoded.shape[1:]),
        images=_filter_stream(decoded.images, keep),
        labels=decoded.labels[rows],
        ids=[decoded.ids[row] for row in rows],
        patients=None if patients is None else [patients[row] for row in rows],
    )


def _filter_stream(
    batches: Iterable[NDArray[np.uint8]], keep: NDArray[np.bool_]
) -> Iterator[NDArray[np.uint8]]:
    start = 0
    for batch in batches:
        yield batch[keep[start : start + len(batch)]]
        start += len(batch)


def _conform_masks(
    decoded: Decoded, card: TaskCard, select: dict[str, list[str]] | None
) -> Decoded:
    """Renumber the masks' ids; labels that ``select`` does not name become background."""
    if decoded.masks is None:
        raise InputError(
            f"{decoded.origin}: holds no masks, but the card's kind is segmentation; an .npz has "
            "them in <split>_masks, a folder in the column 'mask' of its table"
        )
    if select is None and decoded.label_names is not None:
        select = _select_by_name(decoded, card)
    most = max(len(card.classes), len(decoded.label_names or ()))
    if most > _NOT_THERE:
        raise InputError(f"{decoded.origin}: {most} classes; masks tell at most {_NOT_THERE} apart")
    table = np.full(256, _NOT_THERE, np.uint8)
    if select is None:
        table[: len(card.classes)] = np.arange(len(card.classes))
    else:
        table[: len(decoded.label_names or ())] = 0
        for name, wanted in select.items():
            for label in wanted:
                table[_position(label, decoded, name)] = card.classes.index(name)
    return replace(
        decoded,
        masks=_renumber(decoded, table, whose="card's" if select is None else "source's"),
        labels=np.empty((len(decoded.ids), 0), np.int64),
        label_names=card.classes,
    )


def _renumber(
    decoded: Decoded, table: NDArray[np.uint8], *, whose: str
) -> Iterator[NDArray[np.uint8]]:
    start = 0
    for batch in decoded.masks or ():
        renumbered = table[batch]
        if (wrong := renumbered == _NOT_THERE).any():
            row = int(wrong.any(axis=(1, 2)).argmax())
            count = int((table != _NOT_THERE).sum())
            raise InputError(
                f"{decoded.origin}: item {decoded.ids[start + row]}: mask value "
                f"{batch[row][wrong[row]][0]} is none of the {whose} {count} classes (0 to "
                f"{count - 1}){_remedy(batch[row], count)}"
            )
        yield renumbered
        start += len(batch)


def _remedy(mask: NDArray[np.uint8], count: int) -> str:
    """Suggest a remedy for 255: foreground in some files, unlabelled in others."""
    values = set(np.unique(mask).tolist())
    if values <= {0, 255}:
        return "; save 255 as 1" if count == 2 else "; save each pixel as the id of its class"
    if max(values - {255}) < count:
        return "; no value means 'ignore': save each pixel as the id of a class"
    return ""
