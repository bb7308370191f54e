"""The parts of pre-training: images in order, views, objectives, and what is frozen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from medtransfer.core.errors import InputError
from medtransfer.cost.flops import forward_flops, training_flops
from medtransfer.data.split import Split
from medtransfer.encoders.loading import build_encoder
from medtransfer.encoders.registry import find
from medtransfer.encoders.resolution import Located, locate, locate_untrained
from medtransfer.pretraining.freezing import choose_trainable, find_prefix
from medtransfer.pretraining.objectives import OBJECTIVES, Batch, Masked, Objective
from medtransfer.pretraining.pool import Pool, Source, choose_items, share_out
from medtransfer.pretraining.prices import Predictor
from medtransfer.pretraining.views import VIEW_DRAWS, make_view
from medtransfer.specs.pretraining import (
    Trainable,
    Views,
    list_recipes,
    load_recipe,
)
from medtransfer.specs.task import load_tasks

CPU = torch.device("cpu")


def make_split(labels: np.ndarray, *, size: int = 16) -> Split:
    """Noise with these labels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(labels), size, size), dtype=np.uint8)
    names = [f"item-{number}" for number in range(len(labels))]
    return Split(images, labels, names, sha256="0" * 64, origin="noise")


def make_pool(
    *sizes: int, batch: int = 8, balanced: bool = False, multilabel: bool = False
) -> Pool:
    """Sources of so many images; the first class of three is twice as common as the others."""
    card = load_tasks()["phantom_chest_findings" if multilabel else "phantom_ct"]
    sources = []
    for number, size in enumerate(sizes):
        labels = np.array([0, 0, 1, 2])[np.arange(size) % 4]
        if multilabel:
            labels = np.stack([(np.arange(size) % (k + 2) == 0) for k in range(5)], 1).astype(int)
            labels[0] = -1
        own = card.model_copy(update={"name": f"source-{number}"})
        sources.append(Source(own, make_split(labels), np.arange(size)))
    return Pool(tuple(sources), batch, balanced)


def make_encoder(name: str = "resnet_mini", *, size: int = 32, **architecture: object):
    """A registered network of random weights, at another size."""
    card = find(name).card
    update = {
        "input": card.input.model_copy(update={"size": size}),
        "architecture": card.architecture.model_copy(update=architecture),
    }
    return build_encoder(Located(card.model_copy(update=update)), max_size=size, device=CPU)


# Images in order


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


# Views


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


# Objectives


def make_batch(pool: Pool, *, views: int, size: int, draws: int = 0) -> Batch:
    """All images of a pool, as noise of the encoder's size."""
    generator = torch.Generator().manual_seed(1)
    count = len(pool)
    number = np.searchsorted(pool.starts, np.arange(count), side="right") - 1
    return Batch(
        views=tuple(
            255 * torch.rand((count, 3, size, size), generator=generator) for _ in range(views)
        ),
        source=torch.from_numpy(number),
        labels=tuple(torch.from_numpy(source.labels) for source in pool.sources),
        draws=torch.rand((draws, count), generator=generator),
        places=torch.arange(count),
    )


def draw_head(objective: Objective) -> None:
    """A linear head starts at zero, where nothing reaches the encoder: draw it, always the same."""
    if isinstance(objective.head, nn.Linear):
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(objective.head.weight, std=0.1, generator=generator)


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


# What is frozen


@pytest.mark.parametrize(
    ("name", "stages", "first"),
    [
        ("resnet_mini", 2, "layer3."),
        ("resnet_mini", ("layer4",), "layer4."),
        ("vit_mini", 2, "blocks.2."),
        ("vit_mini", ("blocks.3", "norm"), "blocks.3."),
    ],
)
def test_stages_are_the_deepest(name: str, stages: int | tuple[str, ...], first: str) -> None:
    """A number takes the deepest stages, with what stands behind them; names take those layers."""
    encoder = make_encoder(name)
    choose_trainable(encoder, stages)
    learns = [n for n, p in encoder.inner.named_parameters() if p.requires_grad]
    assert learns[0].startswith(first)
    names = [n for n, _ in encoder.inner.named_parameters()]
    assert learns == names[names.index(learns[0]) :]
    encoder.train()
    frozen = [m for m in encoder.inner.modules() if isinstance(m, nn.BatchNorm2d)]
    for module in frozen:
        assert module.training == all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (("layer5",), "'layer5' names no layer with weights; did you mean 'layer"),
        (("x",), "'x' names no layer with weights; known: conv1, bn1, layer1"),
        ((), "names no layer"),
        (5, "5 stages, but resnet18 has 5 with its stem"),
        (("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), "are the whole network"),
    ],
)
def test_stages_that_are_none_are_refused(stages: int | tuple[str, ...], message: str) -> None:
    """One line says what would be right."""
    with pytest.raises(InputError, match=message):
        choose_trainable(make_encoder(), stages)


@pytest.mark.parametrize(
    "text", ["", "half", "partial", "partial:", "partial:0", "hybrid:2", "hybrid:2:0", "full:2"]
)
def test_words_for_what_is_trained_are_checked(text: str) -> None:
    """Anything but the three forms is refused."""
    with pytest.raises(InputError, match="--trainable"):
        Trainable.read(text)


