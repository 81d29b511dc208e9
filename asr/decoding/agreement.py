"""Word confidences from competing labellings; compiled by numba except `confidences`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from asr.decoding.alternatives import before, hashed, restored, sum_up
from asr.decoding.outcome import ancestor, finish, shared_node
from asr.decoding.prefixes import ALTERNATIVES, FRAMES, Beam, compiled, inlined
from asr.decoding.tables import Tables
from asr.machine.compilation import kernel


@kernel()
def drawn(beam: Beam, tree: Any, tables: Tables, count: int, begin: int) -> tuple[Any, Any]:
    """The words of `count` labellings, sampled in proportion to their probability; deterministic.

    Args:
        begin: only what follows the first `begin` tokens is returned and costs time; all prefixes of the
            beam begin with these.

    Returns:
        the numbers of the words of all labellings, see `spelled`, and where each labelling ends; none if no
        prefix may be written.
    """
    since = ancestor(tree, shared_node(beam, tree), begin) if begin else 0
    gains, masses, shares = restored(beam, tree, since)
    weights = finish(beam, tree, tables)
    wholes = np.empty(len(weights))
    for i in range(len(weights)):
        wholes[i] = 1.0 + sum_up(gains, tree["parent"], np.int64(beam.entries[i].node), since + 1)
    weights += np.log(wholes)
    sums = np.cumsum(np.exp(weights - np.max(weights))) if len(weights) else np.zeros(1)
    if not sums[-1] > 0.0:
        count = 0
    words, ends, random = [np.int64(0)][:0], np.empty(count, np.int64), np.zeros(1, np.uint64)
    found = np.empty(beam.counts[FRAMES], np.int64)
    for k in range(count):
        place = (k + 0.5) / count * sums[-1]
        i = np.searchsorted(sums, place)
        left = wholes[i] * (sums[i] - place) / (sums[i] - sums[i - 1] if i else sums[i])
        first = _draw(beam, tree, tables, masses, shares, left, beam.entries[i].node, since, random, found)
        words.extend(found[first:])
        ends[k] = len(words)
    return np.array(words, np.int64), ends


@compiled
def _draw(
    beam: Beam,
    tree: Any,
    tables: Tables,
    masses: Any,
    shares: Any,
    left: float,
    node: Any,
    since: int,
    random: Any,
    words: Any,
) -> int:
    """Sample a way back from a node to `since`; fills `words` from the end and returns the first index.

    Args:
        masses, shares: of the alternatives, see `restored`.
        left: where among the ways to `node` the sample lies, from 0 to their mass.
        random: the generator's state.
    """
    number, key, first = np.int64(beam.counts[ALTERNATIVES]), 0, len(words)
    while node > since:
        at = before(number, beam, tree, node)
        while at >= 0 and left >= shares[at]:
            left -= shares[at]
            at = np.int64(beam.alternatives[at].next)
        if at < 0:
            key, first = _spell(np.int64(tree[node].token), key, words, first, tables)
            node = tree[node].parent
        else:  # Knuth's linear congruential generator
            random[0] = random[0] * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
            left = np.float64(random[0] >> np.uint64(11)) * 2.0**-53 * masses[at]
            node, number = beam.alternatives[at].node, at
    return _end(key, words, first)


@inlined
def _spell(token: Any, key: Any, words: Any, first: int, tables: Tables) -> tuple[Any, int]:
    """The key of the word that is going on, and the index in `words` of the one after it."""
    for a in range(tables.first[token + 1] - 1, tables.first[token] - 1, -1):
        if tables.digits[a]:
            key = hashed(key, tables.digits[a])
    return (0, _end(key, words, first)) if tables.closes[token] else (key, first)


@inlined
def _end(key: Any, words: Any, first: int) -> int:
    """The index in `words` of the word that ends here; of more words than frames, the first are left out."""
    if not key or not first:
        return first
    words[first - 1] = key
    return first - 1


@kernel()
def spelled(tokens: Any, tables: Tables) -> Any:
    """The number of each word of a labelling; words that are spelled alike have the same."""
    words, key, first = np.empty(len(tokens), np.int64), 0, len(tokens)
    for token in tokens[::-1]:
        key, first = _spell(token, key, words, first, tables)
    return words[_end(key, words, first) :]


@kernel()
def shares(tokens: Any, tables: Tables, others: Any, ends: Any) -> Any:
    """(words,) the share of sampled labellings that agree with each word that the tokens spell.

    Smoothed: half a count for agreement and half against.

    Args:
        others, ends: the words of sampled labellings, see `drawn`.

    Source: Wessel et al. 2001, with sampled labellings in place of a lattice.
    """
    words = spelled(tokens, tables)
    counts, first = np.full(len(words), 0.5), 0
    for end in ends:
        _count_equal(words, others[first:end], counts)
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
