"""Archives from the net → folders on disk: resumable, checked, and never incomplete.

A transfer goes to `NAME.part` and is renamed when it is complete and its checksum is right. An interrupted
transfer is resumed; if the file has changed meanwhile, its checksum shows that, and it is fetched anew. An
archive is unpacked beside its destination and moved there in one step; entries that would be written
elsewhere are refused.
"""

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from asr.corpus.archive import unpack
from asr.errors import CorpusError, DownloadError
from asr.files import explained, locked

Progress = Callable[[int, int], None]
"""Called with (bytes done, total bytes); a total of 0 means unknown."""

CHUNK_BYTES = 1 << 20
ATTEMPTS = 5
"""Consecutive tries without a new byte, after which the next mirror is tried."""
WAIT_S = 1.0
"""Pause before the second try, doubled for each further one."""
TIMEOUT_S = 60.0
"""Longest time without data from a server."""


@dataclass(frozen=True)
class Archive:
    """A published archive: its mirrors, its checksum and the wanted folder in it."""

    urls: tuple[str, ...]
    """Mirrors of the same file, in order of preference."""
    inner: str
    """Folder inside the archive that is wanted, such as `LibriSpeech/dev-clean`; "" for everything."""
    checksum: str
    """`sha256:…` or `md5:…` in hex."""

    @property
    def name(self) -> str:
        """File name of the archive."""
        return Path(urlsplit(self.urls[0]).path).name


def provide(archive: Archive, target: Path, *, progress: Progress | None = None) -> Path:
    """The folder `target` with the content of the archive, downloaded and unpacked unless it exists.

    Args:
        archive: what to download; an archive already beside `target` is used instead.
        target: becomes the archive's inner folder. It is complete whenever it exists.
        progress: of transfer and unpacking.

    Raises:
        DownloadError: no mirror has it, it is damaged, or it would write outside its folder.
        CorpusError: the disk is full.
    """
    with locked(target.parent / f".{archive.name}.lock"):
        if target.is_dir():
            return target
        path = target.parent / archive.name
        put_there_by_hand = path.is_file()
        download(archive.urls, path, checksum=archive.checksum, progress=progress)
        try:
            unpack(path, target, inner=archive.inner, progress=progress)
        except (CorpusError, KeyboardInterrupt) as error:
            if not put_there_by_hand:
                if isinstance(error, DownloadError):  # of no use
                    path.unlink()
                else:
                    path.replace(_part(path))  # nothing of it is fetched again
            raise
        if not put_there_by_hand:
            path.unlink()
    return target


def download(urls: Sequence[str], path: Path, *, checksum: str, progress: Progress | None = None) -> Path:
    """The file `path`, downloaded from the first mirror that works; it appears only once verified.

    Args:
        urls: mirrors of one file, http or https.
        path: the destination; an existing file is checked and kept.
        checksum: `sha256:…` or `md5:…`.
        progress: called with (bytes done, total bytes).

    Raises:
        DownloadError: no mirror has the file, or the file is not the right one.
        CorpusError: the disk is full.
    """
    if path.is_file():
        _check(path, checksum, f"delete {path} to fetch it again")
        return path
    part = _part(path)
    with explained(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in urls:
        try:
            _fetch_right(url, part, checksum, progress)
            return part.replace(path)
        except DownloadError as error:
            failures.append(f"\n  {error}")
    raise DownloadError(
        f"{path.name} could not be fetched:{''.join(failures)}\nRun again to go on where it stopped, or put "
        f"the file at {path} yourself"
    )


def _fetch_right(url: str, part: Path, checksum: str, progress: Progress | None) -> None:
    """Transfer and check; a resumed transfer with a wrong checksum is repeated once from the start."""
    for last in (False, True):
        was_resumed = _fetch(url, part, progress)
        try:
            _check(part, checksum)
            return
        except DownloadError:
            part.unlink()
            if last or not was_resumed:
                raise


def _check(path: Path, checksum: str, remedy: str = "it is damaged, or not the file it should be") -> None:
    kind, _, expected = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if found != expected.lower():
        name = path.name.removesuffix(".part")
        raise DownloadError(f"{name} has {kind} {found}, expected {expected}: {remedy}")


class _TransientError(Exception):
    """A failed transfer that may succeed when retried."""


def _fetch(url: str, part: Path, progress: Progress | None) -> bool:
    """Transfer until the file is complete; returns whether bytes of an earlier transfer may be in it.

    Tries that bring new bytes do not count as failed.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url}: only http and https are fetched")
    failed, most, was_resumed = 0, _size(part), False
    while True:
        was_resumed |= _size(part) > 0
        try:
            _transfer(url, part, progress)
            return was_resumed
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.reason}"
            if error.code == 416 and _size(part):  # nothing follows: it is complete, or too long
                if _size(part) == _content_range(error.headers.get("Content-Range", ""))[1]:
                    return was_resumed
                part.unlink()
                most = 0
            elif error.code < 500 and error.code not in (408, 425, 429):
                raise DownloadError(f"{url}: {reason}") from error
        except (_TransientError, http.client.HTTPException, OSError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failed = 0 if _size(part) > most else failed + 1  # also if it was too long, and was removed
        most = max(most, _size(part))
        if failed >= ATTEMPTS:
            raise DownloadError(f"{url}: {reason}; {failed} tries brought nothing new")
        time.sleep(WAIT_S * 2 ** max(0, failed - 1))


def _transfer(url: str, part: Path, progress: Progress | None) -> None:
    size = _size(part)
    headers = {"User-Agent": "asr", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers | ({"Range": f"bytes={size}-"} if size else {}))
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        length = response.headers.get("Content-Length", "")
        start, total = 0, int(length) if length.isdigit() else 0
        if response.status == 206:
            start, total = _content_range(response.headers.get("Content-Range", ""))
        if start not in (0, size):
            part.unlink()
            raise _TransientError(f"asked for the rest, the server sent bytes from {start} of {total}")
        with explained(part):
            file = part.open("ab" if start else "wb", buffering=0)  # so that a full disk is noticed here
        with file:
            while chunk := response.read1(CHUNK_BYTES):
                with explained(part):
                    file.write(chunk)
                if progress:
                    progress(file.tell(), total)
    if total and _size(part) != total:
        raise _TransientError(f"the connection ended after {_size(part)} of {total} bytes")


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _content_range(header: str) -> tuple[int, int]:
    """First byte and total size of `bytes 5-9/10` or `bytes */10`; −1 and 0 where they are not stated."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", header.strip())
    if not match:
        return -1, 0
    return int(match[1] or -1), int(match[2]) if match[2] != "*" else 0
