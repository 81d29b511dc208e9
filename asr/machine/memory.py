"""Settings of the C library's memory allocator, and what is raised when memory runs out."""

import ctypes
import sys
from typing import Any

import torch

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of mallopt, in glibc's malloc.h


def keep_freed() -> bool:
    """Let this process keep freed memory for reuse by later tensors; True on success (glibc only).

    By default glibc returns every large block to the system, which clears its pages when they are allocated
    again: a twelfth of the time of a training step on a CPU. The price is fragmentation, a little more with
    every batch of another shape, until `give_back`. Other C libraries than glibc are left alone.

    Source: mallopt(3).
    """
    mallopt = _of_glibc("mallopt")
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_ARENA_MAX, 1))
    return mallopt is not None and all(mallopt(name, value) for name, value in settings)


def give_back() -> None:
    """Return to the system what this process keeps and does not use (glibc only).

    Source: malloc_trim(3).
    """
    if trim := _of_glibc("malloc_trim"):
        trim(ctypes.c_size_t(0))


def _of_glibc(name: str) -> Any:
    """A function of the C library; None if it is another library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors that torch (on GPU or CPU) and numpy raise when memory runs out."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "_ALLOC_FAILED")
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(word in str(error) for word in words)
