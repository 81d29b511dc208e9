"""`asr transcribe --stream` and `--microphone`: words appear while they are spoken."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asr import audio
from asr.errors import AudioError, ConfigError, how_to_install
from asr.jobs.console import say, warn
from asr.jobs.formats import news, to_jsonl
from asr.recognizer import Recognizer
from asr.transcript import Partial

BLOCK_S = 0.1
"""Seconds read at a time from a file or the microphone."""
_READ_BYTES = 1 << 16
_ENDLESS_BYTES = 0x7FFF_0000  # a writer who does not know the size yet claims as much or more, or 0
_PCM, _EXTENSIBLE = 1, 0xFFFE
_FILES = {
    b"fLaC": "a FLAC file",
    b"OggS": "an Ogg file",
    b"ID3\x02": "an MP3 file",
    b"ID3\x03": "an MP3 file",
    b"ID3\x04": "an MP3 file",
    b"FORM": "an AIFF file",
    b".snd": "an AU file",
    b"caff": "a CAF file",
    b"NIST": "a SPHERE file",
    b"RF64": "an RF64 file",
    b"riff": "a W64 file",
    b"\x1aE\xdf\xa3": "a WebM or Matroska file",
}


def listen(
    model: Recognizer,
    place: str | None,
    *,
    rate_hz: int | None = None,
    output_format: str = "txt",
    **settings: Any,
) -> None:
    """Print the transcript as soon as it is certain, until the audio ends or Ctrl-C is pressed.

    Args:
        model: a recogniser that can stream.
        place: a file, `-` for standard input (WAV or raw PCM), or None for the microphone.
        rate_hz: of raw PCM; None is the model's.
        output_format: txt, or jsonl for a line per change and one for the whole transcript at the end.
        settings: `decoder` and the settings of `Recognizer.decode`.

    Raises:
        ConfigError: a model that needs the whole recording, or no microphone support.
        AudioError: unreadable audio, or no microphone.
    """
    if place is None:
        rate_hz, blocks = microphone()
        say("listening; Ctrl-C ends it")
    elif place == "-":
        rate_hz, blocks = pcm(sys.stdin.buffer, rate_hz or model.rate_hz)
    else:
        rate_hz, blocks = model.rate_hz, audio.stream(place, model.rate_hz, BLOCK_S)
    stream = model.open_stream(rate_hz, **settings)
    before: Partial | None = None
    fault: AudioError | None = None
    try:
        for block in blocks:
            now = stream.feed(block)
            _show(before, now, output_format)
            before = now
    except KeyboardInterrupt:  # how the user ends it
        pass
    except AudioError as error:  # what was heard before is written all the same
        fault = error
    end = stream.finish()
    _show(before, end, output_format)
    if output_format == "txt":
        print(flush=True)
    elif end.transcript is not None:
        name = "microphone" if place is None else "stdin" if place == "-" else Path(place).stem
        print(to_jsonl(end.transcript, name=name, words=True), end="", flush=True)
    if fault is not None:
        raise fault


def _show(before: Partial | None, now: Partial, output_format: str) -> None:
    if output_format == "txt":
        print(now.stable[len(before.stable) if before else 0 :], end="", flush=True)
    elif (message := news(before, now)) is not None:
        print(json.dumps(message, ensure_ascii=False), flush=True)


def pcm(file: BinaryIO, rate_hz: int) -> tuple[int, Iterator[np.ndarray]]:
    """The rate of 16-bit audio that is still being written, and its blocks as they arrive.

    A WAV header is used if there is one; else the samples are mono, little-endian and at `rate_hz`.

    Raises:
        AudioError: another kind of file, or WAV with other samples than 16-bit integers.
    """
    begin = file.read(8)
    if not begin:
        raise AudioError("standard input is empty: WAV or raw 16-bit PCM was expected")
    if (what := _kind(begin)) is not None:
        raise AudioError(
            f"standard input holds {what}: a stream is WAV or raw 16-bit PCM, as "
            "ffmpeg -i IN -f wav - gives it; without --stream any file is read"
        )
    if not begin.startswith(b"RIFF"):
        return rate_hz, _samples(file, begin, channels=1, left=None)
    file.read(4)  # WAVE
    kind = channels = bits = 0
    while len(head := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"data":
            break
        chunk = file.read(size + size % 2)
        if name == b"fmt " and len(chunk) >= 16:
            kind, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    else:
        raise AudioError("standard input is cut short within its WAV header")
    if not kind:
        raise AudioError("standard input is WAV, but its sound comes before its format")
    if kind not in (_PCM, _EXTENSIBLE) or bits != 16 or not channels:
        raise AudioError(
            f"WAV of {bits} bits, kind {kind}: a stream is 16-bit PCM, as -c:a pcm_s16le makes it"
        )
    if not audio.LOWEST_RATE_HZ <= rate_hz <= audio.HIGHEST_RATE_HZ:
        raise AudioError(f"standard input claims a rate of {rate_hz} Hz, so its WAV header is damaged")
    endless = size == 0 or size >= _ENDLESS_BYTES
    return rate_hz, _samples(file, b"", channels=channels, left=None if endless else size)


def _kind(begin: bytes) -> str | None:
    """What kind of file begins with these eight bytes, None if they are WAV or samples."""
    if begin[4:] == b"ftyp":
        return "an MP4 or M4A file"
    return "an MP3 file" if _is_mp3(begin) else _FILES.get(begin[:4])


def _is_mp3(begin: bytes) -> bool:
    r"""Whether this is the head of a frame of layer III, of MPEG 1, 2 or 2.5.

    >>> _is_mp3(bytes.fromhex("fff344c4")), _is_mp3(bytes.fromhex("ffe318c4")), _is_mp3(b"\xff\xff\xfe\xff")
    (True, True, False)
    """
    if len(begin) < 4 or begin[0] != 0xFF or begin[1] & 0xE6 != 0xE2 or begin[1] & 0x18 == 0x08:
        return False
    return begin[2] >> 4 not in (0, 15) and begin[2] >> 2 & 3 != 3


def _samples(file: BinaryIO, held: bytes, *, channels: int, left: int | None) -> Iterator[np.ndarray]:
    """Mono float32 blocks of what has arrived; up to `left` bytes, None for as many as there are."""
    read = getattr(file, "read1", file.read)  # read1 returns what is there without waiting for more
    while data := read(_READ_BYTES if left is None else min(left, _READ_BYTES)):
        left = None if left is None else left - len(data)
        held += data
        whole = len(held) // (2 * channels) * (2 * channels)
        samples_TC = np.frombuffer(held[:whole], "<i2").reshape(-1, channels)
        held = held[whole:]
        yield audio.mono(samples_TC.astype(np.float32), max(1, whole)) / 32768
    if left:
        raise AudioError(f"standard input ended {left} bytes before the length that its WAV header promises")


def microphone() -> tuple[int, Iterator[np.ndarray]]:
    """The rate of the default microphone, and its endless stream of blocks.

    Raises:
        ConfigError: the package sounddevice or the library PortAudio is missing.
        AudioError: there is no microphone, or it cannot be opened.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise ConfigError(
            f"the microphone needs the package sounddevice: {how_to_install('microphone')}"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"the microphone needs the library PortAudio (Debian: libportaudio2): {error}"
        ) from error
    try:
        rate_hz = round(sounddevice.query_devices(kind="input")["default_samplerate"])
        opened = sounddevice.InputStream(samplerate=rate_hz, channels=1, dtype="float32")
    except (sounddevice.PortAudioError, ValueError) as error:
        raise AudioError(f"no microphone could be opened: {error}") from error
    return rate_hz, _recorded(opened, round(BLOCK_S * rate_hz))


def _recorded(opened: Any, block_samples: int) -> Iterator[np.ndarray]:
    with opened:
        while True:
            block_TC, was_late = opened.read(block_samples)
            if was_late:
                warn("sound was lost: this machine is too slow for the model")
            yield block_TC[:, 0].copy()
