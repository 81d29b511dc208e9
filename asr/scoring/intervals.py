"""Bootstrap intervals: how far a rate would vary with other utterances of the same kind.

Units (utterances, or speakers as blocks of utterances) are drawn with replacement, as many as there are, and
the pooled rate is computed again, 10,000 times. Drawing is vectorised: units with equal counts are one kind,
and how often each kind is drawn is one multinomial draw, so a set of 50,000 utterances costs little more than
one of 1,000.

With few units percentile intervals are too narrow; the percentiles are taken further out, at
Φ(−√(n/(n−1)) t₍n−1₎), which gives the interval of the t distribution where the statistic is a mean.

Source: Bisani & Ney 2004 (bootstrap of error rates); Liu & Peng 2020 (blocks of speakers);
Hesterberg 2015, "What teachers should know about the bootstrap", section 5 (expanded percentiles).
"""

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
_SEED = 0


def bootstrap_rates(
    errors_N: np.ndarray, words_N: np.ndarray, *, blocks: Sequence[str] | None = None
) -> np.ndarray:
    """The pooled rate in each resample: float64 (10,000,); deterministic.

    Args:
        errors_N: int, errors of each utterance.
        words_N: int, reference words of each utterance.
        blocks: name of the block (speaker) of each utterance; whole blocks are then drawn.
    """
    return pooled(*resample_sums(np.stack([errors_N, words_N], axis=1), blocks=blocks).T)


def pooled(errors_R: np.ndarray, words_R: np.ndarray) -> np.ndarray:
    """Rates from sums of errors and of words."""
    return errors_R / np.maximum(words_R, 1)


def interval(values_R: np.ndarray, *, units: int) -> tuple[float, float] | None:
    """The 95 % interval from the resamples; None if there are fewer than two units to draw from."""
    if units < 2:
        return None
    from scipy.special import ndtr, stdtrit

    t = -stdtrit(units - 1, (1 - CONFIDENCE) / 2)
    tail = float(ndtr(-math.sqrt(units / (units - 1)) * t))
    low, high = np.quantile(values_R, [tail, 1 - tail])
    return float(low), float(high)


def resample_sums(values_NK: np.ndarray, *, blocks: Sequence[str] | None = None) -> np.ndarray:
    """Sums over as many units as there are, drawn with replacement: (10,000, K), of the input's type."""
    if blocks is not None:
        names, block_N = np.unique(np.asarray(blocks), return_inverse=True)
        sums_BK = np.zeros((len(names), values_NK.shape[1]), dtype=values_NK.dtype)
        np.add.at(sums_BK, block_N, values_NK)
        values_NK = sums_BK
    rng, count = np.random.default_rng(_SEED), len(values_NK)
    kinds_GK, times_G = np.unique(values_NK, axis=0, return_counts=True)
    if len(kinds_GK) <= max(count // 4, 16):
        return rng.multinomial(count, times_G / count, RESAMPLES) @ kinds_GK
    step = max(1, 4_000_000 // count)
    parts = []
    for begin in range(0, RESAMPLES, step):
        picks_RN = rng.integers(0, count, (min(step, RESAMPLES - begin), count), dtype=np.int32)
        parts.append(np.stack([column[picks_RN].sum(1) for column in values_NK.T], axis=1))
    return np.concatenate(parts)
