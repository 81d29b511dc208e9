"""Transcripts in files: plain text, Kaldi's `id text`, trn, JSON lines, STM, CTM and subtitles.

Conventions. UTF-8. Plain text has no ids: one utterance per line, an empty line is an empty utterance. In all
other formats empty lines are skipped:

    kaldi   utt-1 the cat sat                                        the first word is the id
    trn     the cat sat (utt-1)                                      the id ends the line, in parentheses
    jsonl   {"id": "utt-1", "text": "the cat sat", "speaker": "ann", "duration": 1.2}
            without an id `audio` or `audio_filepath` names it; a hypothesis' text is `pred_text` if present
    stm     file channel speaker start end <labels> the cat sat      times in seconds, labels are optional
    ctm     file channel start duration word confidence              one word a line; confidence is optional

In STM and CTM `;;` opens a comment. Subtitles and other texts with times (`asr.captions`) are one utterance
without an id, whatever their times.
"""

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from asr.captions import is_captions, read_captions
from asr.errors import ScoringError

Format = Literal["plain", "kaldi", "trn", "jsonl", "stm", "ctm", "captions"]

IGNORED = "ignore_time_segment_in_scoring"
"""The text of an STM segment that does not count."""

_TRN = re.compile(r"(.*)\(([^()]+)\)\s*")
_LABELS = re.compile(r"\s*<[^>]*>")
_JSON = re.compile(r'\{\s*".*\}')


@dataclass(frozen=True, slots=True)
class Entry:
    """One utterance of a file (in CTM: one word)."""

    place: str
    """File and line, for messages."""
    text: str
    id: str | None = None
    speaker: str | None = None
    duration_s: float | None = None
    confidences: tuple[float, ...] | None = None
    audio: Path | None = None
    recording: tuple[str, str] | None = None
    """STM and CTM: file and channel."""
    start_s: float = 0.0

    @property
    def is_ignored(self) -> bool:
        """Whether it is a segment that does not count."""
        return self.text.strip().lower() == IGNORED


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        ScoringError: the file cannot be read, or is not UTF-8, with the line.
    """
    try:
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ScoringError(f"{path}: {error.strerror}; expected a file of transcripts") from error
    try:
        lines = raw.decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ScoringError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not UTF-8; "
            "convert the file, e.g. iconv -f latin1 -t utf-8"
        ) from error
    return lines[:-1] if lines[-1] == "" else lines


def guess_format(path: Path, lines: Sequence[str], *, plain: bool = False) -> Format | None:
    """The format by the file's suffix or contents; None for plain text or Kaldi's, which look alike.

    Args:
        path, lines: the file.
        plain: what ends in parentheses is text too, unless the suffix says trn.

    Raises:
        ScoringError: JSON over several lines.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix in ("trn", "stm", "ctm", "jsonl"):
        return suffix  # type: ignore[return-value]
    if is_captions(path):
        return "captions"
    filled = [line.strip() for line in lines if line.strip()]
    if filled and all(map(_JSON.fullmatch, filled)):
        return "jsonl"
    if filled and (filled[0] in ("{", "[") or (suffix == "json" and filled[0].startswith(("{", "[")))):
        raise ScoringError(
            f"{path} is JSON over several lines, where an utterance a line was expected: give JSONL "
            "(`asr transcribe -f jsonl`), or its text alone"
        )
    return "trn" if filled and not plain and all(map(_TRN.fullmatch, filled)) else None


