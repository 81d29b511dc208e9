"""Compilation of this package's loops by numba, kept on disk as long as none of them changes.

numba keeps a compiled function until its own file changes, but what it calls is compiled into it, from
whatever file, and so are constants. Here all files of the rooms with compiled code are part of what must not
have changed. Where nothing can be kept (no writable folder, a full disk), each process compiles anew.
"""

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

_log = logging.getLogger(__name__)


@cache
def _sources() -> str:
    """A digest of all files that stand beside one with a `kernel`."""
    texts = {path: path.read_bytes() for path in sorted(Path(__file__).parents[1].rglob("*.py"))}
    rooms = {path.parent for path, text in texts.items() if b"import kernel" in text}
    found = hashlib.sha256()
    for path, text in texts.items():
        if path.parent in rooms:
            found.update(text)
    return found.hexdigest()


class _Kept(FunctionCache):
    is_told = False

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = (self._cache_file._source_stamp, _sources())

    def load_overload(self, *given: Any) -> Any:
        found = super().load_overload(*given)
        if found is None and not _Kept.is_told:
            _log.info("compiling for this processor: up to a minute, the first time only")
            _Kept.is_told = True
        return found

    def save_overload(self, *given: Any) -> None:
        with suppress(OSError):
            super().save_overload(*given)


def kernel(**options: Any) -> Any:
    """Decorator of functions that Python calls: `numba.njit` without the interpreter lock, kept on disk."""

    def decorate(function: Callable[..., Any]) -> Any:
        made: Any = njit(**{"nogil": True} | options)(function)
        with suppress(RuntimeError):  # numba found no folder to write to
            made._cache = _Kept(function)
        return made

    return decorate
