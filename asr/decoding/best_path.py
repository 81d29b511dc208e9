"""Greedy decoding: the most probable output of every frame, repeats merged, blanks removed.

Source: Graves et al. 2006, section 3.2 (best path decoding).
"""

import numpy as np
from torch import Tensor

from asr.decoding.hypothesis import Hypothesis
from asr.text import BLANK


def greedy(log_probs_BTV: Tensor, lengths_B: Tensor) -> list[Hypothesis]:
    """The best path of every utterance.

    Args:
        log_probs_BTV: natural logs, blank at 0.
        lengths_B: frames of each utterance; what stands behind is ignored.

    Returns:
        One hypothesis each; `log_prob` is that of the path, a token's confidence its highest probability.

    >>> log_probs = torch.tensor([[[0.1, 0.9], [0.2, 0.8], [0.9, 0.1], [0.3, 0.7]]]).log()
    >>> [(h.tokens, h.frames) for h in greedy(log_probs, torch.tensor([4]))]
    [((1, 1), ((0, 2), (3, 4)))]
    """
    best_BT, label_BT = (t.cpu().numpy() for t in log_probs_BTV.detach().float().max(-1))
    return [
        _collapse(best[:length], label[:length])
        for best, label, length in zip(best_BT, label_BT, lengths_B.tolist(), strict=True)
    ]


def _collapse(best_T: np.ndarray, label_T: np.ndarray) -> Hypothesis:
    """Runs of one label become one token; runs of blanks vanish."""
    log_prob = float(best_T.sum(dtype=np.float64))
    starts = np.flatnonzero(np.diff(label_T, prepend=-1))
    ends = np.append(starts[1:], len(label_T))
    runs = [(s, e) for s, e in zip(starts.tolist(), ends.tolist(), strict=True) if label_T[s] != BLANK]
    return Hypothesis(
        tokens=tuple(int(label_T[s]) for s, _ in runs),
        frames=tuple(runs),
        confidences=tuple(float(np.exp(best_T[s:e].max())) for s, e in runs),
        log_prob=log_prob,
        acoustic=log_prob,
    )
