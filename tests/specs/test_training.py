"""Rules of training by gradient: rates to try, rates to reuse, and images trained on."""

from __future__ import annotations

import pytest

from medtransfer.specs.protocol import FineTuning, Lora, Run, load_protocol
from medtransfer.specs.record import Cell

V1 = load_protocol("v1")


@pytest.mark.parametrize(
    ("budget", "adaptation", "draw", "reuses"),
    [
        ("full", "finetune", 1, True),
        ("full", "lora", 2, True),
        ("full", "finetune", 0, False),
        ("10-shot", "finetune", 1, False),
        ("full", "linear", 1, False),
    ],
)
def test_later_draws_at_full_reuse_the_rate(
    budget: str, adaptation: str, draw: int, reuses: bool
) -> None:
    """Only they do; one after a draw 0 that diverged, or is unknown, tries all rates."""
    cell = Cell("task", budget, adaptation, draw)
    assert cell.reuses_rate == reuses
    assert cell.reused_rate({"lr": 1e-3}) == (1e-3 if reuses else None)
    assert cell.reused_rate({"lr": None, "tried": [1e-3]}) is None
    assert cell.reused_rate(None) is None
    assert cell.first == Cell("task", budget, adaptation, 0)


def test_rates_are_those_of_the_protocol() -> None:
    """Random weights try more; low-rank updates have their own; a reused rate stands alone."""
    assert V1.finetune is not None and isinstance(V1.lora, Lora)
    tuned = V1.finetune.learning_rates
    assert V1.training("finetune", "multiclass", "full").rates == tuned
    more = V1.training("finetune", "multiclass", "full", random=True).rates
    assert more == tuned + V1.finetune.learning_rates_random and len(more) > len(tuned)
    for random in (False, True):
        own = V1.training("lora", "multiclass", "full", random=random)
        assert own.rates == V1.lora.learning_rates
    assert V1.training("lora", "multiclass", "full", reused=0.5).rates == [0.5]
    decoder, tuned_masks = (
        V1.training(name, "segmentation", "full") for name in ("decoder", "finetune")
    )
    assert V1.segmentation is not None
    assert decoder.settings == V1.segmentation.decoder
    assert tuned_masks.settings == V1.segmentation.finetune


def test_a_missing_adaptation_is_named() -> None:
    """A protocol without fine-tuning says so."""
    without = V1.model_copy(update={"finetune": None, "segmentation": None})
    for kind in ("multiclass", "segmentation"):
        with pytest.raises(ValueError, match=f"protocol v1 has no finetune for {kind}"):
            without.training("finetune", kind, "full")


@pytest.mark.parametrize(
    ("budget", "rates", "keep", "trained", "scored"),
    [
        ("10-shot", [1e-4, 1e-3], "last", 3 * 7 * 8, 2 * 6),  # two rates, then the best again
        ("10-shot", [1e-3], "best", 7 * 8, 0),  # few shots have no validation split
        ("full", [1e-4, 1e-3], "last", 2 * 8 * 16, 2 * 24),
        # 60 images are four batches of 16: two epochs, each scored, and the selection.
        ("full", [1e-4, 1e-3], "best", 2 * 8 * 16, 2 * (2 + 1) * 24),
        ("full", [1e-3], "best", 8 * 16, 2 * 24),
    ],
)
def test_images_equal_a_count_by_hand(
    budget: str, rates: list[float], keep: str, trained: int, scored: int
) -> None:
    """Images are those of every step of the selection and of the result."""
    runs = {"10-shot": Run(draws=1, steps=7, batch=8), "full": Run(draws=1, epochs=2, batch=16)}
    settings = FineTuning(budgets=runs, learning_rates=rates, keep=keep)  # type: ignore[arg-type]
    training = V1.model_copy(update={"finetune": settings}).training("finetune", "ct", budget)
    items = 30 if budget == "10-shot" else 60
    assert training.count_images(items, held_out=6, validation=24) == (trained, scored)
