"""Whether all of a recording was read: what its container says about its length and libsndfile leaves out.

libsndfile cuts the length that a header states to what is there, and stops where it ends. It reads the first
of several Ogg streams in a row, and passes over pages that are missing or cut short. Of an mp3 it reads as
much as the Xing header states or, without one, as it guesses from the size of the first frame.

Source: RFC 3533 (Ogg); the Xing header as LAME and ffmpeg write it; NIST's SPHERE header.
"""

import io
import os
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import soundfile

UNKNOWN_FRAMES = 1 << 40
"""What libsndfile reports, at least, of a file that does not state its length, or that is `Endless`."""

_FAR = 1 << 50  # bytes
_SIZES = re.compile(r"^ *(data|SSND|Data Size|riff|Riff size) +: (\d+) \(should be (\d+)\)", re.MULTILINE)
_NO_CHUNK = re.compile(r"Unknown chunk marker \(\w+\) at position (\d+)")
_PIPED = 0x7000_0000  # programs that write to a pipe claim about 2³¹ or 2³² bytes
_BEGINS, _ENDS = 2, 4  # flags of an Ogg page: the first or the last of its stream
_LARGEST_FRAME = 1441  # bytes of an mp3
_silence = threading.Lock()


def fault(file: soundfile.SoundFile, samples: int) -> str | None:
    """What is lost of a recording that was read to its end; None if nothing is.

    Not noticed: an Ogg file that ends with a whole page, though not the last of its stream, and the end of an
    mp3 without a Xing header. Live recorders leave such files.

    Args:
        samples: those that were read, per channel.
    """
    if file.format in ("WAV", "WAVEX") and not isinstance(file.name, Endless) and (found := _wav_fault(file)):
        return found
    if not samples:
        return "holds no samples"
    if file.format in ("OGG", "MP3") and not isinstance(file.name, Endless):
        with contents(file) as raw:
            if found := _ogg_fault(raw) if file.format == "OGG" else _mp3_fault(raw):
                return found
    promised = _promised(file, samples)
    slack_s = 0.15 if file.format == "MP3" else 0.01  # an mp3's length is in frames and may include padding
    if promised < UNKNOWN_FRAMES and samples < promised - slack_s * file.samplerate:
        stated_s, found_s = promised / file.samplerate, samples / file.samplerate
        return f"is cut short: its header promises {stated_s:.2f} s, {found_s:.2f} s are there"
    return None


def _promised(file: soundfile.SoundFile, samples: int) -> int:
    """The samples per channel that the header states."""
    sizes = _SIZES.search(file.extra_info)
    if sizes and int(sizes[3]) < int(sizes[2]) < (_FAR if "iff" in sizes[1] else _PIPED):
        return round(samples * int(sizes[2]) / max(1, int(sizes[3])))
    if file.format == "NIST":
        with contents(file) as raw:
            raw.seek(0)
            stated = re.search(rb"^sample_count -i (\d+)", raw.read(1024), re.MULTILINE)
            return int(stated[1]) if stated else file.frames
    return file.frames


@contextmanager
def contents(file: soundfile.SoundFile) -> Iterator[BinaryIO]:
    """The bytes of the file, from any position."""
    if isinstance(file.name, bytes):
        with Path(os.fsdecode(file.name)).open("rb") as raw:
            yield raw
    else:
        yield file.name


def _wav_fault(file: soundfile.SoundFile) -> str | None:
    after = _NO_CHUNK.search(file.extra_info)
    if after is None:
        return None
    tenth = file.samplerate * file.channels // 10  # at least so many bytes in a tenth of a second
    with contents(file) as raw:
        raw.seek(int(after[1]))
        rest = raw.read(tenth)
    if len(rest) < tenth or rest.startswith((b"ID3", b"TAG")) or not any(rest):
        return None
    return (
        f"holds sound beyond the {file.frames / file.samplerate:.2f} s that its header promises, as stopped "
        "recorders leave it; `sox --ignore-length IN OUT` mends it"
    )


def _ogg_fault(file: BinaryIO) -> str | None:
    size, at = file.seek(0, io.SEEK_END), 0
    last: dict[int, int] = {}  # the number of the last page of each stream that has not ended
    is_body = False
    while at < size:
        file.seek(at)
        head = file.read(27)
        if not head.startswith(b"OggS"):
            return f"is damaged: no page begins at byte {at}" if last else None
        lengths = file.read(head[26]) if len(head) == 27 else b""
        if len(head) < 27 or len(lengths) < head[26] or at + 27 + len(lengths) + sum(lengths) > size:
            return "is cut short: its last page is not all there"
        flags, stream, number = struct.unpack("<5xB8xII", head[:22])
        if flags & _BEGINS and is_body:
            return "holds several recordings in a row, of which only the first can be read"
        if not flags & _BEGINS and number != last.get(stream, number - 1) + 1:
            return f"is damaged: pages are missing before byte {at}"
        is_body = is_body or not flags & _BEGINS
        last[stream] = number
        if flags & _ENDS:
            del last[stream]
        at += 27 + len(lengths) + sum(lengths)
    return None


def _mp3_fault(file: BinaryIO) -> str | None:
    start, kind, _, stated_bytes = _xing(file)
    left_bytes = file.seek(0, io.SEEK_END) - start - stated_bytes
    if not stated_bytes or left_bytes <= 2 * _LARGEST_FRAME:  # some encoders do not count the header's frame
        return None
    file.seek(start + stated_bytes)
    after = file.read(4)
    if after.startswith(b"ID3") or after[:2] == kind:
        return "holds more sound than its header promises, of which only that much can be read"
    return None


def is_of_unknown_length(file: soundfile.SoundFile) -> bool:
    """Whether it is an mp3 without a header that states its length, which must be read as `Endless`."""
    if file.format != "MP3":
        return False
    with contents(file) as raw:
        place = raw.tell()
        frames = _xing(raw)[2]
        raw.seek(place)
    return not frames


def _xing(file: BinaryIO) -> tuple[int, bytes, int, int]:
    """(first byte of an mp3's frames, how frames begin, their number and their bytes; 0 if not stated)."""
    start = 0
    while True:
        file.seek(start)
        head = file.read(200).ljust(200, b"\0")
        if not head.startswith(b"ID3"):
            break
        size = 0
        for byte in head[6:10]:  # seven bits each
            size = size << 7 | byte & 127
        start += 10 + size
    found = re.search(rb"Xing|Info", head[:64])
    if found is None:
        return start, head[:2], 0, 0
    has, *fields = struct.unpack_from(">3I", head, found.end())
    frames = fields.pop(0) if has & 1 else 0
    return start, head[:2], frames, fields[0] if has & 2 else 0


@contextmanager
def quiet() -> Iterator[None]:
    """Without what C libraries write to standard error: libmpg123 misses the frames before a jump, aloud."""
    with _silence:  # of two threads one would bring back the silence of the other
        try:
            errors = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(errors, 2)
            os.close(errors)


class Endless:
    """A file that claims to be endless, so that nothing is concluded from its size.

    Its end is far away and all zeros. So is the rest of what is read across the true end: of a last frame
    that is cut short, as in live recordings, only that rest is lost.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._far = 0  # the position, if it was set from the end

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As for any file."""
        self._far = _FAR + offset if whence == io.SEEK_END else 0
        return self._far or self._file.seek(offset, whence)

    def tell(self) -> int:
        """As for any file."""
        return self._far or self._file.tell()

    def read(self, count: int) -> bytes:
        """As for any file, with the zeros."""
        data = b"" if self._far else self._file.read(count)
        return data.ljust(count, b"\0") if data or self._far else b""
