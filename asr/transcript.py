"""What a recogniser hands over: text, words with times and confidence, segments. Times are in seconds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A recognised word, when it was said, and the probability that it is right."""

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
    """Natural log of the probability of the text under the acoustic model, as the decoder found it."""
