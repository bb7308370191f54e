"""Tables of official data sets, with addresses and checksums.

One YAML file a publisher; what reads it is in ``medtransfer.data.sources``.
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
    """A data set published as one ``.npz`` file for each image size, with all splits in it."""

    labels: list[str] = Field(min_length=2, description="Names of the class or mask ids.")
    multilabel: bool = Field(default=False, description="Whether an item may have many labels.")
    channels: Literal[1, 3] = Field(description="1: grey, (N, H, W); 3: colour, (N, H, W, 3).")
    items: dict[Literal["train", "val", "test"], Count] = Field(description="Images of each split.")
    stored: Count | None = Field(
        default=None, description="Images in the file, where it holds more than the splits."
    )
    licence: str = Field(description="Licence of the data.")
    url: str = Field(description="Address of a file, with {file} for its name.")
    md5: dict[int, MD5] = Field(description="Checksum of the file of each size in pixels.")

    def shape(self, split: Literal["train", "val", "test"], size: int) -> tuple[int, ...]:
        """The shape that the images of a split have."""
        colour = (3,) if self.channels == 3 else ()
        return (self.items[split], size, size, *colour)

    def remote_file(self, name: str, *, size: int, folder: str, masks: bool) -> RemoteFile:
        """The file of one size; its bound is what the arrays take before they are compressed."""
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
    arguments: dict[str, bool | str] = Field(description="What selects it, for the reader.")


class ImageFile(Spec):
    """A published file: an archive, or a table that is used as it is."""

    name: str = Field(description="File name.")
    url: str = Field(description="Address.")
    md5: MD5 = Field(description="Published checksum.")
    bytes: Count = Field(description="Size, for people.")


class ImageSet(Spec):
    """A data set that torchvision reads."""

    labels: list[str] = Field(min_length=2, description="Class names; the index is the label.")
    reader: str = Field(description="Name of the class in torchvision.datasets.")
    size: Count | None = Field(default=None, description="Height and width, if all have the same.")
    splits: dict[Literal["train", "validation", "test"], Part] = Field(
        description="The official splits."
    )
    root: str = Field(default="", description="Folder in which the reader wants the files.")
    needs: list[str] = Field(min_length=1, description="What the reader looks for.")
    licence: str = Field(description="Licence of the data.")
    files: list[ImageFile] = Field(min_length=1, description="What is published.")


@cache
def array_sets(publisher: Literal["medmnist", "medsegbench"]) -> dict[str, ArraySet]:
    """The data sets of a publisher of ``.npz`` files, by their official names."""
    return read_table(ArraySet, publisher)


@cache
def image_sets() -> dict[str, ImageSet]:
    """The data sets that torchvision reads, by name."""
    return read_table(ImageSet, "torchvision")


Set = TypeVar("Set", bound=Spec)


def find_set(sets: Mapping[str, Set], name: str, *, kind: str) -> Set:
    """The data set of a name.

    Args:
        sets: All of a publisher.
        name: The official name.
        kind: Key of the source in a card, for the message.

    Raises:
        InputError: For a name that does not exist.
    """
    if name not in sets:
        raise InputError(f"{kind}: no data set is called '{name}'{suggest(name, sets)}")
    return sets[name]


def read_table(cls: type[Set], publisher: str) -> dict[str, Set]:
    """The data sets of a publisher's table, by name."""
    path = Path(__file__).parent / f"{publisher}.yaml"
    return {
        name: cls.parse(fields, origin=f"{path}: {name}")
        for name, fields in read_yaml(path).items()
    }
