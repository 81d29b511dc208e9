"""A data folder of Kaldi → utterances: `text` and `wav.scp`, and `segments` and `utt2spk` if they are there.

    text        utt-1 good morning
    wav.scp     rec-1 /corpora/rec-1.wav              or a command: rec-1 flac -c -d -s /corpora/rec-1.flac |
    segments    utt-1 rec-1 0.52 3.71                 seconds; without it each utterance is a recording
    utt2spk     utt-1 ann                             utt-1 utt-1 throughout: speakers are not known

Commands are not run. Those of `DECODERS` that only convert format, rate and width, or mix channels, as
reading does anyway, stand for the file that they read; others are flaws of the utterances that need them.

Source: Kaldi's documentation, "Data preparation".
"""

import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr import audio
from asr.corpus.manifest import Utterance, refuse_if_all_flawed
from asr.errors import AudioError, ManifestError

DECODERS: Mapping[str, tuple[str, str]] = {
    "cat": ("", ""),
    "flac": ("", "-c -d -s -cd -dc -cds -dcs"),
    "sph2pipe": ("-f", "-p"),
    "sox": ("-t -r -b -c -e", "-G -V0 -V1"),
    "ffmpeg": ("-f -ac -ar -ab -acodec -c:a -loglevel -v", "-i -nostdin -hide_banner"),
}
"""Programs, and their options that change nothing here: those with a value, and those without."""


def is_kaldi(folder: Path) -> bool:
    """Whether the folder holds `text` and `wav.scp`."""
    return (folder / "wav.scp").is_file() and (folder / "text").is_file()


def read_kaldi(folder: Path) -> list[Utterance]:
    """The utterances of a data folder, in the order of `segments` or `wav.scp`, then texts without recording.

    Raises:
        ManifestError: a file is not text in UTF-8, an id stands twice, or no utterance can be used.
    """
    places = [os.fspath(place) for place in (folder.absolute(), *folder.absolute().parents)]
    recordings = {name: _recording(places, rest) for name, rest in _table(folder / "wav.scp").items()}
    texts = _table(folder / "text")
    speakers = _table(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    if all(name == speaker for name, speaker in speakers.items()):
        speakers = {}
    segments = _table(folder / "segments") if (folder / "segments").is_file() else None
    where = folder / ("wav.scp" if segments is None else "segments")
    utterances = []
    for name, place in ((name, name) for name in recordings) if segments is None else segments.items():
        path, start_s, duration_s, flaw = folder / "wav.scp", None, 0.0, None
        try:
            recording, start_s, duration_s = (place, None, 0.0) if segments is None else _segment(place)
            path = _known(recordings, recording)
            if duration_s == math.inf:
                length_s, start_s = audio.info(path).duration_s, start_s or 0.0
                duration_s = length_s - start_s
                if duration_s <= 0:
                    raise ValueError(f"starts at {start_s:g} s, and {path} ends at {length_s:.2f} s")
        except (ValueError, AudioError) as error:
            duration_s, flaw = 0.0, ("no recording", f"{where}: {name}: {error}")
        if flaw is None and name not in texts:
            flaw = ("no text", "no text was found for it")
        speaker = speakers.get(name) or None
        utterances.append(
            Utterance(name, path, duration_s, texts.get(name, ""), speaker, flaw, start_s=start_s)
        )
    known = recordings if segments is None else segments
    flaw = ("no recording", f"{where} does not have it")
    utterances += [
        Utterance(name, folder / "text", 0.0, said, flaw=flaw)
        for name, said in texts.items()
        if name not in known
    ]
    refuse_if_all_flawed(utterances)
    return utterances


def _table(path: Path) -> dict[str, str]:
    """The rest of each line by its first word."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode().split("\n")
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path} is not text in UTF-8: {error}") from error
    table: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, *rest = line.strip().split(maxsplit=1) or [""]
        if name in table:
            raise ManifestError(f"{path}, line {number}: {name} stands there twice")
        if name:
            table[name] = "".join(rest)
    return table


def _recording(places: Sequence[str], written: str) -> Path | str:
    """The file that an entry of `wav.scp` reads, in one of the places, or why that is not known."""
    if re.fullmatch(r".*\.ark:\d+", written):
        return f"{written}: archives of Kaldi are not read; write its recordings to files"
    if not written.endswith("|"):
        return _located(places, written)
    try:
        program, *words = shlex.split(written.removesuffix("|"))
    except ValueError:
        return f"{written}: a command that cannot be parsed"
    program = Path(program).name
    with_value, without = (options.split() for options in DECODERS.get(program, ("", "")))
    files = []
    while words:
        word = words.pop(0)
        if word in with_value:
            del words[:1]
        elif word not in (*without, "-", "pipe:1"):
            files.append(word)
    if program not in DECODERS or len(files) != 1 or files[0].startswith("-"):
        return f"{written}: a command that is not run here; write its output to a file"
    return _located(places, files[0])


def _located(places: Sequence[str], name: str) -> Path:
    """Relative to where the recipe was run, which is the folder or one above it, else to here.

    Args:
        places: the folder and those above it.
        name: a path.
    """
    name = os.path.expanduser(name)  # noqa: PTH111 (a Path's knows no `~name.wav`)
    if not os.path.isabs(name):  # noqa: PTH117 (as below, a Path costs more than the call)
        for place in places:
            if os.path.isfile(path := os.path.join(place, name)):  # noqa: PTH113, PTH118
                return Path(path)
    return Path(name).absolute()


def _known(recordings: Mapping[str, Path | str], name: str) -> Path:
    found = recordings.get(name, f"{name} is not in wav.scp")
    if isinstance(found, str):
        raise ValueError(found)
    return found


def _segment(written: str) -> tuple[str, float, float]:
    """Recording, start and duration (s) of a line of `segments`; an infinite one reaches to the end."""
    try:
        recording, start, end = written.split()
        start_s, end_s = float(start), float(end)
    except ValueError:
        raise ValueError(f"expected a recording, its start and its end in seconds: {written}") from None
    if end_s == -1:
        end_s = math.inf
    if not 0 <= start_s < end_s:
        raise ValueError(f"{start_s:g} to {end_s:g} s is impossible")
    return recording, start_s, end_s - start_s
