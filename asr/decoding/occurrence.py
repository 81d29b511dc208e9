"""The best path; the probability of a labelling and the frames of its tokens; compiled by numba."""

import math
from typing import Any

import numpy as np

from asr.machine.compilation import kernel

FORGET = 1e-60  # lattice states below this fraction of the frame's highest mass are pruned
SURE = 110.0  # nats behind the best path; FORGET is e^−138, so that pruned states hardly matter up to here


@kernel()
def best_path(y_TV: Any) -> Any:
    """The labelling of the most probable path."""
    tokens, count, before = np.empty(y_TV.shape[0], np.int64), 0, 0
    for t in range(y_TV.shape[0]):
        best = 0
        if y_TV[t, 0] <= 0.5:
            for c in range(1, y_TV.shape[1]):
                best = c if y_TV[t, c] > y_TV[t, best] else best
        tokens[count] = best
        count += best not in (0, before)
        before = best
    return tokens[:count]


def best_ln(y_TV: np.ndarray) -> float:
    """ln p of the most probable path."""
    return float(np.log(y_TV.max(1)).sum())


@kernel()
def locate(y_TV: Any, tokens: Any, spans: Any, peaks: Any) -> float:
    """ln p(tokens) over all paths; fills spans (S, 2) and peaks (S,) from the best path.

    These are the first frame of each token, the one after its last, and its highest probability in between.

    Forward variable and Viterbi over the states blank, token, blank, … (see `asr.ctc`), both as probabilities
    rescaled in every frame, and only over the window of states that are not negligible so far. −∞ if no path
    in it spells the tokens; the spans are then meaningless. Of tokens that lose more than `SURE` to the best
    path, what was pruned may have mattered in the end.
    """
    frames, states = y_TV.shape[0], 2 * len(tokens) + 1
    moves = np.empty((frames, states), np.int8)
    mass, best = np.zeros(states + 2), np.zeros(states + 2)  # state s lies at s + 2
    mass[2] = best[2] = 1.0
    low, high, ln = 0, 0, 0.0
    for t in range(frames):
        top, high = 0.0, min(high + 2, states - 1)
        for s in range(high, low - 1, -1):
            label = tokens[s >> 1] if s & 1 else 0
            total, path, move = mass[s + 2] + mass[s + 1], best[s + 2], 0
            if best[s + 1] > path:
                path, move = best[s + 1], 1
            if s & 1 and s > 1 and label != tokens[(s >> 1) - 1]:
                total += mass[s]
                if best[s] > path:
                    path, move = best[s], 2
            mass[s + 2], best[s + 2], moves[t, s] = total * y_TV[t, label], path * y_TV[t, label], move
            top = max(top, mass[s + 2])
        if not top > 0.0:
            return -np.inf
        while mass[high + 2] < FORGET * top:
            mass[high + 2] = best[high + 2] = 0.0
            high -= 1
        while mass[low + 2] < FORGET * top:
            mass[low + 2] = best[low + 2] = 0.0
            low += 1
        for s in range(low, high + 1):
            mass[s + 2] /= top
            best[s + 2] /= top
        ln += math.log(top)
    s = states - 1
    total = mass[s + 2] + (mass[s + 1] if states > 1 else 0.0)
    if states > 1 and best[s + 1] > best[s + 2]:
        s -= 1
    if not best[s + 2] > 0.0:
        return -np.inf
    spans[:, 1] = 0
    peaks[:] = 0.0
    for t in range(frames - 1, -1, -1):
        if s & 1:
            spans[s >> 1, 0] = t
            spans[s >> 1, 1] = max(spans[s >> 1, 1], t + 1)
            peaks[s >> 1] = min(max(peaks[s >> 1], y_TV[t, tokens[s >> 1]]), 1.0)
        s -= moves[t, s]
    return ln + math.log(total)
