"""Word and character errors of hypotheses against references: aligned once, everything else reads it.

Conventions.

* Words are what white space separates after normalisation. The alignment is a minimal one (substitution,
  deletion and insertion cost 1 each), found by rapidfuzz.
* Rates are pooled: all errors of a set over all its reference words. A rate may exceed 1.
* Empty reference: what is inserted counts as errors and adds no words. A set without any reference word has
  the number of its errors as its rate, so that a rate is 0 if and only if nothing is wrong.
* Empty hypothesis: every reference word is deleted.
* Characters are those of the normalised text, with one space between words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Editops, Levenshtein

from asr.errors import ScoringError
from asr.text import normalise


@dataclass(frozen=True, slots=True)
class AlignedUtterance:
    """One reference with its hypothesis and the edits between them."""

    id: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]
    editops: Editops
    """Where they differ, as positions in both."""
    speaker: str | None = None
    duration_s: float | None = None
    confidences: tuple[float, ...] | None = None
    """Of each word of the hypothesis, 0 … 1."""


@dataclass(frozen=True)
class Score:
    """Counts and rates of a set of utterances."""

    utterances: list[AlignedUtterance]
    substitutions: int
    deletions: int
    insertions: int
    words: int
    """Words of the references."""

    @property
    def sentences(self) -> int:
        """Number of utterances."""
        return len(self.utterances)

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def correct(self) -> int:
        """Reference words that were recognised."""
        return self.words - self.substitutions - self.deletions

    @property
    def wer(self) -> float:
        """Word errors over reference words."""
        return self.errors / max(self.words, 1)

    @cached_property
    def cer(self) -> float:
        """Character errors over reference characters."""
        references = [" ".join(u.reference) for u in self.utterances]
        hypotheses = [" ".join(u.hypothesis) for u in self.utterances]
        errors = int(process.cpdist(references, hypotheses, scorer=Levenshtein.distance).sum())
        return errors / max(sum(map(len, references)), 1)

    @cached_property
    def ser(self) -> float:
        """Share of utterances with an error."""
        return sum(bool(u.editops) for u in self.utterances) / self.sentences

    @cached_property
    def wer_interval(self) -> tuple[float, float]:
        """95 % interval of the word error rate: bootstrap over utterances, 10,000 resamples."""
        rng = np.random.default_rng(0)
        errors = np.array([len(u.editops) for u in self.utterances])
        words = np.array([len(u.reference) for u in self.utterances])
        picks = rng.integers(0, self.sentences, (10_000, self.sentences))
        rates = errors[picks].sum(1) / np.maximum(words[picks].sum(1), 1)
        low, high = np.quantile(rates, [0.025, 0.975])
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """The numbers, for `--json`."""
        names = ("wer", "cer", "ser", "wer_interval", "substitutions", "deletions", "insertions")
        names += ("correct", "errors", "words", "sentences")
        return {name: getattr(self, name) for name in names}


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    speakers: Sequence[str] | None = None,
    durations_s: Sequence[float] | None = None,
    confidences: Sequence[Sequence[float]] | None = None,
) -> Score:
    """Counts and rates of hypotheses against their references, pairwise in order.

    Raises:
        ScoringError: different numbers of references and hypotheses, or none at all.
    """
    if len(references) != len(hypotheses) or not references:
        raise ScoringError(f"{len(references)} references, {len(hypotheses)} hypotheses: expected as many")
    utterances = []
    counts = {"replace": 0, "delete": 0, "insert": 0}
    for i, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        r, h = normalise(reference, "none").split(), normalise(hypothesis, "none").split()
        editops = Levenshtein.editops(r, h)
        for edit in editops:
            counts[edit.tag] += 1
        utterances.append(
            AlignedUtterance(
                id=ids[i] if ids else f"{i + 1}",
                reference=tuple(r),
                hypothesis=tuple(h),
                editops=editops,
                speaker=speakers[i] if speakers else None,
                duration_s=durations_s[i] if durations_s else None,
                confidences=tuple(confidences[i]) if confidences else None,
            )
        )
    words = sum(len(u.reference) for u in utterances)
    return Score(utterances, counts["replace"], counts["delete"], counts["insert"], words)
