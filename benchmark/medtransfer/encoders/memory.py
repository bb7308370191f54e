"""Too little memory: how it is recognised, and how a batch goes through in parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["by_halves", "out_of_memory", "release_memory"]

# A processor's allocator has no error of its own (c10/core/impl/alloc_cpu.cpp), nor has oneDNN,
# which says "could not create a primitive" or "a memory object".
_MESSAGES = ("DefaultCPUAllocator: ", "could not create a ", "std::bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """Whether something failed because memory was short, on a GPU or on the processor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def release_memory() -> None:
    """Give what torch keeps of a GPU's memory back, so that smaller blocks can be made of it."""
    torch.cuda.empty_cache()


def by_halves(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Give what a network in eval mode gives; in halves where the memory is too small."""
    try:
        return network(images)
    except Exception as error:
        if not out_of_memory(error) or len(images) == 1:
            raise
    release_memory()  # here, where nothing holds the failed call's tensors any more
    return torch.cat([by_halves(network, half) for half in images.chunk(2)])
