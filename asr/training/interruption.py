"""Ctrl-C and SIGTERM: handled as a request to stop at the next step, or blocked for a moment."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_signal(interrupt: Callable[[], None]) -> Iterator[None]:
    """Within the block, the first signal calls `interrupt`; a second Ctrl-C stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(*_: object) -> None:
        interrupt()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {s: signal.signal(s, first) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Within the block, both signals are blocked; processes started in it inherit that until they unblock."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
