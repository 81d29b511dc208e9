"""The n-gram model as a state machine, compiled: `advance` inside any numba loop.

A look-up probes a hash table (state, word) → (log10 probability, next state); a miss adds the back-off
weight and continues from the suffix. Slots have 16 bytes, so that a probe touches one cache line, and at
most three quarters are taken, so that a chain of probes is short.

A module of its own because it needs numba, which the rest of `asr.lm` does not.
"""

import numpy as np

from asr.lm.ngram import NGramArrays
from asr.machine.compilation import kernel
from asr.machine.instructions import prefetch

SLOT = np.dtype([("key", np.int64), ("log10_prob", np.float32), ("state", np.int32)])
CONTEXT = np.dtype([("backoff", np.float32), ("suffix", np.int32)])
WORD = np.dtype([("log10_prob", np.float32), ("state", np.int32)])

_EMPTY = -1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2⁶⁴ / golden ratio: multiplying by it spreads neighbouring keys
_HIGH = np.uint64(32)


@kernel()
def _home(key: int, slots: int) -> int:
    """The slot where the search for a key begins; `slots` is a power of two."""
    return int(np.int64((np.uint64(key) * _GOLDEN) >> _HIGH)) & (slots - 1)


@kernel()
def advance(arrays: NGramArrays, state: int, word: int) -> tuple[int, float]:
    """(state after `word`, log10 P(word | state)); words and states as in `NGramModel`."""
    slots, log10_prob = arrays.slots, 0.0
    while state != 0:
        key = state * len(arrays.words) + word
        at = _home(key, len(slots))
        while slots[at].key != _EMPTY:
            if slots[at].key == key:
                return int(slots[at].state), log10_prob + slots[at].log10_prob
            at = (at + 1) & (len(slots) - 1)
        log10_prob += arrays.contexts[state].backoff
        state = int(arrays.contexts[state].suffix)
    return int(arrays.words[word].state), log10_prob + arrays.words[word].log10_prob


@kernel()
def foresee(arrays: NGramArrays, state: int, word: int) -> None:
    """Prefetch the slots that `advance` will read: the table is large, and memory slow."""
    while state != 0:
        prefetch(arrays.slots, _home(state * len(arrays.words) + word, len(arrays.slots)))
        state = arrays.contexts[state].suffix


@kernel()
def score_sentences(
    arrays: NGramArrays, words: np.ndarray, lengths: np.ndarray, start_state: int
) -> np.ndarray:
    """log10 P of each word (float64), for sentences of `lengths` words laid end to end."""
    scores = np.empty(len(words))
    at = 0
    for length in lengths:
        state = start_state
        for i in range(at, at + length):
            state, scores[i] = advance(arrays, state, int(words[i]))
        at += length
    return scores


@kernel()
def trigrams(arrays: NGramArrays, start_state: int, end: int, words: np.ndarray) -> np.ndarray:
    """log10 P(c | a, b) for all words, float32; −1 stands for <s> as a or b, for </s> as c."""
    found = np.empty((len(words), len(words), len(words)), np.float32)
    for i, a in enumerate(words):
        before = start_state if a < 0 else arrays.words[a].state
        for j, b in enumerate(words):
            state = start_state if b < 0 else advance(arrays, before, b)[0]
            for k, c in enumerate(words):
                found[i, j, k] = advance(arrays, state, end if c < 0 else c)[1]
    return found


@kernel()
def _fill(slots: np.ndarray, keys: np.ndarray, log10_probs: np.ndarray, states: np.ndarray) -> None:
    for i in range(len(keys)):
        at = _home(keys[i], len(slots))
        while slots[at].key != _EMPTY:
            at = (at + 1) & (len(slots) - 1)
        slots[at].key = keys[i]
        slots[at].log10_prob = log10_probs[i]
        slots[at].state = states[i]


def build(
    keys: np.ndarray, log10_probs: np.ndarray, backoffs: np.ndarray, states: np.ndarray, suffixes: np.ndarray
) -> NGramArrays:
    """The arrays of a model, from columns of all nodes and the keys of those with two or more words."""
    longer = len(states) - len(keys)
    slots = np.empty(1 << max(4, int(len(keys) / 0.75).bit_length()), dtype=SLOT)
    slots["key"] = _EMPTY
    _fill(slots, keys, log10_probs[longer:], states[longer:])
    words = np.empty(longer - 1, dtype=WORD)
    words["log10_prob"], words["state"] = log10_probs[1:longer], states[1:longer]
    contexts = np.empty(int(states.max()) + 1, dtype=CONTEXT)
    contexts["backoff"], contexts["suffix"] = backoffs[: len(contexts)], suffixes[: len(contexts)]
    return NGramArrays(slots=slots, contexts=contexts, words=words)
