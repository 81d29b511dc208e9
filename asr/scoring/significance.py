"""Significance tests: whether one recogniser is really better than another, on the same utterances.

Three answers, all two-sided: the paired bootstrap interval of the difference in word error rate; the matched
pairs sentence-segment word error test (MAPSSWE), which NIST uses; McNemar's exact test on whole utterances.

MAPSSWE conventions, as in NIST's SCTK. Within an utterance, errors of either system belong to one segment if
fewer than two words that both recognise lie between them; every segment has errors. With d the differences
of the two systems' errors in the n segments, the statistic is z = mean(d) / (sd(d) / √n). NIST takes it for
normal, which is right for many segments: with 8 of them equal systems differ "at 5 %" in 9 % of cases, with
2 in 30 %, if d is normal. Here p is that of the t distribution with n − 1 degrees of freedom. Where all
differences are equal and sd is 0, z = Σd / √Σd² = ±√n, and p is that of the sign test, 2 · 2⁻ⁿ.

Source: Gillick & Cox 1989, "Some statistical issues in the comparison of speech recognition algorithms";
Pallett, Fisher & Fiscus 1990, "Tools for the analysis of benchmark speech recognition tests"; Holm 1979.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from asr.errors import ScoringError
from asr.scoring.alignment import AlignedUtterance
from asr.scoring.intervals import CONFIDENCE, interval, pooled, resample_sums
from asr.scoring.word_errors import Score, some

_CORRECT_BETWEEN = 2
"""Words recognised by both systems that separate two segments."""


@dataclass(frozen=True)
class MatchedPairs:
    """The matched pairs sentence-segment word error test."""

    segments: int
    mean: float
    """Errors of B minus errors of A in a segment, on average."""
    z: float
    p: float


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test on utterances that only one of the systems recognises without error."""

    only_a: int
    """Utterances that only A recognises without error."""
    only_b: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same utterances; differences are B minus A: below 0, B is better."""

    a: Score
    b: Score

    @property
    def difference(self) -> float:
        """Word error rate of B minus that of A."""
        return self.b.wer - self.a.wer

    @cached_property
    def difference_interval(self) -> tuple[float, float] | None:
        """95 % paired bootstrap interval of the difference; None if there is only one utterance."""
        a, b = self.a, self.b
        if (a.words_N == b.words_N).all():
            columns = [b.errors_N - a.errors_N, a.words_N]
        else:  # alternatives in the reference: each was scored on its own wording
            columns = [b.errors_N, b.words_N, a.errors_N, a.words_N]
        sums_KR = resample_sums(np.stack(columns, axis=1), blocks=a.blocks).T
        differences_R = pooled(*sums_KR[:2]) - (pooled(*sums_KR[2:]) if len(columns) > 2 else 0)
        return interval(differences_R, units=a.units)

    @cached_property
    def matched_pairs(self) -> MatchedPairs:
        """MAPSSWE."""
        return matched_pairs(self.a, self.b)

    @cached_property
    def mcnemar(self) -> McNemar:
        """McNemar's test on whole utterances."""
        right_a = np.array([not u.edits for u in self.a.utterances])
        right_b = np.array([not u.edits for u in self.b.utterances])
        return mcnemar(int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum()))

    @property
    def is_significant(self) -> bool:
        """Whether MAPSSWE finds a difference at the 5 % level."""
        return self.matched_pairs.p < 1 - CONFIDENCE

    @property
    def signature(self) -> str:
        """Every choice that the numbers depend on."""
        return f"{self.a.signature}|test:mapsswe-t"

    @cached_property
    def differing(self) -> list[tuple[AlignedUtterance, AlignedUtterance]]:
        """Utterances on which the systems wrote different words, the largest difference in errors first."""
        pairs = zip(self.a.utterances, self.b.utterances, strict=True)
        different = [(a, b) for a, b in pairs if a.hypothesis != b.hypothesis]
        return sorted(different, key=lambda pair: -abs(pair[1].errors - pair[0].errors))

    def to_json(self) -> dict[str, Any]:
        """The numbers, for `--json`."""
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "difference": self.difference,
            "difference_interval": self.difference_interval,
            "significant": self.is_significant,
            "matched_pairs": vars(self.matched_pairs),
            "mcnemar": vars(self.mcnemar),
            "differing": len(self.differing),
            "signature": self.signature,
        }


