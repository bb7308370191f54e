"""Official data sets, with addresses and checksums.

One YAML file per publisher; the loaders are in ``medtransfer.data.sources``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, StringConstraints

from medtransfer.core.documents import read_yaml
from medtransfer.core.errors import InputError, suggest
from medtransfer.data.files.remote import RemoteFile
from medtransfer.specs.base import Spec

__all__ = [
    "ArraySet",
    "ImageFile",
    "ImageSet",
    "Part",
    "array_sets",
    "find_set",
    "image_sets",
    "read_table",
]

MD5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Count = Annotated[int, Field(ge=1)]


class ArraySet(Spec):
    """Data set published as one ``.npz`` file per image size, with all splits in it."""

    labels: list[str] = Field(min_length=2, description="Names of the class or mask ids.")
    multilabel: bool = Field(default=False, description="Whether an item may have many labels.")
    channels: Literal[1, 3] = Field(description="1: grey, (N, H, W); 3: colour, (N, H, W, 3).")
    items: dict[Literal["train", "val", "test"], Count] = Field(description="Images of each split.")
    stored: Count | None = Field(
        default=None, description="Images in the file, if more than in the splits."
    )
    licence: str = Field(description="Licence of the data.")
    url: str = Field(description="Address of a file, with {file} for its name.")
    md5: dict[int, MD5] = Field(description="Checksum of the file of each size in pixels.")

    def shape(self, split: Literal["train", "val", "test"], size: int) -> tuple[int, ...]:
        """Return the shape of a split's images."""
        colour = (3,) if self.channels == 3 else ()
        return (self.items[split], size, size, *colour)

    def remote_file(self, name: str, *, size: int, folder: str, masks: bool) -> RemoteFile:
        """Describe the file of one size, bounded by the size of its uncompressed arrays."""
        images = self.stored or sum(self.items.values())
        bytes_each = size * size * (self.channels + masks) + len(self.labels)
        return RemoteFile(
            name=name,
            url=self.url.format(file=name),
            md5=self.md5[size],
            licence=self.licence,
            at_most=images * bytes_each + 2**16,  # and the headers
            folder=folder,
        )


class Part(Spec):
    """An official split of a data set that torchvision reads."""

    items: Count = Field(description="Number of images.")
    arguments: dict[str, bool | str] = Field(description="The reader's arguments for this split.")


class ImageFile(Spec):
    """A published file: an archive, or a table used without unpacking."""

    name: str = Field(description="File name.")
    url: str = Field(description="Address.")
    md5: MD5 = Field(description="Published checksum.")
    bytes: Count = Field(description="Size, shown to users.")


class ImageSet(Spec):
    """A data set that torchvision reads."""

    labels: list[str] = Field(min_length=2, description="Class names; the index is the label.")
    reader: str = Field(description="Name of the class in torchvision.datasets.")
    size: Count | None = Field(default=None, description="Height and width, if all have the same.")
    splits: dict[Literal["train", "validation", "test"], Part] = Field(
        description="The official splits."
    )
    root: str = Field(default="", description="Folder in which the reader expects the files.")
    needs: list[str] = Field(min_length=1, description="Paths that the reader requires.")
    licence: str = Field(description="Licence of the data.")
    files: list[ImageFile] = Field(min_length=1, description="Published files.")


@cache
def array_sets(publisher: Literal["medmnist", "medsegbench"]) -> dict[str, ArraySet]:
    """Return a publisher's ``.npz`` data sets, by official name."""
    return read_table(ArraySet, publisher)


@cache
def image_sets() -> dict[str, ImageSet]:
    """Return the data sets that torchvision reads, by name."""
    return read_table(ImageSet, "torchvision")


Set = TypeVar("Set", bound=Spec)


def find_set(sets: Mapping[str, Set], name: str, *, kind: str) -> Set:
    """Find a data set by name.

    Args:
        sets: All data sets of a publisher.
        name: The official name.
        kind: Key of the source in a card, for the message.

    Raises:
        InputError: For an unknown name.
    """
    if name not in sets:
        raise InputError(f"{kind}: unknown data set '{name}'{suggest(name, sets)}")
    return sets[name]


def read_table(cls: type[Set], publisher: str) -> dict[str, Set]:
    """Read a publisher's table: its data sets, by name."""
    path = Path(__file__).parent / f"{publisher}.yaml"
    return {
        name: cls.parse(fields, origin=f"{path}: {name}")
        for name, fields in read_yaml(path).items()
    }
