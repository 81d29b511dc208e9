"""How outputs and words are spelled, and a trie of words, as flat arrays.

Outputs are spelled with *digits*, so that one 64-bit mask holds the children of a trie node whatever the
script: 0 stands for the border between words (the space symbol, the `▁` of subwords). An alphabet of up to 62
characters needs one digit 1 … 62 for each, a larger one two or three. The trie runs over digits, not outputs:
a word is found whatever its split into subwords. With pronunciations, digits spell whole symbols of the
alphabet instead of characters.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from asr.text import WORD_OPENER, Alphabet

BORDER = 0
BASE = 62  # digits 1 … 62: bits of a signed 64-bit mask


class Spelling(NamedTuple):
    """The digits that each output writes.

    Attributes:
        first: (V + 1,) output c writes digits[first[c] : first[c + 1]].
        digits: the digits of all outputs.
        closes: (V,) whether the output ends the word before it.
        digits_of: character, or whole symbol → its digits, one byte each, equally many for each.
        bordered: whether the script separates words.
    """

    first: np.ndarray
    digits: np.ndarray
    closes: np.ndarray
    digits_of: dict[str, bytes]
    bordered: bool

    @property
    def per_character(self) -> int:
        """Digits of one character."""
        return len(next(iter(self.digits_of.values()), b"\0"))


def spell_outputs(alphabet: Alphabet, *, whole: bool = False) -> Spelling:
    """The digits that each output of the alphabet writes, the blank none.

    Args:
        whole: each symbol is spelled as one unit, not by its characters.
    """
    bordered = alphabet.separates_words
    border = WORD_OPENER if alphabet.is_subword else " " if bordered else None
    pieces = [[symbol] if whole else list(symbol) for symbol in alphabet.symbols]
    characters = sorted({c for symbol in pieces for c in symbol} - {border})
    places = 1
    while BASE**places < len(characters):
        places += 1
    digits_of = {
        c: bytes(i // BASE**p % BASE + 1 for p in reversed(range(places))) for i, c in enumerate(characters)
    }
    written = [
        [d for c in symbol for d in ((BORDER,) if c == border else digits_of[c])] for symbol in ([], *pieces)
    ]
    closes = [
        c > 0 and (not bordered or c == alphabet.space or alphabet.word_starts[c])
        for c in range(alphabet.size)
    ]
    return Spelling(
        np.cumsum([0, *map(len, written)]).astype(np.int32),
        np.array([d for digits in written for d in digits], np.int32),
        np.array(closes),
        digits_of,
        bordered,
    )


def spell_words(words: Sequence[str], spelling: Spelling) -> list[bytes]:
    """The digits of each word by its characters, one byte each: 0 for what cannot be spelled."""
    places = spelling.per_character
    table = np.zeros((max([0, *map(ord, spelling.digits_of)]) + 2, places), np.uint8)
    for c, digits in spelling.digits_of.items():
        table[ord(c)] = tuple(digits)
    codes = np.frombuffer("".join(words).encode("utf-32-le"), np.uint32)
    flat = table[np.minimum(codes, len(table) - 1)].tobytes()
    ends = accumulate(len(word) * places for word in words)
    return [flat[begin:end] for begin, end in pairwise((0, *ends))]


class Trie(NamedTuple):
    """A trie over digits; node 0 is the root. `foresee` gives the nodes' values.

    Attributes:
        mask: (N,) bit d is set if the node has a child by digit d.
        first: (N,) its first child; the others follow in the order of their digits.
        word, homophones: (N,) the entries that end at the node are order[word : word + homophones].
        order: the entries that can be spelled.
        lengths: digits of each of these.
        layers: for each depth below the root the indices in `order` of the entries that reach it, and where
            among these each node begins.
    """

    mask: np.ndarray
    first: np.ndarray
    word: np.ndarray
    homophones: np.ndarray
    order: np.ndarray
    lengths: np.ndarray
    layers: list[tuple[np.ndarray, np.ndarray]]


def foresee(trie: Trie, values: np.ndarray, bonuses: np.ndarray) -> np.ndarray:
    """(N,) the highest value of an entry at or below each node.

    Args:
        values: of each entry of `trie.order`.
        bonuses: of each entry, added in proportion to the digits spelled so far.
    """
    shares = bonuses / np.maximum(trie.lengths, 1)
    best = [np.array([values.max(initial=-np.inf)])]
    for depth, (alive, starts) in enumerate(trie.layers, start=1):
        best.append(np.maximum.reduceat(values[alive] + shares[alive] * depth, starts))
    return np.concatenate(best)


def build_trie(spelled: Sequence[bytes]) -> Trie:
    """The trie of the entries that can be spelled: those of at least one digit and no zero.

    Args:
        spelled: the digits of each entry; several may be spelled alike.
    """
    good = [i for i, digits in enumerate(spelled) if digits and 0 not in digits]
    order = np.array(sorted(good, key=spelled.__getitem__), np.int64)
    digits = np.frombuffer(b"".join(spelled[i] + b"\0" for i in order), np.uint8)
    return _build_layers(digits.astype(np.int32), order, np.array([len(spelled[i]) for i in order], np.int64))


def _build_layers(digits: np.ndarray, order: np.ndarray, lengths: np.ndarray) -> Trie:
    """The trie of lexicographically sorted words, nodes numbered layer by layer.

    Args:
        digits: of all words, a 0 after each.
    """
    none = np.full(1, -1)
    mask, first, word, homophones = [], [], [none], [none + 1]
    layers: list[tuple[np.ndarray, np.ndarray]] = []
    begins = np.cumsum(lengths + 1) - (lengths + 1)
    node, alive, layer, base = np.zeros(len(order), np.int64), np.arange(len(order)), 1, 1
    for depth in range(int(lengths.max(initial=0)) + 1):
        here = digits[begins[alive] + depth]
        alive, node, here = alive[here > 0], node[here > 0], here[here > 0]
        starts = np.flatnonzero(np.diff(node, prepend=-1) | np.diff(here, prepend=-1))
        bits = np.zeros(layer, np.int64)
        np.bitwise_or.at(bits, node[starts], np.int64(1) << here[starts].astype(np.int64))
        mask.append(bits)
        first.append(base + np.searchsorted(node[starts], np.arange(layer)))
        if not len(alive):
            break
        layers.append((alive, starts))
        # of the entries that share a node, those that end here are the shortest, so they stand first
        ending = np.add.reduceat((digits[begins[alive] + depth + 1] == 0).astype(np.int64), starts)
        word.append(np.where(ending > 0, alive[starts], -1))
        homophones.append(ending)
        node = np.cumsum(np.isin(np.arange(len(alive)), starts)) - 1
        layer, base = len(starts), base + len(starts)
    return Trie(
        np.concatenate(mask),
        np.concatenate(first).astype(np.int32),
        np.concatenate(word).astype(np.int32),
        np.concatenate(homophones).astype(np.int32),
        order,
        lengths,
        layers,
    )
