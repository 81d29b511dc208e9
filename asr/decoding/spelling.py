"""The words a decoder knows, as flat arrays: how outputs spell, a trie of words, an automaton of hotwords.

Characters are spelled with *digits*, so that a node of the trie has its children in one 64-bit mask whatever
the script: 0 stands for the border between words (the space symbol, the `▁` of subwords); an alphabet of up
to 62 characters needs one digit 1 … 62 for each, a larger one two or three. Trie and automaton run over
digits, not outputs: a word is found however subwords cut it up.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from asr.errors import DecodingError
from asr.text import WORD_OPENER, Alphabet

BORDER = 0
BASE = 62  # digits 1 … 62: bits of a signed 64-bit mask


class Spelling(NamedTuple):
    """What each output writes.

    Attributes:
        first: (V + 1,) output c writes digits[first[c] : first[c + 1]].
        digits: the digits of all outputs.
        closes: (V,) whether the output ends the word before it.
        digits_of: character → its digits, as many for each.
        bordered: whether the script separates words.
    """

    first: np.ndarray
    digits: np.ndarray
    closes: np.ndarray
    digits_of: dict[str, tuple[int, ...]]
    bordered: bool

    @property
    def per_character(self) -> int:
        """Digits of one character."""
        return len(next(iter(self.digits_of.values()), (0,)))


def spell_outputs(alphabet: Alphabet) -> Spelling:
    """The digits that each output of the alphabet writes, the blank none."""
    bordered = alphabet.space is not None or alphabet.is_subword
    border = WORD_OPENER if alphabet.is_subword else " " if bordered else None
    characters = sorted({c for symbol in alphabet.symbols for c in symbol} - {border})
    places = 1
    while BASE**places < len(characters):
        places += 1
    digits_of = {
        c: tuple(i // BASE**p % BASE + 1 for p in reversed(range(places))) for i, c in enumerate(characters)
    }
    written = [
        [d for c in symbol for d in ((BORDER,) if c == border else digits_of[c])]
        for symbol in ("", *alphabet.symbols)
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


class Trie(NamedTuple):
    """A trie of words over digits; node 0 is the root.

    Attributes:
        mask: (N,) bit d is set if the node has a child by digit d.
        first: (N,) its first child; the others follow in the order of their digits.
        word: (N,) the word that ends at the node, or −1.
        best: (N,) the highest value of a word at or below the node.
    """

    mask: np.ndarray
    first: np.ndarray
    word: np.ndarray
    best: np.ndarray


def build_trie(
    words: Sequence[str], values: np.ndarray, digits_of: Mapping[str, tuple[int, ...]]
) -> tuple[Trie, list[int]]:
    """The trie of the words that can be spelled, and the indices of those that cannot.

    Args:
        words: distinct words; `word` of the trie counts in this list.
        values: (len(words),) a value for each.
        digits_of: character → its digits, as many for each.
    """
    places = len(next(iter(digits_of.values()), (0,)))
    table = np.zeros((max([0, *map(ord, digits_of)]) + 2, places), np.int32)
    for c, digits in digits_of.items():
        table[ord(c)] = digits
    codes = np.frombuffer("".join(words).encode("utf-32-le"), np.uint32)
    lengths = np.array([len(w) for w in words], np.int64) * places
    flat = table[np.minimum(codes, len(table) - 1)].reshape(-1)
    row = np.repeat(np.arange(len(words)), lengths)
    column = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    good = lengths > 0
    good[row[flat == 0]] = False
    matrix = np.zeros((len(words), int(lengths.max(initial=0)) + 1), np.int32)
    matrix[row, column] = flat
    order = np.flatnonzero(good)
    order = order[np.lexsort(matrix[order].T[::-1])]
    return _build_layers(matrix[order], order, values), np.flatnonzero(~good).tolist()


def _build_layers(sorted_words: np.ndarray, indices: np.ndarray, values: np.ndarray) -> Trie:
    """The trie of lexicographically sorted rows of digits, ended by 0; nodes numbered layer by layer."""
    mask, first, word = [], [], [np.full(1, -1)]
    best = [np.array([values[indices].max(initial=-np.inf)])]
    node, alive, layer, base = np.zeros(len(indices), np.int64), np.arange(len(indices)), 1, 1
    for depth in range(sorted_words.shape[1]):
        here = sorted_words[alive, depth]
        alive, node, here = alive[here > 0], node[here > 0], here[here > 0]
        starts = np.flatnonzero(np.diff(node, prepend=-1) | np.diff(here, prepend=-1))
        bits = np.zeros(layer, np.int64)
        np.bitwise_or.at(bits, node[starts], np.int64(1) << here[starts].astype(np.int64))
        mask.append(bits)
        first.append(base + np.searchsorted(node[starts], np.arange(layer)))
        if not len(alive):
            break
        best.append(np.maximum.reduceat(values[indices[alive]], starts))
        # of the words that share a node the one that ends here is the shortest, so it stands first
        ends = sorted_words[alive[starts], depth + 1] == 0
        word.append(np.where(ends, indices[alive[starts]], -1))
        node = np.cumsum(np.isin(np.arange(len(alive)), starts)) - 1
        layer, base = len(starts), base + len(starts)
    return Trie(
        np.concatenate(mask),
        np.concatenate(first).astype(np.int32),
        np.concatenate(word).astype(np.int32),
        np.concatenate(best),
    )


class Automaton(NamedTuple):
    """Hotwords as an Aho–Corasick automaton; state 0 has seen nothing of any.

    Attributes:
        after: (H, 63) the state after a digit.
        promise: (H,) the part of a hotword's weight that is credited for what has been seen of it.
        reward: (H,) weight of the hotwords complete on arrival at a state.
        start: the state at the start of an utterance.
    """

    after: np.ndarray
    promise: np.ndarray
    reward: np.ndarray
    start: int


def build_automaton(hotwords: Mapping[str, float], spelling: Spelling) -> Automaton:
    """The automaton of the hotwords, words or phrases with one space between words.

    Each part that matches is worth an equal share of the weight; what has been credited is taken back when
    the match breaks. In scripts that separate words a hotword matches whole words only.

    Source: Aho & Corasick 1975.
    """
    children: list[dict[int, int]] = [{}]
    promise, reward = [0.0], [0.0]
    for phrase, weight in hotwords.items():
        border = (BORDER,) if spelling.bordered else ()
        inner = [d for c in phrase for d in (border if c == " " else spelling.digits_of[c])]
        path = [*border, *inner, *border]
        state = 0
        for i, digit in enumerate(path, start=1 - len(border)):
            if digit not in children[state]:
                children[state][digit] = len(children)
                children.append({})
                promise.append(-np.inf)
                reward.append(0.0)
            state = children[state][digit]
            whole = len(path) - len(border)
            if i < whole:
                promise[state] = max(promise[state], weight * i / whole)
        reward[state] += weight
    return _link(children, np.array(promise), np.array(reward), spelling)


def _link(
    children: list[dict[int, int]], promise: np.ndarray, reward: np.ndarray, spelling: Spelling
) -> Automaton:
    """All transitions, those of broken matches too: to the longest suffix that begins a hotword."""
    after = np.zeros((len(children), BASE + 1), np.int32)
    broken = np.zeros(len(children), np.int32)
    queue = [0]
    for state in queue:
        if state:
            after[state] = after[broken[state]]
            reward[state] += reward[broken[state]]
            promise[state] = max(promise[state], promise[broken[state]])
        for digit, child in children[state].items():
            broken[child] = after[state, digit]
            after[state, digit] = child
            queue.append(child)
    return Automaton(after, promise, reward, int(after[0, BORDER]) if spelling.bordered else 0)


def check_hotwords(hotwords: Iterable[str] | Mapping[str, float], weight: float) -> dict[str, float]:
    """Each hotword with its weight, spaces tidied; those without a weight of their own get `weight`."""
    if isinstance(hotwords, str):
        raise DecodingError(f"hotwords {hotwords!r}: expected a list of words, or words with their weights")
    weights = dict(hotwords) if isinstance(hotwords, Mapping) else dict.fromkeys(hotwords, weight)
    for word, value in weights.items():
        if not np.isfinite(value):
            raise DecodingError(f"hotword {word!r} has weight {value}; expected a finite number")
    return {" ".join(word.split()): float(value) for word, value in weights.items() if word.strip()}
