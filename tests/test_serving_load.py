"""Many clients at once, and clients that leave: everybody has an answer, and nothing stays behind."""

import contextlib
import re
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tone_model import spoken, tone_model
from tones import sentences

pytest.importorskip("uvicorn", reason="the service needs asr[serve]")
from service import Echo, Running, running, wav

from asr.errors import AudioError

HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
LARGE = wav() + b"\0" * 3_000_000  # uploads beyond a megabyte lie in a file


@pytest.fixture
def uploads(tmp_path, monkeypatch) -> Path:
    """Where this process keeps temporary files, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def open_in(folder: Path) -> int:
    """Files of a folder that this process holds open, with or without a name."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            targets.append(str(descriptor.readlink()))
    return sum(target.startswith(str(folder)) for target in targets)


def wait_until(holds) -> None:
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come true within ten seconds")


def connect(service: Running, body: bytes, *, length: int | None = None) -> socket.socket:
    """A client that has sent this much of a request."""
    opened = socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])))
    opened.sendall(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: here\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n"
        + f"Content-Length: {length or len(body)}\r\n\r\n".encode()
        + body
    )
    return opened


def metric(service: Running, line: str) -> int:
    found = re.search(
        rf"^{re.escape(line)} (\d+)", httpx.get(f"{service.url}/metrics", trust_env=False).text, re.M
    )
    return int(found[1]) if found else 0


def test_sixty_four_clients_at_once_each_have_their_own_text():
    texts = (sentences(64, seed=7) * 2)[:128]
    model = tone_model()
    sounds = [wav(spoken(text, seed=i, pause_s=0.1), subtype="FLOAT") for i, text in enumerate(texts)]
    alone = [t.text for t in model.transcribe_many(sounds)]
    with running(model) as service, httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:

        def ask(sound: bytes) -> str:
            files = {"file": ("a.wav", sound)}
            return client.post("/v1/audio/transcriptions", files=files).raise_for_status().json()["text"]

        with ThreadPoolExecutor(64) as pool:
            assert list(pool.map(ask, sounds)) == alone
        assert metric(service, 'asr_requests_total{status="200"}') == len(sounds)
        assert metric(service, "asr_batch_recordings_count") < len(sounds), "requests are recognised together"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_a_client_that_leaves_in_the_middle_of_an_upload_leaves_nothing(uploads):
    with running(Echo()) as service:
        for _ in range(5):
            client = connect(service, HEAD + LARGE, length=10 * len(LARGE))
            wait_until(lambda: open_in(uploads) == 1)
            client.close()
            wait_until(lambda: open_in(uploads) == 0)
        assert list(uploads.iterdir()) == []
        wait_until(lambda: metric(service, 'asr_requests_total{status="499"}') == 5)
        assert metric(service, "asr_waiting_recordings") == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_what_nobody_waits_for_any_more_is_not_recognised(uploads):
    model = Echo()
    body = HEAD + LARGE + b"\r\n--x--\r\n"
    with running(model) as service:
        model.go.clear()
        first = connect(service, HEAD + wav() + b"\r\n--x--\r\n")
        wait_until(lambda: model.batches == [1])
        left = [connect(service, body) for _ in range(3)]
        wait_until(lambda: metric(service, "asr_waiting_recordings") == 3)
        for client in left:
            client.close()
        wait_until(lambda: metric(service, 'asr_requests_total{status="499"}') == 3)
        model.go.set()
        assert first.recv(15) == b"HTTP/1.1 200 OK"
        first.close()
        wait_until(lambda: metric(service, "asr_waiting_recordings") == 0)
        assert model.batches == [1]
        assert open_in(uploads) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_a_client_that_leaves_while_it_is_recognised_takes_its_recording_along(uploads):
    heard = []

    class Noting(Echo):
        def outcomes(self, sources):
            for outcome in super().outcomes(sources):
                heard.append(outcome)
                yield outcome

    model = Noting()
    with running(model) as service:
        model.go.clear()
        client = connect(service, HEAD + LARGE + b"\r\n--x--\r\n")
        wait_until(lambda: model.batches == [1])
        client.close()
        wait_until(lambda: metric(service, 'asr_requests_total{status="499"}') == 1)
        assert open_in(uploads) == 0
        model.go.set()
        wait_until(lambda: heard)
        assert isinstance(heard[0], AudioError)


def test_uploads_that_do_not_go_on_are_bounded_and_ended():
    def status() -> int:
        files = {"file": ("a.wav", wav())}
        return httpx.post(f"{service.url}/v1/audio/transcriptions", files=files, trust_env=False).status_code

    with running(Echo(), waiting=8, idle_s=2.0) as service:
        slow = [connect(service, HEAD, length=1_000_000) for _ in range(7)]
        assert status() == 200
        slow.append(connect(service, HEAD, length=1_000_000))
        wait_until(lambda: status() == 503)
        for client in slow:
            assert client.recv(12) == b"HTTP/1.1 408"
            client.close()
        assert status() == 200
        assert metric(service, 'asr_requests_total{status="408"}') == 8


def test_recognition_may_take_longer_than_an_upload_may_be_idle():
    model = Echo()
    with running(model, idle_s=0.2) as service:
        model.go.clear()
        threading.Timer(1.5, model.go.set).start()
        files = {"file": ("a.wav", wav())}
        answer = httpx.post(f"{service.url}/v1/audio/transcriptions", files=files, trust_env=False)
        assert answer.json() == {"text": "one two"}
