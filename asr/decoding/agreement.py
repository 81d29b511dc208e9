"""Word confidences from competing labellings; compiled by numba except `confidences`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from asr.decoding.alternatives import Labellings, hashed
from asr.decoding.tables import Tables
from asr.machine.compilation import kernel


@kernel()
def spelled(labellings: Labellings, tables: Tables) -> tuple[Any, Any]:
    """(word numbers of all labellings, equal for words that are spelled alike; where each labelling ends)."""
    numbers, ends = [np.int64(0)][:0], np.empty(len(labellings.ends), np.int64)
    first = 0
    for i in range(len(ends)):
        key: Any = np.int64(0)
        for c in labellings.tokens[first : labellings.ends[i]]:
            if tables.closes[c] and key:
                numbers.append(key)
                key = np.int64(0)
            for a in range(tables.first[c], tables.first[c + 1]):
                if tables.digits[a]:
                    key = hashed(key, tables.digits[a])
        if key:
            numbers.append(key)
        first, ends[i] = labellings.ends[i], len(numbers)
    return np.array(numbers, np.int64), ends


@kernel()
def shares(words: Any, drawn: Any, ends: Any) -> Any:
    """(words,) the share of sampled labellings that agree with each word of a labelling.

    Smoothed: half a count for agreement and half against.

    Args:
        words: numbers of the words, see `spelled`.
        drawn, ends: the same of labellings sampled in proportion to their probability.

    Source: Wessel et al. 2001, with sampled labellings in place of a lattice.
    """
    counts, first = np.full(len(words), 0.5), 0
    for end in ends:
        _count_equal(words, drawn[first:end], counts)
        first = end
    return counts / (len(ends) + 1)


@kernel()
def _count_equal(words: Any, others: Any, counts: Any) -> None:
    """Add one to the count of each word that equals its counterpart in a minimum edit alignment."""
    last, other_last = len(words), len(others)
    while last and other_last and words[last - 1] == others[other_last - 1]:
        last, other_last = last - 1, other_last - 1
        counts[last] += 1
    first, least = 0, min(last, other_last)
    while first < least and words[first] == others[first]:
        counts[first] += 1
        first += 1
    words, others, counts = words[first:last], others[first:other_last], counts[first:last]
    costs = np.empty((len(words) + 1, len(others) + 1), np.int32)
    costs[:, 0] = np.arange(len(words) + 1)
    costs[0] = np.arange(len(others) + 1)
    for i in range(len(words)):
        for j in range(len(others)):
            aside = min(costs[i, j + 1], costs[i + 1, j]) + 1
            costs[i + 1, j + 1] = min(costs[i, j] + (words[i] != others[j]), aside)
    i, j = len(words), len(others)
    while i and j:
        if costs[i, j] == costs[i - 1, j - 1] + (words[i - 1] != others[j - 1]):
            i, j = i - 1, j - 1
            counts[i] += words[i] == others[j]
        elif costs[i, j] == costs[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1


def confidences(shares: np.ndarray, peaks: Sequence[float]) -> tuple[float, ...]:
    """The probability that each word is correct: a weighted mean of log-odds, 2/3 `shares`, 1/3 `peaks`.

    Shares tell more where a language model chooses among many words; peaks where few words are possible and
    the model is overconfident.

    Args:
        shares: of each word, from `shares`.
        peaks: of each word, the peak probability of its least probable output.

    >>> [round(c, 2) for c in confidences(np.array([0.5, 0.9, 0.9]), [0.99, 0.9, 1.0])]
    [0.82, 0.9, 1.0]
    """
    share_W, peak_W = (np.clip(p, 1e-6, 1 - 1e-6) for p in (shares, np.array(peaks)))
    odds_W = (share_W / (1 - share_W)) ** (2 / 3) * (peak_W / (1 - peak_W)) ** (1 / 3)
    return tuple((odds_W / (1 + odds_W)).tolist())
