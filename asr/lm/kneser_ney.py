"""Interpolated modified Kneser–Ney smoothing: from sentences to an n-gram model.

With a(hw) the adjusted count of an n-gram (below), D(k) a discount for counts k = 1, 2, ≥ 3 of that order:

    P(w | h) = (a(hw) − D(a(hw))) / Σ_v a(hv)  +  γ(h) P(w | h′),     h′ = h without its first word
    γ(h)     = (Σ_v D(a(hv)) over what is kept + Σ_v a(hv) over what is cut off) / Σ_v a(hv)

The adjusted count is the number of occurrences for the highest order and for n-grams that begin with <s>,
else the number of distinct words seen before the n-gram. Unigrams are interpolated with the uniform
distribution over the vocabulary with <unk> and without <s>; <unk> has count 0. This is what KenLM's
`lmplz` estimates.

How it counts. Every position of the text carries the node of the n-gram that ends there. The pair (node of
order n − 1 one position earlier, word here) identifies the n-gram of order n, so one sort of integers per
order counts all of them and gives their contexts and suffixes. Time O(order · T log T), memory O(T) for T
words.

Beyond memory (a billion words) the same sort would be external. Write the (key, word) pairs of an order in
sorted runs of some 100 million, merge the runs from disk, and stream the merged groups through the same
formulas: adjusted counts need the (n + 1)-grams in suffix order, discounts one pass of counts of counts,
probabilities the n-grams in context order beside the lower order in suffix order. That is three external
sorts per order in constant memory (Heafield et al.); 10⁹ words at order 4 are about 60 GB of 16-byte
records. Splitting the keys by their last word gives independent parts for many processes.

Source: Chen & Goodman, "An Empirical Study of Smoothing Techniques" (1998), equation 26 for the discounts;
Heafield, Pouzyrevsky, Clark & Koehn, "Scalable Modified Kneser-Ney Language Model Estimation" (2013).
"""

import logging
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from asr.errors import LanguageModelError
from asr.lm.ngram import END, START, UNKNOWN, NGramModel, check_sentences