@pytest.mark.parametrize(
    ("name", "stages"),
    [("resnet_mini", 1), ("resnet_mini", 3), ("vit_mini", 2), ("vit_mini", 1)],
)
def test_costs_of_a_frozen_beginning_are_those_of_theory(name: str, stages: int) -> None:
    """A frozen beginning of share p costs p F, the rest 3 (1 - p) F, to within 10 %."""
    pool = make_pool(8)
    encoder = make_encoder(name, size=64)
    objective = OBJECTIVES["supervised"](encoder, load_recipe("supervised"), pool)
    shape = {"channels": 3, "size": 64}
    forward = forward_flops(Predictor(objective), **shape)
    assert training_flops(Predictor(objective), **shape) == pytest.approx(3 * forward, rel=0.1)
    choose_trainable(encoder, stages)
    prefix = find_prefix(encoder, len(pool))
    assert prefix is not None
    beginning = forward_flops(prefix.beginning(), **shape)
    measured = training_flops(Predictor(objective), **shape)
    assert 0 < beginning < forward
    assert measured == pytest.approx(beginning + 3 * (forward - beginning), rel=0.1)


def test_a_frozen_end_still_costs_its_gradients() -> None:
    """A frozen end of share p costs 2 p F, to within 10 %: gradients pass it on the way down."""
    encoder = make_encoder(size=64)
    objective = OBJECTIVES["supervised"](encoder, load_recipe("supervised"), make_pool(8))
    shape = {"channels": 3, "size": 64}
    forward = forward_flops(Predictor(objective), **shape)
    choose_trainable(encoder, ("layer4",))
    prefix = find_prefix(encoder, 8)
    assert prefix is not None
    end = forward - forward_flops(prefix.beginning(), **shape)
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    choose_trainable(encoder, ("conv1", "bn1", "layer1", "layer2", "layer3"))
    measured = training_flops(Predictor(objective), **shape)
    assert measured == pytest.approx(3 * (forward - end) + 2 * end, rel=0.1)


@pytest.mark.parametrize("name", ["resnet_mini", "vit_mini"])
def test_what_is_kept_of_a_beginning_changes_nothing(name: str) -> None:
    """Losses and gradients are those of the whole network, and the beginning is passed once."""
    pool = make_pool(8)
    encoder = make_encoder(name)
    objective = OBJECTIVES["supervised"](encoder, load_recipe("supervised"), pool)
    draw_head(objective)
    choose_trainable(encoder, 1)
    batch = make_batch(pool, views=1, size=32)

    def gradients() -> list[torch.Tensor]:
        objective.zero_grad()
        objective.train()(batch).backward()
        return [p.grad.clone() for p in objective.parameters() if p.grad is not None]

    expected = gradients()
    objective.prefix = find_prefix(encoder, len(pool))
    assert objective.prefix is not None
    for _ in range(2):
        for one, other in zip(gradients(), expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
    assert objective.prefix.passes == len(pool) + 1


def test_nothing_is_kept_where_the_beginning_learns() -> None:
    """Without a frozen beginning there is nothing to keep."""
    encoder = make_encoder()
    choose_trainable(encoder, ("layer1",))
    assert find_prefix(encoder, 8) is not None  # the stem
    for parameter in encoder.parameters():
        parameter.requires_grad_(True)
    choose_trainable(encoder, ("conv1", "layer4"))
    assert find_prefix(encoder, 8) is None
    vit = make_encoder("vit_mini")
    choose_trainable(vit, ("pos_embed", "blocks.3"))
    assert find_prefix(vit, 8) is None


# Simplified architectures


@pytest.mark.parametrize(
    "name", ["resnet_mini", "vit_mini", "convnext_atto", "swin_tiny", "resnet18"]
)
def test_dropped_stages_are_the_deepest(name: str) -> None:
    """What is left has the weights of the whole network, and fewer of them, and still pools."""
    size = 64 if name != "vit_mini" else 48
    whole, cut = make_encoder(name, size=size), make_encoder(name, size=size, drop_stages=1)
    left = cut.inner.state_dict()
    assert sum(t.numel() for t in left.values()) < sum(
        t.numel() for t in whole.inner.state_dict().values()
    )
    for key, tensor in whole.inner.state_dict().items():
        if key in left and left[key].shape == tensor.shape:
            assert torch.equal(left[key], tensor), key
    assert len(cut.pyramid_channels) == 4
    shape = {"channels": 3, "size": size}
    assert forward_flops(cut.network, **shape) < forward_flops(whole.network, **shape)


def test_more_stages_than_there_are_cannot_be_dropped() -> None:
    """At least one stage stays."""
    with pytest.raises(InputError, match=r"drop_stages: 4, but timm's vit_tiny.* has 4 stages"):
        make_encoder("vit_mini", drop_stages=4)


def test_identity_of_cards_without_dropped_stages_is_as_it_was() -> None:
    """The field does not change what records of earlier versions were made with."""
    assert locate("resnet18").identity == (
        "fde376ae5fb402fef0e7b4f5f4b076e73c2062d7b909eddb7a3897c526056a06"
    )
    card = locate_untrained("resnet18").card
    cut = card.model_copy(
        update={"architecture": card.architecture.model_copy(update={"drop_stages": 1})}
    )
    assert replace(locate("resnet18"), card=cut).identity != locate("resnet18").identity
