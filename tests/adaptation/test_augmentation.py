"""Augmentation of training images by its laws."""

from __future__ import annotations

from dataclasses import replace

import torch
from torchvision.transforms.v2 import functional as vision

from medtransfer.adaptation import finetune, learner
from medtransfer.adaptation.augmentation import DRAWS, augment
from medtransfer.data.split import TaskData
from medtransfer.specs.protocol import Augmentation, Run
from tests.helpers.adaptation import make_job, make_protocol


def make_images(count=4, channels=3, size=32, seed=0):
    return 255 * torch.rand((count, channels, size, size), generator=seeded(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def augment_seeded(images, settings, *, flip, seed=0):
    """Augment by the random numbers of a seed."""
    draws = torch.rand((DRAWS, len(images)), generator=seeded(seed))
    return augment(images, draws, settings, flip=flip)


def make_ramps(count, size=32):
    """Images whose two channels are the column and the row of each pixel."""
    rows, columns = torch.meshgrid(*[torch.arange(size).float()] * 2, indexing="ij")
    return torch.stack([columns, rows]).expand(count, 2, size, size)


def test_augmentation_can_be_the_identity() -> None:
    """Without crop, jitter and flip the images come back."""
    images = make_images()
    settings = Augmentation(crop=1, jitter=0)
    found = augment_seeded(images, settings, flip=False)
    torch.testing.assert_close(found, images, atol=1e-2, rtol=0)  # of 255


def test_augmentation_keeps_shape_and_range() -> None:
    """Extreme images stay between 0 and 255, grey or in colour; the input is not written to."""
    for channels in (1, 3):
        images = make_images(64, channels) * (torch.arange(64).view(-1, 1, 1, 1) % 2)
        before = images.clone()
        found = augment_seeded(images, Augmentation(jitter=0.9), flip=True)
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert 0 <= found.min() <= found.max() <= 255
        assert torch.equal(images, before)
    grey = torch.full((2, 1, 8, 8), 100.0).expand(2, 3, 8, 8)  # as `resample` gives it
    found = augment_seeded(grey, Augmentation(), flip=True)
    assert torch.equal(found[:, 0], found[:, 1])


def test_augmentation_is_decided_by_the_generator() -> None:
    """The same seed changes the images in the same way, another one differently."""
    images, settings = make_images(), Augmentation()
    first, again, other = (
        augment_seeded(images, settings, flip=True, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_flips_only_where_the_card_allows_it() -> None:
    """Left and right are exchanged in about half the images, or in none; never top and bottom."""
    ramps = make_ramps(400)
    settings = Augmentation(jitter=0)
    for flip, low, high in ((False, 0, 0), (True, 150, 250)):
        found = augment_seeded(ramps, settings, flip=flip)
        mirrored = found[:, 0, 16, 0] > found[:, 0, 16, -1]
        assert low <= int(mirrored.sum()) <= high
        assert (found[:, 1, 0, 16] < found[:, 1, -1, 16]).all()


def test_crops_are_square_inside_and_large_enough() -> None:
    """A coordinate ramp tells the crop: square, inside the image, its area as it should be."""
    size = 32
    found = augment_seeded(make_ramps(500, size), Augmentation(crop=0.6, jitter=0), flip=False)
    # Between two inner pixels the ramp rises by side / size of the image in each step.
    columns, rows = found[:, 0, 16, 8:24], found[:, 1, 8:24, 16]
    wide, high = ((line[:, -1] - line[:, 0]) / 15 for line in (columns, rows))
    torch.testing.assert_close(wide, high, atol=1e-3, rtol=0)
    share = wide * high
    assert 0.6 - 1e-3 <= share.min() < 0.62
    assert 0.98 < share.max() <= 1 + 1e-3
    assert abs(float(share.mean()) - 0.8) < 0.02
    for line, side in ((columns, wide), (rows, high)):
        middle = (line[:, 7] + line[:, 8]) / 2 + 0.5  # in pixels from the left edge
        assert (middle - side * size / 2 >= -1e-2).all()
        assert (middle + side * size / 2 <= size + 1e-2).all()
        assert float(middle.std()) > 0.5


def test_a_crop_is_that_of_torchvision() -> None:
    """Cutting at the place the ramp tells and resizing with torchvision gives the same image."""
    smooth = vision.gaussian_blur(make_images(1, 1, 64), [15, 15], [4.0, 4.0])
    settings = Augmentation(crop=0.5, jitter=0)
    ramp = augment_seeded(make_ramps(1, 64), settings, flip=False, seed=5)[0]
    found = augment_seeded(smooth, settings, flip=False, seed=5)
    scale = 63 / 31 * float(ramp[0, 32, 47] - ramp[0, 32, 16]) / 63  # shown pixels to image pixels
    middle = [float(ramp[axis, 31:33, 31:33].mean()) - 31.5 for axis in (0, 1)]
    expected = vision.affine(
        smooth,
        angle=0.0,
        translate=[-middle[0] / scale, -middle[1] / scale],
        scale=1 / scale,
        shear=[0.0],
        interpolation=vision.InterpolationMode.BILINEAR,
    )
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(found[inner], expected[inner], atol=0.5, rtol=0)


def test_jitter_changes_brightness_and_contrast_within_bounds() -> None:
    """The mean moves by at most the jitter, and so does the spread; not the same for all."""
    images = 100 + 20 * (make_images(300) / 255 - 0.5)
    found = augment_seeded(images, Augmentation(crop=1, jitter=0.1), flip=False)
    for statistic in (torch.mean, torch.std):
        ratio = statistic(found, dim=(1, 2, 3)) / statistic(images, dim=(1, 2, 3))
        assert 0.9 - 1e-3 <= ratio.min() < 0.91
        assert 1.09 < ratio.max() <= 1.1 + 1e-3


def test_the_card_decides_about_flips_in_training(data: TaskData, monkeypatch) -> None:
    """The task card's `flip` reaches the augmentation; `augmentation: null` skips it."""
    asked = []

    def spy(pixels, draws, settings, *, flip):
        asked.append(flip)
        return pixels

    monkeypatch.setattr(learner, "augment", spy)
    for flip in (False, True):
        task = replace(data, card=data.card.model_copy(update={"flip": flip}))
        job = make_job(task, budgets={"full": Run(draws=1, steps=2, batch=4)})
        finetune._train(job, job.items, 1e-3)
    assert asked == [False, False, True, True]
    job = replace(job, protocol=make_protocol(augmentation=None))
    finetune._train(job, job.items, 1e-3)
    assert len(asked) == 4