MAX_ORDER = 6
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # where none can be estimated; those of `lmplz --discount_fallback`
_UNKNOWN_ID, _START_ID, _END_ID = range(3)
_SPECIALS = (UNKNOWN, UNKNOWN.upper(), START, END)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one order, sorted by (context, last word); parents, suffixes index the order below."""

    parents: np.ndarray
    words: np.ndarray
    suffixes: np.ndarray
    occurrences: np.ndarray
    adjusted: np.ndarray
    after_start: np.ndarray  # True where the n-gram begins with <s>


def train(
    sentences: Iterable[str],
    order: int = 4,
    *,
    cutoffs: Sequence[int] = (0,),
    vocabulary: Iterable[str] = (),
    quiet: bool = False,
) -> NGramModel:
    """The interpolated modified Kneser–Ney model of the sentences.

    Args:
        sentences: one sentence a string, words separated by white space; an empty string is a sentence
            without words. Normalise them like the transcripts (`asr.text.normalise`).
        order: longest n-gram, 1 to 6.
        cutoffs: n-grams of order i that occur cutoffs[i − 1] times or less are left out; the last value
            applies to all higher orders. The first must be 0 and the values must not decrease: (0, 0, 1)
            drops the trigrams and longer n-grams that occur once.
        vocabulary: further words, whether sentences have them or not. Those that none has share the uniform
            distribution below the unigrams with <unk>: each is somewhat rarer than a word that occurs once.
            <s>, </s> and <unk> in it are what they always are.
        quiet: do not log that discounts could not be estimated.

    Raises:
        LanguageModelError: no sentences, a sentence with <s>, </s> or <unk> as a word, impossible settings, a
            vocabulary that is not of words.
    """
    limits = _check_settings(sentences, order, cutoffs)
    known, ids, lengths = _read(sentences)
    known = list(dict.fromkeys([*known, *_checked(vocabulary)]))
    orders = _adjust(_count(ids, lengths, order=order, size=len(known)))
    kept = [c.occurrences > limit for c, limit in zip(orders, limits, strict=True)]
    kept[0][:] = True  # <unk> has count 0
    return _estimate(known, orders, kept, quiet=quiet)


def _check_settings(sentences: Iterable[str], order: int, cutoffs: Sequence[int]) -> list[int]:
    """One cut-off for each order."""
    check_sentences(sentences)
    if not isinstance(order, int | np.integer) or not 1 <= order <= MAX_ORDER:
        raise LanguageModelError(f"order {order!r}: expected a whole number from 1 to {MAX_ORDER}")
    limits = [*cutoffs, *[cutoffs[-1]] * order][:order] if len(cutoffs) else [0] * order
    if limits[0] != 0 or limits != sorted(limits):
        raise LanguageModelError(
            f"cutoffs {tuple(cutoffs)}: expected 0 for the words and values that do not fall, like (0, 0, 1)"
        )
    return limits


def _checked(vocabulary: Iterable[str]) -> Iterator[str]:
    if isinstance(vocabulary, str):
        raise LanguageModelError(f"the vocabulary is one str, {vocabulary!r:.80}: expected a list of words")
    for word in vocabulary:
        if not isinstance(word, str) or word.split() != [word]:
            raise LanguageModelError(f"{word!r:.80} in the vocabulary: expected words without spaces")
        if word not in _SPECIALS:
            yield word


def _read(sentences: Iterable[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(vocabulary, word ids of all sentences as <s> … </s> end to end, lengths of the sentences)."""
    known: defaultdict[str, int] = defaultdict()
    known.default_factory = known.__len__  # a new word gets the next id
    for special in (UNKNOWN, START, END):
        known[special]
    ids, lengths = array("i"), array("q")
    for number, sentence in enumerate(sentences, start=1):
        if not isinstance(sentence, str):
            raise LanguageModelError(f"sentence {number} is {sentence!r:.80}: expected one string a sentence")
        words = sentence.split()
        for special in _SPECIALS:
            if special in words:
                raise LanguageModelError(
                    f"sentence {number} has {special} as a word: {sentence[:80]!r}; leave it out"
                )
        ids.append(_START_ID)
        ids.extend(map(known.__getitem__, words))
        ids.append(_END_ID)
        lengths.append(len(words) + 2)
    if not lengths:
        raise LanguageModelError("no sentences to train from; expected at least one")
    return list(known), np.frombuffer(ids, dtype=np.intc), np.frombuffer(lengths, dtype=np.int64)


def _count(ids: np.ndarray, lengths: np.ndarray, *, order: int, size: int) -> list[_Counts]:
    """Occurrences of all n-grams of order 1 … `order`, those that begin with <s> included."""
    occurrences = np.bincount(ids, minlength=size)
    occurrences[_START_ID] = 0  # <s> is never predicted
    words: np.ndarray = np.arange(size)
    nothing = np.zeros(size, dtype=np.int64)
    counts = [_Counts(nothing, words, nothing, occurrences, occurrences, words == _START_ID)]
    depths = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    nodes = ids
    for n in range(2, order + 1):
        positions = np.flatnonzero(depths >= n - 1)
        keys = nodes[positions - 1].astype(np.int64) * size + ids[positions]
        keys, first, inverse, occurrences = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        parents, words = (part.astype(np.int32) for part in np.divmod(keys, size))
        suffixes = nodes[positions[first]]
        counts.append(
            _Counts(parents, words, suffixes, occurrences, occurrences, counts[-1].after_start[parents])
        )
        nodes = np.full(len(ids), -1, dtype=np.int32)
        nodes[positions] = inverse
    return counts


def _adjust(counts: list[_Counts]) -> list[_Counts]:
    """The same with adjusted counts: below the highest order, how many different words precede an n-gram."""
    adjusted = []
    for lower, higher in pairwise(counts):
        preceding = np.bincount(higher.suffixes, minlength=len(lower.words))
        adjusted.append(replace(lower, adjusted=np.where(lower.after_start, lower.occurrences, preceding)))
    return [*adjusted, counts[-1]]


