"""Downloads from a server that misbehaves in every way."""

import contextlib
import hashlib
import io
import json
import re
import resource
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from asr.corpus.download import Archive, download, provide
from asr.errors import CorpusError, DownloadError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content`, and misbehaves as `script` says: one entry a request, the last one for ever."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.script, self.log = CONTENT, ["good"], []
        self.wait = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/files/a.tar.gz"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        manner = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        server.log.append((manner, self.headers.get("Range")))
        content, start = server.content, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and manner not in ("no ranges", "break, no ranges"):
            start = int(asked[1])
        if manner == "silence":
            server.wait.wait(5)
            self.close_connection = True
            return
        if manner.isdigit():
            self.send_error(int(manner))
            return
        if start >= len(content):
            self.answer(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": 0}, b"")
            return
        headers = {"Content-Length": len(content) - start}
        status = 200
        if start:
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        if manner.startswith("break"):
            body = body[: 100_000 if manner != "break at once" else 0]
        elif manner == "says too much":
            headers["Content-Length"] = len(body) + 1000
        elif manner == "says too little":
            headers["Content-Length"] = len(body) - 1000
        elif manner == "no length":
            del headers["Content-Length"]
        elif manner == "wrong range" and start:
            headers["Content-Range"] = f"bytes 5-{len(content) - 1}/{len(content)}"
        elif manner == "damaged":
            body = b"x" * len(body)
        self.answer(status, headers, body)

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("asr.corpus.download.WAIT_S", 0.001)
    monkeypatch.setattr("asr.corpus.download.TIMEOUT_S", 5)


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server, path, urls=None, checksum=SHA256, **kw):
    return download(urls or [server.url], path, checksum=checksum, **kw)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_a_file_arrives_whole_and_alone(server, tmp_path, checksum):
    seen = []
    path = get(server, tmp_path / "new" / "a", checksum=checksum, progress=lambda *x: seen.append(x))
    assert path.read_bytes() == CONTENT
    assert names(tmp_path / "new") == ["a"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize(
    "script",
    [
        ["break", "break", "good"],
        ["break at once", "good"],
        ["break", "break at once", "break at once", "break", "good"],
        ["503", "429", "500", "good"],
        ["break", "no ranges"],
        ["break", "wrong range", "good"],
        ["says too much", "good"],
        ["no length"],
        ["break", "no length"],
    ],
    ids=" ".join,
)
def test_what_a_bad_connection_brings_in_pieces_is_the_whole_file(server, tmp_path, script):
    server.script = list(script)
    assert get(server, tmp_path / "a").read_bytes() == CONTENT
    assert names(tmp_path) == ["a"]


def test_a_broken_transfer_goes_on_in_a_later_run_instead_of_starting_over(server, tmp_path):
    server.script = ["break", "404"]
    with pytest.raises(DownloadError, match=r"404 Not Found(.|\n)*Run again to go on"):
        get(server, tmp_path / "a")
    assert names(tmp_path) == ["a.part"]
    server.script, server.log = ["good"], []
    assert get(server, tmp_path / "a").read_bytes() == CONTENT
    assert server.log == [("good", "bytes=100000-")]


def test_a_file_that_changed_in_between_is_fetched_anew(server, tmp_path):
    server.content = b"old" * 50_000
    server.script = ["break", "404"]
    with pytest.raises(DownloadError):
        get(server, tmp_path / "a")
    server.content, server.script = CONTENT, ["good"]
    assert get(server, tmp_path / "a").read_bytes() == CONTENT


def test_a_damaged_beginning_is_found_by_the_checksum_and_fetched_again(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"?" * 1000)
    assert get(server, tmp_path / "a").read_bytes() == CONTENT
    assert [entry[1] for entry in server.log] == ["bytes=1000-", None]


def test_a_part_that_is_whole_already_needs_no_bytes(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT)
    assert get(server, tmp_path / "a").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_fetched_again(server, tmp_path):
    (tmp_path / "a.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path / "a").read_bytes() == CONTENT


def test_a_part_that_is_too_long_does_not_make_later_tries_count_as_failed(server, tmp_path):
    (tmp_path / "a.part").write_bytes(bytes(40 * len(CONTENT)))
    server.content = np.random.default_rng(1).bytes(900_000)
    server.script = ["break"]
    checksum = "sha256:" + hashlib.sha256(server.content).hexdigest()
    assert get(server, tmp_path / "a", checksum=checksum).read_bytes() == server.content
    assert len(server.log) > 8


@pytest.mark.parametrize("manner", ["404", "damaged", "says too little", "break at once"])
def test_the_next_mirror_is_asked_when_one_fails(server, tmp_path, manner):
    with Server() as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.script = [manner]
        path = get(server, tmp_path / "a", urls=[server.url, other.url])
        other.shutdown()
        thread.join()
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["a"]


FAILURES = {
    "404": r"404 Not Found",
    "403": r"403 Forbidden",
    "503": r"503 .*; 5 tries brought nothing new",
    "break at once": r"the connection ended after 0 of 300000 bytes; 5 tries",
    "break, no ranges": r"the connection ended after 100000 of 300000 bytes; 5 tries",
    "damaged": r"a has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}: it is damaged",
}


@pytest.mark.parametrize("manner", FAILURES)
def test_what_cannot_be_fetched_is_an_error_that_names_every_mirror_and_reason(server, tmp_path, manner):
    server.script = [manner]
    urls = [server.url, server.url + "?mirror"]
    with pytest.raises(DownloadError, match=FAILURES[manner]) as caught:
        get(server, tmp_path / "a", urls=urls)
    assert str(caught.value).count("\n  ") == 2
    assert not (tmp_path / "a").exists()


def test_a_server_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DownloadError, match="refused"):
        download(["http://127.0.0.1:9/a"], tmp_path / "a", checksum=SHA256)


def test_a_server_that_falls_silent_is_asked_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr("asr.corpus.download.TIMEOUT_S", 0.5)
    server.script = ["silence", "good"]
    path = download([server.url], tmp_path / "a", checksum=SHA256)
    server.wait.set()
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "a.tar.gz"])
def test_only_the_web_is_fetched_from(tmp_path, url):
    with pytest.raises(DownloadError, match="only http and https"):
        download([url], tmp_path / "a", checksum=SHA256)


def test_a_file_that_is_there_is_checked_and_kept(server, tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    get(server, tmp_path / "a")
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"delete .*a to fetch it again"):
        get(server, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"mine"
    assert server.log == []


def test_a_folder_that_cannot_be_written_to_is_an_error(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="cannot be written"):
        get(server, tmp_path / "file" / "a")


def test_a_disk_that_is_full_at_the_very_end_is_not_taken_for_a_bad_connection(server, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) - 100, limits[1]))
    try:
        with pytest.raises(CorpusError, match="free some space"):
            get(server, tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert get(server, tmp_path / "a").read_bytes() == CONTENT


FILES = {"top/inner/a.wav": b"sound", "top/inner/deep/b.txt": b"text", "top/other/c": b"else"}


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def archive_of(server, tmp_path):
    with tarfile.open(tmp_path / "source", "w:gz") as archive:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    server.content = (tmp_path / "source").read_bytes()
    digest = "sha256:" + hashlib.sha256(server.content).hexdigest()
    return Archive((server.url,), "top/inner", digest)


def test_a_corpus_is_provided_once_and_its_archive_removed(server, tmp_path):
    archive = archive_of(server, tmp_path)
    for _ in range(2):
        folder = provide(archive, tmp_path / "data" / "corpus")
        assert tree(folder) == {"a.wav": b"sound", "deep/b.txt": b"text"}
    assert len(server.log) == 1
    assert [n for n in names(tmp_path / "data") if not n.startswith(".")] == ["corpus"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, CorpusError])
def test_what_was_fetched_is_not_fetched_again_if_unpacking_is_stopped(server, tmp_path, monkeypatch, stop):
    archive = archive_of(server, tmp_path)

    def fail(*given, **settings):
        raise stop("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(stop):
        patched.setattr("asr.corpus.download.unpack", fail)
        provide(archive, tmp_path / "data" / "corpus")
    provide(archive, tmp_path / "data" / "corpus")
    assert [n for n in names(tmp_path / "data") if not n.startswith(".")] == ["corpus"]
    assert [bytes_wanted for _, bytes_wanted in server.log] == [None, f"bytes={len(server.content)}-"]


def test_an_archive_put_there_by_hand_is_used_and_kept(server, tmp_path):
    archive = archive_of(server, tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.tar.gz").write_bytes(server.content)
    provide(archive, tmp_path / "data" / "corpus")
    assert server.log == [] and (tmp_path / "data" / "a.tar.gz").exists()


def test_several_processes_that_need_a_corpus_fetch_it_once(server, tmp_path):
    archive = archive_of(server, tmp_path)
    threads = [
        threading.Thread(target=provide, args=(archive, tmp_path / "data" / "corpus")) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.log) == 1
    assert json.dumps(names(tmp_path / "data" / "corpus")) == '["a.wav", "deep"]'
