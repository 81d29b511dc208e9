"""The labelling of the most probable path: the best output of every frame, without repeats and blanks.

Source: Graves et al. 2006, section 3.2 ("best path decoding").
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from asr.decoding.emissions import check, check_normalised
from asr.decoding.hypothesis import Hypothesis


def greedy(log_probs_BTV: Tensor, lengths_B: Tensor | Sequence[int]) -> list[Hypothesis]:
    """The best path of each utterance; the log-probabilities may be on any device.

    A token's frames are those of its run on the path; its confidence is its highest probability there.
    `log_prob` and `score` are the log-probability of the path.

    Args:
        log_probs_BTV: natural logs, blank at 0.
        lengths_B: frames of each utterance; later frames are ignored.

    Raises:
        DecodingError: wrong shapes or lengths, NaN, or values that are not normalised log-probabilities.

    >>> import torch
    >>> probs = torch.tensor([[[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.2, 0.8]]])
    >>> [said] = greedy(probs.log(), [4])
    >>> said.tokens, said.frames, [round(c, 2) for c in said.confidences]
    ((1, 1), ((0, 1), (2, 4)), [0.9, 0.8])
    """
    log_probs_BTV, lengths = check(log_probs_BTV, lengths_B)
    check_normalised(log_probs_BTV, lengths)
    batch, frames, _ = log_probs_BTV.shape
    if not batch * frames:
        return [Hypothesis((), (), (), 0.0, 0.0)] * batch
    best = log_probs_BTV.max(-1)
    inside_BT = np.arange(frames) < np.array(lengths)[:, None]
    # one blank after each utterance, so that no run reaches into the next row
    path_BT = np.zeros((batch, frames + 1), np.int64)
    path_BT[:, :-1] = best.indices.cpu().numpy() * inside_BT
    value_BT = np.zeros((batch, frames + 1))
    value_BT[:, :-1] = np.where(inside_BT, best.values.double().cpu().numpy(), 0.0)

    path, value = path_BT.reshape(-1), value_BT.reshape(-1)
    starts = np.flatnonzero(np.diff(path, prepend=0))
    peaks = np.exp(np.maximum.reduceat(value, starts)) if len(starts) else value[:0]
    ends = np.append(starts[1:], len(path))
    spoken = path[starts] > 0
    starts, ends, peaks = starts[spoken], ends[spoken], peaks[spoken]
    borders = np.searchsorted(starts, np.arange(batch + 1) * (frames + 1))
    log_prob_B = value_BT.sum(1)
    found = []
    for i in range(batch):
        here, offset = slice(borders[i], borders[i + 1]), i * (frames + 1)
        tokens = tuple(path[starts[here]].tolist())
        spans = zip((starts[here] - offset).tolist(), (ends[here] - offset).tolist(), strict=True)
        confidences = tuple(np.minimum(peaks[here], 1.0).tolist())
        log_prob = float(log_prob_B[i])
        found.append(Hypothesis(tokens, tuple(spans), confidences, log_prob, log_prob))
    return found
