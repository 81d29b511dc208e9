"""Hotwords as an automaton over words: how far any has matched, and the bonus for that."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from asr.errors import DecodingError
from asr.text import Alphabet, Style, normalise


class Automaton(NamedTuple):
    """Hotwords as an Aho–Corasick automaton; in state 0 none has begun.

    The words of all hotwords are numbered 1, 2, …; any other word is 0.

    Attributes:
        numbers: the number of each word.
        after: (H, words + 1) the state after a word.
        promise: (H,) the part of a hotword's weight that is credited for the words matched so far.
        reward: (H,) weight of the hotwords complete on arrival at a state.
    """

    numbers: dict[str, int]
    after: np.ndarray
    promise: np.ndarray
    reward: np.ndarray


def build_automaton(hotwords: Mapping[tuple[str, ...], float]) -> Automaton:
    """The automaton of the hotwords, each one word or several.

    Each matching word is credited an equal share of the weight, which is taken back if the match breaks off.

    Source: Aho & Corasick 1975.
    """
    numbers: dict[str, int] = {}
    children: list[dict[int, int]] = [{}]
    promise, reward = [0.0], [0.0]
    for words, weight in hotwords.items():
        state = 0
        for i, word in enumerate(words, start=1):
            number = numbers.setdefault(word, len(numbers) + 1)
            if number not in children[state]:
                children[state][number] = len(children)
                children.append({})
                promise.append(-np.inf)
                reward.append(0.0)
            state = children[state][number]
            if i < len(words):
                promise[state] = max(promise[state], weight * i / len(words))
        reward[state] += weight
    return _link(numbers, children, np.array(promise), np.array(reward))


def _link(
    numbers: dict[str, int], children: list[dict[int, int]], promise: np.ndarray, reward: np.ndarray
) -> Automaton:
    """All transitions; a broken match falls back to the longest suffix that begins a hotword."""
    after = np.zeros((len(children), len(numbers) + 1), np.int32)
    broken = np.zeros(len(children), np.int32)
    queue = [0]
    for state in queue:
        if state:
            after[state] = after[broken[state]]
            reward[state] += reward[broken[state]]
            promise[state] = max(promise[state], promise[broken[state]])
        for number, child in children[state].items():
            broken[child] = after[state, number]
            after[state, number] = child
            queue.append(child)
    return Automaton(numbers, after, promise, reward)


def bonuses(hotwords: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    """Each hotword word's share of the weight; the highest if several hotwords have the word."""
    shares: dict[str, float] = {}
    for words, weight in hotwords.items():
        for word in words:
            shares[word] = max(shares.get(word, 0.0), weight / len(words))
    return shares


def normalise_hotwords(
    hotwords: Iterable[str] | Mapping[str, float] | None, style: Style
) -> Iterable[str] | Mapping[str, float] | None:
    """The hotwords normalised to `style`, that of the model's texts; the highest weight of equal ones.

    Raises:
        DecodingError: as `listed`, or a hotword of which nothing is left.

    >>> normalise_hotwords(["Zürich!"], "basic"), normalise_hotwords({"St. Gallen": 5.0}, "basic")
    (('zürich',), {'st gallen': 5.0})
    """
    if hotwords is None:
        return None
    given = listed(hotwords)
    words = {word: normalise(word, style) for word in given}
    if lost := [word for word, normalised in words.items() if word.strip() and not normalised]:
        raise DecodingError(f"hotword {lost[0]!r}: the model's texts have none of its characters")
    if not isinstance(given, Mapping):
        return tuple(words.values())
    ascending = sorted(words, key=lambda word: given[word])
    return {words[word]: given[word] for word in ascending}


def listed(
    hotwords: Iterable[str] | Mapping[str, float] | None,
) -> tuple[str, ...] | Mapping[str, float]:
    """The hotwords, checked, to be read more than once; () for None.

    Raises:
        DecodingError: a single string, no list, a hotword that is no text, or a weight that is not finite.
    """
    hotwords = () if hotwords is None else hotwords
    if isinstance(hotwords, str) or not isinstance(hotwords, Iterable):
        raise DecodingError(f"hotwords {hotwords!r}: expected a list of words, or words with their weights")
    given = hotwords if isinstance(hotwords, Mapping) else tuple(hotwords)
    for word in given:
        if not isinstance(word, str):
            raise DecodingError(f"hotword {word!r}: expected a text")
    for word, weight in given.items() if isinstance(given, Mapping) else ():
        if not isinstance(weight, int | float | np.number) or not math.isfinite(weight):
            raise DecodingError(f"hotword {word!r} has weight {weight!r}; expected a finite number")
    return given


def check_hotwords(
    hotwords: Iterable[str] | Mapping[str, float], weight: float, alphabet: Alphabet
) -> dict[tuple[str, ...], float]:
    """The words of each hotword, in NFC, with its weight; those without one of their own get `weight`.

    In a script without spaces every symbol of the alphabet is a word.

    Raises:
        DecodingError: as `listed`.
    """
    given = listed(hotwords)
    weights = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, weight)
    listed(weights)  # the one weight for all, too
    return {
        tuple(alphabet.separate(normalise(word, "none")).split()): float(value)
        for word, value in weights.items()
        if word.strip()
    }
