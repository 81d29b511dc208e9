"""Everything the beam search looks up, as flat arrays: outputs, words, n-grams, hotwords, weights."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from asr.decoding.hotwords import bonuses, build_automaton
from asr.decoding.lexicon import Pronunciations, check_spellable, chosen, known_words, word_ids
from asr.decoding.spelling import BASE, BORDER, Spelling, Trie, build_trie, foresee, spell_outputs
from asr.errors import DecodingError
from asr.lm import NGramModel
from asr.lm.automaton import CONTEXT, SLOT, WORD
from asr.lm.ngram import NGramArrays
from asr.text import Alphabet

LN_10 = math.log(10.0)
LARGEST = 80.0
"""Nats that weights may add to a word: single precision holds factors up to exp(88)."""
ROOT, OUTSIDE = 0, -1  # trie nodes: before the first character of a word; not a word of the trie

TRIE = np.dtype(
    [
        ("mask", np.int64),  # of digits that lead to a child
        ("first", np.int32),  # child
        ("word", np.int32),  # the first entry that ends here, or −1
        ("homophones", np.int32),  # how many do, with consecutive numbers
        ("foreseen", np.float64),  # value of the best entry at or below the node; 0 at the root
        ("leave", np.float64),  # factor for leaving the trie here
    ]
)


class Tables(NamedTuple):
    """The read-only data of the compiled search.

    Natural logs throughout, already weighted. A word is scored in two parts (language model look-ahead):
    while it is spelled the best possible unigram value is *foreseen*, and when it ends its actual value
    replaces that. This never decides a finished hypothesis, but lets the beam compare unfinished words.

    Attributes:
        first, digits, closes: see `Spelling`.
        single: (V,) the digit of an output that writes just this one and closes nothing; else 0.
        writer: (64,) the output that writes just this digit.
        trie: TRIE records, see there; an *entry* is a word with one of its spellings.
        ahead: exp(foreseen) of each node of the trie.
        word_ids: (entries,) the word in the word n-grams.
        outside: the value foreseen for a word outside the trie; −∞ where a lexicon forbids such words.
        outside_step: the penalty of each digit spelled outside the trie, ≥ 0.
        opening: (V,) factor for beginning a word with an output that closes the one before.
        hot_after, hot_promise, hot_reward: see `Automaton`.
        hot_numbers: (entries,) the word in that automaton.
        ngrams, start_state, unknown, end: the word n-grams; `alpha` is their weight times ln 10.
        beta: bonus of every word.
        bound: pruning assumes that no extension has a higher factor, unless it closes a word.
    """

    first: np.ndarray
    digits: np.ndarray
    closes: np.ndarray
    single: np.ndarray
    writer: np.ndarray
    trie: np.ndarray
    ahead: np.ndarray
    word_ids: np.ndarray
    outside: float
    outside_step: float
    unknown_penalty: float
    opening: np.ndarray
    hot_after: np.ndarray
    hot_promise: np.ndarray
    hot_reward: np.ndarray
    hot_numbers: np.ndarray
    ngrams: NGramArrays
    start_state: int
    unknown: int
    end: int
    alpha: float
    beta: float
    bound: float


@dataclass(frozen=True)
class Vocabulary:
    """The words of a search and how they are spelled: what does not change with the weights.

    Attributes:
        words: (entries,) what each entry of the trie writes.
        word_ids: (entries,) the same in the word n-grams.
        unspellable: words that can never be recognised.
        closed: whether other words are forbidden.
        pronounced: whether the entries are spelled by pronunciations, not as words are written.
    """

    alphabet: Alphabet
    lm: NGramModel | None
    spelling: Spelling
    trie: Trie
    words: list[str]
    word_ids: np.ndarray
    unspellable: list[str]
    closed: bool
    pronounced: bool


def build_vocabulary(
    alphabet: Alphabet,
    *,
    lm: NGramModel | None,
    lexicon: Iterable[str] | Pronunciations | None,
    hotwords: Iterable[tuple[str, ...]],
) -> Vocabulary:
    """The words of the lexicon, or else of the language model, and of the hotwords.

    Args:
        lexicon: words, or words with their pronunciations.
        hotwords: the words of each.

    Raises:
        DecodingError: a hotword that cannot be spelled, or a lexicon of which no word can.
        LanguageModelError: a language model of which no word can be spelled.
    """
    parts = dict.fromkeys(word for phrase in hotwords for word in phrase)
    is_listed = isinstance(lexicon, Iterable) and not isinstance(lexicon, str | Mapping)
    if lexicon is not None and is_listed and alphabet.lexicon is not None:
        lexicon = chosen(alphabet.lexicon, lexicon, parts)
    spelling = spell_outputs(alphabet, whole=isinstance(lexicon, Mapping))
    entries = known_words(alphabet, spelling, lm=lm, lexicon=lexicon, hotwords=parts)
    trie = build_trie(entries.spelled)
    words = [entries.words[e] for e in trie.order]
    return Vocabulary(
        alphabet=alphabet,
        lm=lm,
        spelling=spelling,
        trie=trie,
        words=words,
        word_ids=word_ids(words, lm),
        unspellable=check_spellable(entries, alphabet, spelling, lm),
        closed=lexicon is not None,
        pronounced=isinstance(lexicon, Mapping),
    )


def build_tables(
    vocabulary: Vocabulary,
    *,
    alpha: float,
    beta: float,
    unknown_penalty: float,
    hotwords: Mapping[tuple[str, ...], float],
) -> Tables:
    """The tables of a search with these weights.

    Args:
        hotwords: from the words of each, all in the vocabulary, to its weight.

    Raises:
        DecodingError: weights too large for probabilities to hold.
    """
    lm, spelling, words = vocabulary.lm, vocabulary.spelling, vocabulary.words
    beta, penalty = (beta, alpha * unknown_penalty) if lm else (0.0, 0.0)
    step = penalty / spelling.per_character
    values, outside = _values(vocabulary, alpha, beta, penalty)
    hot, shares = build_automaton(hotwords), bonuses(hotwords)
    rewards = np.zeros(len(words))
    numbers = np.zeros(len(words), np.int32)
    for entry, word in enumerate(words) if hotwords else ():
        rewards[entry], numbers[entry] = max(shares.get(word, 0.0), 0.0), hot.numbers.get(word, 0)
    foreseen = foresee(vocabulary.trie, values, rewards)
    most = max(outside, float(foreseen.max(initial=0.0)), float(hot.reward.max()))
    if most > LARGEST:
        raise DecodingError(
            f"the weights raise a word by {most:.0f} nats; expected at most {LARGEST:.0f}, which is "
            "more than any sound can outweigh"
        )
    records = _trie_records(vocabulary.trie, foreseen, outside, step)
    return Tables(
        **_written(spelling),
        trie=records,
        ahead=np.exp(records["foreseen"]).astype(np.float32),
        word_ids=vocabulary.word_ids,
        outside=outside,
        outside_step=step,
        unknown_penalty=penalty,
        opening=_openings(records, spelling, outside, step),
        hot_after=hot.after,
        hot_promise=hot.promise,
        hot_reward=hot.reward,
        hot_numbers=numbers,
        **_word_model(lm),
        alpha=alpha * LN_10,
        beta=beta,
        bound=_bound(vocabulary, records, rewards, outside),
    )


def _bound(vocabulary: Vocabulary, trie: np.ndarray, rewards: np.ndarray, outside: float) -> float:
    """At least the factor of any extension that closes no word.

    A first output brings what is foreseen for a word that begins with it. Another brings at most the share of
    a hotword's reward that falls on the digits it writes, since all else was foreseen before.
    """
    begun = max(outside, float(trie["foreseen"][ROOT + 1 :].max(initial=0.0)))
    share = float((rewards / np.maximum(vocabulary.trie.lengths, 1)).max(initial=0.0))
    return math.exp(max(0.0, begun, share * int(np.diff(vocabulary.spelling.first).max())))


def _values(vocabulary: Vocabulary, alpha: float, beta: float, penalty: float) -> tuple[np.ndarray, float]:
    """(value of each entry as a unigram, value of a word without an entry)."""
    lm = vocabulary.lm
    if lm is None:
        values, outside = np.zeros(len(vocabulary.words)), 0.0
    else:
        unigrams = alpha * LN_10 * lm.arrays.words["log10_prob"].astype(np.float64) + beta
        values, outside = unigrams[vocabulary.word_ids], float(unigrams[lm.unknown_id]) - penalty
    return (values, -np.inf) if vocabulary.closed else (np.maximum(values, outside), outside)


def _word_model(lm: NGramModel | None) -> dict[str, Any]:
    """The word n-grams; without a model, arrays of the same types that are never read."""
    if lm is not None:
        states = {"start_state": lm.start_state, "unknown": lm.unknown_id, "end": lm.end_id}
        return {"ngrams": lm.arrays, **states}
    unread = NGramArrays(np.zeros(1, SLOT), np.zeros(1, CONTEXT), np.zeros(1, WORD))
    return {"ngrams": unread, "start_state": -1, "unknown": -1, "end": -1}


def _trie_records(trie: Trie, foreseen: np.ndarray, outside: float, step: float) -> np.ndarray:
    """The trie for the search, with its foreseen values."""
    records = np.zeros(len(trie.mask), TRIE)
    for name in ("mask", "first", "word", "homophones"):
        records[name] = getattr(trie, name)
    records["foreseen"] = foreseen
    records["foreseen"][ROOT] = 0.0
    records["leave"] = np.exp(outside - records["foreseen"] - step)
    return records


def _written(spelling: Spelling) -> dict[str, Any]:
    """What each output writes, and which output writes a digit alone."""
    single, writer = np.zeros(len(spelling.closes), np.int64), np.zeros(BASE + 2, np.int32)
    alone = (np.diff(spelling.first) == 1) & ~spelling.closes
    single[alone] = spelling.digits[spelling.first[:-1][alone]]
    writer[single[alone]] = np.flatnonzero(alone)
    return {
        "first": spelling.first,
        "digits": spelling.digits,
        "closes": spelling.closes,
        "single": single,
        "writer": writer,
    }


def _openings(trie: np.ndarray, spelling: Spelling, outside: float, step: float) -> np.ndarray:
    """(V,) the factor for beginning a word with each output."""
    factors = np.ones(len(spelling.closes))
    for c in range(len(factors)):
        node, ln = ROOT, 0.0
        for digit in map(int, spelling.digits[spelling.first[c] : spelling.first[c + 1]]):
            if digit == BORDER:
                continue
            mask = int(trie["mask"][node]) if node != OUTSIDE else 0
            if mask >> digit & 1:
                node = int(trie["first"][node]) + (mask & ((1 << digit) - 1)).bit_count()
            else:
                node, ln = OUTSIDE, ln - step
        factors[c] = math.exp(ln + (outside if node == OUTSIDE else float(trie["foreseen"][node])))
    return factors
