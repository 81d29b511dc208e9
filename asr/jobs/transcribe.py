"""`asr transcribe`: recordings → text on standard output, or files in any format; failures are listed."""

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from asr import audio
from asr.errors import AudioError, ConfigError
from asr.files import whole_file
from asr.jobs.console import counted, counting, say, warn
from asr.jobs.formats import FORMATS
from asr.recognizer import Recognizer
from asr.transcript import Segment, Transcript

ONE_PER_FILE = ("vtt", "srt", "tsv", "json")
"""Formats that are invalid where one recording follows another."""
STDIN = "stdin"
"""Name of the recording on standard input, in files."""


def find_audio(places: Sequence[str]) -> dict[str, Path]:
    """The recordings, each with the path of its files in an output folder, without the format's suffix.

    `-` is standard input, folders are searched recursively and keep their structure, patterns such as
    `calls/*.mp3` are expanded. The recording's suffix is kept only where paths would coincide without it.
    Files that do not exist are reported when they are read.

    Raises:
        AudioError: a folder without recordings, or a pattern that matches nothing.
    """
    found: dict[str, Path] = {}
    for place in places:
        path = Path(place)
        if place == "-":
            found[place] = Path(STDIN)
        elif not place:
            raise AudioError("an empty name: expected a file, a folder, a pattern or -")
        elif os.path.isdir(place):  # noqa: PTH112 (a name that is too long is none)
            found |= {str(p): p.relative_to(path) for p in _inside(path)}
        elif glob.has_magic(place) and not os.path.exists(place):  # noqa: PTH110
            fitting = sorted(p for p in map(Path, glob.glob(place, recursive=True)) if p.is_file())  # noqa: PTH207
            if not fitting:
                raise AudioError(f"{place}: no file fits this pattern")
            found |= {str(p): Path(p.name) for p in fitting}
        else:
            found[place] = Path(path.name)
    count = Counter(path.with_suffix("") for path in found.values())
    return {
        name: path if count[path.with_suffix("")] > 1 else path.with_suffix("")
        for name, path in found.items()
    }


def _inside(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if not p.is_dir())
    recordings = [p for p in files if p.suffix.lower() in audio.AUDIO_SUFFIXES]
    foreign = [p for p in files if p.suffix.lower() in audio.FOREIGN_SUFFIXES]
    named = ", ".join(p.name for p in foreign[:3]) + (", …" if len(foreign) > 3 else "")
    count = counted(len(foreign), "file")
    hint = f"{count} must be converted to flac or wav first: {named}" if foreign else ""
    if not recordings:
        raise AudioError(f"{folder}: no recordings in this folder" + (f"; {hint}" if hint else ""))
    if hint:
        warn(f"{folder}: {hint}")
    return recordings


def transcribe(
    model: Recognizer,
    places: Sequence[str],
    *,
    output_dir: Path | None = None,
    output_format: str = "txt",
    word_timestamps: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, str]:
    """Transcribe each recording; returns, by file, why it failed.

    Without `output_dir` one format goes to standard output, `txt` as one line per recording, its segments as
    soon as they are known; it ends where the recording fails. With it each recording has a file per
    format, and recordings whose files exist and are not older are skipped.

    Args:
        model: a loaded recogniser.
        places: files, folders, patterns or `-`.
        output_dir: where files go; made if it is missing.
        output_format: one of `FORMATS`, several with commas, or `all`.
        word_timestamps: subtitles word by word, and words in JSON.
        overwrite: transcribe again even if the files exist.
        settings: `decoder` and the settings of `Recognizer.decode`.

    Raises:
        AudioError: a folder without recordings, or a pattern that matches nothing.
        ConfigError: an unknown format, several files without a folder, or recordings that share one.
    """
    formats = _formats(output_format)
    recordings = find_audio(places)
    sink: Printer | Files
    if output_dir is None:
        if len(formats) > 1:
            raise ConfigError(f"{output_format} makes several files: say where with --output_dir")
        if len(recordings) > 1 and formats[0] in ONE_PER_FILE:
            raise ConfigError(
                f"{formats[0]} holds one recording, but there are {len(recordings)}: "
                "say where with --output_dir to have a file of each, or print jsonl, ctm or txt"
            )
        sink = Printer(formats[0], word_timestamps, shown=_shown(recordings), joint=model.alphabet.joint)
        names = list(recordings)
    else:
        sink = Files(output_dir, recordings, formats, word_timestamps)
        names = [name for name in recordings if overwrite or not sink.has(name)]
        if skipped := len(recordings) - len(names):
            say(
                f"{skipped} of {counted(len(recordings), 'recording')} done already (newer files so named "
                f"are in {output_dir}); --overwrite does them again"
            )
    failed = _work(model, names, sink, settings)
    _list(failed, len(names))
    return failed