def compare(a: Score, b: Score) -> Comparison:
    """The comparison of two scores of the same utterances.

    Raises:
        ScoringError: scores of different utterances, or made in different ways.

    >>> from asr.scoring import score
    >>> said = ["one two", "three four", "five six"]
    >>> found = compare(score(said, ["one", "three", "six"]), score(said, said))
    >>> found.difference, found.mcnemar.only_b, round(found.mcnemar.p, 2)
    (-0.5, 3, 0.25)
    """
    if (a.style, a.alignment) != (b.style, b.alignment):
        raise ScoringError(f"scores made in different ways: {a.signature} and {b.signature}")
    ids = [dict.fromkeys(u.id for u in score.utterances) for score in (a, b)]
    if list(ids[0]) != list(ids[1]):
        only = [[name for name in one if name not in other] for one, other in (ids, ids[::-1])]
        raise ScoringError(
            "systems can only be compared on the same utterances in the same order; "
            f"only in A: {some(only[0]) or 'none'}; only in B: {some(only[1]) or 'none'}"
        )
    for one, other in zip(a.utterances, b.utterances, strict=True):
        if one.reference != other.reference and not (one.has_alternatives and other.has_alternatives):
            raise ScoringError(
                f"utterance {one.id!r} has the reference {' '.join(one.reference)[:60]!r} in A, "
                f"{' '.join(other.reference)[:60]!r} in B; only the same utterances can be compared"
            )
    return Comparison(a, b)


def matched_pairs(a: Score, b: Score) -> MatchedPairs:
    """MAPSSWE of two scores of the same utterances."""
    from scipy.special import stdtr

    differences: list[int] = []
    for one, other in zip(a.utterances, b.utterances, strict=True):
        if one.edits or other.edits:
            differences += [errors_b - errors_a for errors_a, errors_b in segments(one, other)]
    n, d_N = len(differences), np.array(differences, dtype=np.float64)
    if not d_N.any():
        return MatchedPairs(n, 0.0, 0.0, 1.0)
    deviation = d_N.std(ddof=1) if n > 1 else 0.0
    if deviation > 0:
        z = float(d_N.mean() / (deviation / math.sqrt(n)))
        return MatchedPairs(n, float(d_N.mean()), z, 2 * float(stdtr(n - 1, -abs(z))))
    z = float(d_N.sum() / np.sqrt((d_N**2).sum()))
    return MatchedPairs(n, float(d_N.mean()), z, 2 * 0.5**n)


def segments(a: AlignedUtterance, b: AlignedUtterance) -> list[tuple[int, int]]:
    """(errors of A, errors of B) in each segment of an utterance.

    If the systems were scored on different wordings, the utterance is one segment.
    """
    if a.reference != b.reference:
        return [(a.errors, b.errors)]
    # Word i of the reference has place 2i + 1, insertions before it 2i.
    places = [(2 * i + (kind != "insert"), 0) for kind, i, _ in a.edits]
    places += [(2 * i + (kind != "insert"), 1) for kind, i, _ in b.edits]
    out: list[list[int]] = []
    before = -10
    for place, system in sorted(places):
        if not out or place // 2 - (before + 1) // 2 >= _CORRECT_BETWEEN:
            out.append([0, 0])
        out[-1][system] += 1
        before = place
    return [(errors_a, errors_b) for errors_a, errors_b in out]


def mcnemar(only_a: int, only_b: int) -> McNemar:
    """McNemar's test: the probability of a split at least as uneven if both systems are equally good."""
    from scipy.special import bdtr

    if not only_a + only_b:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5))))


@dataclass(frozen=True)
class Ranked:
    """One of several systems, with those that it beats significantly."""

    rank: int
    name: str
    score: Score
    better_than: tuple[str, ...]
    """Names of the systems that are worse by MAPSSWE at 5 %, corrected for the number of pairs (Holm)."""


def rank(scores: Mapping[str, Score]) -> list[Ranked]:
    """Systems on the same utterances, the best first, with the significant differences.

    Raises:
        ScoringError: scores of different utterances, or made in different ways.
    """
    names = sorted(scores, key=lambda name: (scores[name].wer, name))
    pairs = [(one, other) for n, one in enumerate(names) for other in names[n + 1 :]]
    found = {pair: compare(scores[pair[0]], scores[pair[1]]).matched_pairs.p for pair in pairs}
    real = _holm(found)
    return [
        Ranked(n + 1, name, scores[name], tuple(other for other in names if (name, other) in real))
        for n, name in enumerate(names)
    ]


def _holm(p: Mapping[tuple[str, str], float]) -> set[tuple[str, str]]:
    """The pairs that differ significantly, at a level of 5 % for all pairs together."""
    real: set[tuple[str, str]] = set()
    for n, pair in enumerate(sorted(p, key=lambda pair: p[pair])):
        if p[pair] * (len(p) - n) >= 1 - CONFIDENCE:
            break
        real.add(pair)
    return real
