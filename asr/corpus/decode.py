"""Recordings → int16 samples, in order, by several processes, in memory independent of corpus size."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from multiprocessing.connection import wait
from typing import TypeVar

import numpy as np

from asr.corpus.journal import READ_ERROR, Entry
from asr.corpus.manifest import Utterance
from asr.errors import AudioError, CorpusError
from asr.machine.pools import in_order

T = TypeVar("T")
R = TypeVar("R")

GROUP = 8
"""Recordings per task of a worker process."""
SYSTEM_ERROR = 2
"""libsndfile's code of an error of the operating system."""
AHEAD = 3
"""Tasks in flight per process; bounds memory when one long recording holds up the others."""


def decode(utterance: Utterance, rate_hz: int) -> tuple[Entry, bytes]:
    """The journal's entry of the utterance, and its samples at `rate_hz` as little-endian int16.

    If it cannot be read, there are none, and the entry says why: due to the system (`READ_ERROR`), which may
    pass, or to the recording (`unreadable`).
    """
    try:
        samples = utterance.read(rate_hz)
    except (AudioError, OSError) as error:
        cause = error.__cause__ or error
        is_read_error = isinstance(cause, OSError) or getattr(cause, "code", None) == SYSTEM_ERROR
        return Entry(kind=READ_ERROR if is_read_error else "unreadable", detail=str(error)), b""
    scaled = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767)
    pcm = scaled.astype("<i2").tobytes()
    return Entry(samples=len(samples), sha256=hashlib.sha256(pcm).hexdigest()), pcm


def decode_all(
    utterances: Iterable[Utterance], *, rate_hz: int, workers: int
) -> Iterator[tuple[Entry, bytes]]:
    """`decode` of each utterance, in their order.

    Args:
        utterances: to be read.
        rate_hz: wanted sample rate.
        workers: processes; with 1, decoding is done in this one.

    Raises:
        CorpusError: a worker process died.
    """
    remaining, size = iter(utterances), GROUP if workers > 1 else 1
    groups = iter(lambda: list(islice(remaining, size)), [])
    work = partial(_decode_group, rate_hz=rate_hz)
    yield from chain.from_iterable(in_processes(work, groups, workers=workers, doing="decodes recordings"))


def in_processes(
    work: Callable[[T], R], tasks: Iterable[T], *, workers: int, doing: str
) -> Generator[R, None, None]:
    """work(task) of each task, in the order of the tasks, by worker processes.

    Args:
        work: a function that can be pickled.
        tasks: its arguments.
        workers: processes; with 1, the work is done in this one.
        doing: what they do, for the error's message.

    Raises:
        CorpusError: a worker process died.
    """
    if workers <= 1:
        yield from map(work, tasks)
        return
    # Forking a process that has threads (torch) can hang; spawned workers start clean.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=start_worker)
    try:
        yield from in_order(pool, work, tasks, ahead=AHEAD * workers)
    except BrokenProcessPool as error:
        raise CorpusError(
            f"a process that {doing} died ({error}); out of memory, perhaps, or the program that called this "
            'has no `if __name__ == "__main__":`. Run again, it goes on where it stopped; with workers=1 '
            "nothing is started, and what crashes shows itself"
        ) from error


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_group(utterances: list[Utterance], rate_hz: int) -> list[tuple[Entry, bytes]]:
    return [decode(utterance, rate_hz) for utterance in utterances]


def start_worker() -> None:
    """Set up a worker process: ignore Ctrl-C (the parent handles it), and exit when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
