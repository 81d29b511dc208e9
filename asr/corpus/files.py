"""Files that are whole or not there, and work that only one process does at a time."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from asr.errors import CorpusError

try:
    import fcntl
except ImportError:  # Windows: nobody is kept out there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write to that takes the place of `path` when the block ends, and never if it fails.

    Raises:
        CorpusError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
        with explained(path), part.open(mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Run the block while no other process runs one with the same lock file; wait for it if need be.

    The system frees the lock of a process that dies, however it dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a full disk into an error that says so; other errors pass.

    Raises:
        CorpusError: the disk or the quota is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CorpusError(
                f"{path} cannot be written: {error.strerror}; free some space and run the same command "
                "again, it goes on where it stopped"
            ) from error
        raise
