"""`asr align`: a recording and its text → when each word was said, as CTM, JSON or Praat TextGrid."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from asr import audio
from asr.ctc import WordSpan, align, group_words
from asr.errors import ConfigError
from asr.recognizer import Recognizer
from asr.transcript import Word


def align_words(model: Recognizer, recording: str | Path, text: str) -> tuple[list[Word], float]:
    """The words of the text with their times and confidence, and the duration of the recording (s).

    Raises:
        AudioError: no readable recording.
        AlphabetError: characters the model was not trained on.
        CtcError: the text is too long for the recording.
    """
    samples = audio.read(recording, model.rate_hz)
    log_probs_BTV, _ = model.log_probs([samples])
    spans = group_words(align(log_probs_BTV[0], model.targets(text)), model.alphabet)
    duration_s = len(samples) / model.rate_hz
    return [_word(span, model.frame_s, duration_s) for span in spans], duration_s


def _word(span: WordSpan, frame_s: float, duration_s: float) -> Word:
    start_s, end_s = (round(min(f * frame_s, duration_s), 3) for f in (span.start_frame, span.end_frame))
    return Word(span.text, start_s, end_s, round(span.confidence, 4))


def read_text(text_or_file: str) -> str:
    """The text itself, or what is in the file of that name."""
    path = Path(text_or_file)
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else text_or_file
    except OSError:  # longer than a file name can be
        return text_or_file


def to_ctm(words: Sequence[Word], *, name: str, duration_s: float) -> str:
    """NIST's CTM: recording, channel, start, duration, word, confidence.

    >>> print(to_ctm([Word("one", 0.5, 0.8, 0.9)], name="a", duration_s=1.0))
    a 1 0.500 0.300 one 0.9000
    """
    return "\n".join(
        f"{name} 1 {w.start_s:.3f} {w.end_s - w.start_s:.3f} {w.text} {w.confidence:.4f}" for w in words
    )


def to_json(words: Sequence[Word], *, name: str, duration_s: float) -> str:
    """One object with the recording, its duration and its words."""
    lines = [{"word": w.text, "start": w.start_s, "end": w.end_s, "confidence": w.confidence} for w in words]
    return json.dumps({"audio": name, "duration": duration_s, "words": lines}, ensure_ascii=False, indent=2)


def to_textgrid(words: Sequence[Word], *, name: str, duration_s: float) -> str:
    """Praat's TextGrid with one tier of words; pauses are empty intervals."""
    intervals: list[tuple[float, float, str]] = []
    at = 0.0
    for w in words:
        if w.start_s > at:
            intervals.append((at, w.start_s, ""))
        intervals.append((max(w.start_s, at), w.end_s, w.text))
        at = w.end_s
    if at < duration_s or not intervals:
        intervals.append((at, duration_s, ""))
    head = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {duration_s}",
        "tiers? <exists>",
        "size = 1",
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        '        name = "words"',
        "        xmin = 0",
        f"        xmax = {duration_s}",
        f"        intervals: size = {len(intervals)}",
    ]
    for i, (start_s, end_s, text) in enumerate(intervals, 1):
        quoted = text.replace('"', '""')
        head += [
            f"        intervals [{i}]:",
            f"            xmin = {start_s}",
            f"            xmax = {end_s}",
            f'            text = "{quoted}"',
        ]
    return "\n".join(head)


FORMATS: dict[str, Callable[..., str]] = {"ctm": to_ctm, "json": to_json, "textgrid": to_textgrid}


def render(words: Sequence[Word], *, name: str, duration_s: float, form: str) -> str:
    """The words in one of `FORMATS`.

    Raises:
        ConfigError: another format.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r}: expected one of {', '.join(FORMATS)}")
    return FORMATS[form](words, name=name, duration_s=duration_s)
