"""BPTT and RTRL compared: time and peak memory of one exact gradient against sequence length."""

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from asr.lab.costs import SquaredError
from asr.lab.recurrence import Rnn, bptt, rtrl

LENGTHS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
TRUNCATION_FRAMES = 50
METHODS: dict[str, Callable[..., tuple[float, Rnn]]] = {
    "BPTT": bptt,
    f"BPTT, {TRUNCATION_FRAMES} frames": partial(bptt, truncate=TRUNCATION_FRAMES),
    "RTRL": rtrl,
}


@dataclass(frozen=True)
class Expense:
    """The cost of one gradient: CPU seconds, and peak bytes allocated beyond input and target."""

    method: str
    frames: int
    time_s: float
    peak_bytes: int


def measure_gradients(
    lengths: Sequence[int] = LENGTHS, *, inputs: int = 8, width: int = 16, outputs: int = 4, repeats: int = 3
) -> list[Expense]:
    """The expense of each method at each length, on a random regression; time is the minimum of repeats."""
    rng = np.random.default_rng(0)
    net = Rnn.random(inputs, width, outputs)
    expenses = []
    for frames in lengths:
        x_TI = rng.standard_normal((frames, inputs))
        cost = SquaredError(rng.standard_normal((frames, outputs)))
        for name, method in METHODS.items():
            run = partial(method, net, x_TI, cost)
            time_s = min(_seconds(run) for _ in range(repeats))
            expenses.append(Expense(name, frames, time_s, _peak_bytes(run)))
    return expenses


def verdict(expenses: Sequence[Expense]) -> str:
    """A sentence on which exact method wins where: BPTT or RTRL, in time and in memory."""
    by = {(e.method, e.frames): e for e in expenses}
    lengths = sorted({e.frames for e in expenses})
    slower = [by["RTRL", n].time_s / by["BPTT", n].time_s for n in lengths]
    smaller = [n for n in lengths if by["RTRL", n].peak_bytes < by["BPTT", n].peak_bytes]
    longest = lengths[-1]
    saving = by["BPTT", longest].peak_bytes / by["RTRL", longest].peak_bytes
    memory = (
        f"RTRL needs less memory from {smaller[0]} frames on, at {longest} frames {saving:.0f} times less"
        if smaller
        else f"BPTT needs less memory up to {longest} frames"
    )
    time_ = (
        f"BPTT is faster at every length, {min(slower):.1f} to {max(slower):.1f} times"
        if min(slower) > 1
        else f"RTRL takes {min(slower):.1f} to {max(slower):.1f} times as long as BPTT"
    )
    return f"{time_}. {memory}."


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _peak_bytes(run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
