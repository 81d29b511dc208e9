"""Files of sentences and models, compressed or not, as bytes and lines."""

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from asr.errors import TextError

_MAGIC: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
UNREADABLE = (EOFError, OSError, zlib.error, lzma.LZMAError)
"""Raised for a file that is missing, truncated or damaged."""


@contextmanager
def open_bytes(path: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of a file (`-` = standard input), decompressed if they begin like gzip, bzip2 or xz."""
    with ExitStack() as stack:
        file = sys.stdin.buffer if str(path) == "-" else stack.enter_context(Path(path).open("rb"))
        head = cast(io.BufferedReader, file).peek(6)
        for magic, opener in _MAGIC.items():
            if head.startswith(magic):
                inner = stack.enter_context(opener(file, "rb"))
                file = stack.enter_context(io.BufferedReader(inner, buffer_size=1 << 20))
                break
        yield file


def read_sentences(paths: str | Path | Iterable[str | Path]) -> Iterator[str]:
    """The lines of text files, one sentence each, in order; `-` is standard input.

    An empty line is a sentence without words. UTF-8 is expected; gzip, bzip2, xz are recognised by content.

    Raises:
        TextError: a file that cannot be opened, decompressed or decoded, with the line number.
    """
    for path in [paths] if isinstance(paths, str | Path) else paths:
        number = 0
        try:
            with open_bytes(path) as file:
                for number, line in enumerate(file, start=1):
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise TextError(f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file") from error
        except FileNotFoundError as error:
            raise TextError(f"{path} does not exist; a file with a sentence a line was expected") from error
        except IsADirectoryError as error:
            raise TextError(f"{path} is a folder; a file with a sentence a line was expected") from error
        except UNREADABLE as error:
            raise TextError(f"{path}, after line {number}: cannot be read ({error})") from error
