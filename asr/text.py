"""Transcripts as the model sees them: normalised text and the alphabet that spells it.

Conventions. Text is Unicode NFC. The CTC blank is index 0 and not a symbol of the alphabet, so symbol
`symbols[i]` has index `i + 1`. Three kinds of unit share one class:

* characters, with " " as the symbol between words (or no space symbol at all for scripts without spaces);
* subwords, where `▁` opens a word, spelled by a tokenizer that is stored with the alphabet as JSON;
* phones, with " " between words, spelled by a pronunciation lexicon that is stored with the alphabet.
"""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any

from asr.errors import AlphabetError
from asr.normalisation import Style as Style
from asr.normalisation import composed
from asr.normalisation import normalise as normalise
from asr.pronunciation import Lexicon

BLANK = 0
WORD_OPENER = "▁"  # U+2581, the mark that opens a word in subword alphabets

_UNSPACED = (
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "VERTICAL KANA", "BOPOMOFO"),
    *("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "YI "),
)
"""Prefixes of the Unicode names of characters in scripts that do not separate words by spaces."""


def is_unspaced(character: str) -> bool:
    """Whether the character's script does not separate words by spaces."""
    return unicodedata.name(character, "").startswith(_UNSPACED)


class Alphabet:
    """The symbols that a model can output, in the order of its outputs 1, 2, …; output 0 is the blank.

    Args:
        symbols: distinct, non-empty strings without the blank.
        tokenizer: for subwords, the JSON of a trained `tokenizers` tokenizer over the same symbols.
        lexicon: for phones, the pronunciations of words in the same symbols.

    Raises:
        AlphabetError: no symbols, an empty or repeated one, or a lexicon with other phones.

    >>> ab = Alphabet([" ", "a", "b"])
    >>> ab.size, ab.encode("ab"), ab.decode([2, 3])
    (4, [2, 3], 'ab')
    """

    def __init__(
        self, symbols: Sequence[str], *, tokenizer: str | None = None, lexicon: Lexicon | None = None
    ) -> None:
        for symbol in symbols:
            if not isinstance(symbol, str):
                raise AlphabetError(f"symbol {symbol!r} is of type {type(symbol).__name__}; expected a text")
        self.symbols: tuple[str, ...] = tuple(composed(s) for s in symbols)
        self.tokenizer, self.lexicon = tokenizer, lexicon
        if not self.symbols:
            raise AlphabetError("an alphabet needs at least one symbol besides the blank; none was given")
        if "" in self.symbols:
            raise AlphabetError(
                f"symbol {self.symbols.index('')} is empty; the blank belongs to every alphabet, leave it out"
            )
        if twice := [symbol for symbol, times in Counter(self.symbols).items() if times > 1]:
            raise AlphabetError(f"symbol {twice[0]!r} stands twice in the alphabet")
        self._index = {symbol: i + 1 for i, symbol in enumerate(self.symbols)}
        if lexicon is not None and (strange := {" ", *lexicon.phones()} - self._index.keys()):
            raise AlphabetError(f"the lexicon has phones that are no symbols: {sorted(strange)}")

    @property
    def size(self) -> int:
        """Number of outputs V of a model over this alphabet, including the blank."""
        return len(self.symbols) + 1

    @property
    def is_subword(self) -> bool:
        """True if words are opened by `▁` instead of being separated by a space symbol."""
        return self.tokenizer is not None

    @property
    def space(self) -> int | None:
        """Index of the symbol between words; None for subwords and for scripts without spaces."""
        return None if self.is_subword else self._index.get(" ")

    @property
    def separates_words(self) -> bool:
        """False in scripts without spaces, where every symbol is a word."""
        return self.space is not None or self.is_subword

    @property
    def joint(self) -> str:
        """What stands between words in writing: a space, but nothing in a script without spaces."""
        return " " if self.separates_words else ""

    def separate(self, text: str) -> str:
        """The text with white space between its words, also in scripts without spaces: see `separates_words`.

        There, what the symbols cannot spell falls into its characters.

        >>> Alphabet(list("好天")).separate("天好 天"), Alphabet(list(" ab")).separate("ab a")
        ('天 好 天', 'ab a')
        """
        if self.separates_words:
            return text
        return " ".join(s for part in composed(text).split() for s in self._symbols(part))

    def _symbols(self, text: str) -> Sequence[str]:
        """The symbols that spell a text, or else its characters."""
        if text in self._index:
            return [text]
        try:
            return [self.symbols[i - 1] for i in self.encode(text)]
        except AlphabetError:
            return text

    def word_slices(self, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """(first token, one after the last) of each word; spaces belong to none.

        Words lie between the alphabet's space symbols; with subwords, a unit with `▁` begins one; in a script
        without spaces every symbol is one.

        >>> Alphabet([" ", "a", "b"]).word_slices([2, 3, 1, 1, 2])
        [(0, 2), (4, 5)]
        """
        if (space := self.space) is not None:
            borders = [-1, *(i for i, token in enumerate(tokens) if token == space), len(tokens)]
            return [(a + 1, b) for a, b in pairwise(borders) if b > a + 1]
        opens = self.word_starts if self.is_subword else [True] * len(self.word_starts)
        starts = [i for i, token in enumerate(tokens) if i and opens[token]]
        return [(a, b) for a, b in pairwise([0, *starts, len(tokens)]) if self.decode(tokens[a:b])]

    @cached_property
    def _written(self) -> tuple[str, ...]:
        """The text of each output 0 … V−1."""
        return ("", *self.symbols)

    @cached_property
    def word_starts(self) -> tuple[bool, ...]:
        """For each output 0 … V−1, whether it opens a word by itself (only ever true for subwords)."""
        return (False, *(self.is_subword and s.startswith(WORD_OPENER) for s in self.symbols))

    def encode(self, text: str) -> list[int]:
        """Indices 1 … V−1 that spell `text` (already normalised; NFC is applied).

        In a script without spaces white space, which may stand for punctuation, is left out.

        Raises:
            AlphabetError: characters that the alphabet lacks, or words without pronunciation, all named.

        >>> Alphabet(list("abc")).encode("abx")
        Traceback (most recent call last):
        asr.errors.AlphabetError: the alphabet has no 'x' (in 'abx'); normalise the text or train with it
        """
        text = self._said(text)
        if strange := self.missing(text):
            what = "the alphabet has no" if self.lexicon is None else "there is no pronunciation of"
            raise AlphabetError(
                f"{what} {', '.join(map(repr, sorted(strange)))} (in {text[:60]!r}); "
                "normalise the text or train with it"
            )
        if self.lexicon is not None:
            phones = [phone for word in text.split() for phone in (" ", *self.lexicon.first(word))]
            return [self._index[phone] for phone in phones[1:]]
        if self.is_subword:
            pieces: list[str] = self._subwords.encode(text, add_special_tokens=False).tokens
            return [self._index[piece] for piece in pieces]
        if self._longest == 1:
            return [self._index[c] for c in text]
        return self._encode_long_symbols(text)

    def _said(self, text: str) -> str:
        """The text in NFC, without white space if the script has none."""
        text = composed(text)
        is_script = not self.separates_words and any(is_unspaced(symbol[0]) for symbol in self.symbols)
        return "".join(text.split()) if is_script else text

    def _encode_long_symbols(self, text: str) -> list[int]:
        """At each position the longest symbol after which the rest can still be spelled."""
        spelled = {len(text)}  # positions from which the rest can be spelled
        for at in range(len(text) - 1, -1, -1):
            ends = (end for end in range(at + 1, at + self._longest + 1) if end in spelled)
            if any(text[at:end] in self._index for end in ends):
                spelled.add(at)
        if 0 not in spelled:
            raise AlphabetError(f"no symbols of the alphabet spell {text[:60]!r}")
        out, at = [], 0
        while at < len(text):
            ends = (end for end in range(at + self._longest, at, -1) if end in spelled)
            end = next(end for end in ends if text[at:end] in self._index)
            out.append(self._index[text[at:end]])
            at = end
        return out

    @cached_property
    def _longest(self) -> int:
        return max(len(s) for s in self.symbols)

    @cached_property
    def _subwords(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(str(self.tokenizer))

    @cached_property
    def _characters(self) -> frozenset[str]:
        known = {c for s in self.symbols for c in s}
        return frozenset(known | {" "} if self.is_subword else known)

    def missing(self, text: str) -> set[str]:
        """Characters of `text` that no symbol contains; for phones, the words without a pronunciation.

        >>> sorted(Alphabet(["a", "b"]).missing("a b?"))
        [' ', '?']
        """
        text = self._said(text)
        if self.lexicon is not None:
            return {word for word in text.split() if word not in self.lexicon}
        return set(text) - self._characters

    def with_words(self, words: Iterable[str]) -> "Alphabet":
        """The alphabet, its lexicon (if any) extended to these words by espeak-ng.

        Raises:
            CorpusError: espeak-ng is needed and not installed.
        """
        if self.lexicon is None or (lexicon := self.lexicon.with_words(words)) is self.lexicon:
            return self
        return Alphabet(self.symbols, lexicon=lexicon)

    def decode(self, indices: Iterable[int]) -> str:
        """The text that the indices spell; blanks are skipped, repeats are kept.

        Phones become the first word with that pronunciation; where there is none, they are written as such.

        Raises:
            AlphabetError: an index outside 0 … V−1.

        >>> heard = Alphabet([" ", "t", "uː"], lexicon=Lexicon({"two": [("t", "uː")]}))
        >>> heard.encode("two two"), heard.decode([2, 3, 1, 3])
        ([2, 3, 1, 2, 3], 'two uː')
        """
        given, written = list(indices), self._written
        if given and not 0 <= min(given) <= max(given) < len(written):
            wrong = next(i for i in given if not 0 <= i < len(written))
            raise AlphabetError(f"index {wrong}: this alphabet has outputs 0 to {self.size - 1}")
        out = [written[i] for i in given if i != BLANK]
        if self.lexicon is not None:
            words = [list(word) for is_space, word in groupby(out, " ".__eq__) if not is_space]
            return " ".join(self.lexicon.word(word) or "".join(word) for word in words)
        text = "".join(out)
        return text.replace(WORD_OPENER, " ").strip() if self.is_subword else text

    def to_json(self) -> str:
        """The whole alphabet as JSON text; `from_json` reads it back."""
        fields: dict[str, Any] = {"symbols": self.symbols, "tokenizer": self.tokenizer}
        if self.lexicon is not None:
            fields |= {"lexicon": self.lexicon.to_text(), "language": self.lexicon.language}
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Alphabet":
        """The alphabet that `to_json` wrote."""
        fields = json.loads(text)
        lexicon = fields.get("lexicon")
        return cls(
            fields["symbols"],
            tokenizer=fields.get("tokenizer"),
            lexicon=lexicon and Lexicon.from_text(lexicon, language=fields["language"]),
        )

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], *, subwords: int | None = None, lexicon: Lexicon | None = None
    ) -> "Alphabet":
        """The alphabet of a training set: its characters in code-point order, trained subwords, or phones.

        Characters include the space, but not if all letters are of scripts without spaces; if some are, only
        if it occurs in the texts.

        Args:
            texts: normalised transcripts.
            subwords: None for characters; otherwise the wanted number of byte-pair units.
            lexicon: for phones: the words of the texts, and further ones.

        Raises:
            AlphabetError: no text, no known word, or fewer subwords asked for than there are characters.
        """
        if lexicon is not None:
            known = lexicon.of_common_phones(texts)
            if not len(known):
                raise AlphabetError(f"no word of the transcripts is among the {len(lexicon)} of the lexicon")
            return cls([" ", *known.phones()], lexicon=known)
        texts = [composed(text) for text in texts]
        characters = {c for text in texts for c in text}
        if not characters:
            raise AlphabetError("the transcripts are empty: no characters to make an alphabet from")
        if subwords is not None:
            return cls._train_subwords(texts, subwords)
        unspaced = {c for c in characters if is_unspaced(c)}
        if not unspaced:
            characters.add(" ")  # which transcripts of single words do not contain
        elif not any(c.isalpha() for c in characters - unspaced):
            characters.discard(" ")  # it stands for punctuation
        return cls(sorted(characters))

    @classmethod
    def _train_subwords(cls, texts: Sequence[str], count: int) -> "Alphabet":
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        characters = {c for t in texts for c in t if not c.isspace()} | {WORD_OPENER}
        if count < len(characters):
            raise AlphabetError(
                f"{count} subwords asked for, but the text has {len(characters)} characters; ask for more"
            )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_OPENER, prepend_scheme="always")
        trainer = trainers.BpeTrainer(
            vocab_size=count, initial_alphabet=sorted(characters), show_progress=False, special_tokens=[]
        )
        tokenizer.train_from_iterator(texts, trainer)
        vocabulary = tokenizer.get_vocab()
        return cls(sorted(vocabulary, key=vocabulary.__getitem__), tokenizer=tokenizer.to_str())

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Alphabet)
            and self.symbols == other.symbols
            and self.tokenizer == other.tokenizer
            and self.lexicon == other.lexicon
        )

    def __hash__(self) -> int:
        return hash((self.symbols, self.tokenizer))

    def __repr__(self) -> str:
        shown = "".join(self.symbols[:40]) if not self.is_subword else f"{len(self)} subwords"
        if self.lexicon is not None:
            shown = f"{len(self) - 1} phones, {len(self.lexicon)} words"
        return f"Alphabet({shown!r})"
