"""Recognise that memory is short, and pass a batch through in halves then."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# A processor's allocator has no error of its own (c10/core/impl/alloc_cpu.cpp), nor has oneDNN,
# which says "could not create a primitive" or "a memory object".
_MESSAGES = ("DefaultCPUAllocator: ", "could not create a ", "std::bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory was short, on a GPU or on the processor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def release_memory() -> None:
    """Return torch's cached GPU memory, so that smaller blocks can be made of it."""
    torch.cuda.empty_cache()


def halve_on_oom(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a network in eval mode, to halves of the batch where memory is short."""
    try:
        return network(images)
    except Exception as error:
        if not out_of_memory(error) or len(images) == 1:
            raise
    release_memory()  # here, where nothing holds the failed call's tensors any more
    return torch.cat([halve_on_oom(network, half) for half in images.chunk(2)])