def estimate_discounts(counts: np.ndarray) -> tuple[float, float, float] | None:
    """(D₁, D₂, D₃₊) of one order from its adjusted counts; None where they cannot be estimated.

    They cannot if no n-gram has a count of 1, 2 or 3, or if a discount falls below 0. Computed in single
    precision as `lmplz` does, so that borderline cases fall on the same side.

    Source: Chen & Goodman (1998), equation 26.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)
    if not n[1:4].all():
        return None
    n1, n2, n3, n4 = n[1:5].astype(np.float32)
    y = n1 / np.float32(n[1] + 2 * n[2])
    k = np.arange(1, 4, dtype=np.float32)
    d1, d2, d3 = (k - (k + 1) * y * np.array([n2, n3, n4]) / np.array([n1, n2, n3])).tolist()
    return (d1, d2, d3) if min(d1, d2, d3) >= 0 else None


def _estimate(
    vocabulary: list[str], orders: list[_Counts], kept: list[np.ndarray], *, quiet: bool
) -> NGramModel:
    """Probabilities and back-off weights of the n-grams kept, as a model."""
    lower_probs = np.array([1 / (len(vocabulary) - 1)])  # the uniform distribution: all words but <s>
    probs, weights, guessed = [], [], []
    for n, (counts, keep) in enumerate(zip(orders, kept, strict=True), start=1):
        discounts = estimate_discounts(counts.adjusted)
        own, backoff = _discount(counts, keep, discounts or FALLBACK_DISCOUNTS, contexts=len(lower_probs))
        if discounts is None or not backoff.all():  # a weight of 0 would make unseen words impossible
            own, backoff = _discount(counts, keep, FALLBACK_DISCOUNTS, contexts=len(lower_probs))
            if counts.adjusted[keep & (counts.adjusted > 0)].min(initial=4) < 4:  # else they hardly matter
                guessed.append(n)
        lower_probs = own + backoff[counts.parents] * lower_probs[counts.suffixes]
        probs.append(lower_probs)
        weights.append(backoff)
    probs[0][_START_ID] = 1.0  # <s> is given, not predicted
    if guessed and not quiet:
        _log.warning(
            "the text is too small or too regular to estimate the discounts of order %s; using %s",
            ", ".join(map(str, guessed)),
            FALLBACK_DISCOUNTS,
        )
    weights = [*weights[1:], np.ones(len(orders[-1].words))]
    return _assemble(vocabulary, orders, kept, probs=probs, weights=weights)


def _discount(
    counts: _Counts, keep: np.ndarray, discounts: tuple[float, float, float], *, contexts: int
) -> tuple[np.ndarray, np.ndarray]:
    """(discounted probability of each n-gram before interpolation, γ of each context)."""
    table = np.array([0.0, *discounts])
    lost = np.where(keep, table[np.minimum(counts.adjusted, 3)], counts.adjusted)
    total = np.bincount(counts.parents, weights=counts.adjusted, minlength=contexts)
    freed = np.bincount(counts.parents, weights=lost, minlength=contexts)
    backoff = np.divide(freed, total, out=np.ones(contexts), where=total > 0)
    return (counts.adjusted - lost) / total[counts.parents], backoff


def _assemble(
    vocabulary: list[str],
    orders: list[_Counts],
    kept: list[np.ndarray],
    *,
    probs: list[np.ndarray],
    weights: list[np.ndarray],
) -> NGramModel:
    """The model of the n-grams kept: orders laid end to end after node 0."""
    sizes = [int(keep.sum()) for keep in kept]
    bases = np.cumsum([0, 1, *sizes])
    parents, renumbered = [np.zeros(1, dtype=np.int64)], np.zeros(1, dtype=np.int64)
    for base, counts, keep in zip(bases, orders, kept, strict=False):
        parents.append(base + renumbered[counts.parents[keep]])
        renumbered = np.cumsum(keep) - 1
    zero, one = np.zeros(1, dtype=np.int64), np.ones(1)

    def lay_out(first: np.ndarray, columns: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([first, *(column[keep] for column, keep in zip(columns, kept, strict=True))])

    return NGramModel(
        vocabulary,
        sizes,
        parents=np.concatenate(parents),
        words=lay_out(zero, (counts.words for counts in orders)),
        log10_probs=np.log10(lay_out(one, probs)),
        backoffs=np.log10(lay_out(one, weights)),
    )
