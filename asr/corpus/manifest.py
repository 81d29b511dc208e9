"""Utterances as a JSONL manifest: one recording and its text per line.

    {"audio_filepath": "clips/a.flac", "duration": 3.2, "text": "good morning", "speaker": "ann", "id": "a"}

Conventions. UTF-8, one JSON object per line; empty lines are skipped. `audio_filepath` and `text` are
required; a relative path is relative to the manifest's folder. `duration` is in seconds and is read from the
header of the recording if it is missing. `offset` makes the utterance a part of a longer recording: it starts
so many seconds after the beginning of that, and lasts `duration`. `speaker` and `id` are optional: the id
defaults to the file's name without suffix, with as much of its path as makes it unique, and the offset. Other
keys are ignored.
"""

import json
import os
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from asr import audio
from asr.errors import AudioError, ManifestError
from asr.files import whole_file


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording and its transcript."""

    id: str
    audio_filepath: Path
    duration_s: float
    """0 if unknown: sources leave it to packing, which measures it."""
    text: str
    """The transcript as published, before any normalisation."""
    speaker: str | None = None
    flaw: tuple[str, str] | None = None
    """Kind and detail of a problem that its source found; such an utterance is left out and reported."""
    start_s: float | None = None
    """Where it starts in a longer recording, of which it lasts `duration_s`; None: it is all of it."""

    @property
    def place(self) -> tuple[Path, float | None]:
        """What it is in the corpus, whatever its id: its recording, and where in that it starts."""
        return self.audio_filepath, self.start_s

    def read(self, rate_hz: int) -> np.ndarray:
        """Its samples (n,), mono, float32; raises AudioError as `audio.read` does, or if it has a flaw."""
        if self.flaw is not None:
            raise AudioError(self.flaw[1])
        if self.start_s is None:
            return audio.read(self.audio_filepath, rate_hz)
        return audio.read(self.audio_filepath, rate_hz, start_s=self.start_s, duration_s=self.duration_s)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an utterance cannot be used."""

    id: str
    audio_filepath: str
    kind: str
    """The category: `missing`, `unreadable`, `duplicate id`, `empty transcript`, …"""
    detail: str

    @classmethod
    def of(cls, utterance: Utterance, kind: str, detail: str) -> "Problem":
        """A problem of that utterance."""
        return cls(utterance.id, os.fspath(utterance.audio_filepath), kind, detail)


