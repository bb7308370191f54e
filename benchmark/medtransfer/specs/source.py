"""Data sources of splits; the key that names a source sets its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from medtransfer.core.errors import suggest
from medtransfer.specs.base import Spec
from medtransfer.specs.corruptions import ALL_KINDS


def _inside(value: str) -> str:
    if Path(value).is_absolute() or ".." in Path(value).parts or not value:
        raise ValueError("a relative path inside the data folder is expected")
    return Path(value).as_posix()  # one spelling: patients are told apart by it


def _npz(value: str) -> str:
    if not _inside(value).endswith(".npz"):
        raise ValueError("a relative path of an .npz file inside the data folder is expected")
    return value


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("the value shown as black, then a larger one shown as white, is expected")
    return value


Inside = Annotated[str, AfterValidator(_inside)]
Window = Annotated[tuple[float, float], AfterValidator(_rising)]


class Source(Spec):
    """Fields that every kind of source may have."""

    select: dict[str, list[str]] | None = Field(
        default=None,
        description="For each class of the task the labels of this corpus that fall into it; an "
        "empty list takes the items without any label. An item that fits no class, or more than "
        "one, is left out.",
    )
    lineage: list[str] | None = Field(
        default=None, description="Source corpora of this split, where they are not the card's."
    )

    @model_validator(mode="after")
    def _select_once(self) -> Source:
        labels = [label for chosen in (self.select or {}).values() for label in chosen]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"select: '{label}' falls into two classes")
        return self

    @property
    def corpus(self) -> str:
        """The kind of the source and what it names, such as ``medmnist: octmnist``."""
        kind = next(key for key, cls in SOURCES.items() if isinstance(self, cls))
        return f"{kind}: {getattr(self, kind)}"


class NpzSource(Source):
    """One split of an ``.npz`` file in MedMNIST's layout."""

    npz: Annotated[str, AfterValidator(_npz)] = Field(
        description="File name, looked for in --data (or BENCH_DATA)."
    )
    split: Literal["train", "val", "test"] = Field(description="Prefix of the arrays to read.")


class PhantomSource(Source):
    """Images drawn by the built-in generator, with a known truth."""

    phantom: str = Field(description="Name of the generator, e.g. chest-xray.")
    split: Literal["train", "validation", "test"] = Field(
        description="Part of the seed of each image."
    )
    items: int = Field(ge=1, le=100_000, description="Number of images.")
    scanner: Literal["standard", "other"] = Field(
        default="standard", description="The imaging device that is simulated."
    )
    size: int = Field(default=64, ge=16, le=512, description="Height and width in pixels.")
    truth: Literal["classes", "masks"] = Field(
        default="classes",
        description="What is predicted: the findings of an image, or the region of each pixel.",
    )


class MedmnistSource(Source):
    """One official split of a 2-D MedMNIST data set (Yang et al., Sci. Data 10, 2023)."""

    medmnist: str = Field(description="The official name, e.g. pneumoniamnist.")
    split: Literal["train", "val", "test"] = Field(description="The official split.")
    size: Literal[28, 64, 128, 224] = Field(
        default=224, description="Size of the official files in pixels; never resized."
    )


class MedsegbenchSource(Source):
    """One official split of a MedSegBench data set (Kuş and Aydin, Sci. Data 11, 2024)."""

    medsegbench: str = Field(description="The official name, e.g. drive.")
    split: Literal["train", "val", "test"] = Field(description="The official split.")
    size: Literal[128, 256, 512] = Field(
        default=256, description="Size of the official files in pixels; never resized."
    )


class TorchvisionSource(Source):
    """One split of a natural-image data set that torchvision reads."""

    torchvision: str = Field(description="cifar10, cifar100, oxford-iiit-pet, flowers102 or stl10.")
    split: Literal["train", "validation", "test"] = Field(
        description="The official split; where there is no official validation split it is a "
        "tenth of each class of the training images, chosen by hash."
    )
    size: int | None = Field(
        default=None,
        ge=16,
        le=512,
        description="Height and width in pixels: the shorter side is resized to it and the "
        "centre is kept. Null keeps the size of the files, where all have one.",
    )


