"""Archives from the net → folders on disk: resumable, checked, and never incomplete.

A transfer goes to `NAME.part` and is renamed when it is complete and its checksum is right. An interrupted
transfer is resumed if the server supports that and says that the file is unchanged. An archive is unpacked
beside its destination and moved there in one step; entries that would be written elsewhere are refused.
"""

import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from asr.corpus.archive import unpack
from asr.errors import DownloadError
from asr.files import explained, locked, whole_file

Progress = Callable[[int, int], None]
"""Called with (bytes done, total bytes); a total of 0 means unknown."""

CHUNK_BYTES = 1 << 20
ATTEMPTS = 5
"""Consecutive tries without a new byte, after which the next mirror is tried."""


@dataclass(frozen=True)
class Archive:
    """A published archive: its mirrors, its checksum and the wanted folder in it."""

    urls: tuple[str, ...]
    """Mirrors of the same file, in order of preference."""
    inner: str
    """Folder inside the archive that is wanted, such as `LibriSpeech/dev-clean`; "" for everything."""
    checksum: str | None = None
    """`sha256:…` or `md5:…` in hex. None if none is published: then that of the first transfer is recorded
    beside the archive, and later transfers must match it."""

    @property
    def name(self) -> str:
        """File name of the archive."""
        return Path(urlsplit(self.urls[0]).path).name


def provide(archive: Archive, target: Path, *, progress: Progress | None = None, wait_s: float = 1.0) -> Path:
    """The folder `target` with the content of the archive, downloaded and unpacked unless it exists.

    Args:
        archive: what to download; an archive already beside `target` is used instead.
        target: becomes the archive's inner folder. It is complete whenever it exists.
        progress: of transfer and unpacking.
        wait_s: pause before the second try, doubled for each further one.

    Raises:
        DownloadError: no mirror has it, it is damaged, or it would write outside its folder.
        CorpusError: the disk is full.
    """
    with locked(target.parent / f".{archive.name}.lock"):
        if target.is_dir():
            return target
        path = target.parent / archive.name
        put_there_by_hand = path.is_file()
        download(archive.urls, path, checksum=archive.checksum, progress=progress, wait_s=wait_s)
        try:
            unpack(path, target, inner=archive.inner, progress=progress)
        except DownloadError:
            _note_of(path).unlink(missing_ok=True)  # the checksum of a damaged archive is useless
            raise
        finally:
            if not put_there_by_hand:
                path.unlink(missing_ok=True)
    return target


def download(
    urls: Sequence[str],
    path: Path,
    *,
    checksum: str | None = None,
    progress: Progress | None = None,
    wait_s: float = 1.0,
    timeout_s: float = 60.0,
) -> Path:
    """The file `path`, downloaded from the first mirror that works; it appears only once verified.

    Args:
        urls: mirrors of one file, http or https.
        path: the destination; an existing file is checked and kept.
        checksum: `sha256:…` or `md5:…`, or None: see `Archive.checksum`.
        progress: called with (bytes done, total bytes).
        wait_s: pause before the second try, doubled for each further one.
        timeout_s: longest time without data from a server.

    Raises:
        DownloadError: no mirror has the file, or the file is not the right one.
        CorpusError: the disk is full.
    """
    checksum = checksum or _noted(path)
    if path.is_file():
        _check(path, checksum, f"delete {path} to fetch it again")
        return path
    failures = []
    for url in urls:
        try:
            part = _Part(path, url, anywhere=checksum is not None)
            _fetch_right(part, checksum, progress=progress, wait_s=wait_s, timeout_s=timeout_s)
            if checksum is None:
                with whole_file(_note_of(path)) as file:
                    file.write(f"sha256:{_digest(part.path, 'sha256')}\n")
            part.finish()
            return path
        except DownloadError as error:
            failures.append(f"\n  {error}")
    raise DownloadError(
        f"{path.name} could not be fetched:{''.join(failures)}\nRun again to go on where it stopped, or put "
        f"the file at {path} yourself"
    )


def _fetch_right(part: "_Part", checksum: str | None, **settings: Any) -> None:
    """Transfer and check; a resumed transfer with a wrong checksum is repeated once from the start."""
    for last in (False, True):
        _fetch(part, **settings)
        try:
            _check(part.path, checksum)
            return
        except DownloadError:
            resumed = part.resumed
            part.discard()
            if last or not resumed:
                raise


