"""The words that the search knows, with one entry for each spelling or pronunciation."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from asr.decoding.spelling import Spelling, spell_words
from asr.errors import DecodingError, LanguageModelError
from asr.lm import NGramModel
from asr.normalisation import composed
from asr.pronunciation import Lexicon
from asr.text import Alphabet

Pronunciations = Mapping[str, Iterable[Sequence[str]]]

_log = logging.getLogger(__name__)


class Entries(NamedTuple):
    """Words with their spellings.

    Attributes:
        words: (E,) the word of each entry.
        spelled: (E,) its digits, one byte each; 0 stands for what the alphabet lacks.
    """

    words: list[str]
    spelled: list[bytes]


def known_words(
    alphabet: Alphabet,
    spelling: Spelling,
    *,
    lm: NGramModel | None,
    lexicon: Iterable[str] | Pronunciations | None,
    hotwords: Iterable[str],
) -> Entries:
    """The words of the lexicon, or else of the language model, and those of hotwords; in NFC.

    Args:
        hotwords: single words.

    Raises:
        DecodingError: an invalid or empty lexicon, or hotwords that cannot be spelled.
    """
    if isinstance(lexicon, str | bool):
        raise DecodingError(
            f"lexicon {str(lexicon)[:40]!r}: expected a list of words, or their pronunciations"
        )
    if isinstance(lexicon, Mapping):
        entries = _pronounced_words(alphabet, spelling, lexicon)
        wanted = [] if isinstance(lexicon, _Chosen) else vocabulary(lm)
        _check_pronounced(set(entries.words), hotwords, wanted)
    else:
        _check_characters(hotwords, alphabet)
        known = vocabulary(lm) if lexicon is None else map(composed, lexicon)
        words = list(dict.fromkeys((*known, *hotwords)))
        entries = Entries(words, spell_words(words, spelling))
    if lexicon is not None and not entries.words:
        raise DecodingError("a lexicon without words: nothing could be written; None allows any word")
    return entries


class _Chosen(dict[str, Sequence[Sequence[str]]]):
    """Words that were chosen: nobody wonders that others are never recognised."""


def chosen(lexicon: Lexicon, words: Iterable[str], hotwords: Iterable[str]) -> Pronunciations:
    """These words and hotwords with their pronunciations, none for one that the lexicon lacks."""
    return _Chosen((word, lexicon.words.get(word, ())) for word in (*map(composed, words), *hotwords))


def _pronounced_words(alphabet: Alphabet, spelling: Spelling, lexicon: Pronunciations) -> Entries:
    """One entry for each pronunciation of each word."""
    if alphabet.space is None:
        raise DecodingError(f"pronunciations need an alphabet with ' ' between words; {alphabet!r} has none")
    absent = bytes(spelling.per_character)
    digits_of = cache(lambda symbol: spelling.digits_of.get(composed(symbol), absent))
    words, spelled = [], []
    for word, pronunciations in lexicon.items():
        given = list(pronunciations)
        if isinstance(pronunciations, str) or any(isinstance(p, str) for p in given):
            raise DecodingError(
                f"pronunciations of {word!r}: {pronunciations!r}: expected a list of pronunciations, each a "
                "list of symbols"
            )
        for symbols in dict.fromkeys(map(tuple, given or [()])):  # without any it is counted as unspellable
            words.append(composed(word))
            spelled.append(b"".join(map(digits_of, symbols)))
    return Entries(words, spelled)


def _check_pronounced(spoken: set[str], hotwords: Iterable[str], known: Sequence[str]) -> None:
    """Hotwords must have a pronunciation; words that the language model knows should."""
    if strange := [word for word in hotwords if word not in spoken]:
        raise DecodingError(f"hotwords without a pronunciation: {', '.join(map(repr, strange))}; add one")
    if silent := [word for word in known if word not in spoken]:
        _log.warning(
            "%d of %d words of the language model have no pronunciation, e.g. %s; they are never recognised",
            len(silent),
            len(known),
            ", ".join(map(repr, silent[:5])),
        )


def check_model(lm: object) -> None:
    """Raises LanguageModelError at what is neither word n-grams nor None."""
    if lm is not None and not isinstance(lm, NGramModel):
        raise LanguageModelError(
            f"lm: a {type(lm).__name__}, {lm!r:.60}: expected word n-grams; asr.lm.load reads an ARPA file"
        )


def vocabulary(lm: NGramModel | None) -> list[str]:
    """The words of the language model, in NFC."""
    return list(map(composed, lm.known_words)) if lm else []


def word_ids(words: Sequence[str], lm: NGramModel | None) -> np.ndarray:
    """The number of each word in the language model; 0 without one."""
    return np.zeros(len(words), np.int32) if lm is None else np.array([*map(lm.word_id, words)], np.int32)


def _check_characters(hotwords: Iterable[str], alphabet: Alphabet) -> None:
    if foreign := {word: odd for word in hotwords if (odd := sorted(alphabet.missing(word)))}:
        listed = "; ".join(f"{word!r} has {', '.join(map(repr, odd))}" for word, odd in foreign.items())
        raise DecodingError(f"hotwords that the alphabet cannot spell: {listed}; normalise or leave them out")


def check_spellable(
    entries: Entries, alphabet: Alphabet, spelling: Spelling, lm: NGramModel | None
) -> list[str]:
    """The words that can never be recognised; in a script without spaces a word must be one symbol.

    Logs a warning with their number.

    Raises:
        DecodingError, LanguageModelError: no word can be spelled.
    """
    symbols = set(alphabet.symbols)
    unspellable = [
        word
        for word, digits in zip(entries.words, entries.spelled, strict=True)
        if not digits or 0 in digits or not (spelling.bordered or word in symbols)
    ]
    if not unspellable:
        return []
    examples = ", ".join(map(repr, unspellable[:5]))
    count = len(entries.words)
    message = f"{len(unspellable)} of {count} words cannot be spelled in {alphabet!r}, e.g. {examples}"
    if len(unspellable) < count:
        _log.warning("%s; they are never recognised", message)
        return unspellable
    raise (LanguageModelError if lm else DecodingError)(f"{message}; {_why(unspellable[:5], alphabet)}")


def _why(words: Sequence[str], alphabet: Alphabet) -> str:
    """What probably makes the words unspellable."""
    foreign = [word for word in words if alphabet.missing(word)]
    if len(foreign) < len(words) and not alphabet.separates_words:
        return "for this alphabet every symbol is a word: the text must have spaces between symbols"
    if any(not alphabet.missing(change(word)) for change in (str.lower, str.upper) for word in foreign):
        return "the case of the letters differs"
    return "are they of the same language and normalisation?"
