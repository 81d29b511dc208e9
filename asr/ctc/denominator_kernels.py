"""The denominator of one utterance, compiled by numba; `asr.ctc.denominator` has the formulas.

Cells are indexed [b, a] or [c, b], the last label first: all that precedes a label is then one row, which one
product with the trigram advances. Rows are zero-padded to whole vectors.
"""

from typing import Any

import numpy as np
from numba import njit

from asr.machine.compilation import kernel
from asr.machine.rows import multiply_row

_FAST: Any = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
_APART = 1e-3  # nats that the value may differ from frame to frame


@njit(**_FAST)
def _divide(cells: Any, by: Any) -> None:
    factor = np.float32(1.0) / by
    for kind in range(2):
        for b in range(cells.shape[1]):
            for a in range(cells.shape[2]):
                cells[kind, b, a] *= factor


@njit(**_FAST)
def _forward_step(new: Any, old: Any, y: Any, next_VVL: Any, again: Any, here: Any, moved: Any) -> Any:
    """new = the cells of a frame from those of the frame before, divided by their sum, which is returned."""
    outputs, lanes = again.shape
    label, blank = old[0], old[1]
    total = np.float32(0.0)
    for b in range(outputs):
        repeated = np.float32(0.0)
        for a in range(lanes):
            here[a] = label[b, a] + blank[b, a]
            new[1, b, a] = here[a] * y[0]
            total += new[1, b, a]
            repeated += label[b, a] * again[b, a]
        multiply_row(here, next_VVL[b], moved)
        moved[b] -= repeated  # a label may follow itself only after a blank
        for c in range(1, outputs):
            new[0, c, b] = (label[c, b] + max(moved[c], np.float32(0.0))) * y[c]
            total += new[0, c, b]
        new[0, 0, b] = 0.0
    new[0, :, outputs:] = 0.0
    _divide(new, total)
    return total


@njit(**_FAST)
def _backward_step(new: Any, old: Any, y: Any, before_VVL: Any, again: Any, ahead: Any, moved: Any) -> Any:
    """new = beta of the frame before that of y, divided by its largest number, which is returned."""
    outputs, lanes = again.shape
    largest = np.float32(0.0)
    for b in range(outputs):
        for c in range(1, outputs):
            ahead[c] = old[0, c, b] * y[c]
        multiply_row(ahead, before_VVL[b], moved)
        stays = y[b] if b else np.float32(0.0)
        for a in range(lanes):
            after_blank = old[1, b, a] * y[0]
            new[1, b, a] = after_blank + moved[a]
            others = max(moved[a] - again[b, a] * ahead[b], np.float32(0.0))
            new[0, b, a] = after_blank + old[0, b, a] * stays + others
            largest = max(largest, max(new[0, b, a], new[1, b, a]))
    _divide(new, largest)
    return largest


@njit(**_FAST)
def _shares(alpha: Any, beta: Any, shares: Any) -> Any:
    """Fill `shares` with the share of the sum that passes through each output at a frame; returns the sum."""
    outputs, lanes = alpha.shape[1:]
    blanks, total = np.float32(0.0), np.float32(0.0)
    for b in range(outputs):
        labels = np.float32(0.0)
        for a in range(lanes):
            labels += alpha[0, b, a] * beta[0, b, a]
            blanks += alpha[1, b, a] * beta[1, b, a]
        shares[b] = labels
        total += labels
    shares[0] += blanks
    factor = np.float32(1.0) / (total + blanks)
    for b in range(outputs):
        shares[b] *= factor
    return total + blanks


@kernel(error_model="numpy")
def denominator(
    probs_TV: Any, next_VVL: Any, before_VVL: Any, again_VL: Any, end_VL: Any, occupancy_TV: Any
) -> tuple[float, bool]:
    """(ln Σ_l P(l) p(l | x), whether single precision sufficed).

    Fills occupancy_TV with the share of each output at each frame. Paths that are next to impossible at one
    time, so that they become zero, may be all that is left at another. Then the sums over the states of
    different frames, which should all be the value, differ; neither result is to be used.

    Args:
        next_VVL, before_VVL: P(c | a, b) at [b, a, c] and at [b, c, a].
        again_VL, end_VL: P(b | a, b) and P(end | a, b) at [b, a].
    """
    frames, outputs = probs_TV.shape
    lanes = again_VL.shape[1]
    alpha = np.empty((frames + 1, 2, outputs, lanes), np.float32)
    alpha[0] = 0.0
    alpha[0, 1, 0, 0] = 1.0
    given, moved = np.zeros(lanes, np.float32), np.zeros(lanes, np.float32)
    ln_before = np.zeros(frames + 1)  # of what alpha was divided by so far
    for t in range(frames):
        total = _forward_step(alpha[t + 1], alpha[t], probs_TV[t], next_VVL, again_VL, given, moved)
        ln_before[t + 1] = ln_before[t] + np.log(np.float64(total))
    beta, spare = np.empty((2, outputs, lanes), np.float32), np.empty((2, outputs, lanes), np.float32)
    beta[0], beta[1] = end_VL, end_VL
    value = ln_before[frames] + np.log(np.float64(np.sum(end_VL * (alpha[frames, 0] + alpha[frames, 1]))))
    ln_after = 0.0
    given[:] = 0.0
    for t in range(frames, 0, -1):
        here = np.log(np.float64(_shares(alpha[t], beta, occupancy_TV[t - 1])))
        if not abs(ln_before[t] + here + ln_after - value) < _APART:
            return value, False
        if t > 1:
            largest = _backward_step(spare, beta, probs_TV[t - 1], before_VVL, again_VL, given, moved)
            ln_after += np.log(np.float64(largest))
            beta, spare = spare, beta
    return value, True
