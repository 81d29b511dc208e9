"""Atomic file writes, locks between processes, clear errors about what cannot be written; digests, places."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from asr.errors import AsrError, ConfigError, CorpusError

try:
    import fcntl
except ImportError:  # Windows: no locking there
    fcntl = None  # type: ignore[assignment]

_PACKAGE = Path(__file__).resolve().parent


@contextmanager
def whole_file(path: Path, mode: str = "w", *, error: type[AsrError] = CorpusError) -> Iterator[IO[Any]]:
    """A file to write to, which replaces `path` when the block ends, but not if the block fails.

    Args:
        path: the final file; its folder is made if it is missing.
        mode: "w" for UTF-8 text, in which undecodable bytes of file names are written as escapes; or "wb".
        error: raised if the disk is full or the folder cannot be written to.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n", "errors": "backslashreplace"}
    path = Path(os.path.realpath(path))  # a link stays one
    if path.exists() and not path.is_file() and not path.is_dir():  # a device or a pipe
        with explained(path, error), path.open(mode, **text) as file:  # type: ignore[call-overload]
            yield file
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with explained(path, error):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open(mode, **text) as file:  # type: ignore[call-overload]
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        with suppress(OSError):  # not there, or its folder is not a folder
            part.unlink()


@contextmanager
def locked(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Hold the lock file while the block runs; wait while another process holds it.

    The system releases the lock of a process that dies, however it dies.

    Args:
        path: of the lock file.
        busy: do not wait, but raise a ConfigError with this text.
    """
    while True:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        with file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX if busy is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise ConfigError(busy) from error
                except OSError:  # a file system without locks
                    pass
                if not _is_at(path, file):  # its holder has removed it meanwhile
                    continue
            yield
            return


def _is_at(path: Path, file: IO[Any]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def explained(path: Path, error: type[AsrError] = CorpusError) -> Iterator[None]:
    """Turn an OSError about a file that cannot be written into an error that says what to do.

    Raises:
        AsrError: of the given type: the disk is full, the folder is read-only, or the like.
    """
    try:
        yield
    except OSError as why:
        full = why.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = (
            "free some space and run again, it goes on where it stopped" if full else "choose another folder"
        )
        is_no_folder = isinstance(why, FileExistsError)  # where a folder should be made stands a file
        reason = f"{why.filename} is not a folder" if is_no_folder else why.strerror or why
        raise error(f"{path} cannot be written: {reason}; {hint}") from why


def sha256_of(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expanded(path: str) -> str:
    """The path with the home folder for `~`.

    Raises:
        ConfigError: there is no home folder of that name.
    """
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ConfigError(f"{path}: there is no home folder of that name") from error


def home() -> Path:
    """The folder that holds `conf/` and `recipes/`: the source checkout, or the data of an installed wheel.

    Raises:
        ConfigError: neither is there, so the installation is damaged.
    """
    for place in (_PACKAGE.parent, _PACKAGE / "_data"):
        if (place / "conf" / "config.yaml").is_file():
            return place
    raise ConfigError(f"no conf/ beside or inside {_PACKAGE}: the installation is damaged, install again")
