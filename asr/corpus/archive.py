"""Unpacking tar and zip archives: the folder is complete or absent, and nothing is written outside it."""

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from asr.errors import DownloadError
from asr.files import explained

_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, RuntimeError),  # what zipfile raises for wrong flags, passwords and unknown methods
)


def unpack(
    path: Path, target: Path, *, inner: str = "", progress: Callable[[int, int], None] | None = None
) -> Path:
    """The folder `target` with the archive's folder `inner`; it appears only when it is complete.

    Args:
        path: a zip file, or a tar file with any usual compression.
        target: must not exist yet, or be an empty folder.
        inner: folder inside the archive that becomes `target`; "" for the archive's top.
        progress: called with (bytes of the archive read, its size in bytes).

    Raises:
        DownloadError: the archive is damaged, lacks the folder, or an entry might be written outside it: an
            absolute path, `..`, a link or a device.
        CorpusError: the disk is full.
    """
    workplace = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(workplace, ignore_errors=True)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            for name, content in _entries(path, file):
                _write(workplace / _checked(path, name), content)
                if progress:
                    progress(min(file.tell(), size), size)
        wanted = workplace / _checked(path, inner or ".")
        if not wanted.is_dir():
            raise DownloadError(f"{path} holds no folder {inner!r}: it is another archive than expected")
        with explained(target):
            wanted.replace(target)
    except _DAMAGED as error:
        raise DownloadError(f"{path} is damaged ({error or type(error).__name__}); fetch it again") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return target


def _entries(path: Path, file: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Names of the entries and their content (None: a folder), in the order in which they are stored."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise DownloadError(f"{path} holds a link, {info.filename!r}: refused")
                if info.is_dir():
                    yield info.filename, None
                else:
                    with archive.open(info) as content:
                        yield info.filename, content
        return
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            if not (member.isfile() or member.isdir()):
                raise DownloadError(f"{path} holds a link or a device, {member.name!r}: refused")
            yield member.name, archive.extractfile(member)
        while archive.fileobj and archive.fileobj.read(1 << 20):
            pass  # the checksum of a compressed stream follows the last entry


def _checked(path: Path, name: str) -> Path:
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts or "\0" in name:
        raise DownloadError(f"{path} would write to {name!r}, outside of its folder: refused, nothing kept")
    return Path(*windows.parts)


def _write(path: Path, content: IO[bytes] | None) -> None:
    with explained(path):
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if content is not None:
            with path.open("wb") as file:
                while chunk := _read(content):
                    file.write(chunk)


def _read(content: IO[bytes]) -> bytes:
    """The next bytes; of a damaged archive an EOFError, since an OSError would blame the disk."""
    try:
        return content.read(1 << 20)
    except OSError as error:
        raise EOFError(str(error)) from error