def read_manifest(path: str | Path, *, keep_flawed: bool = False) -> list[Utterance]:
    """The utterances of a JSONL manifest, in its order, with absolute paths.

    Recordings are opened only for durations that the manifest lacks; one that cannot be read has duration 0.

    Args:
        path: the manifest.
        keep_flawed: an invalid line becomes an utterance with a flaw, unless all lines are invalid.

    Raises:
        ManifestError: no such file, or an invalid line, quoted with path and line number.

    >>> import tempfile; path = Path(tempfile.mkdtemp()) / "m.jsonl"
    >>> _ = path.write_text('{"audio_filepath": "a.wav", "duration": 1.5, "text": "yes"}')
    >>> read_manifest(path)[0].id, read_manifest(path)[0].duration_s
    ('a', 1.5)
    """
    path = Path(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        raise ManifestError(f"{path} is a table: expected JSONL, only prepare, train and run read tables")
    lines = _lines(path)
    folder = os.path.abspath(path.parent)  # noqa: PTH100 (unlike resolve, it keeps links)
    utterances = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            utterances.append(_parse(line, folder))
        except ManifestError as error:
            placed = ManifestError(f"{path}, line {number}: {error}: {_shown(line)}")
            if not keep_flawed:
                raise placed from error
            utterances.append(flawed_line(path, number, placed))
    refuse_if_all_flawed(utterances)
    return name_by_path(utterances)


def is_manifest(path: Path) -> bool:
    """Whether the file has a valid line; raises ManifestError if it cannot be read."""
    for line in _lines(path):
        with suppress(ManifestError):
            _parse(line, os.fspath(path.parent))
            return True
    return False


def flawed_line(path: Path, number: int, error: Exception) -> Utterance:
    """The utterance that stands for a line of a manifest or table which cannot be read."""
    return Utterance(f"{path.name}, line {number}", path, 0.0, "", flaw=("invalid line", str(error)))


def refuse_if_all_flawed(utterances: Sequence[Utterance]) -> None:
    """Raises ManifestError with the first problem if there are utterances and all of them have one."""
    first = next((u.flaw for u in utterances if u.flaw), None)
    if first and all(u.flaw for u in utterances):
        raise ManifestError(first[1])


def write_manifest(path: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write the utterances as JSONL; paths inside the manifest's folder are written relative to it.

    The file appears only when it is complete.
    """
    path = Path(path)
    folder = os.path.join(os.path.abspath(path.parent), "")  # noqa: PTH100, PTH118
    with whole_file(path) as file:
        for u in utterances:
            fields: dict[str, Any] = {
                "audio_filepath": os.fspath(u.audio_filepath).removeprefix(folder),
                "duration": u.duration_s,
                "text": u.text,
                "id": u.id,
            }
            if u.start_s is not None:
                fields["offset"] = u.start_s
            if u.speaker is not None:
                fields["speaker"] = u.speaker
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def check_ids(utterances: Sequence[Utterance], *, place: Path | str) -> None:
    """Raises ManifestError if an id stands twice, with the first few of those."""
    count = Counter(u.id for u in utterances)
    if twice := [repr(name) for name, times in count.items() if times > 1]:
        shown = ", ".join(twice[:5]) + (", …" if len(twice) > 5 else "")
        raise ManifestError(f"{place}: {len(twice)} ids stand more than once: {shown}; give each its own")


def find_problem(utterance: Utterance, seen: set[str]) -> Problem | None:
    """The problem of an utterance, if any, as far as it shows without opening the recording.

    Args:
        utterance: to be checked.
        seen: ids of the utterances before it; its own id is added.
    """
    if utterance.flaw is not None:
        return Problem.of(utterance, *utterance.flaw)
    if utterance.id in seen:
        return Problem.of(utterance, "duplicate id", f"an utterance {utterance.id!r} stands before it")
    seen.add(utterance.id)
    if not utterance.text.strip():
        return Problem.of(utterance, "empty transcript", "nothing is said in it, so nothing can be learnt")
    if not os.path.isfile(utterance.audio_filepath):  # noqa: PTH113 (unlike is_file, it takes any name)
        return Problem.of(utterance, "missing", f"{utterance.audio_filepath} does not exist")
    return None


def name_by_path(utterances: list[Utterance]) -> list[Utterance]:
    """The utterances; an empty id becomes the file's name, with as much of its path as makes it unique.

    That of a part of a recording ends with where it starts. What stands twice has one id, not a longer one.
    """
    if all(u.id for u in utterances):
        return utterances
    starts = ["" if u.start_s is None else f"_{u.start_s:.2f}" for u in utterances]
    ids = [u.id or u.audio_filepath.stem + start for u, start in zip(utterances, starts, strict=True)]
    for parts in range(2, 1 + max((len(u.audio_filepath.parts) for u in utterances), default=0)):
        count, meant = Counter(ids), defaultdict[str, set[str | Path]](set)
        for u, name in zip(utterances, ids, strict=True):
            if count[name] > 1:
                meant[name].add(u.id or u.audio_filepath.with_suffix(""))
        repeated = {name for name, several in meant.items() if len(several) > 1}
        if not repeated:
            break
        ids = [
            Path(*u.audio_filepath.with_suffix("").parts[-parts:]).as_posix() + start
            if not u.id and name in repeated
            else name
            for u, name, start in zip(utterances, ids, starts, strict=True)
        ]
    return [u if u.id else replace(u, id=name) for u, name in zip(utterances, ids, strict=True)]


def join_named(parts: Iterable[tuple[str, Sequence[Utterance]]]) -> list[Utterance]:
    """The utterances of all parts; one whose id an earlier part has, for another recording, gets a new one.

    That is `NAME/id`, with the name of its part.

    >>> a, b = (Utterance("1", Path(name), 1.0, "yes") for name in ("x/1.wav", "y/1.wav"))
    >>> [u.id for u in join_named([("x", [a]), ("y", [b, a])])]
    ['1', 'y/1', '1']
    """
    known: dict[str, tuple[Path, float | None]] = {}
    joined: list[Utterance] = []
    for name, utterances in parts:
        places = [u.place for u in utterances]
        joined += [
            u if known.get(u.id, place) == place else replace(u, id=f"{name}/{u.id}")
            for u, place in zip(utterances, places, strict=True)
        ]
        known = {u.id: place for u, place in zip(utterances, places, strict=True)} | known
    return joined


def find_file(name: str) -> Path:
    """The path, or that of the same name in the other Unicode form: copying from a Mac decomposes accents."""
    path = Path(name)
    if name.isascii() or os.path.exists(path):  # noqa: PTH110 (a name may be too long)
        return path
    forms = [unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)]
    others = [other for form in forms for other in (Path(form), path.with_name(Path(form).name))]
    return next((other for other in others if os.path.exists(other)), path)  # noqa: PTH110


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; expected a JSONL manifest") from error


def _parse(line: bytes, folder: str) -> Utterance:
    """The utterance of a line.

    Raises:
        ManifestError: what is wrong with the line; the caller says where it stands.
    """
    try:
        fields = json.loads(line.decode())  # of bytes it would guess the encoding
        if b"\\ud" in line.lower() and isinstance(fields, dict):  # half of a surrogate pair is not text
            str(fields.get("text")).encode()
            for key in ("audio_filepath", "id", "speaker"):  # a file's name may be no UTF-8
                str(fields.get(key)).encode(errors="surrogateescape")
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not JSON in UTF-8 ({error})") from error
    if not isinstance(fields, dict):
        raise ManifestError("expected a JSON object with audio_filepath and text")
    for key in ("audio_filepath", "text"):
        if not isinstance(fields.get(key), str):
            raise ManifestError(f"{key} must be a text; the keys are {', '.join(fields) or 'none'}")
    audio_filepath = find_file(os.path.join(folder, os.path.expanduser(fields["audio_filepath"])))  # noqa: PTH111, PTH118
    start_s, duration_s = _seconds(fields, "offset"), _seconds(fields, "duration")
    if start_s is not None and not duration_s:
        raise ManifestError("offset without a duration")
    if duration_s is None:
        try:
            duration_s = audio.info(audio_filepath).duration_s
        except AudioError:
            duration_s = 0.0
    return Utterance(
        id=_name(fields, "id") or "",
        audio_filepath=audio_filepath,
        duration_s=duration_s,
        text=fields["text"],
        speaker=_name(fields, "speaker"),
        start_s=start_s,
    )


def _seconds(fields: dict[str, Any], key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ManifestError(f"{key} must be a number of seconds")
    if not 0 <= value <= sys.float_info.max:  # NaN is not, and a whole number may be beyond floats
        raise ManifestError(f"{key} {value!s:.20} is impossible")
    return float(value)


def _name(fields: dict[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ManifestError(f"{key} must be a text or a whole number")


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return text if len(text) <= 160 else text[:160] + " …"
