"""Everything the beam search looks up, as flat arrays: outputs, words, n-grams, hotwords, weights."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from asr.decoding.spelling import (
    BORDER,
    Automaton,
    Spelling,
    Trie,
    build_automaton,
    build_trie,
    spell_outputs,
)
from asr.errors import DecodingError, LanguageModelError
from asr.text import WORD_OPENER, Alphabet

if TYPE_CHECKING:
    from asr.lm import NGramModel
    from asr.lm.ngram import NGramArrays

LN_10 = math.log(10.0)
ROOT, OUTSIDE = 0, -1  # nodes of the trie of words: no character of a word yet, no word of the trie

_log = logging.getLogger(__name__)


TRIE = np.dtype(
    [
        ("mask", np.int64),  # of digits that lead to a child
        ("first", np.int32),  # child
        ("word", np.int32),  # of the language model, or −1 where no word ends
        ("foreseen", np.float64),  # value of the best word at or below the node; 0 at the root
        ("ahead", np.float64),  # exp(foreseen)
        ("leave", np.float64),  # factor of leaving the trie from here
    ]
)


class Tables(NamedTuple):
    """What the compiled search reads; nothing in it changes.

    Natural logs throughout, and already weighted. A word is paid for in two parts: while it is spelled its
    best possible unigram value is *foreseen*, and when it ends what it really costs replaces that. What is
    foreseen never decides a finished hypothesis, but lets the beam compare words half-way.

    Attributes:
        first, digits, closes: see `Spelling`.
        trie: TRIE records, see there.
        outside: what a word outside the trie foresees; −∞ where a lexicon forbids such words.
        outside_step: what each digit spelled outside the trie costs, ≥ 0.
        opening: (V,) factor of beginning a word with an output that closes the one before.
        hot_after, hot_promise, hot_reward, hot_start: see `Automaton`.
        ngrams, start_state, unknown, end: the word n-grams; `alpha` is their weight times ln 10.
        beta: value of every word.
        token_ngrams, token_word, token_start, token_end, token_alpha: the same over outputs.
        bound: no prefix's factor is higher than this, the closing of a word apart.
        hot_bound: no prefix's factor from hotwords is higher than this.
    """

    first: np.ndarray
    digits: np.ndarray
    closes: np.ndarray
    trie: np.ndarray
    outside: float
    outside_step: float
    unknown_penalty: float
    opening: np.ndarray
    hot_after: np.ndarray
    hot_promise: np.ndarray
    hot_reward: np.ndarray
    hot_start: int
    ngrams: "NGramArrays"
    start_state: int
    unknown: int
    end: int
    alpha: float
    beta: float
    token_ngrams: "NGramArrays"
    token_word: np.ndarray
    token_start: int
    token_end: int
    token_alpha: float
    bound: float
    hot_bound: float


def build_tables(
    alphabet: Alphabet,
    *,
    lm: "NGramModel | None",
    alpha: float,
    beta: float,
    unknown_penalty: float,
    lexicon: Iterable[str] | None,
    hotwords: Mapping[str, float],
    token_lm: "NGramModel | None",
    token_alpha: float,
) -> tuple[Tables, list[str]]:
    """The tables, and the words of model or lexicon that the alphabet cannot spell.

    Raises:
        DecodingError: a hotword with foreign characters, a lexicon of which nothing can be spelled.
        LanguageModelError: a model of which nothing can be spelled.
    """
    spelling = spell_outputs(alphabet)
    _check_hotwords(hotwords, alphabet)
    beta = beta if lm else 0.0
    unigrams = lm.arrays().words["log10_prob"].astype(np.float64) * LN_10 if lm else np.zeros(1)
    outside = alpha * (unigrams[lm.unknown_id] - unknown_penalty) + beta if lm else 0.0
    outside = -np.inf if lexicon is not None else outside
    texts, ids = _known_words(lm, lexicon, hotwords)
    values = np.maximum(alpha * unigrams[ids] + beta if lm else np.zeros(len(ids)), outside)
    trie, strange = build_trie(texts, values, spelling.digits_of)
    if not spelling.bordered:
        strange = [i for i, text in enumerate(texts) if text not in set(alphabet.symbols)]
    unspellable = [texts[i] for i in strange]
    _check_spellable(texts, unspellable, alphabet, lm)
    penalty = alpha * unknown_penalty if lm else 0.0
    records = _trie_records(trie, ids, outside, penalty / spelling.per_character)
    hot = build_automaton(hotwords, spelling)
    rise, hottest = _bounds(records, outside, hot, spelling)
    return Tables(
        first=spelling.first,
        digits=spelling.digits,
        closes=spelling.closes,
        trie=records,
        outside=outside,
        outside_step=penalty / spelling.per_character,
        unknown_penalty=penalty,
        opening=_openings(records, spelling, outside, penalty / spelling.per_character),
        hot_after=hot.after,
        hot_promise=hot.promise,
        hot_reward=hot.reward,
        hot_start=hot.start,
        ngrams=_ngrams(lm),
        **_states(lm),
        alpha=alpha * LN_10,
        beta=beta,
        token_ngrams=_ngrams(token_lm),
        token_word=_token_words(token_lm, alphabet),
        token_start=token_lm.start_state if token_lm else -1,
        token_end=token_lm.end_id if token_lm else -1,
        token_alpha=token_alpha * LN_10,
        bound=math.exp(rise + hottest),
        hot_bound=math.exp(hottest),
    ), unspellable


def _states(lm: "NGramModel | None") -> dict[str, int]:
    """Where the n-grams begin, and two of their words."""
    if lm is None:
        return {"start_state": -1, "unknown": -1, "end": -1}
    return {"start_state": lm.start_state, "unknown": lm.unknown_id, "end": lm.end_id}


def _check_hotwords(hotwords: Iterable[str], alphabet: Alphabet) -> None:
    foreign = {word: sorted(alphabet.missing(word)) for word in hotwords if alphabet.missing(word)}
    if foreign:
        listed = "; ".join(f"{word!r} has {', '.join(map(repr, odd))}" for word, odd in foreign.items())
        raise DecodingError(f"hotwords that the alphabet cannot spell: {listed}; normalise or leave them out")


def _known_words(
    lm: "NGramModel | None", lexicon: Iterable[str] | None, hotwords: Iterable[str]
) -> tuple[list[str], np.ndarray]:
    """The words of the trie and their ids in the model: the lexicon's or the model's, and the hotwords'."""
    if lexicon is not None:
        if isinstance(lexicon, str):
            raise DecodingError(f"lexicon {lexicon[:40]!r}: expected a list of words")
        texts = dict.fromkeys(lexicon)
    else:
        specials = {lm.unknown_id, lm.start_id, lm.end_id} if lm else set()
        texts = dict.fromkeys(w for i, w in enumerate(lm.vocabulary if lm else ()) if i not in specials)
    if texts:
        texts |= dict.fromkeys(word for phrase in hotwords for word in phrase.split())
    return list(texts), np.array([lm.word_id(word) if lm else 0 for word in texts], np.int64)