def _check(
    path: Path, checksum: str | None, remedy: str = "it is damaged, or not the file it should be"
) -> None:
    if checksum is None:
        return
    kind, _, expected = checksum.partition(":")
    if (found := _digest(path, kind)) != expected.lower():
        name = path.name.removesuffix(".part")
        raise DownloadError(f"{name} has {kind} {found}, expected {expected}: {remedy}")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _noted(path: Path) -> str | None:
    """The recorded checksum of the first transfer, if there was one."""
    note = _note_of(path)
    return note.read_text(encoding="utf-8").strip() if note.is_file() else None


@dataclass
class _Part:
    """A transfer in progress: the bytes so far, and the facts that identify the file."""

    final: Path
    url: str
    anywhere: bool
    """Bytes from another mirror may be continued, because a checksum reveals if they do not match."""
    resumed: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.facts = json.loads(self._note.read_text(encoding="utf-8"))
            same = self.facts["url"] == self.url
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            self.facts = {}
        if not self.anywhere and not self.facts.get("validator"):
            self.discard()
        self.resumed = self.size > 0

    @property
    def path(self) -> Path:
        return self.final.with_name(self.final.name + ".part")

    @property
    def _note(self) -> Path:
        return self.final.with_name(self.final.name + ".part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def request(self) -> urllib.request.Request:
        """The request for the rest of the file if it is unchanged on the server, else for all of it."""
        headers = {"User-Agent": "asr", "Accept-Encoding": "identity"}
        if self.size:
            headers["Range"] = f"bytes={self.size}-"
            if validator := self.facts.get("validator"):
                headers["If-Range"] = validator
        return urllib.request.Request(self.url, headers=headers)

    def begin(self, response: Any) -> int:
        """Prepare to receive a response; returns the size of the whole file, 0 if unknown."""
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else 0
        if response.status == 206:
            start, total = _content_range(response.headers.get("Content-Range", ""))
            known = self.facts.get("total") or total
            if start != self.size or (total and known != total):
                self.discard()
                raise _TransientError(f"asked for the rest, the server sent bytes from {start} of {total}")
            self.resumed, total = True, known
        elif self.size:
            self.path.unlink()
            self.resumed = False
        etag = response.headers.get("ETag", "")
        validator = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        self.facts = {"url": self.url, "validator": validator, "total": total}
        with whole_file(self._note) as file:
            json.dump(self.facts, file)
        return total

    def discard(self) -> None:
        """Delete what was transferred so far."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)
        self.resumed, self.facts = False, {}

    def finish(self) -> None:
        """Give the complete file its final name."""
        self.path.replace(self.final)
        self._note.unlink(missing_ok=True)


class _TransientError(Exception):
    """A failed transfer that may succeed when retried."""


def _fetch(part: _Part, *, progress: Progress | None, wait_s: float, timeout_s: float) -> None:
    """Transfer until the file is complete; tries that bring new bytes do not count as failed."""
    if urlsplit(part.url).scheme not in ("http", "https"):
        raise DownloadError(f"{part.url}: only http and https are fetched")
    failed, most = 0, part.size
    while True:
        try:
            _transfer(part, progress, timeout_s)
            return
        except urllib.error.HTTPError as error:
            reason = f"{error.code} {error.reason}"
            if error.code == 416 and part.size:  # nothing follows what is there: it is complete, or too long
                if part.size == _content_range(error.headers.get("Content-Range", ""))[1]:
                    return
                part.discard()
            elif error.code < 500 and error.code not in (408, 425, 429):
                raise DownloadError(f"{part.url}: {reason}") from error
        except (_TransientError, http.client.HTTPException, OSError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        failed = 0 if part.size > most else failed + 1
        most = max(most, part.size)
        if failed >= ATTEMPTS:
            raise DownloadError(f"{part.url}: {reason}; {failed} tries brought nothing new")
        time.sleep(wait_s * 2 ** max(0, failed - 1))


def _transfer(part: _Part, progress: Progress | None, timeout_s: float) -> None:
    with urllib.request.urlopen(part.request(), timeout=timeout_s) as response:
        total = part.begin(response)
        with explained(part.path):
            file = part.path.open("ab")
        with file:
            while chunk := response.read1(CHUNK_BYTES):
                with explained(part.path):
                    file.write(chunk)
                if progress:
                    progress(file.tell(), total)
    if total and part.size != total:
        raise _TransientError(f"the connection ended after {part.size} of {total} bytes")


def _content_range(header: str) -> tuple[int, int]:
    """First byte and total size of `bytes 5-9/10` or `bytes */10`; −1 and 0 where they are not stated."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", header.strip())
    if not match:
        return -1, 0
    return int(match[1] or -1), int(match[2]) if match[2] != "*" else 0
