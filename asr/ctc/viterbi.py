"""The most probable path through the lattice, compiled by numba, in little memory however long it is.

Scores lie in two rows: that of blank u = 0 … S at [0, u], that of label u = 0 … S−1 at [1, u + 1]. So every
blank stands above the label that it follows, and before the first label, at [1, 0], there is −∞.
"""

from typing import Any

import numpy as np
from numba import njit

from asr.machine.compilation import kernel

BLOCK = 1024
"""The scores before one frame in so many are kept."""

Row = Any  # a one-dimensional contiguous array


@njit(nogil=True)
def _better(p: float, q: float) -> float:
    return q if q > p else p


@njit(nogil=True)
def _blanks(new: Row, blank: Row, label: Row, y: float) -> None:
    """Each blank from itself or from the label that it follows."""
    for u in range(new.shape[0]):
        new[u] = _better(blank[u], label[u]) + y


@njit(nogil=True)
def _labels(new: Row, label: Row, blank: Row, before: Row, jump: Row, y: Row) -> None:
    """Each label from itself, from the blank before it or, where they differ, from the label before it."""
    for u in range(new.shape[0]):
        new[u] = _better(_better(label[u], blank[u]), before[u] + jump[u]) + y[u]


@njit(nogil=True)
def _step(new: Any, old: Any, row_V: Row, labels_S: Row, jump_S: Row, y_S: Row, low: int, high: int) -> None:
    """The scores after one more frame: of blanks low … high, and of the labels between them."""
    for u in range(low, high):
        y_S[u] = row_V[labels_S[u]]
    between, after = slice(low, high), slice(low + 1, high + 1)
    _blanks(new[0, low : high + 1], old[0, low : high + 1], old[1, low : high + 1], row_V[0])
    _labels(new[1, after], old[1, after], old[0, between], old[1, between], jump_S[between], y_S[between])


@njit(nogil=True)
def _before(state: int, old: Any, jump_S: Row) -> int:
    """The state one frame earlier on the best path, given the scores there; among equals the nearest."""
    u = state >> 1
    if not state & 1:
        return state - 1 if old[1, u] > old[0, u] else state
    if old[1, u] + jump_S[u] > _better(old[1, u + 1], old[0, u]):
        return state - 2
    return state - 1 if old[0, u] > old[1, u + 1] else state


@kernel()
def best_path(log_probs_TV: Any, labels_S: Any) -> tuple[float, Any]:
    """ln p of the most probable path that spells the labels, and its state 0 … 2S at each frame.

    Viterbi: equation (2) of the lattice with max for +. Among equals the smaller move wins. −∞ if none fits.
    The path is traced from the last block of frames to the first. The scores within a block are computed from
    those kept before it, for no more labels than it has frames, as a path climbs at most one a frame. So
    memory is 16 bytes for every label and block, and 16 · BLOCK².
    """
    frames, labels = log_probs_TV.shape[0], labels_S.shape[0]
    y_S, jump_S = np.empty(labels), np.full(labels, -np.inf)
    for u in range(1, labels):
        if labels_S[u] != labels_S[u - 1]:
            jump_S[u] = 0.0
    kept = np.empty(((frames + BLOCK - 1) // BLOCK, 2, labels + 1))
    new, old = np.full((2, labels + 1), -np.inf), np.full((2, labels + 1), -np.inf)
    old[0, 0] = 0.0
    for k in range(len(kept)):
        kept[k] = old
        for t in range(k * BLOCK, (k + 1) * BLOCK if k < len(kept) - 1 else 0):
            low, high = max(0, labels - (frames - t)), min(labels, t + 1)
            _step(new, old, log_probs_TV[t], labels_S, jump_S, y_S, low, high)
            new, old = old, new

    path_T, best, state = np.empty(frames, np.int64), -np.inf, 2 * labels
    for k in range(len(kept) - 1, -1, -1):
        start, end, high = k * BLOCK, min((k + 1) * BLOCK, frames), (state + 1) >> 1
        low = max(0, high - (end - start))
        scores = np.full((end - start + 1, 2, high - low + 1), -np.inf)
        scores[0] = kept[k, :, low : high + 1]
        near_S, near_jump_S = labels_S[low:high], jump_S[low:high]
        for t in range(start, end):
            here = t - start
            _step(scores[here + 1], scores[here], log_probs_TV[t], near_S, near_jump_S, y_S, 0, high - low)
        if end == frames:
            blank, label = scores[-1, 0, -1], scores[-1, 1, -1]
            best = _better(blank, label)
            state -= label > blank
        for t in range(end - 1, start - 1, -1):
            path_T[t] = state
            state = 2 * low + _before(state - 2 * low, scores[t - start], near_jump_S)
    return best, path_T
