"""Texts with times → cues: SubRip, WebVTT, Praat's TextGrid, Audacity's label tracks, whisper's TSV.

    .srt .vtt       subtitles; tags and what is in brackets, `[applause]` or `(laughs)`, are no text
    .TextGrid       the interval tiers; of several each is a speaker; tiers of words or phones are left out,
                    but words are taken where there is nothing longer
    .txt            a label track: lines `start<tab>end<tab>text`, in seconds
    .tsv            with the header `start end text`, in milliseconds

Cues show when lines are on the screen, not when somebody pauses, so those that follow one another without a
gap become one: of a cut in the middle of a word both sides would learn something wrong.

Sources: SubRip as its players read it; WebVTT, W3C 2019; Praat's manual, "TextGrid file formats". Tiers and
pauses as MFA, P2FA, Prosodylab-Aligner and WebMAUS name them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from asr.errors import ManifestError
from asr.text import is_unspaced

PLAIN = (".textgrid", ".srt", ".vtt")
"""Suffixes that nothing else has."""
SUFFIXES = (*PLAIN, ".txt", ".tsv")
"""Where several are beside a recording, the first of these is taken."""
GAP_S = 0.1
"""Cues of one speaker no further apart are one."""
LONGEST_S = 20.0
"""Cues are joined up to this length."""
WORD_TIERS = ("word", "words", "ort-mau")
FINE_TIERS = (*WORD_TIERS, "phone", "phones", "phoneme", "phonemes", "syllables", "mau", "kan-mau", "mas")
"""Tiers of parts of utterances."""

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
_LABEL = re.compile(r"(-?\d+(?:[.,]\d+)?)\t(-?\d+(?:[.,]\d+)?)(?:\t(.*))?")
_MILLISECONDS = re.compile(r"(\d+)\t(\d+)\t(.*)")
_FREQUENCIES = re.compile(r"\\\t")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
_SOUND = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|（[^（）]*）|［[^［］]*］|【[^【】]*】")
_NO_WORD = re.compile(r"sp|sil|spn|<[^<>]*>|\{[^{}]*\}", re.IGNORECASE)
"""What forced aligners write where nobody speaks, or a word that they do not know."""
_PRAAT = re.compile(
    r'(?<!\S)(?:"((?:[^"]|"")*)"|(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|(<exists>|<absent>))(?!\S)'
)


class Cue(NamedTuple):
    """A text and when it is said."""

    start_s: float
    end_s: float
    text: str
    speaker: str | None = None


def is_captions(path: Path) -> bool:
    """Whether the file's suffix, and for `.txt` and `.tsv` its first line, is that of texts with times.

    Two whole numbers are no label, but an utterance of Kaldi: its id, and the number that is said.
    """
    suffix = path.suffix.lower()
    if suffix not in (".txt", ".tsv") or not path.is_file():
        return suffix in PLAIN
    with path.open("rb") as file:
        first = file.readline(200).removeprefix(b"\xef\xbb\xbf").decode(errors="replace").rstrip("\r\n")
    if suffix == ".tsv":
        return first.split("\t")[:3] == list(_WHISPER)
    found = _LABEL.fullmatch(first)
    return found is not None and (found[3] is not None or not re.fullmatch(r"[\d\t]+", first))


def read_captions(path: Path) -> list[Cue]:
    """What is said when, in order; cues of one speaker without a gap between them are joined.

    Raises:
        ManifestError: the file cannot be read or has no such format, with the line.

    >>> import tempfile; path = Path(tempfile.mkdtemp()) / "a.srt"
    >>> _ = path.write_text("1\\n00:00:01,000 --> 00:00:02,500\\n<i>good</i>\\nmorning\\n")
    >>> read_captions(path)
    [Cue(start_s=1.0, end_s=2.5, text='good morning', speaker=None)]
    """
    read = _READERS[path.suffix.lower()]
    cues = [cue._replace(text=_run_on(cue.text.split())) for cue in read(path, _content(path))]
    if not cues:
        raise ManifestError(f"{path} holds no times with a text")
    spoken = [cue for cue in cues if cue.text]
    return _joined(sorted(spoken, key=lambda cue: cue.start_s))


def _content(path: Path) -> str:
    try:
        content = path.read_bytes()
        is_wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        return content.decode("utf-16" if is_wide else "utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        if content.startswith(b"ooBinaryFile"):
            raise ManifestError(f"{path} is in Praat's binary format: save it as a text file") from error
        line = content.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path}, line {line} is not text in UTF-8: {error}") from error


def _joined(cues: Sequence[Cue]) -> list[Cue]:
    joined: list[Cue] = []
    last: dict[str | None, int] = {}
    for cue in cues:
        before = joined[last[cue.speaker]] if cue.speaker in last else None
        end_s = max(cue.end_s, before.end_s) if before else cue.end_s
        is_near = before and cue.start_s - before.end_s <= GAP_S and end_s - before.start_s <= LONGEST_S
        if before and is_near and before.start_s < before.end_s and cue.start_s < cue.end_s:
            text = _run_on([before.text, cue.text])
            joined[last[cue.speaker]] = before._replace(end_s=end_s, text=text)
        else:
            last[cue.speaker] = len(joined)
            joined.append(cue)
    return joined


def _run_on(parts: Sequence[str]) -> str:
    """The parts with a blank between them, but for scripts that have none."""
    together = "".join(parts[:1])
    for part in parts[1:]:
        together += ("" if is_unspaced(together[-1]) and is_unspaced(part[0]) else " ") + part
    return together


def _subtitles(path: Path, content: str) -> list[Cue]:
    """Of `.srt` and `.vtt`. In WebVTT an empty line ends a cue; in SubRip only the next number does."""
    lines = re.split(r"\r\n|\r|\n", content)
    times = {k: found for k, line in enumerate(lines) if (found := _TIMES.fullmatch(line))}
    at = list(times)
    wrong = next((k for k, line in enumerate(lines) if "-->" in line and k not in times), None)
    if wrong is not None:
        raise ManifestError(
            f"{path}, line {wrong + 1}: expected `00:00:01,000 --> 00:00:02,500`: {lines[wrong]}"
        )
    is_numbered = bool(at) and at[0] > 0 and lines[at[0] - 1].strip().isdigit()
    shown = []
    for k, until in pairwise([*at, len(lines)]):
        below = lines[k + 1 : until]
        if path.suffix.lower() == ".vtt":
            below = below[: below.index("")] if "" in below else below
        elif is_numbered and until < len(lines) and below and below[-1].strip().isdigit():
            below = below[:-1]
        shown.append([line.strip() for line in below if line.strip()])
    cues = []
    for found, texts in zip(times.values(), _unrolled(shown), strict=True):
        text = "\n".join(texts)
        voices = {name.strip() for name in _VOICE.findall(text)}
        plain = _SOUND.sub(" ", unescape(_MARKUP.sub("", text)).replace("\n", " "))
        speaker = voices.pop() if len(voices) == 1 else None
        cues.append(Cue(_seconds(*found.groups()[:4]), _seconds(*found.groups()[4:]), plain, speaker))
    return _said_until(cues)


def _unrolled(shown: list[list[str]]) -> list[list[str]]:
    """The lines of each cue, without the last one before where they roll up: many add a line below that."""
    plain = [[_MARKUP.sub("", line) for line in lines] for lines in shown]
    repeats = [bool(a and b) and b[0] == a[-1] for a, b in pairwise([[], *plain])]
    if 3 * sum(r and len(lines) > 1 for r, lines in zip(repeats, plain, strict=True)) < len(plain):
        return shown
    return [lines[r:] for r, lines in zip(repeats, shown, strict=True)]


def _said_until(cues: list[Cue]) -> list[Cue]:
    """The cues, each until the next one starts where most stay longer than that, as YouTube's do.

    They are on the screen in twos; what is heard after the next start is the text of that.
    """
    stays = [a.start_s < b.start_s < a.end_s and a.speaker == b.speaker for a, b in pairwise(cues)]
    if 2 * sum(stays) <= len(stays):
        return cues
    said = [a._replace(end_s=b.start_s) if s else a for (a, b), s in zip(pairwise(cues), stays, strict=True)]
    return [*said, cues[-1]]


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> float:
    whole_s = int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds)
    return round(whole_s + float(f"0.{fraction or 0}"), 3)


def _labels(path: Path, content: str) -> list[Cue]:
    cues = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip() or _FREQUENCIES.match(line):
            continue
        if (found := _LABEL.fullmatch(line)) is None:
            raise ManifestError(
                f"{path}, line {number}: expected start, end and text with tabs between: {line}"
            )
        start_s, end_s = (float(seconds.replace(",", ".")) for seconds in found.groups()[:2])
        cues.append(Cue(start_s, end_s, found[3] or ""))
    return cues


_WHISPER = ("start", "end", "text")


def _whisper(path: Path, content: str) -> list[Cue]:
    cues = []
    for number, line in enumerate(content.splitlines()[1:], 2):
        if not line.strip():
            continue
        if (found := _MILLISECONDS.fullmatch(line)) is None:
            raise ManifestError(f"{path}, line {number}: expected start and end in milliseconds: {line}")
        cues.append(Cue(int(found[1]) / 1000, int(found[2]) / 1000, found[3]))
    return cues


_HEADS = (("ooTextFile", "TextGrid"), ("ooTextFile short", "TextGrid"))
"""Older versions of Praat call the short format so."""


def _textgrid(path: Path, content: str) -> list[Cue]:
    """Of the long and the short format, which differ in what is not a value: `xmin = `, `intervals [1]:`."""
    values = iter([m[1] if m[1] is not None else m[2] or m[3] for m in _PRAAT.finditer(content)])
    try:
        if (next(values, ""), next(values, "")) not in _HEADS:
            raise ManifestError(f"{path} is no TextGrid in text format")
        _, _, is_there = next(values), next(values), next(values)
        tiers = [_tier(values) for _ in range(int(next(values)) if is_there == "<exists>" else 0)]
    except (StopIteration, ValueError) as error:
        raise ManifestError(f"{path} ends before the TextGrid does, or is damaged") from error
    spoken = [(name, cues) for name, cues in tiers if any(cue.text.strip() for cue in cues)]
    taken = [(name, cues) for name, cues in spoken if _kind(name) not in FINE_TIERS]
    if not taken:
        taken = [
            (name.rpartition(" - ")[0] or name, [c for c in cues if not _NO_WORD.fullmatch(c.text.strip())])
            for name, cues in spoken
            if _kind(name) in WORD_TIERS
        ]
    of_one = len(taken) < 2
    return [c._replace(speaker=None if of_one else name) for name, cues in taken for c in cues]


def _kind(tier: str) -> str:
    """The last word of a tier's name: forced aligners write `ann - words`."""
    return tier.lower().split()[-1] if tier.split() else ""


def _tier(values: Iterator[str]) -> tuple[str, list[Cue]]:
    """Name and intervals of a tier; none of a tier of points."""
    kind, name, _, _, count = [next(values) for _ in range(5)]
    if kind == "IntervalTier":
        rows = [(next(values), next(values), next(values)) for _ in range(int(count))]
        return name, [Cue(float(a), float(b), text.replace('""', '"')) for a, b, text in rows]
    for _ in range(2 * int(count)):
        next(values)
    return name, []


_READERS: dict[str, Callable[[Path, str], list[Cue]]] = {
    ".srt": _subtitles,
    ".vtt": _subtitles,
    ".textgrid": _textgrid,
    ".txt": _labels,
    ".tsv": _whisper,
}
