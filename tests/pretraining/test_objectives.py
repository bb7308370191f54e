"""Views and objectives of pre-training by their laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from medtransfer.core.errors import InputError
from medtransfer.pretraining.loader import VIEW_DRAWS, make_view
from medtransfer.pretraining.objectives import OBJECTIVES, Batch, Masked
from medtransfer.specs.pretraining import Views, list_recipes, load_recipe
from tests.helpers.pools import draw_head, make_batch, make_encoder, make_pool


def test_views_without_changes_are_the_images() -> None:
    """With every strength at zero a view is the image."""
    pixels = torch.rand((4, 3, 8, 8)) * 255
    plain = Views(crop=1.0, jitter=0.0)
    view = make_view(pixels, torch.rand(VIEW_DRAWS, 4), plain, flip=torch.zeros(4, dtype=bool))
    assert torch.allclose(view, pixels, atol=1e-3)


def test_colour_changes_leave_grey_images_and_brightness_alone() -> None:
    """Hue and saturation move no grey image, and no image's luma."""
    strong = Views(crop=1.0, jitter=0.0, saturation=0.4, hue=0.3, grey=0.3)
    draws, still = torch.rand(VIEW_DRAWS, 16), torch.zeros(16, dtype=bool)
    grey = (torch.rand((16, 1, 8, 8)) * 255).expand(-1, 3, -1, -1)
    assert torch.allclose(make_view(grey, draws, strong, flip=still), grey, atol=0.05)
    colour = 100 + 20 * torch.rand((16, 3, 8, 8))  # far from black and white, which cut off
    view = make_view(colour, draws, strong, flip=still)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    assert torch.allclose((view * luma).sum(1), (colour * luma).sum(1), atol=0.05)
    assert (view - colour).abs().amax((1, 2, 3)).min() > 0.01
    taken = draws[-1] < 0.3
    assert (view.std(1).amax((1, 2)) < 0.05).tolist() == taken.tolist()


def test_only_images_whose_card_allows_it_are_flipped() -> None:
    """With draws that flip, an image is mirrored where it may be, and else as it is."""
    pixels = torch.rand((2, 1, 8, 8)) * 255
    draws = torch.full((VIEW_DRAWS, 2), 0.25)
    view = make_view(pixels, draws, Views(crop=1.0, jitter=0.0), flip=torch.tensor([True, False]))
    assert torch.allclose(view[0], pixels[0].flip(-1), atol=1e-3)
    assert torch.allclose(view[1], pixels[1], atol=1e-3)


@pytest.mark.parametrize("multilabel", [False, True])
def test_supervised_loss_is_that_of_each_source_alone(multilabel: bool) -> None:
    """The loss is a mean over images, each under its own source's head."""
    pool = make_pool(5, 7, multilabel=multilabel)
    objective = OBJECTIVES["supervised"](make_encoder(), load_recipe("supervised"), pool).eval()
    draw_head(objective)
    batch = make_batch(pool, views=1, size=32)
    with torch.no_grad():
        loss = objective(batch).item()
        logits = objective.predict(batch.views[0]).double().numpy()
    expected, classes = [], len(pool.sources[0].card.classes)
    for place, source in enumerate(batch.source.tolist()):
        own = logits[place, classes * source : classes * (source + 1)]
        label = pool.sources[source].labels[place - pool.starts[source]]
        if multilabel:
            signs = np.where(label == 1, -1, 1)
            terms = np.log1p(np.exp(signs * own))[label >= 0]
            expected.append(terms.mean() if len(terms) else 0.0)
        else:
            expected.append(np.log(np.exp(own).sum()) - own[label])
    assert loss == pytest.approx(np.mean(expected), rel=1e-3)


def test_contrastive_loss_is_nt_xent() -> None:
    """The loss is equation 1 of the SimCLR paper, written as a loop over all pairs."""
    pool = make_pool(6)
    objective = OBJECTIVES["simclr"](make_encoder(), load_recipe("simclr"), pool).eval()
    batch = make_batch(pool, views=2, size=32)
    with torch.no_grad():
        loss = objective(batch).item()
        z = objective.predict(torch.cat(batch.views)).double()
    z = functional.normalize(z, dim=1).numpy()
    terms = []
    for i in range(12):
        partner = (i + 6) % 12
        others = [np.exp(z[i] @ z[k] / 0.2) for k in range(12) if k != i]
        terms.append(-np.log(np.exp(z[i] @ z[partner] / 0.2) / sum(others)))
    assert loss == pytest.approx(np.mean(terms), rel=1e-4)


@pytest.mark.parametrize("name", ["resnet_mini", "vit_mini"])
def test_masked_loss_is_of_the_masked_pixels(name: str) -> None:
    """What is masked does not reach the network, and only its pixels count."""
    pool, size = make_pool(4), 32
    encoder = make_encoder(name, size=size)
    objective = OBJECTIVES["simmim"](encoder, load_recipe("simmim"), pool).eval()
    assert isinstance(objective, Masked)
    batch = make_batch(pool, views=1, size=size, draws=objective.draws)
    pixels = batch.views[0]
    squares = torch.zeros(4, objective.draws, dtype=torch.bool)
    for image, order in enumerate(batch.draws.T.argsort(1)):
        squares[image, order[: round(0.6 * objective.draws)]] = True
    mask = squares.view(4, 1, 2, 2).repeat_interleave(16, 2).repeat_interleave(16, 3)
    mask = mask.expand(-1, 3, -1, -1)
    with torch.no_grad():
        loss = objective(batch).item()
        inputs = encoder.normalise(pixels)
        seen = torch.where(mask, objective.head.token.repeat(1, 2, 2), inputs)
        found = objective._reconstruct(seen)
        assert loss == pytest.approx((found - inputs)[mask].abs().mean().item(), rel=1e-4)
        # The network must not see what it is asked for.
        other = replace_views(batch, torch.where(mask, 255 - pixels, pixels))
        changed = objective(other).item()
    target = encoder.normalise(other.views[0])
    assert changed == pytest.approx((found - target)[mask].abs().mean().item(), rel=1e-4)


def replace_views(batch: Batch, pixels: torch.Tensor) -> Batch:
    return batch._replace(views=(pixels,))


def test_masks_that_do_not_fit_are_refused() -> None:
    """Squares must divide the image."""
    with pytest.raises(InputError, match=r"simmim\.patch: squares of 16 px do not divide .* 40 px"):
        OBJECTIVES["simmim"](make_encoder(size=40), load_recipe("simmim"), make_pool(4))


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_learns_by_every_part(name: str) -> None:
    """One step of each shipped recipe gives all of the head and of the encoder a gradient."""
    pool, recipe = make_pool(6), load_recipe(name)
    objective = OBJECTIVES[recipe.objective](make_encoder(), recipe, pool).train()
    draw_head(objective)
    batch = make_batch(pool, views=objective.views, size=32, draws=objective.draws)
    loss = objective(batch)
    loss.backward()
    assert torch.isfinite(loss)
    silent = [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert recipe.fingerprint != recipe.model_copy(update={"batch": 3}).fingerprint
