"""Any recording → mono float32 samples in [-1, 1] at the wanted rate; whole, or block by block.

Reads whatever libsndfile reads (wav, flac, mp3, Vorbis, Opus, aiff …) from a path, bytes, an open binary file
or standard input (`-`). Channels are averaged, unless they cancel each other; soxr resamples. A damaged
recording raises an error; it is never silently shortened, except where nothing in it tells that more should
follow: see `asr.containers`.
"""

import io
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from asr import containers
from asr.errors import AudioError
from asr.resampling import Resampler as Resampler
from asr.resampling import clip, resample_blocks
from asr.resampling import resample as resample

RATE_HZ = 16_000
"""Sample rate of models unless they say otherwise."""

AUDIO_SUFFIXES = frozenset(
    {".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".sph", ".w64"}
)
"""Lower-case suffixes of the files in a folder that count as recordings."""

FOREIGN_SUFFIXES = frozenset({".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".mov", ".amr"})
"""Audio and video formats that libsndfile cannot read, but that users are likely to try."""

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 1_000_000
"""A header that claims a rate outside this range is taken to be damaged."""
FULL_SCALE_LIMIT = 2.0
"""Peaks up to this are decoder overshoot and are clipped; higher ones mean another scale, an error."""

PART_SLACK_S = 0.05
"""So much may be missing at the end of a part of a recording, as durations are often rounded."""

Source = str | Path | bytes | BinaryIO

_NO_FILE = 7  # libsndfile's error, also for an mp3 in which libmpg123 finds no frame

_CANCELLED = 1e-3
"""Share of the loudest channel's energy, −30 dB, below which the mean of the channels has lost the sound."""
_BLOCK_SAMPLES = 1 << 20  # read at a time, so that memory depends on the actual data, not on the header


@dataclass(frozen=True)
class AudioInfo:
    """Duration and format of a recording as stored: its own rate and channels, before any conversion."""

    duration_s: float
    rate_hz: int
    channels: int
    samples: int
    """Samples per channel."""


def read(
    source: Source, rate_hz: int = RATE_HZ, *, start_s: float = 0.0, duration_s: float | None = None
) -> np.ndarray:
    """The recording as mono float32 samples (n,) in [-1, 1] at `rate_hz`, with n ≥ 1.

    Args:
        source: a path, `"-"` for standard input, the bytes of a file, or an open binary file.
        rate_hz: wanted sample rate.
        start_s, duration_s: read only so much of it (s), from there; without a duration all of it is read.

    Raises:
        AudioError: a source that is missing, not audio, empty or cut short, or ends before the wanted part;
            or NaN, infinite or unscaled samples.
    """
    with _open(source) as (file, name):
        own_hz = file.samplerate
        if duration_s is None:
            samples = np.concatenate(list(_mono_blocks(file, name)))
        else:
            samples = _part(file, name, start_s, duration_s)
    samples = resample(samples, own_hz, rate_hz)
    if not len(samples):
        raise AudioError(f"{name} is too short: nothing of it is left at {rate_hz} Hz")
    return samples


def info(source: Source) -> AudioInfo:
    """Duration, rate and channels of the recording; decoded only if the header does not state its length.

    Raises:
        AudioError: a source that is missing, or not audio.
    """
    with _open(source) as (file, name):
        samples = file.frames
        if samples >= containers.UNKNOWN_FRAMES:
            samples = sum(len(block) for block in _mono_blocks(file, name))
        return AudioInfo(samples / file.samplerate, file.samplerate, file.channels, samples)


def stream(source: Source, rate_hz: int = RATE_HZ, block_s: float = 10.0) -> Iterator[np.ndarray]:
    """The samples of `read` in blocks of `block_s` seconds (the last one shorter), in constant memory.

    A source that cannot be rewound, such as standard input, is first copied to a temporary file.

    Raises:
        AudioError: as for `read`, but damage is noticed only when its block is reached.
    """
    wanted = max(1, round(block_s * rate_hz))
    with _open(source, spool=True) as (file, name):
        own = max(1, round(block_s * file.samplerate))
        held = np.zeros(0, np.float32)
        for block in resample_blocks(_mono_blocks(file, name, own), file.samplerate, rate_hz):
            held = np.concatenate([held, block])
            while len(held) > wanted:
                yield held[:wanted]
                held = held[wanted:]
        if len(held):
            yield held


def check_samples(samples: np.ndarray) -> np.ndarray:
    """The samples as float32, checked to be mono and finite.

    Raises:
        AudioError: not a one-dimensional array of floating-point numbers, NaN or infinite values, or peaks
            far beyond ±1, as of integers that were not scaled.
    """
    if not isinstance(samples, np.ndarray):
        raise AudioError(f"a {type(samples).__name__}: expected samples as a one-dimensional numpy array")
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(
            f"{samples.dtype} samples of shape {samples.shape}: expected floating-point numbers in [-1, 1] "
            "in one dimension, mono"
        )
    if not np.isfinite(samples).all():
        raise AudioError("the samples hold values that are not numbers (NaN or infinite)")
    if len(samples) and (peak := float(np.abs(samples).max())) > FULL_SCALE_LIMIT:
        raise AudioError(f"the samples have a peak of {peak:.4g}; within ±1 were expected: scale them")
    return samples.astype(np.float32, copy=False)


def write(path: str | Path, samples: np.ndarray, rate_hz: int = RATE_HZ) -> None:
    """Write mono samples, float in [-1, 1] or int16, in the format that the suffix of `path` names.

    Raises:
        AudioError: a suffix of no known format, or a folder that cannot be written to.
    """
    path = Path(path)
    opus = {"format": "OGG", "subtype": "OPUS"} if path.suffix.lower() == ".opus" else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with soundfile.SoundFile(os.fspath(path), "w", rate_hz, channels=1, **opus) as file:
            # libsndfile crashes when it gets ten minutes of Vorbis at once
            for start in range(0, len(samples), _BLOCK_SAMPLES):
                file.write(samples[start : start + _BLOCK_SAMPLES])
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        raise AudioError(f"{path} cannot be written: {error}") from error


class _ForwardFile(soundfile.SoundFile):
    """A file that is read sequentially only.

    In a seekable file, soundfile seeks to its own position after every block. This makes seams in an mp3,
    whose frames depend on earlier ones, and fails at the end of a flac that does not state its length.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _open(source: Source, *, spool: bool = False) -> Iterator[tuple[soundfile.SoundFile, str]]:
    """The decoder of the source, and the name of the source in error messages.

    Args:
        spool: copy a source that cannot be rewound to a temporary file instead of to memory.
    """
    with ExitStack() as stack:
        name, opened = _rewindable(source, stack, spool=spool)
        if isinstance(opened, str) and not os.path.isfile(opened):  # noqa: PTH113 (no error if too long)
            what = "is a folder" if os.path.isdir(opened) else "does not exist"  # noqa: PTH112
            raise AudioError(f"{name} {what}; a recording was expected")
        try:
            # As bytes, because a file name need not be valid text.
            target = os.fsencode(opened) if isinstance(opened, str) else opened
            with _quiet(Path(name).suffix.lower() == ".mp3"):
                file = stack.enter_context(_ForwardFile(target))
            if containers.is_of_unknown_length(file):
                raw = stack.enter_context(containers.contents(file))
                raw.seek(0)
                file = stack.enter_context(_ForwardFile(containers.Endless(raw)))
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise AudioError(_why_unreadable(name, opened, error)) from error
        if not LOWEST_RATE_HZ <= file.samplerate <= HIGHEST_RATE_HZ:
            raise AudioError(
                f"{name} claims a rate of {file.samplerate} Hz; "
                f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz was expected, so the header is damaged"
            )
        yield file, name


def _rewindable(source: Source, stack: ExitStack, *, spool: bool) -> tuple[str, str | BinaryIO]:
    if isinstance(source, bytes | bytearray | memoryview):
        return "the given bytes", io.BytesIO(source)
    if source == "":
        raise AudioError("the name of the recording is empty")
    if isinstance(source, str | Path) and str(source) != "-":
        return str(source), os.path.expanduser(source)  # noqa: PTH111 (a Path's knows no `~name.wav`)
    stdin = isinstance(source, str | Path)
    if stdin and sys.stdin is None:
        raise AudioError("standard input is closed; a recording was expected there")
    opened: BinaryIO = sys.stdin.buffer if stdin else source  # type: ignore[assignment]
    name = "standard input" if stdin else str(getattr(source, "name", "the given stream"))
    if getattr(opened, "closed", False):
        raise AudioError(f"{name} is closed; an open file was expected")
    if not hasattr(opened, "read") or isinstance(opened, io.TextIOBase):
        raise AudioError(
            f"a {type(source).__name__}: expected a path, bytes, a file opened in binary mode, or float "
            "samples as a one-dimensional numpy array"
        )
    if not stdin and opened.seekable():
        return name, opened
    copy: BinaryIO = io.BytesIO()
    if spool:
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    shutil.copyfileobj(opened, copy)
    copy.seek(0)
    return name, copy


def _why_unreadable(name: str, opened: str | BinaryIO, error: Exception) -> str:
    """One line that says what is wrong with the file and what to do about it."""
    suffix = Path(name).suffix.lower()
    if isinstance(opened, str):
        try:
            size = Path(opened).stat().st_size
            with Path(opened).open("rb"):
                pass
        except OSError as denied:
            return f"{name} cannot be read: {denied.strerror}"
    else:
        size = opened.seek(0, io.SEEK_END)
    if not size:
        return f"{name} is empty (0 bytes); a recording was expected"
    if suffix in FOREIGN_SUFFIXES:
        return f"{name}: {suffix} cannot be read; convert it first: ffmpeg -i IN{suffix} OUT.flac"
    if isinstance(error, TypeError):
        return f"{name}: {suffix} files have no header, so rate and format are unknown; convert it to wav"
    said = "no MPEG frame found" if getattr(error, "code", 0) == _NO_FILE else _why(error)
    return f"{name} is not a recording that libsndfile can read, or its beginning is damaged ({said})"


def _quiet(is_mp3: bool) -> AbstractContextManager[None]:
    """Without what libmpg123 writes to standard error about damage, which an AudioError tells."""
    return containers.quiet() if is_mp3 else nullcontext()


def _why(error: Exception) -> str:
    """What libsndfile says."""
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def _mono_blocks(
    file: soundfile.SoundFile, name: str, block_samples: int = _BLOCK_SAMPLES, *, at: int = 0
) -> Iterator[np.ndarray]:
    """All channels as one, checked, in blocks; their sizes and `at`, the start, are whole `_unit_samples`."""
    wanted, unit = min(block_samples, _BLOCK_SAMPLES // file.channels), _unit_samples(file)
    block_samples = max(1, wanted // unit) * unit
    while True:
        try:
            block_TC = file.read(block_samples, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, ValueError) as error:
            raise AudioError(
                f"{name} is damaged or cut short after {at / file.samplerate:.2f} s ({_why(error)})"
            ) from error
        if not len(block_TC):
            break
        block = mono(block_TC, unit)
        _check_values(block, name, at / file.samplerate, file.samplerate)
        yield clip(block)
        at += len(block)
    if fault := containers.fault(file, at):
        advice = "; fetch it again, or convert it first: ffmpeg -i IN OUT.flac" if at else ""
        raise AudioError(f"{name} {fault}{advice}")


def _unit_samples(file: soundfile.SoundFile) -> int:
    """Samples for which `mono` decides at once: a second of the file, or of one channel a single one."""
    return file.samplerate if file.channels > 1 else 1


def mono(block_TC: np.ndarray, every: int) -> np.ndarray:
    """The mean of the channels, float32 (T,); the first where they cancel each other, one being reversed.

    That is decided for `every` so many samples at a time.

    >>> mono(np.array([[0.5, 0.25], [1.0, 0.5], [0.5, -0.5]]), 2).tolist()
    [0.375, 0.75, 0.5]
    """
    first_T = block_TC[:, 0].astype(np.float32, copy=False)
    if block_TC.shape[1] == 1 or not len(first_T):
        return first_T
    mean_T = block_TC.mean(axis=1, dtype=np.float32)
    begin_N = np.arange(0, len(mean_T), every)
    loudest_N = np.add.reduceat(np.square(block_TC), begin_N).max(axis=1)
    is_lost_N = np.add.reduceat(np.square(mean_T), begin_N) < _CANCELLED * loudest_N  # not if there is a NaN
    return np.where(np.repeat(is_lost_N, every)[: len(mean_T)], first_T, mean_T)


def _part(file: soundfile.SoundFile, name: str, start_s: float, duration_s: float) -> np.ndarray:
    rate_hz = file.samplerate
    start, wanted = round(start_s * rate_hz), round(duration_s * rate_hz)
    within = start % _unit_samples(file)
    begin = max(0, start - within - rate_hz)
    try:
        with _quiet(file.format == "MP3"):
            file.seek(begin)  # earlier, as the first samples of an mp3 or an Opus file after a jump are wrong
            at = begin + len(file.read(start - within - begin))
    except (soundfile.SoundFileError, OverflowError) as error:
        raise AudioError(f"{name} has nothing at {start_s:.2f} s: {error}") from error
    read, found = [np.zeros(0, np.float32)], 0
    for block in _mono_blocks(file, name, within + wanted, at=at):
        read.append(block)
        found += len(block)
        if found >= within + wanted:
            break
    if found < within + wanted - PART_SLACK_S * rate_hz:
        end_s, until_s = (at + found) / rate_hz, start_s + duration_s
        raise AudioError(f"{name} ends at {end_s:.2f} s; {start_s:.2f} to {until_s:.2f} s were wanted")
    return np.concatenate(read)[within : within + wanted]


def _check_values(block: np.ndarray, name: str, start_s: float, rate_hz: int) -> None:
    peak = float(np.abs(block).max())
    if math.isnan(peak) or math.isinf(peak):
        at_s = start_s + int(np.argmin(np.isfinite(block))) / rate_hz
        raise AudioError(f"{name} has samples that are not numbers, the first at {at_s:.3f} s")
    if peak > FULL_SCALE_LIMIT:
        raise AudioError(
            f"{name} has a peak of {peak:.4g} after {start_s:.0f} s; samples within ±1 were expected: "
            "scale it, or store it as integers"
        )