class FolderSource(Source):
    """Image files: class folders ``<split>/<class>/*``, or a CSV with a row for each image."""

    folder: Inside = Field(description="Folder inside --data (or BENCH_DATA).")
    split: str = Field(description="Name of the sub-folder, or value of the CSV's split column.")
    table: Inside | None = Field(
        default=None,
        description="CSV in the folder, with columns file, split, label (or mask, or one column "
        "of 1, 0 and -1 or nothing for each class) and, where known, patient.",
    )
    size: int = Field(ge=16, le=512, description="Height and width in pixels.")
    fit: Literal["crop", "pad", "squash"] = Field(
        default="crop", description="Method that makes an image square."
    )
    channels: Literal[1, 3] = Field(default=3, description="1: grey; 3: colour.")
    window: Window | None = Field(
        default=None,
        description="The values shown as black and as white, for DICOM and 16-bit images; null: "
        "the window that the file states, else its whole range.",
    )


class DecathlonSource(Source):
    """Slices of the labelled volumes of a Medical Segmentation Decathlon task (Antonelli 2022)."""

    decathlon: str = Field(description="The official name, e.g. Task09_Spleen.")
    split: Literal["train", "validation", "test"] = Field(
        description="60, 20 and 20 % of the patients, chosen by hash."
    )
    size: int = Field(default=224, ge=32, le=512, description="Height and width in pixels.")
    window: Window | None = Field(
        default=None,
        description="The values shown as black and as white (CT: Hounsfield units); null: the "
        "0.5th and the 99.5th percentile of the voxels of each volume that are not zero.",
    )
    channel: int = Field(default=0, ge=0, description="Which channel of multi-sequence MRI.")
    slices: int = Field(
        default=10, ge=1, description="Most slices of a volume, evenly among those with a label."
    )


class CorruptSource(Spec):
    """Graded corruptions of another split of the card: one test split a kind and severity."""

    corrupt: str = Field(description="The split that is corrupted, e.g. in_domain.")
    severities: list[Annotated[int, Field(ge=1, le=5)]] = Field(
        default=[1, 3, 5], min_length=1, description="1 (hardly visible) to 5 (severe)."
    )
    kinds: list[str] | None = Field(
        default=None, min_length=1, description="Null: those of the card's domain."
    )
    items: int = Field(default=1000, ge=1, description="At most so many, chosen by hash.")

    @model_validator(mode="after")
    def _once(self) -> CorruptSource:
        for name in ("severities", "kinds"):
            values = getattr(self, name) or []
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: a value occurs twice")
        for kind in self.kinds or []:
            if kind not in ALL_KINDS:
                raise ValueError(f"kinds: unknown kind '{kind}'{suggest(kind, ALL_KINDS)}")
        return self


# A new kind is one class above, one entry here and one module in data/sources.
SOURCES: dict[str, type[Spec]] = {
    "npz": NpzSource,
    "phantom": PhantomSource,
    "medmnist": MedmnistSource,
    "medsegbench": MedsegbenchSource,
    "torchvision": TorchvisionSource,
    "folder": FolderSource,
    "decathlon": DecathlonSource,
    "corrupt": CorruptSource,
}


def choose_source(value: Any) -> Any:
    """Choose the source's class by its key, so that errors concern that kind alone."""
    if isinstance(value, Spec):
        return value
    if not isinstance(value, dict):
        raise ValueError("a mapping such as {npz: file.npz, split: test} is expected")
    kinds = [key for key in SOURCES if key in value]
    if len(kinds) != 1:
        raise ValueError(f"a source names exactly one of: {', '.join(SOURCES)}")
    return SOURCES[kinds[0]].parse(value, origin=kinds[0])