def _work(
    model: Recognizer, names: list[str], sink: "Printer | Files", settings: dict[str, Any]
) -> dict[str, str]:
    failed: dict[str, str] = {}
    length_s = cache(_length_s)
    # On a terminal that shows the text, a progress bar would interfere with it.
    hidden = isinstance(sink, Printer) and sys.stdout.isatty()
    with counting("transcribing", unit=None, hidden=hidden) as progress:

        def on_segment(number: int, segment: Segment) -> None:
            sink.segment(number, segment)
            if whole_s := length_s(names[number]):
                progress(number + min(1.0, segment.end_s / whole_s), len(names))

        with closing(sink):
            for number, outcome in enumerate(model.outcomes(names, on_segment=on_segment, **settings)):
                if isinstance(outcome, AudioError):
                    failed[names[number]] = str(outcome)
                    sink.failed(names[number])
                else:
                    sink.done(names[number], outcome)
                progress(number + 1, len(names))
    return failed


def _length_s(name: str) -> float:
    """The duration of a recording; 0 if it cannot be known beforehand."""
    try:  # the header of standard input cannot be read again
        return audio.info(name).duration_s if name != "-" else 0.0
    except AudioError:
        return 0.0


def _formats(wanted: str) -> list[str]:
    formats = list(FORMATS) if wanted == "all" else [f.strip() for f in wanted.split(",")]
    if strange := [f for f in formats if f not in FORMATS]:
        raise ConfigError(f"output format {strange[0]!r}: expected {', '.join(FORMATS)} or all")
    return formats


def _shown(names: Iterable[str]) -> dict[str, str]:
    """What recordings are called on standard output: as their file without suffix, if no other is called so.

    >>> _shown(["a/1.wav", "b/1.wav", "b/2.wav", "-"])
    {'a/1.wav': 'a/1.wav', 'b/1.wav': 'b/1.wav', 'b/2.wav': '2', '-': 'stdin'}
    """
    short = {name: _stem(name) for name in names}
    count = Counter(short.values())
    return {name: stem if count[stem] == 1 else name for name, stem in short.items()}


def _stem(name: str) -> str:
    return STDIN if name == "-" else Path(name).stem


class Printer:
    """Writes transcripts to standard output."""

    def __init__(self, form: str, words: bool, *, shown: Mapping[str, str], joint: str = " ") -> None:
        self._form, self._words, self._shown, self._joint = form, words, shown, joint
        self._number = self._printed = 0
        self._early: dict[int, list[Segment]] = {}
        """Segments of recordings whose turn has not come, by number."""

    def segment(self, number: int, segment: Segment) -> None:
        """Print the segment if it belongs to the current recording; those of others wait for their turn."""
        if self._form != "txt":
            return
        if number != self._number:
            self._early.setdefault(number, []).append(segment)
            return
        for one in [*self._early.pop(number, []), segment]:
            print((self._joint if self._printed else "") + one.text, end="", flush=True)
            self._printed += 1

    def done(self, name: str, transcript: Transcript) -> None:
        """Print the rest of the current recording, and move on to the next."""
        if self._printed:
            for segment in transcript.segments[self._printed :]:
                self.segment(self._number, segment)
            print(flush=True)
        else:
            text = FORMATS[self._form](transcript, name=self._shown[name], words=self._words)
            print(text, end="", flush=True)
        self._next()

    def failed(self, name: str) -> None:
        """End the line of the current recording, which may be empty, and move on to the next."""
        if self._form == "txt":
            print(flush=True)
        self._next()

    def close(self) -> None:
        """End the current line if it was begun, as after Ctrl-C."""
        if self._printed:
            print(flush=True)

    def _next(self) -> None:
        self._early.pop(self._number, None)
        self._number, self._printed = self._number + 1, 0


class Files:
    """Writes each transcript to a file per format, whole or not at all."""

    def __init__(self, folder: Path, paths: dict[str, Path], formats: list[str], words: bool) -> None:
        self._paths = {
            name: [folder / path.with_name(f"{path.name}.{form}") for form in formats]
            for name, path in paths.items()
        }
        count = Counter(path for written in self._paths.values() for path in written)
        if twice := [path for path, times in count.items() if times > 1]:
            raise ConfigError(
                f"{count[twice[0]]} recordings would be written to {twice[0]}: give each folder an "
                "--output_dir of its own"
            )
        self._formats, self._words = formats, words

    def has(self, name: str) -> bool:
        """Whether all files of a recording exist and are not older than it."""
        try:
            own_s = Path(name).stat().st_mtime
            return all(path.stat().st_mtime >= own_s for path in self._paths[name])
        except OSError:
            return False

    def segment(self, number: int, segment: Segment) -> None:
        """Do nothing: files are written once the transcript is complete."""

    def done(self, name: str, transcript: Transcript) -> None:
        """Write the files of a recording."""
        for form, path in zip(self._formats, self._paths[name], strict=True):
            with whole_file(path, error=ConfigError) as file:
                file.write(FORMATS[form](transcript, name=_stem(name), words=self._words))

    def failed(self, name: str) -> None:
        """Do nothing: there is no file for a failed recording."""

    def close(self) -> None:
        """Do nothing: every file is closed."""


def _list(failed: dict[str, str], total: int) -> None:
    if not failed:
        return
    say(f"{len(failed)} of {counted(total, 'recording')} could not be transcribed:")
    for why in failed.values():
        say(f"  {why}")
