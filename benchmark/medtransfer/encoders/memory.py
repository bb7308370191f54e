"""Detect out-of-memory errors, and retry a batch in halves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# The CPU allocator raises no specific error (c10/core/impl/alloc_cpu.cpp), nor does oneDNN, whose
# message is "could not create a primitive" or "a memory object".
_MESSAGES = ("DefaultCPUAllocator: ", "could not create a ", "std::bad_alloc")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory, on a GPU or a processor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def release_memory() -> None:
    """Release torch's cached GPU memory for blocks of other sizes."""
    torch.cuda.empty_cache()


def halve_on_oom(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a network in eval mode; when out of memory, to halves of the batch."""
    try:
        return network(images)
    except Exception as error:
        if not out_of_memory(error) or len(images) == 1:
            raise
    release_memory()  # outside the handler, where the failed call's tensors are freed
    return torch.cat([halve_on_oom(network, half) for half in images.chunk(2)])
