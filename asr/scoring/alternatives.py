"""References that allow several wordings: `{ it is / it's } fine`, `{ uh / @ } yes`.

Conventions, as in NIST's sclite. Braces hold two or more wordings with ` / ` between them (a slash with
white space on both sides); `@`, or nothing, is the empty wording, which makes the others optional. They may
be nested. Braces without such a slash are plain text. A reference is scored in the wording that fits the
hypothesis best, which also gives its number of words.
"""

import re
from collections.abc import Callable, Sequence
from itertools import product
from math import prod

import numpy as np

from asr.errors import ScoringError

MOST_WORDINGS = 4096
"""The most wordings at one place; they only multiply where alternatives are nested."""

DEEPEST = 100
"""The most alternatives within each other."""

_MARK = re.compile(r"[{}]|(?<=\s)/(?=\s)")

Place = list[tuple[str, ...]]
"""The wordings at one place of a reference, as words; a single one where there is no choice."""


def parse(text: str, split: Callable[[str], tuple[str, ...]], *, depth: int = 1) -> list[Place]:
    """The reference as places one after the other, each with its possible wordings.

    Args:
        text: the reference.
        split: turns a wording into words; `@` and nothing become no words.
        depth: within how many alternatives those of the text are, these included.

    Raises:
        ScoringError: more wordings at one place than can be tried, or alternatives nested too deep.

    >>> parse("{ uh / @ } good { day / good morning }", lambda text: tuple(text.split()))
    [[('uh',), ()], [('good',)], [('day',), ('good', 'morning')]]
    """
    places: list[Place] = []
    plain = at = 0
    while (opening := text.find("{", at)) >= 0:
        options, end = _options(text, opening)
        at = opening + 1
        if len(options) > 1:
            if depth > DEEPEST:
                raise ScoringError(f"alternatives nested deeper than {DEEPEST}: {text[:80]!r}; write fewer")
            places.append([split(text[plain:opening])])
            places.append([wording for option in options for wording in _expand(option, split, depth)])
            plain = at = end
    places.append([split(text[plain:])])
    return [place for place in places if place != [()]]


def best_wording(
    places: list[Place], heard: Sequence[str], *, substitution: int, gap: int
) -> tuple[str, ...]:
    """The wording that is cheapest to align with the hypothesis; among equals the first as written.

    Dynamic programming from the right gives the least cost of the remaining places for every position in the
    hypothesis; then each place in turn takes its first wording that attains the least total cost.
    """
    words = np.array(heard, dtype=object)
    last = gap * np.arange(len(words), -1, -1)
    rest = [last]  # rest[k][j]: the last k places against heard[j:]
    for place in reversed(places):
        options = [_extend(rest[-1][::-1], w[::-1], words[::-1], substitution, gap)[::-1] for w in place]
        rest.append(np.min(options, axis=0))
    chosen: tuple[str, ...] = ()
    row, least = last[::-1], rest.pop()[0]
    for place in places:
        after = rest.pop()
        rows = [_extend(row, wording, words, substitution, gap) for wording in place]
        pick = next(n for n, candidate in enumerate(rows) if np.min(candidate + after) == least)
        chosen, row = chosen + place[pick], rows[pick]
    return chosen


def _extend(
    row: np.ndarray, wording: Sequence[str], heard: np.ndarray, substitution: int, gap: int
) -> np.ndarray:
    """The row of least costs against each prefix of the hypothesis, after one more wording."""
    gaps = gap * np.arange(len(row))
    for word in wording:
        extended = row + gap
        extended[1:] = np.minimum(extended[1:], row[:-1] + np.where(heard == word, 0, substitution))
        row = np.minimum.accumulate(extended - gaps) + gaps
    return row


def _options(text: str, opening: int) -> tuple[list[str], int]:
    """(options between this brace and its partner, where the text goes on after it)."""
    depth, begin = 0, opening + 1
    options: list[str] = []
    for mark in _MARK.finditer(text, opening):
        if mark[0] == "{":
            depth += 1
        elif mark[0] == "}":
            depth -= 1
            if depth == 0:
                return [*options, text[begin : mark.start()]], mark.end()
        elif depth == 1:
            options.append(text[begin : mark.start()])
            begin = mark.end()
    return [], len(text)  # never closed: no alternatives


def _expand(option: str, split: Callable[[str], tuple[str, ...]], depth: int) -> Place:
    """Every wording of one option, nested alternatives resolved."""
    if option.strip() == "@":
        return [()]
    places = parse(option, split, depth=depth + 1)
    if prod(map(len, places)) > MOST_WORDINGS:
        raise ScoringError(
            f"alternatives within alternatives, {option[:80]!r}, have more than {MOST_WORDINGS} wordings; "
            "write them one after the other instead"
        )
    return [sum(wordings, ()) for wordings in product(*places)]
