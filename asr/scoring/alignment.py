"""Alignment of two word sequences: the edits between them, and how they are printed.

Source: Levenshtein 1966; https://github.com/usnistgov/SCTK/blob/master/doc/sclite.htm for sclite's costs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr.errors import ScoringError

Alignment = Literal["minimal", "sclite"]
Edit = tuple[str, int, int]
"""`replace`, `delete` or `insert` with the position in the reference and in the hypothesis."""

SUBSTITUTION, GAP = 4, 3  # sclite's costs
_FEW_CELLS = 200 * 200  # of a table of distances: for fewer, no table is faster


class AlignedUtterance(NamedTuple):
    """One reference with its hypothesis and the edits between them."""

    id: str
    reference: tuple[str, ...]
    """Words, normalised, in the wording that was scored."""
    hypothesis: tuple[str, ...]
    edits: list[Edit]
    """Where they differ, in order."""
    substitutions: int
    deletions: int
    insertions: int
    speaker: str | None = None
    duration_s: float | None = None
    confidences: tuple[float, ...] | None = None
    """Of each word of the hypothesis, 0 … 1."""
    has_alternatives: bool = False
    """Whether the reference may have other wordings, see `asr.scoring.alternatives`."""

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return len(self.edits)

    @property
    def wer(self) -> float:
        """Word errors over reference words (over 1 if there are none)."""
        return len(self.edits) / max(len(self.reference), 1)

    def pairs(self) -> list[tuple[str | None, str | None]]:
        """Reference and hypothesis word by word; None on the side that lacks a word.

        >>> from asr.scoring import score
        >>> score("a b", "b c", alignment="sclite").utterances[0].pairs()
        [('a', None), ('b', 'b'), (None, 'c')]
        """
        out: list[tuple[str | None, str | None]] = []
        i = j = 0
        for kind, source, target in self.edits:
            out += zip(self.reference[i:source], self.hypothesis[j:target], strict=True)
            said = None if kind == "insert" else self.reference[source]
            heard = None if kind == "delete" else self.hypothesis[target]
            out.append((said, heard))
            i, j = source + (kind != "insert"), target + (kind != "delete")
        out += zip(self.reference[i:], self.hypothesis[j:], strict=True)
        return out


def aligner(alignment: Alignment) -> Callable[[Sequence[str], Sequence[str]], list[Edit]]:
    """The function that finds the edits from a reference to a hypothesis.

    Raises:
        ScoringError: an unknown alignment.
    """
    if alignment not in get_args(Alignment):
        raise ScoringError(f"alignment {alignment!r}: expected one of {', '.join(get_args(Alignment))}")
    return _sclite_edits if alignment == "sclite" else _minimal_edits


def _minimal_edits(said: Sequence[str], heard: Sequence[str]) -> list[Edit]:
    if said == heard:
        return []
    edits: Any = Levenshtein.editops(said, heard).as_list()
    return list(edits)


def _sclite_edits(said: Sequence[str], heard: Sequence[str]) -> list[Edit]:
    """The edits of sclite's alignment, traced back along the weighted distances of the prefixes.

    At equal costs sclite prefers a substitution, then an insertion, then a deletion. Equal words are always
    matched, which never costs more.
    """
    i, j = len(said), len(heard)
    out: list[Edit] = []
    distance = _distances(said, heard)
    left = distance(i, j) if said != heard else 0
    while i and j and left:
        if said[i - 1] == heard[j - 1]:
            i, j = i - 1, j - 1
            continue
        if distance(i - 1, j - 1) == left - SUBSTITUTION:
            i, j, kind, left = i - 1, j - 1, "replace", left - SUBSTITUTION
        elif distance(i, j - 1) == left - GAP:
            j, kind, left = j - 1, "insert", left - GAP
        else:
            i, kind, left = i - 1, "delete", left - GAP
        out.append((kind, i, j))
    if left:
        out += [("delete", n, 0) for n in reversed(range(i))] + [("insert", 0, n) for n in reversed(range(j))]
    return out[::-1]


def _distances(said: Sequence[str], heard: Sequence[str]) -> Callable[[int, int], int]:
    """The weighted distance of the first i words and the first j."""
    if len(said) * len(heard) <= _FEW_CELLS:
        return lambda i, j: Levenshtein.distance(said[:i], heard[:j], weights=(GAP, GAP, SUBSTITUTION))
    numbers = {word: n for n, word in enumerate(heard)}
    said_I, heard_J = (np.array([numbers.get(w, -1) for w in words], np.int32) for words in (said, heard))

    def after(before: np.ndarray, i: int) -> np.ndarray:
        """The row holds what each distance is less than the cost of deletions and insertions alone."""
        row = np.zeros_like(before)
        row[1:] = heard_J == said_I[i]
        row[1:] *= SUBSTITUTION
        row[1:] += before[:-1] + (2 * GAP - SUBSTITUTION)
        np.maximum(row, before, out=row)
        return np.maximum.accumulate(row, out=row)

    saved = Rows(np.zeros(len(heard) + 1, np.int32), len(said), after)
    return lambda i, j: (i + j) * GAP - int(saved[i][j])


class Rows:
    """The rows of a table in which each follows from the one before; fast if asked for from last to first.

    Of n rows about √n are kept, from which as many others, a block of them, are computed again when needed.

    Args:
        first: row 0.
        count: how many follow.
        after: makes row i + 1 of row i and i.
    """

    def __init__(self, first: np.ndarray, count: int, after: Callable[[np.ndarray, int], np.ndarray]) -> None:
        self._count, self._after, self._step = count, after, math.isqrt(count) + 1
        self._kept = [first]
        for begin in range(0, count, self._step):
            self._kept.append(self._following(self._kept[-1], begin)[-1])
        self._block, self._begin = self._kept[-1:], len(self._kept) * self._step

    def __getitem__(self, i: int) -> np.ndarray:
        if not self._begin <= i <= self._begin + self._step:
            self._begin = i - i % self._step
            self._block = self._following(self._kept[i // self._step], self._begin)
        return self._block[i - self._begin]

    def _following(self, row: np.ndarray, begin: int) -> list[np.ndarray]:
        """The row and those of the block that begins with it."""
        rows = [row]
        for i in range(begin, min(begin + self._step, self._count)):
            rows.append(self._after(rows[-1], i))
        return rows


def print_alignment(utterance: AlignedUtterance, *, width: int = 100) -> str:
    """The alignment as sclite prints it: REF, HYP and Eval lines, folded at `width` columns.

    Errors are in capitals if no word has any; asterisks fill the side that lacks a word.

    >>> from asr.scoring import score
    >>> print(print_alignment(score("the cat sat", "cat sat down").utterances[0]))
    id: (1)
    Scores: (#C #S #D #I) 2 0 1 1
    REF:  THE cat sat ****
    HYP:  *** cat sat DOWN
    Eval: D           I
    """
    from rich.cells import cell_len

    u = utterance
    correct = len(u.reference) - u.substitutions - u.deletions
    head = f"id: ({u.id})\nScores: (#C #S #D #I) {correct} {u.substitutions} {u.deletions} {u.insertions}"
    words = u.reference + u.hypothesis
    capitals = words == tuple(word.lower() for word in words)
    rows: list[list[str]] = [[], [], []]
    lines: list[str] = []
    used = 0
    for said, heard in u.pairs():
        mark = "D" if heard is None else "I" if said is None else "S" if said != heard else ""
        if mark and capitals:
            said, heard = said and said.upper(), heard and heard.upper()
        columns = max(cell_len(said or ""), cell_len(heard or ""), 1)
        if used and used + columns + 1 > width - 6:
            lines += _lines(rows, folded=bool(lines))
            rows, used = [[], [], []], 0
        for row, cell in zip(rows, (said, heard, mark), strict=True):
            shown = "*" * columns if cell is None else cell
            row.append(shown + " " * (columns - cell_len(shown)))
        used += columns + 1
    return "\n".join([head, *lines, *_lines(rows, folded=bool(lines))])


def _lines(rows: list[list[str]], *, folded: bool) -> list[str]:
    names = (">> REF:", ">> HYP:", ">> Eval:") if folded else ("REF: ", "HYP: ", "Eval:")
    return [f"{name} {' '.join(row)}".rstrip() for name, row in zip(names, rows, strict=True)]
