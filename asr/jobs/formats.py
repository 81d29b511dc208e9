"""A transcript as text, subtitles, tables or JSON.

Conventions. Every format is a function of a transcript and the name of its recording, and ends with a line
break unless it is empty. Sources: SubRip (.srt) as its players read it; WebVTT, W3C 2019; CTM as NIST's
sclite reads it; the columns of TSV are those of whisper, and so are the keys of JSON, but for `audio` and
`duration`. Of whisper's, `language` and what its decoder tells about itself (`tokens`, `avg_logprob` …) are
missing.
"""

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from asr.transcript import Partial, Segment, Transcript, Word

LONGEST_CUE_S = 7.0
"""Longest time that two lines of subtitles may be shown, by the usual guidelines."""
LONGEST_CUE_CHARACTERS = 84
"""Two lines of 42."""
PAUSE_S = 0.8
"""A new cue begins after a longer pause."""


def cues(transcript: Transcript) -> list[Segment]:
    """The segments, cut into cues of readable length, in order and without overlap."""
    found: list[Segment] = []
    for segment in transcript.segments:
        spaced = segment.text == " ".join(w.text for w in segment.words)
        joint = " " if spaced else ""
        held: list[Word] = []
        for word in segment.words:
            if held and _is_full(held, word, joint):
                found.append(_cue(held, joint))
                held = []
            held.append(word)
        if held:
            found.append(_cue(held, joint))
    return found


def _is_full(held: Sequence[Word], word: Word, joint: str) -> bool:
    characters = sum(len(w.text) + len(joint) for w in held) + len(word.text)
    return (
        word.start_s - held[-1].end_s > PAUSE_S
        or word.end_s - held[0].start_s > LONGEST_CUE_S
        or characters > LONGEST_CUE_CHARACTERS
    )


def _cue(words: Sequence[Word], joint: str) -> Segment:
    text = joint.join(w.text for w in words)
    return Segment(text, words[0].start_s, words[-1].end_s, tuple(words))


def clock(seconds: float, point: str = ",") -> str:
    """Hours, minutes, seconds and milliseconds.

    >>> clock(3661.0625), clock(59.9996, ".")
    ('01:01:01,062', '00:01:00.000')
    """
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{point}{ms % 1000:03d}"


def to_txt(transcript: Transcript, *, name: str, words: bool = False) -> str:
    """The text on one line."""
    return transcript.text + "\n"


def to_srt(transcript: Transcript, *, name: str, words: bool = False) -> str:
    """Numbered cues; with `words`, one for each word."""
    blocks = [
        f"{i}\n{clock(start_s)} --> {clock(end_s)}\n{text}\n"
        for i, (start_s, end_s, text) in enumerate(_lines(transcript, words), 1)
    ]
    return "\n".join(blocks)


def to_vtt(transcript: Transcript, *, name: str, words: bool = False) -> str:
    """WebVTT cues; with `words`, one for each word."""
    blocks = ["WEBVTT\n"]
    for start_s, end_s, text in _lines(transcript, words):
        blocks.append(f"{clock(start_s, '.')} --> {clock(end_s, '.')}\n{escape(text, quote=False)}\n")
    return "\n".join(blocks)


def to_tsv(transcript: Transcript, *, name: str, words: bool = False) -> str:
    """Start and end in whole milliseconds, and the text."""
    rows = [
        f"{round(start_s * 1000)}\t{round(end_s * 1000)}\t{text}"
        for start_s, end_s, text in _lines(transcript, words)
    ]
    return "\n".join(["start\tend\ttext", *rows, ""])


def to_ctm(transcript: Transcript, *, name: str, words: bool = False) -> str:
    """Recording, channel, start (s), duration (s), word, confidence: a line per word.

    White space in the recording's name is replaced, as CTM cannot quote it.
    """
    recording = "_".join(name.split()) or "-"
    return "".join(
        f"{recording} 1 {w.start_s:.3f} {w.end_s - w.start_s:.3f} {w.text} {w.confidence:.4f}\n"
        for w in transcript.words
    )


def to_json(transcript: Transcript, *, name: str, words: bool = False) -> str:
    """One object over many lines; see `as_dict`."""
    return json.dumps(as_dict(transcript, name=name, words=words), ensure_ascii=False, indent=2) + "\n"


def to_jsonl(transcript: Transcript, *, name: str, words: bool = False) -> str:
    """The same object on one line."""
    return json.dumps(as_dict(transcript, name=name, words=words), ensure_ascii=False) + "\n"


def as_dict(transcript: Transcript, *, name: str, words: bool = False) -> dict[str, Any]:
    """Plain values: audio, duration, text, segments, and with `words` the words of each segment."""
    segments = []
    for i, cue in enumerate(cues(transcript)):
        segment: dict[str, Any] = {"id": i, "start": cue.start_s, "end": cue.end_s, "text": cue.text}
        if words:
            segment["words"] = [word_dict(w) for w in cue.words]
        segments.append(segment)
    return {
        "audio": name,
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
        "segments": segments,
    }


def word_dict(word: Word) -> dict[str, Any]:
    """A word with the keys of whisper."""
    return {"word": word.text, "start": word.start_s, "end": word.end_s, "probability": word.confidence}


def news(before: Partial | None, now: Partial) -> dict[str, Any] | None:
    """What a stream has recognised since `before`, as plain values; None if nothing changed.

    `stable` is to be appended to the previous stable text; `unstable` is a guess at what follows it; `words`
    are those completed since; `heard` is how much audio was taken in, in seconds.
    """
    stable, unstable, complete = (
        (before.stable, before.unstable, before.stable_words) if before else ("", "", 0)
    )
    if (now.stable, now.unstable, now.stable_words) == (stable, unstable, complete):
        return None
    return {
        "type": "partial",
        "stable": now.stable[len(stable) :],
        "unstable": now.unstable,
        "words": [word_dict(w) for w in now.words[complete : now.stable_words]],
        "heard": round(now.heard_s, 3),
    }


def _lines(transcript: Transcript, words: bool) -> list[tuple[float, float, str]]:
    """Times and text of what is shown, at least a millisecond each, as players drop empty intervals."""
    shown: Sequence[Word | Segment] = transcript.words if words else cues(transcript)
    return [(s.start_s, max(s.end_s, s.start_s + 0.001), s.text) for s in shown]


FORMATS: dict[str, Callable[..., str]] = {
    "txt": to_txt,
    "vtt": to_vtt,
    "srt": to_srt,
    "tsv": to_tsv,
    "json": to_json,
    "jsonl": to_jsonl,
    "ctm": to_ctm,
}
