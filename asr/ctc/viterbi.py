"""The most probable path through the lattice, compiled by numba; it keeps one byte per cell."""

from typing import Any

import numpy as np

from asr.machine.compilation import kernel


@kernel()
def best_path(log_probs_TV: Any, labels_S: Any) -> tuple[float, Any]:
    """ln p of the most probable path that spells the labels, and its state 0 … 2S at each frame.

    Viterbi: equation (2) of the lattice with max for +. Among equals the smaller move wins. −∞ if none fits.
    """
    frames, labels = log_probs_TV.shape[0], labels_S.shape[0]
    states = 2 * labels + 1
    move_TL = np.zeros((frames, states), np.int8)
    score = np.full(states + 2, -np.inf)  # state s lies at s + 2, after two unreachable cells
    score[2] = 0.0
    for t in range(frames):
        row = log_probs_TV[t]
        # from high to low, so that lower states still hold the scores of the frame before
        for s in range(min(states, 2 * t + 2) - 1, max(0, states - 2 * (frames - t)) - 1, -1):
            label = labels_S[s >> 1] if s & 1 else 0
            best, move = score[s + 2], 0
            if score[s + 1] > best:
                best, move = score[s + 1], 1
            if s & 1 and s > 1 and label != labels_S[(s >> 1) - 1] and score[s] > best:
                best, move = score[s], 2
            score[s + 2] = best + row[label]
            move_TL[t, s] = move
    state = states - 1
    if labels and score[state + 1] > score[state + 2]:
        state -= 1
    best = score[state + 2]
    path_T = np.empty(frames, np.int64)
    for t in range(frames - 1, -1, -1):
        path_T[t] = state
        state -= move_TL[t, state]
    return best, path_T
