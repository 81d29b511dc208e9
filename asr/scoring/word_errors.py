"""Word and character errors of hypotheses against references: aligned once, all else derives from that.

Conventions.

* Words are what white space separates after normalisation (`asr.scoring.styles`), applied to both sides.
* `minimal` alignment: as few edits as possible, as rapidfuzz finds them; counts equal jiwer's. `sclite`
  alignment: least cost where a substitution costs 4, a deletion or insertion 3, with ties broken as NIST's
  sclite does; it prefers matched words, and its rate can be higher in rare cases.
* Rates are pooled: all errors of a set over all its reference words. A rate may exceed 1.
* Empty reference: inserted words count as errors and add no words. The errors of a set without any reference
  word are divided by 1, so that a rate is 0 if and only if nothing is wrong.
* Empty hypothesis: every reference word is deleted.
* Characters are those of the normalised text with one space between words, by minimal edits.
* In a script without spaces every symbol of the model is a word, and characters are counted without spaces:
  there the word error rate is a character error rate (`score_spoken`).
* Alternatives in a reference, `{ a / b }`: see `asr.scoring.alternatives`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from asr import __version__
from asr.errors import ScoringError
from asr.scoring import alternatives
from asr.scoring.alignment import GAP, SUBSTITUTION, AlignedUtterance, Alignment, aligner
from asr.scoring.intervals import CONFIDENCE, RESAMPLES, bootstrap_rates, interval
from asr.scoring.styles import Style, word_splitter
from asr.text import Alphabet

FEWEST_SPEAKERS = 5
"""With at least this many speakers, intervals resample speakers; fewer represent others poorly."""


@dataclass(frozen=True, repr=False)
class Score:
    """Counts and rates of a set of utterances, all derived from their alignments."""

    utterances: tuple[AlignedUtterance, ...]
    style: Style = "none"
    alignment: Alignment = "minimal"
    processing_s: float | None = None
    """Seconds that recognition took, if known."""
    joint: str = " "
    """What stands between words in writing: a space or nothing."""

    @cached_property
    def substitutions(self) -> int:
        """Reference words that were recognised as others."""
        return sum(u.substitutions for u in self.utterances)

    @cached_property
    def deletions(self) -> int:
        """Reference words that were missed."""
        return sum(u.deletions for u in self.utterances)

    @cached_property
    def insertions(self) -> int:
        """Hypothesis words without a counterpart in the reference."""
        return sum(u.insertions for u in self.utterances)

    @cached_property
    def words(self) -> int:
        """Words of the references."""
        return sum(len(u.reference) for u in self.utterances)

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
        references = [self.joint.join(u.reference) for u in self.utterances]
        hypotheses = [self.joint.join(u.hypothesis) for u in self.utterances]
        errors = process.cpdist(references, hypotheses, scorer=Levenshtein.distance, dtype=np.int64)
        return int(errors.sum()) / max(sum(map(len, references)), 1)

    @property
    def ser(self) -> float:
        """Share of utterances with an error."""
        return sum(bool(u.edits) for u in self.utterances) / self.sentences

    @cached_property
    def wer_interval(self) -> tuple[float, float] | None:
        """95 % bootstrap interval of the word error rate; None if there is only one utterance.

        Without any error there is nothing to resample; the upper end is then the rate of independent word
        errors at which no error at all has probability 0.025, 1 − 0.025^(1/words).
        """
        if not self.errors and self.words and self.sentences > 1:
            return 0.0, -math.expm1(math.log((1 - CONFIDENCE) / 2) / self.words)
        return interval(bootstrap_rates(self.errors_N, self.words_N, blocks=self.blocks), units=self.units)

    @property
    def interval_by(self) -> Literal["speaker", "utterance"]:
        """What the intervals resample: speakers if at least five are known, else utterances."""
        return "speaker" if self.blocks else "utterance"

    @property
    def units(self) -> int:
        """The number of speakers or utterances that intervals resample."""
        return len(set(self.blocks)) if self.blocks else self.sentences

    @cached_property
    def blocks(self) -> list[str] | None:
        """The speaker of each utterance, if intervals resample speakers."""
        speakers = [u.speaker for u in self.utterances if u.speaker is not None]
        enough = len(speakers) == len(self.utterances) and len(set(speakers)) >= FEWEST_SPEAKERS
        return speakers if enough else None

    @cached_property
    def errors_N(self) -> np.ndarray:
        """Word errors of each utterance."""
        return np.array([len(u.edits) for u in self.utterances], dtype=np.int64)

    @cached_property
    def words_N(self) -> np.ndarray:
        """Reference words of each utterance."""
        return np.array([len(u.reference) for u in self.utterances], dtype=np.int64)

    @cached_property
    def duration_s(self) -> float | None:
        """Seconds of audio, if known for every utterance."""
        durations = [u.duration_s for u in self.utterances if u.duration_s is not None]
        return sum(durations) if len(durations) == len(self.utterances) else None

    @property
    def real_time_factor(self) -> float | None:
        """Processing seconds per second of audio, if both are known."""
        return self.processing_s / self.duration_s if self.processing_s and self.duration_s else None

    @property
    def signature(self) -> str:
        """Every choice that the numbers depend on, to be reported with them.

        >>> print(score("a b", "a").signature)  # doctest: +ELLIPSIS
        style:none|align:minimal|pool:words|empty-ref:errors/1|interval:95%-utterance-bootstrap-10000|asr:...
        """
        return (
            f"style:{self.style}|align:{self.alignment}|pool:{'words' if self.joint else 'symbols'}|"
            f"empty-ref:errors/1|interval:{CONFIDENCE:.0%}-{self.interval_by}-bootstrap-{RESAMPLES}|asr:{__version__}"
        )

    def __str__(self) -> str:
        interval = ""
        if self.wer_interval:
            low, high = self.wer_interval
            interval = f", {CONFIDENCE:.0%} interval {low:.2%} to {high:.2%}"
        counts = f"{self.substitutions} S, {self.deletions} D, {self.insertions} I of {self.words} words"
        return f"WER {self.wer:.2%} ({counts}{interval}) {self.signature}"

    def __repr__(self) -> str:
        names = ("wer", "substitutions", "deletions", "insertions", "words", "sentences")
        return f"Score({', '.join(f'{name}={getattr(self, name)}' for name in names)})"

    def to_json(self) -> dict[str, Any]:
        """The numbers, for `--json`; `wer_interval` is (low, high) or None."""
        names = ["wer", "cer", "ser", "wer_interval", "substitutions", "deletions", "insertions", "correct"]
        names += ["errors", "words", "sentences", "duration_s", "real_time_factor", "signature"]
        return {name: getattr(self, name) for name in names}


def score(
    references: str | Sequence[str],
    hypotheses: str | Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    speakers: Sequence[str | None] | None = None,
    durations_s: Sequence[float | None] | None = None,
    confidences: Sequence[Sequence[float] | None] | None = None,
    style: Style = "none",
    alignment: Alignment = "minimal",
    processing_s: float | None = None,
) -> Score:
    """Counts and rates of hypotheses against their references, pairwise in order.

    Args:
        references, hypotheses: one text per utterance; a single text is a set of one.
        ids: unique names of the utterances; their numbers from 1 if not given.
        speakers: of each utterance, for breakdowns and for intervals that resample speakers.
        durations_s: of each utterance, in seconds.
        confidences: of each hypothesis' words, 0 … 1.
        style: normalisation of both sides.
        alignment: `minimal` or `sclite`.
        processing_s: seconds that recognition took, for the real-time factor.

    Raises:
        ScoringError: no utterances, sequences of different lengths, repeated ids, or confidences that do not
            belong to the words.

    >>> s = score(["the cat sat", "yes"], ["the cat", "yes yes"])
    >>> s.substitutions, s.deletions, s.insertions, s.wer
    (0, 1, 1, 0.5)
    """
    references, hypotheses = _texts(references), _texts(hypotheses)
    given = {"ids": ids, "speakers": speakers, "durations_s": durations_s, "confidences": confidences}
    _check_lengths(len(references), hypotheses=hypotheses, **given)
    names = _unique([str(n + 1) for n in range(len(references))] if ids is None else ids)
    split, find = word_splitter(style), aligner(alignment)
    utterances = []
    for n, (reference, hypothesis) in enumerate(zip(references, hypotheses, strict=True)):
        _check_texts(names[n], reference, hypothesis)
        heard = split(hypothesis)
        said = _said(reference, heard, split, alignment) if "{" in reference else split(reference)
        edits = find(said, heard)
        kinds = [edit[0] for edit in edits]
        utterances.append(
            AlignedUtterance(
                names[n],
                said,
                heard,
                edits,
                kinds.count("replace"),
                kinds.count("delete"),
                kinds.count("insert"),
                speakers[n] if speakers is not None else None,
                durations_s[n] if durations_s is not None else None,
                _confidences(names[n], confidences[n], heard) if confidences is not None else None,
                "{" in reference,
            )
        )
    return Score(tuple(utterances), style, alignment, processing_s)


def score_spoken(
    references: Sequence[str], hypotheses: Sequence[str], *, alphabet: Alphabet, **facts: Any
) -> Score:
    """The score of what a model with this alphabet writes; `facts` are the other arguments of `score`.

    In a script without spaces it is counted symbol by symbol: a sentence is not one word.

    >>> score_spoken(["你好世界"], ["你好世"], alphabet=Alphabet(list("世你好界")))
    Score(wer=0.25, substitutions=0, deletions=1, insertions=0, words=4, sentences=1)
    """
    said, heard = ([alphabet.separate(text) for text in texts] for texts in (references, hypotheses))
    return replace(score(said, heard, **facts), joint=alphabet.joint)


def _texts(texts: object) -> Sequence[str]:
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, Mapping | Set) or not isinstance(texts, Iterable):
        raise ScoringError(f"texts in a {type(texts).__name__}: expected a list of them, in their order")
    return list(texts)


def _check_texts(name: str, reference: object, hypothesis: object) -> None:
    if not (isinstance(reference, str) and isinstance(hypothesis, str)):
        raise ScoringError(f"utterance {name!r}: {reference!r} and {hypothesis!r}: expected two texts")


def _unique(names: Sequence[str]) -> Sequence[str]:
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise ScoringError(f"ids must be unique, but {some(repeated)} stand more than once")
    return names


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, quoted, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _said(
    reference: str, heard: tuple[str, ...], split: Callable[[str], tuple[str, ...]], alignment: Alignment
) -> tuple[str, ...]:
    """The words of a reference with alternatives, in the wording that fits the hypothesis best.

    sclite's costs decide; with minimal alignment the number of errors comes first.
    """
    errors_first = 0 if alignment == "sclite" else 1 << 32
    return alternatives.best_wording(
        alternatives.parse(reference, split),
        heard,
        substitution=errors_first + SUBSTITUTION,
        gap=errors_first + GAP,
    )


def _confidences(
    name: str, values: Sequence[float] | None, heard: tuple[str, ...]
) -> tuple[float, ...] | None:
    if values is None:
        return None
    if len(values) != len(heard):
        raise ScoringError(
            f"utterance {name!r}: {len(values)} confidences, {len(heard)} words in {' '.join(heard)[:60]!r}; "
            "expected one a word after normalisation (a style that joins or splits words leaves none)"
        )
    if not all(0 <= value <= 1 for value in values):
        raise ScoringError(f"utterance {name!r}: confidences {list(values)[:8]}: expected values from 0 to 1")
    return tuple(map(float, values))


def _check_lengths(count: int, **given: Sequence[Any] | None) -> None:
    if not count:
        raise ScoringError("no references: expected at least one utterance")
    for name, values in given.items():
        if values is not None and len(values) != count:
            raise ScoringError(f"{count} references but {len(values)} {name}: expected as many")
