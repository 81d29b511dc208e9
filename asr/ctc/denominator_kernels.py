"""The denominator of one utterance, compiled by numba; `asr.ctc.denominator` has the formulas.

Cells are indexed [b, a] or [c, b], the last label first: one context of the trigram is then one row. Rows of
the trigram are zero-padded to a multiple of `LANES`, so that loops over them vectorise without a remainder.
"""

import math
from typing import Any

import numpy as np
from numba import njit

LANES = 32
_FAST = {"reassoc", "contract", "nsz"}


@njit(nogil=True, fastmath=_FAST)
def _forward_step(new: Any, old: Any, y: Any, shared: Any, row: Any, own: Any, moved: Any) -> Any:
    """new = the cells of a frame from those of the frame before, divided by their sum, which is returned."""
    outputs = y.shape[0]
    label, blank = old[0], old[1]
    total = np.float32(0.0)
    for b in range(outputs):
        rest, again, rest_again = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        moved[:] = 0.0
        for a in range(outputs):
            here = label[b, a] + blank[b, a]
            new[1, b, a] = here * y[0]
            total += new[1, b, a]
            if here == 0.0:
                continue
            k = row[b, a]
            if k < 0:
                rest += here
                rest_again += label[b, a]
                continue
            again += label[b, a] * own[k, b]
            for c in range(moved.shape[0]):
                moved[c] += here * own[k, c]
        for c in range(moved.shape[0]):
            moved[c] += rest * shared[b, c]
        moved[b] -= again + rest_again * shared[b, b]
        for c in range(1, outputs):
            new[0, c, b] = (label[c, b] + max(moved[c], np.float32(0.0))) * y[c]
            total += new[0, c, b]
        new[0, 0, b] = 0.0
    factor = np.float32(1.0) / total
    for kind in range(2):
        for b in range(outputs):
            for a in range(outputs):
                new[kind, b, a] *= factor
    return total


@njit(nogil=True, fastmath=_FAST)
def _backward_step(beta: Any, y: Any, shared: Any, row: Any, own: Any, ahead: Any, old: Any) -> None:
    """Turn beta of the frame that y belongs to into beta of the frame before, up to a factor."""
    outputs = y.shape[0]
    old[:] = beta
    largest = np.float32(0.0)
    for b in range(outputs):
        ahead[0] = 0.0
        rest = np.float32(0.0)
        for c in range(1, outputs):
            ahead[c] = old[0, c, b] * y[c]
            rest += ahead[c] * shared[b, c]
        for a in range(outputs):
            k = row[b, a]
            if k < 0:
                moved = rest
                again = shared[b, b]
            else:
                moved = np.float32(0.0)
                for c in range(ahead.shape[0]):
                    moved += ahead[c] * own[k, c]
                again = own[k, b]
            beta[1, b, a] = old[1, b, a] * y[0] + moved
            others = max(moved - again * ahead[b], np.float32(0.0))
            beta[0, b, a] = old[1, b, a] * y[0] + old[0, b, a] * y[b] * (b > 0) + others
            largest = max(largest, max(beta[0, b, a], beta[1, b, a]))
    factor = np.float32(1.0) / largest
    for kind in range(2):
        for b in range(outputs):
            for a in range(outputs):
                beta[kind, b, a] *= factor


@njit(nogil=True, fastmath=_FAST)
def _shares(alpha: Any, beta: Any, shares: Any) -> None:
    """Fill `shares` with the share of the sum that passes through each output at a frame."""
    outputs = shares.shape[0]
    blanks, total = np.float32(0.0), np.float32(0.0)
    for b in range(outputs):
        labels = np.float32(0.0)
        for a in range(outputs):
            labels += alpha[0, b, a] * beta[0, b, a]
            blanks += alpha[1, b, a] * beta[1, b, a]
        shares[b] = labels
        total += labels
    shares[0] += blanks
    factor = np.float32(1.0) / (total + blanks)
    for b in range(outputs):
        shares[b] *= factor


@njit(nogil=True, cache=True)
def denominator(probs_TV: Any, shared_VL: Any, row_VV: Any, own_KL: Any, occupancy_TV: Any) -> float:
    """ln Σ_l P(l) p(l | x); fills occupancy_TV (zeros) with the share of each output at each frame."""
    frames, outputs = probs_TV.shape
    alpha = np.empty((frames + 1, 2, outputs, outputs), np.float32)
    alpha[0] = 0.0
    alpha[0, 1, 0, 0] = 1.0
    scratch = np.zeros(shared_VL.shape[1], np.float32)
    log_total = 0.0
    for t in range(frames):
        total = _forward_step(alpha[t + 1], alpha[t], probs_TV[t], shared_VL, row_VV, own_KL, scratch)
        log_total += math.log(total)
    beta, old = np.empty((2, outputs, outputs), np.float32), np.empty((2, outputs, outputs), np.float32)
    at_end = 0.0
    for b in range(outputs):
        for a in range(outputs):
            end = shared_VL[b, 0] if row_VV[b, a] < 0 else own_KL[row_VV[b, a], 0]
            beta[0, b, a] = beta[1, b, a] = end
            at_end += end * (alpha[frames, 0, b, a] + alpha[frames, 1, b, a])
    for t in range(frames, 0, -1):
        _shares(alpha[t], beta, occupancy_TV[t - 1])
        if t > 1:
            _backward_step(beta, probs_TV[t - 1], shared_VL, row_VV, own_KL, scratch, old)
    return log_total + math.log(at_end)