def _check_spellable(
    texts: Sequence[str], unspellable: Sequence[str], alphabet: Alphabet, lm: "NGramModel | None"
) -> None:
    """Complain about words that can never be recognised: an error if that is all of them."""
    if not unspellable:
        return
    examples = ", ".join(map(repr, unspellable[:5]))
    message = f"{len(unspellable)} of {len(texts)} words cannot be spelled in {alphabet!r}, e.g. {examples}"
    if len(unspellable) < len(texts):
        _log.warning("%s; they are never recognised", message)
        return
    changed = (str.lower, str.upper)
    case = any(not alphabet.missing(change(word)) for change in changed for word in unspellable[:5])
    hint = "the case of the letters differs" if case else "are they of the same language and normalisation?"
    raise (LanguageModelError if lm else DecodingError)(f"{message}; {hint}")


def _token_words(lm: "NGramModel | None", alphabet: Alphabet) -> np.ndarray:
    """For each output its word in a model over outputs; the space is written `▁` there."""
    if lm is None:
        return np.zeros(alphabet.size, np.int32)
    names = [WORD_OPENER if symbol == " " else symbol for symbol in alphabet.symbols]
    known = set(lm.vocabulary)
    unknown = [name for name in names if name not in known]
    if len(unknown) == len(names):
        raise LanguageModelError(
            f"the model over symbols knows none of {', '.join(map(repr, names[:10]))}; it must be trained on "
            f"symbols with spaces between them, and with {WORD_OPENER!r} for the space"
        )
    if unknown:
        _log.warning("%d symbols are unknown to the model over symbols: %s", len(unknown), unknown[:20])
    return np.array([lm.unknown_id, *map(lm.word_id, names)], np.int32)


def _ngrams(lm: "NGramModel | None") -> "NGramArrays":
    """The automaton of the model; without one, arrays of the same types that are never read."""
    if lm is not None:
        return lm.arrays()
    from asr.lm.automaton import CONTEXT, SLOT, WORD
    from asr.lm.ngram import NGramArrays

    return NGramArrays(np.zeros(1, SLOT), np.zeros(1, CONTEXT), np.zeros(1, WORD))


def _trie_records(trie: Trie, ids: np.ndarray, outside: float, step: float) -> np.ndarray:
    """The trie for the search: the ids of its words and what it foresees."""
    records = np.zeros(len(trie.mask), TRIE)
    records["mask"], records["first"] = trie.mask, trie.first
    records["word"] = -1
    ends = trie.word >= 0
    records["word"][ends] = ids[trie.word[ends]]
    records["foreseen"] = trie.best
    records["foreseen"][ROOT] = 0.0
    records["ahead"] = np.exp(records["foreseen"])
    records["leave"] = np.exp(outside - records["foreseen"] - step)
    return records


def _openings(trie: np.ndarray, spelling: Spelling, outside: float, step: float) -> np.ndarray:
    """(V,) the factor of beginning a word with each output."""
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


def _bounds(trie: np.ndarray, outside: float, hot: Automaton, spelling: Spelling) -> tuple[float, float]:
    """Upper bounds of the ln of the factor on entering a prefix: of foreseeing a word, of the hotwords."""
    opening = max(0.0, outside, float(trie["foreseen"][ROOT + 1 :].max(initial=0.0)))
    step = hot.promise[hot.after] + hot.reward[hot.after] - hot.promise[:, None]
    return opening, int(np.diff(spelling.first).max()) * max(0.0, float(step.max()))
