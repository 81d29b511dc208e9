"""The result of recognition: text, words with times and confidence, segments. Times are in seconds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, SupportsFloat

from asr.text import Alphabet

if TYPE_CHECKING:
    from asr.decoding import Hypothesis


@dataclass(frozen=True)
class Word:
    """A recognised word, when it was said, and the probability that it is correct."""

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class Segment:
    """A stretch of speech that was decoded as one."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """What was said in one recording."""

    text: str
    words: tuple[Word, ...] = ()
    segments: tuple[Segment, ...] = ()
    duration_s: float = 0.0
    log_prob: float = 0.0
    """ln p(text | audio) as the decoder found it: of one spelling of the text, with outputs divided by the
    bundle's prior if it has one."""

    def segment(self, start_s: float) -> Segment | None:
        """The whole as one segment of a recording in which it starts at `start_s`; None without words."""
        if not self.words:
            return None
        end_s = start_s + self.duration_s
        words = tuple(
            replace(w, start_s=_within(start_s + w.start_s, end_s), end_s=_within(start_s + w.end_s, end_s))
            for w in self.words
        )
        return Segment(self.text.strip(), words[0].start_s, words[-1].end_s, words)


@dataclass(frozen=True)
class Clock:
    """When the outputs of a recording are."""

    frame_s: float
    """From one output to the next."""
    duration_s: float
    """Of the recording."""
    edges: int = 0
    """Outputs before its first sample."""

    def at(self, frame: int) -> float:
        """Seconds from the start of the recording, within it."""
        return _within(max(frame - self.edges, 0) * self.frame_s, self.duration_s)


def _within(time_s: float, duration_s: float) -> float:
    """The time in whole milliseconds, the last before the end at most."""
    return min(round(time_s, 3), math.floor(duration_s * 1000 + 1e-6) / 1000)


def transcript_of(
    hypothesis: "Hypothesis",
    alphabet: Alphabet,
    *,
    clock: Clock,
    calibration: Callable[[float], SupportsFloat],
) -> Transcript:
    """The transcript of a hypothesis, confidences calibrated."""
    words = tuple(
        Word(
            w.text,
            clock.at(w.start_frame),
            clock.at(w.end_frame),
            round(float(calibration(w.confidence)), 4),
        )
        for w in hypothesis.words(alphabet)
    )
    text = hypothesis.text(alphabet)
    segments = (Segment(text, words[0].start_s, words[-1].end_s, words),) if words else ()
    return Transcript(text, words, segments, clock.duration_s, hypothesis.log_prob)


@dataclass(frozen=True)
class Partial:
    """The result of a stream so far."""

    stable: str
    """Text that never changes: the whole transcript will begin with it."""
    unstable: str
    """The provisional rest, to be appended to it directly."""
    words: tuple[Word, ...]
    """All words so far."""
    stable_words: int
    """How many of them, from the first, are complete and part of the stable text."""
    segments: tuple[Segment, ...]
    """The segments that have ended."""
    heard_s: float
    """Seconds of audio received."""
    transcript: Transcript | None = None
    """The final transcript, once the stream has ended."""
