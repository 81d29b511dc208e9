"""Breakdowns of the errors: by speaker, length and duration, by word, and in which utterances."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from asr.scoring.alignment import AlignedUtterance
from asr.scoring.word_errors import Score

T = TypeVar("T")

_LENGTHS_WORDS = (1, 3, 6, 11, 21, 41)
_DURATIONS_S = (0, 2, 5, 10, 20, 40)


@dataclass(frozen=True)
class Group:
    """The part of a score that shares a property."""

    name: str
    score: Score


def by_speaker(score: Score) -> list[Group]:
    """One group per speaker, the worst first; none if no speaker is known."""
    groups = _group(score, lambda u: u.speaker)
    return sorted(groups, key=lambda group: (-group.score.wer, group.name))


def by_length(score: Score) -> list[Group]:
    """Groups of utterances with similar numbers of reference words, the shortest first."""
    groups = _group(score, lambda u: _range(_LENGTHS_WORDS, len(u.reference), "words", whole=True))
    return sorted(groups, key=lambda group: len(group.score.utterances[0].reference))


def by_duration(score: Score) -> list[Group]:
    """Groups of utterances of similar duration, the shortest first; none if durations are unknown."""
    groups = _group(
        score, lambda u: None if u.duration_s is None else _range(_DURATIONS_S, u.duration_s, "s")
    )
    return sorted(groups, key=lambda group: group.score.utterances[0].duration_s or 0.0)


@dataclass(frozen=True)
class WordErrors:
    """How often each word was substituted, deleted or inserted; the most frequent first."""

    confusions: list[tuple[tuple[str, str], int]]
    """(reference word, hypothesis word), count."""
    deleted: list[tuple[str, int]]
    inserted: list[tuple[str, int]]


def word_errors(score: Score) -> WordErrors:
    """All errors of a score, counted by word."""
    confusions: Counter[tuple[str, str]] = Counter()
    deleted: Counter[str] = Counter()
    inserted: Counter[str] = Counter()
    for u in score.utterances:
        for kind, i, j in u.edits:
            if kind == "replace":
                confusions[u.reference[i], u.hypothesis[j]] += 1
            elif kind == "delete":
                deleted[u.reference[i]] += 1
            else:
                inserted[u.hypothesis[j]] += 1
    return WordErrors(_ranked(confusions), _ranked(deleted), _ranked(inserted))


def worst(score: Score, count: int = 10) -> list[AlignedUtterance]:
    """The utterances with the most errors; ties by higher error rate, then in order."""
    wrong = (u for u in score.utterances if u.edits)
    return sorted(wrong, key=lambda u: (-u.errors, -u.wer))[:count]


@dataclass(frozen=True)
class Recall:
    """Recall and precision for certain words."""

    name: str
    spoken: int
    recognised: int
    false_alarms: int = 0
    """Written where they were not spoken."""

    @property
    def recall(self) -> float | None:
        """Recognised over spoken; None if never spoken."""
        return self.recognised / self.spoken if self.spoken else None

    @property
    def precision(self) -> float | None:
        """Recognised over written; None if never written."""
        written = self.recognised + self.false_alarms
        return self.recognised / written if written else None


def out_of_vocabulary(score: Score, vocabulary: Collection[str]) -> Recall:
    """How many reference words outside the vocabulary were recognised nevertheless.

    Args:
        vocabulary: words that the model could know (from the training transcripts, or from a language
            model), in the normalisation of the score.
    """
    known = frozenset(vocabulary)
    spoken = recognised = 0
    for u in score.utterances:
        strange = {i for i, word in enumerate(u.reference) if word not in known}
        if strange:
            missed = {i for kind, i, _ in u.edits if kind != "insert"}
            spoken += len(strange)
            recognised += len(strange - missed)
    return Recall("out of vocabulary", spoken, recognised)


def hotwords(score: Score, phrases: Iterable[str]) -> list[Recall]:
    """For each word or phrase, how often it was spoken, recognised whole, and written where it was not.

    Args:
        phrases: words or sequences of words, in the normalisation of the score.
    """
    counts: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    wanted = {tuple(phrase.split()): phrase for phrase in phrases}
    wanted.pop((), None)
    for u in score.utterances:
        present = set(u.reference) | set(u.hypothesis)
        for phrase in wanted:
            if present.issuperset(phrase):
                for n, found in enumerate(_find(u, phrase)):
                    counts[phrase][n] += found
    return [Recall(name, *counts[phrase]) for phrase, name in wanted.items()]


def _find(u: AlignedUtterance, phrase: tuple[str, ...]) -> tuple[int, int, int]:
    """Spoken, recognised and falsely written occurrences of the phrase in one utterance."""
    size = len(phrase)
    said = [i for i in range(len(u.reference) - size + 1) if u.reference[i : i + size] == phrase]
    heard = [j for j in range(len(u.hypothesis) - size + 1) if u.hypothesis[j : j + size] == phrase]
    partner = dict(_matches(u))
    recognised = sum(all(partner.get(i + k) == partner.get(i, -size) + k for k in range(size)) for i in said)
    return len(said), recognised, len(heard) - recognised


def _matches(u: AlignedUtterance) -> list[tuple[int, int]]:
    """Positions of the words that were recognised, in the reference and in the hypothesis."""
    out, i, j = [], 0, 0
    for said, heard in u.pairs():
        if said == heard:
            out.append((i, j))
        i += said is not None
        j += heard is not None
    return out


def _group(score: Score, key: Callable[[AlignedUtterance], str | None]) -> list[Group]:
    members: defaultdict[str, list[AlignedUtterance]] = defaultdict(list)
    for u in score.utterances:
        if (name := key(u)) is not None:
            members[name].append(u)
    return [Group(name, replace(score, utterances=tuple(us))) for name, us in members.items()]


def _range(bounds: Sequence[int], value: float, unit: str, *, whole: bool = False) -> str:
    """The name of the range that the value is in: `6–10 words`, `5–10 s`, `41 words or more`."""
    n = bisect_right(bounds, value) - 1
    if n < 0:
        return f"0 {unit}"
    if n == len(bounds) - 1:
        return f"{bounds[n]} {unit} or more"
    last = bounds[n + 1] - whole
    return f"{bounds[n]} {unit}" if last == bounds[n] else f"{bounds[n]}–{last} {unit}"


def _ranked(counts: Counter[T]) -> list[tuple[T, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
