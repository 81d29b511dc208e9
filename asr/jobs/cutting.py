"""Aligned recordings → a recording for each word, or for all words between two pauses, and a manifest."""

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from asr import audio
from asr.corpus.manifest import Utterance
from asr.files import whole_file
from asr.jobs.console import counted, counting, say
from asr.transcript import Word

WORD_MARGINS_S = (0.07, 0.1)
"""Before and after a word that is cut out, as CTC alignments are short; at most half way to the next word."""
UTTERANCE_MARGINS_S = (0.25, 0.25)
"""The same for a stretch of speech."""


class Aligned(NamedTuple):
    """An utterance, its id as a file name, its words and its duration (s).

    fits: of each word the mean ln p of its symbols, each where it is most probable. The confidence of a word
    rates its times; this rates whether it was said at all.
    """

    name: str
    utterance: Utterance
    words: list[Word]
    fits: list[float]
    duration_s: float

    def fit(self, part: range | None = None) -> float:
        """How well these words, or all, fit what is heard: the geometric mean over them, 0 to 1."""
        some = self.fits if part is None else self.fits[part.start : part.stop]
        return round(math.exp(fmean(some)), 4) if some else 1.0


class Cutting(NamedTuple):
    """What to cut out of aligned recordings, and where to."""

    folder: Path
    """Gets `words.jsonl` or `utterances.jsonl` and, in `audio/`, the recordings."""
    per_word: int = 0
    """At most so many recordings of a word, chosen at random with a fixed seed; 0 takes all."""
    longest_s: float | None = None
    """Cut at pauses, so that no recording lasts longer; None cuts words."""


def cut(aligned: Sequence[Aligned], cutting: Cutting, *, joint: str) -> None:
    """Write every word or utterance as a wav, at its recording's sample rate, and a manifest of all.

    Args:
        aligned: what to cut.
        cutting: into what, and where to.
        joint: what stands between words in writing.

    Raises:
        AudioError, CorpusError: a file cannot be written.
    """
    if cutting.longest_s is None:
        parts, margins_s = _choose(aligned, cutting.per_word), WORD_MARGINS_S
    else:
        parts, margins_s = [between_pauses(a, cutting.longest_s) for a in aligned], UTTERANCE_MARGINS_S
    facts: list[dict[str, Any]] = []
    with counting("cutting", "utterances") as progress:
        for done, (one, ranges) in enumerate(zip(aligned, parts, strict=True), 1):
            if ranges:
                facts += _cut(one, ranges, cutting.folder, margins_s=margins_s, joint=joint)
            progress(done, len(aligned))
    manifest = cutting.folder / ("words.jsonl" if cutting.longest_s is None else "utterances.jsonl")
    with whole_file(manifest) as file:
        file.writelines(f"{json.dumps(line, ensure_ascii=False)}\n" for line in facts)
    what = counted(len({line["text"] for line in facts}), "word")
    if cutting.longest_s is not None:
        what = f"{max((line['duration'] for line in facts), default=0):.1f} s at most"
    say(f"{counted(len(facts), 'recording')} of {what}: {manifest}")


def between_pauses(aligned: Aligned, longest_s: float) -> list[range]:
    """The words of each recording: all are parted at their longest pause, and the parts again if too long.

    Among equal pauses it is the one in the middle. A word that lasts longer than allowed is left as it is.
    """
    words, parts = aligned.words, []
    left = [range(len(words))] if words else []
    while left:
        part = left.pop()
        start_s, end_s = _bounds(aligned, part, UTTERANCE_MARGINS_S)
        if len(part) == 1 or end_s - start_s <= longest_s:
            parts.append(part)
            continue
        pauses = {k: words[k].start_s - words[k - 1].end_s for k in part[1:]}
        at = max(pauses, key=lambda k: (round(pauses[k], 3), min(k - part.start, part.stop - k)))
        left += [range(at, part.stop), range(part.start, at)]
    return parts


def _choose(aligned: Sequence[Aligned], per_word: int) -> list[list[range]]:
    """For each utterance the words to cut, in order."""
    places = [(i, k) for i, a in enumerate(aligned) for k in range(len(a.words))]
    random.Random(0).shuffle(places)
    counts: Counter[str] = Counter()
    chosen: list[list[range]] = [[] for _ in aligned]
    for i, k in places:
        word = aligned[i].words[k].text
        if not per_word or counts[word] < per_word:
            counts[word] += 1
            chosen[i].append(range(k, k + 1))
    return [sorted(parts, key=lambda part: part.start) for parts in chosen]


def _bounds(aligned: Aligned, part: range, margins_s: tuple[float, float]) -> tuple[float, float]:
    """Where to cut out these words (s)."""
    words = aligned.words
    first, last = words[part.start], words[part.stop - 1]
    earliest_s = (words[part.start - 1].end_s + first.start_s) / 2 if part.start else 0.0
    latest_s = (last.end_s + words[part.stop].start_s) / 2 if part.stop < len(words) else aligned.duration_s
    return max(earliest_s, first.start_s - margins_s[0]), min(latest_s, last.end_s + margins_s[1])


def _cut(
    aligned: Aligned, parts: Sequence[range], folder: Path, *, margins_s: tuple[float, float], joint: str
) -> list[dict[str, Any]]:
    """Write parts of an utterance; returns their lines of the manifest."""
    name, utterance = aligned.name, aligned.utterance
    rate_hz = audio.info(utterance.audio_filepath).rate_hz
    samples = utterance.read(rate_hz)
    lines = []
    for part in parts:
        words = aligned.words[part.start : part.stop]
        start_s, end_s = _bounds(aligned, part, margins_s)
        file = f"audio/{name}_{part.start}.wav"
        audio.write(folder / file, samples[round(start_s * rate_hz) : round(end_s * rate_hz)], rate_hz)
        line: dict[str, Any] = {
            "id": f"{name}_{part.start}",
            "audio_filepath": file,
            "duration": round(end_s - start_s, 4),
            "text": joint.join(word.text for word in words),
            "confidence": round(fmean(word.confidence for word in words), 4),
            "fit": aligned.fit(part),
        }
        if utterance.speaker is not None:
            line["speaker"] = utterance.speaker
        lines.append(line)
    return lines