def parse(path: Path, lines: Sequence[str], kind: Format, *, is_hypothesis: bool = False) -> list[Entry]:
    """The utterances of a file, in its order.

    Raises:
        ScoringError: an unknown format, a malformed line, with its place, or repeated ids.
        ManifestError: subtitles that are damaged.
    """
    if kind not in get_args(Format):
        raise ScoringError(f"format {kind!r}: expected one of {', '.join(get_args(Format))}")
    if kind == "captions":
        return [Entry(str(path), " ".join(cue.text for cue in read_captions(path)))]
    if kind == "plain":
        return [Entry(f"{path}, line {n}", line) for n, line in enumerate(lines, 1)]
    readers: dict[str, Callable[[str, str], Entry | None]] = {
        "kaldi": _kaldi,
        "trn": _trn,
        "jsonl": lambda line, place: _json(line, place, is_hypothesis=is_hypothesis, folder=path.parent),
        "stm": _stm,
        "ctm": _ctm,
    }
    reader = readers[kind]
    found = [reader(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    entries = [entry for entry in found if entry is not None]
    if kind == "jsonl":
        entries = _name_by_audio(entries)
    if kind != "ctm":
        _check_ids(entries)
    return entries


def _kaldi(line: str, place: str) -> Entry:
    name, *text = line.split(maxsplit=1)
    return Entry(place, "".join(text).rstrip(), id=name)


def _trn(line: str, place: str) -> Entry:
    if not (match := _TRN.fullmatch(line.strip())):
        raise ScoringError(f"{place}: expected an id in parentheses at the end: {_shown(line)}")
    return Entry(place, match[1].strip(), id=match[2].strip())


def _json(line: str, place: str, *, is_hypothesis: bool, folder: Path) -> Entry:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ScoringError(f"{place}: not JSON ({error}): {_shown(line)}") from error
    if not isinstance(fields, dict):
        raise ScoringError(f"{place}: expected a JSON object: {_shown(line)}")
    key = "pred_text" if is_hypothesis and "pred_text" in fields else "text"
    if not isinstance(text := fields.get(key), str):
        wanted = "pred_text or text" if is_hypothesis else "text"
        raise ScoringError(f"{place}: expected {wanted}; the keys are {', '.join(fields) or 'none'}")
    audio, name, speaker = fields.get("audio_filepath"), fields.get("id"), fields.get("speaker")
    if not isinstance(audio, str) or not Path(audio).name:
        audio = None
    if name is None and audio is None:
        name = fields.get("audio")  # `asr transcribe` names the recording so, without suffix
    start_s = _duration(fields.get("offset"))
    if name is None and audio is not None and start_s is not None:  # as manifests name parts
        name = f"{Path(audio).stem}_{start_s:.2f}"
    return Entry(
        place,
        text,
        id=None if name is None else str(name),
        speaker=None if speaker is None else str(speaker),
        duration_s=_duration(fields.get("duration")),
        confidences=_confidences(fields, text) if is_hypothesis else None,
        audio=None if audio is None else folder / audio,
    )


def _duration(value: Any) -> float | None:
    """The seconds, if they are any: booleans, NaN, and what is infinite or below 0 are not."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= sys.float_info.max else None


def words_of(fields: dict[str, Any]) -> list[Any]:
    """The words of a line of JSON: its own, or those of its segments, as whisper and `asr transcribe` write.

    Raises:
        TypeError, AttributeError: they are no lists, or their segments no mappings.
    """
    return fields.get("words") or [w for s in fields.get("segments") or [] for w in s.get("words") or []]


def _confidences(fields: dict[str, Any], text: str) -> tuple[float, ...] | None:
    """Those of the words [text, start, end, confidence] or {…, "probability"}, if as many as the text has."""
    try:
        words = words_of(fields)
        given = [w["probability"] if isinstance(w, dict) else w[3] for w in words]
    except (TypeError, AttributeError, KeyError, IndexError):
        return None
    if len(given) != len(text.split()) or not all(isinstance(c, int | float) for c in given):
        return None
    return tuple(map(float, given))


def _name_by_audio(entries: list[Entry]) -> list[Entry]:
    """The entries, with missing ids taken from the recording: its stem, or its path where stems repeat."""
    stems = Counter(entry.audio.stem for entry in entries if entry.id is None and entry.audio)
    return [
        replace(e, id=e.audio.stem if stems[e.audio.stem] == 1 else str(e.audio.with_suffix("")))
        if e.id is None and e.audio
        else e
        for e in entries
    ]


def _stm(line: str, place: str) -> Entry | None:
    if line.startswith(";;"):
        return None
    fields = line.split(maxsplit=5)
    if len(fields) < 5:
        raise ScoringError(f"{place}: expected file, channel, speaker, start, end, text: {_shown(line)}")
    start_s, end_s = _seconds(fields[3], line, place), _seconds(fields[4], line, place)
    if end_s < start_s:
        raise ScoringError(f"{place}: ends at {end_s} s before it starts at {start_s} s: {_shown(line)}")
    text = fields[5] if len(fields) == 6 else ""
    return Entry(
        place,
        _LABELS.sub("", text, count=1).strip() if _LABELS.match(text) else text,
        id=f"{fields[0]}:{fields[1]}:{fields[3]}-{fields[4]}",
        speaker=fields[2],
        duration_s=end_s - start_s,
        recording=(fields[0], fields[1]),
        start_s=start_s,
    )


def _ctm(line: str, place: str) -> Entry | None:
    if line.startswith(";;"):
        return None
    fields = line.split()
    if not 5 <= len(fields) <= 8:
        raise ScoringError(
            f"{place}: expected file, channel, start, duration, word, confidence: {_shown(line)}"
        )
    if fields[4].startswith("<ALT"):
        raise ScoringError(f"{place}: alternatives in a hypothesis cannot be scored: {_shown(line)}")
    confidence = _seconds(fields[5], line, place) if len(fields) > 5 and fields[5] != "NA" else None
    return Entry(
        place,
        fields[4],
        duration_s=_seconds(fields[3], line, place),
        confidences=None if confidence is None else (confidence,),
        recording=(fields[0], fields[1]),
        start_s=_seconds(fields[2], line, place),
    )


def _seconds(text: str, line: str, place: str) -> float:
    try:
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise ScoringError(f"{place}: {text!r} is no number: {_shown(line)}")


def _check_ids(entries: Sequence[Entry]) -> None:
    first: dict[str, str] = {}
    for entry in entries:
        if entry.id is None:
            continue
        if entry.id in first:
            raise ScoringError(f"{entry.place}: id {entry.id!r} stands already at {first[entry.id]}")
        first[entry.id] = entry.place


def group_words(words: Sequence[Entry]) -> Iterator[tuple[tuple[str, str], list[Entry]]]:
    """The words of a CTM by recording and channel, in time order."""
    recordings: dict[tuple[str, str], list[Entry]] = {}
    for word in words:
        recordings.setdefault(word.recording or ("", ""), []).append(word)
    for recording, spoken in recordings.items():
        yield recording, sorted(spoken, key=lambda word: word.start_s)


def join_words(words: Sequence[Entry], **fields: Any) -> Entry:
    """The words of a CTM joined into one utterance."""
    confidences = [c for word in words for c in word.confidences or ()]
    return Entry(
        text=" ".join(word.text for word in words),
        confidences=tuple(confidences) if len(confidences) == len(words) else None,
        **fields,
    )


def _shown(line: str) -> str:
    return repr(line if len(line) <= 120 else line[:120] + " …")
