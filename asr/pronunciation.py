"""Pronunciation lexicon, from a file or from espeak-ng, for models whose outputs are phones.

A model needs hundreds of hours of speech to learn English spelling, but only a few to learn its sounds. A
phone model leaves spelling to this lexicon: word → one or more pronunciations, each a tuple of phones.
Training uses the first; decoding and alignment allow them all.

The file format is that of CMUdict and Kaldi: one pronunciation per line, `word phone phone …`; a word may
have several lines. Stress digits (`AH0`) and variant marks (`word(2)`) of CMUdict are removed.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path

from asr import cmudict
from asr.errors import TextError
from asr.espeak import Espeak
from asr.files import expanded

Pronunciation = tuple[str, ...]

MOST_RARE = 80
RARE_SHARE = 1 / 3000
"""A phone that occurs in training fewer than `MOST_RARE` times and is less than this share of all phones is
replaced by others: see `Lexicon.of_common_phones`."""

_REMARK = re.compile(r"^;;;.*| #.*", re.MULTILINE)
_VARIANT = re.compile(r"\(\d+\)$")
_STRESS = re.compile(r"(?<=[A-Z])[0-2]$")


class Lexicon:
    """Words and their pronunciations; homophones should be ordered by frequency, as `word` takes the first.

    Args:
        words: word → its pronunciations, the usual one first.
        language: what `pronounce` can pronounce further words with; None if there is nothing.

    >>> lexicon = Lexicon({"two": [("t", "uː")], "too": [("t", "uː")]})
    >>> lexicon.first("too"), lexicon.word(("t", "uː")), "four" in lexicon
    (('t', 'uː'), 'two', False)
    """

    def __init__(self, words: Mapping[str, Iterable[Iterable[str]]], *, language: str | None = None) -> None:
        self.language = language
        self.words: dict[str, tuple[Pronunciation, ...]] = {}
        for word, pronunciations in words.items():
            said = dict.fromkeys(map(tuple, pronunciations))
            said.pop((), None)
            if said:
                self.words[word] = tuple(said)

    def __contains__(self, word: object) -> bool:
        return word in self.words

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lexicon) and self.words == other.words and self.language == other.language

    def __hash__(self) -> int:
        return hash((len(self.words), self.language))

    def first(self, word: str) -> Pronunciation:
        """The usual pronunciation of a word of the lexicon."""
        return self.words[word][0]

    def word(self, pronunciation: Iterable[str]) -> str | None:
        """The first word with this pronunciation; None if there is none."""
        return self._said.get(tuple(pronunciation))

    @cached_property
    def _said(self) -> dict[Pronunciation, str]:
        said: dict[Pronunciation, str] = {}
        for word, pronunciations in self.words.items():
            for p in pronunciations:
                said.setdefault(p, word)
        return said

    def of_common_phones(self, texts: Iterable[str]) -> "Lexicon":
        """The same words, using only phones that are common in these training texts.

        A rarer phone is replaced by the common phones that its symbol is composed of, longest first (`aɪɚ`
        by `aɪ` and `ɚ`); characters that match none are dropped.
        """
        counts = Counter(
            phone for text in texts for word in text.split() if word in self for phone in self.first(word)
        )
        least = min(MOST_RARE, RARE_SHARE * counts.total())
        return self._in_phones({phone for phone, count in counts.items() if count >= least})

    def _in_phones(self, common: Collection[str]) -> "Lexicon":
        parts = {phone: spell(phone, common) for phone in self.phones()}
        words = {
            word: [[part for phone in p for part in parts[phone]] for p in pronunciations]
            for word, pronunciations in self.words.items()
        }
        return Lexicon(words, language=self.language)

    def dictionary(self) -> list[str]:
        """The words whose pronunciation is known: of the lexicon, and of CMUdict if that is its language.

        Raises:
            CorpusError: the dictionary is needed and not installed.
        """
        return list(dict.fromkeys([*self.words, *(cmudict.words() if self.language == cmudict.NAME else [])]))

    def phones(self) -> list[str]:
        """All phones, in code-point order."""
        return sorted({phone for ps in self.words.values() for p in ps for phone in p})

    def with_words(self, words: Iterable[str]) -> "Lexicon":
        """The lexicon with further words, pronounced in its language with its existing phones.

        Without a language nothing is added.

        Raises:
            CorpusError: espeak-ng or the dictionary is needed and not installed.
        """
        new = [word for word in dict.fromkeys(words) if word not in self]
        if not new or self.language is None:
            return self
        added = pronounce(new, self.language)._in_phones(self.phones())
        return Lexicon({**self.words, **added.words}, language=self.language)

    def to_text(self) -> str:
        """The lexicon in its file format."""
        return "".join(f"{word}\t{' '.join(p)}\n" for word, ps in self.words.items() for p in ps)

    @classmethod
    def from_text(cls, text: str, *, language: str | None = None, name: str = "lexicon") -> "Lexicon":
        """The lexicon that `to_text` wrote, as it was; empty lines are skipped.

        Raises:
            TextError: a line without phones, quoted with its number; or no words at all.
        """
        words: dict[str, tuple[Pronunciation, ...]] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if not (fields := line.split()):
                continue
            word, *phones = fields
            if not phones:
                raise TextError(f"{name}, line {number}: {line!r}; expected a word and its phones")
            words[word] = (*words.get(word, ()), tuple(phones))  # no lists, which are garbage-collected
        if not words:
            raise TextError(f"{name}: no words in it; expected lines `word phone phone …`")
        return cls(words, language=language)

    @classmethod
    def from_cmudict(cls, text: str, *, name: str = "lexicon") -> "Lexicon":
        """The lexicon in the form of CMUdict, composed, without comments, stress and marks of variants.

        Raises:
            TextError: as for `from_text`.
        """
        found = cls.from_text(_REMARK.sub("", unicodedata.normalize("NFC", text)), name=name)
        plain = {phone: _STRESS.sub("", phone) for phone in found.phones()}
        words: dict[str, list[list[str]]] = {}
        for word, pronunciations in found.words.items():
            said = ([plain[phone] for phone in p] for p in pronunciations)
            words.setdefault(_VARIANT.sub("", word) if word[-1] == ")" else word, []).extend(said)
        return cls(words)

    @classmethod
    def read(cls, path: str | Path, *, lower: bool = False) -> "Lexicon":
        """The lexicon in a file; `lower` converts its words to lower case, as transcripts are.

        Raises:
            TextError: as for `from_text`, or a file that cannot be read.
            ConfigError: `~name` of nobody here.
        """
        try:
            text = Path(expanded(str(path))).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise TextError(f"{path}: not a readable lexicon ({error})") from error
        found = cls.from_cmudict(text, name=str(path))
        if not lower:
            return found
        words: dict[str, list[Pronunciation]] = {}
        for word, pronunciations in found.words.items():
            words.setdefault(word.lower(), []).extend(pronunciations)
        return cls(words)


def pronounce(words: Iterable[str], language: str) -> Lexicon:
    """The words as a voice of espeak-ng pronounces each of them in isolation, or as in CMUdict.

    Silent words are left out. espeak-ng pronounces a one-letter word first as before another word, then, as a
    second variant, as the letter. Words that are not in CMUdict are pronounced by espeak-ng in its phones.

    Args:
        words: in any case.
        language: a voice, such as `en-us`, or `cmudict`.

    Raises:
        CorpusError: espeak-ng is not installed, or the dictionary.
        TextError: espeak-ng has no such language.
    """
    if language == cmudict.NAME:
        return _by_cmudict(words)
    with Espeak() as espeak:

        def said(word: str) -> list[list[str]]:
            alone = espeak.phones(word, language)
            return [espeak.phones(word, language, unstressed=True), alone] if len(word) == 1 else [alone]

        return Lexicon({word: said(word) for word in words}, language=language)


def _by_cmudict(words: Iterable[str]) -> Lexicon:
    words = list(words)
    known = cmudict.read({word.lower() for word in words})
    dictionary = Lexicon.from_cmudict(known, name=cmudict.NAME).words if known else {}
    rest = [word for word in words if word.lower() not in dictionary]
    others = pronounce(rest, cmudict.VOICE).words if rest else {}
    found = {
        word: dictionary.get(word.lower()) or [_in_arpabet(p) for p in others.get(word, ())] for word in words
    }
    return Lexicon(found, language=cmudict.NAME)


def _in_arpabet(phones: Pronunciation) -> list[str]:
    return cmudict.to_arpabet(part for phone in phones for part in spell(phone, cmudict.ARPABET))


def spell(phone: str, common: Collection[str]) -> list[str]:
    """The phone itself if it is common, else the common phones that its symbol is composed of.

    >>> spell("aɪɚ", {"a", "aɪ", "ɚ"}), spell("ʒ", {"z"})
    (['aɪ', 'ɚ'], [])
    """
    parts, at = [], 0
    while at < len(phone):
        for end in range(len(phone), at, -1):
            if phone[at:end] in common:
                parts.append(phone[at:end])
                at = end
                break
        else:
            at += 1
    return parts
