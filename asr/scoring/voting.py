"""ROVER: a word-by-word vote between the texts of several recognisers for the same recording.

The texts are aligned one after the other into *slots*, each of which holds a word, or none, of every text. In
each slot the word with the highest sum of confidences wins; a text without a word votes for none with 0.5.

Source: Fiscus 1997, "A post-processing system to yield reduced word error rates: ROVER".
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from asr.scoring.alignment import Rows
from asr.transcript import Word

SILENCE = 0.5
"""Confidence of a text that has no word in a slot."""

Slot = list[Word | None]
"""What each text has, in the order of the texts."""


def vote(texts: Sequence[Sequence[Word]]) -> list[Word]:
    """The words that win the vote, each with the times of the most confident text that has it.

    None begins before the word in front of it, as the times of different texts may disagree.

    A word's confidence is the sum over the texts that have it, divided by the number of texts. Ties go to the
    earlier text; having no word competes like a word.

    >>> def said(text, *sure):
    ...     return [Word(w, i, i + 1.0, c) for i, (w, c) in enumerate(zip(text.split(), sure))]
    >>> [w.text for w in vote([said("a red fox", 0.9, 0.4, 0.9), said("the bed fox", 0.5, 0.8, 0.7)])]
    ['a', 'bed', 'fox']
    """
    words: list[Word] = []
    for word in (_winner(slot, len(texts)) for slot in align(texts)):
        if word is not None:
            start_s = max(word.start_s, words[-1].start_s) if words else word.start_s
            words.append(replace(word, start_s=start_s, end_s=max(word.end_s, start_s)))
    return words


def align(texts: Sequence[Sequence[Word]]) -> list[Slot]:
    """The slots of all texts, in order."""
    slots: list[Slot] = []
    for n, text in enumerate(texts):
        slots = _merge(slots, text, before=n)
    return slots


def _merge(slots: list[Slot], text: Sequence[Word], *, before: int) -> list[Slot]:
    """The slots with one more text, aligned with the fewest edits.

    A word costs nothing in a slot that has it, and no word costs nothing where some text has none.
    """
    known = [{word.text if word else None for word in slot} for slot in slots]
    skips = [None not in words for words in known]
    numbers = {word.text: n for n, word in enumerate(text)}
    numbers_J = np.array([numbers[word.text] for word in text], np.int32)
    gaps = np.arange(len(text) + 1, dtype=np.int32)

    def after(before: np.ndarray, i: int) -> np.ndarray:
        row = before + skips[i]
        differs_J = ~np.isin(numbers_J, [numbers[word] for word in known[i] if word in numbers])
        row[1:] = np.minimum(row[1:], before[:-1] + differs_J)
        return np.minimum.accumulate(row - gaps) + gaps

    costs = Rows(gaps, len(slots), after)
    merged: list[Slot] = []
    i, j = len(slots), len(text)
    while i or j:
        if i and j and costs[i][j] == costs[i - 1][j - 1] + (text[j - 1].text not in known[i - 1]):
            i, j = i - 1, j - 1
            merged.append([*slots[i], text[j]])
        elif i and costs[i][j] == costs[i - 1][j] + skips[i - 1]:
            i -= 1
            merged.append([*slots[i], None])
        else:
            j -= 1
            merged.append([*[None] * before, text[j]])
    return merged[::-1]


def _winner(slot: Slot, count: int) -> Word | None:
    """The winning word of a slot, or None if having no word wins."""
    sums: dict[str | None, float] = {}
    for word in slot:
        text, confidence = (word.text, word.confidence) if word else (None, SILENCE)
        sums[text] = sums.get(text, 0.0) + confidence
    best = max(sums, key=lambda text: sums[text])
    if best is None:
        return None
    surest = max((w for w in slot if w and w.text == best), key=lambda w: w.confidence)
    return replace(surest, confidence=sums[best] / count)
