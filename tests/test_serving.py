"""The service, asked over HTTP on this machine."""

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from tone_model import spoken, tone_model

pytest.importorskip("uvicorn", reason="the service needs asr[serve]")
from service import Echo, serving, wav

from asr.errors import ConfigError, DecodingError
from asr.jobs import serve as jobs
from asr.jobs.serve import serve
from asr.serving.service import PAGE


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving(Echo()) as opened:
        yield opened


def ask(client: httpx.Client, data: bytes | None = None, *, name: str = "a.wav", **fields) -> httpx.Response:
    file = {"file": (name, wav() if data is None else data)}
    return client.post("/v1/audio/transcriptions", files=file, data={"model": "tones"} | fields)


def test_every_response_format_says_the_same(client):
    assert ask(client).json() == {"text": "one two"}
    assert ask(client, response_format="text").text == "one two\n"
    assert "00:00:00,100 --> 00:00:00,750\none two" in ask(client, response_format="srt").text
    assert ask(client, response_format="vtt").text.startswith("WEBVTT\n\n00:00:00.100 --> 00:00:00.750\n")
    said = ask(client, response_format="verbose_json").json()
    assert [(w["word"], w["start"], w["end"]) for w in said["words"]] == [
        ("one", 0.1, 0.4),
        ("two", 0.5, 0.75),
    ]
    assert (said["text"], said["duration"], said["segments"][0]["text"]) == ("one two", 1.0, "one two")
    only = ask(client, response_format="verbose_json", **{"timestamp_granularities[]": "segment"}).json()
    assert "words" not in only


def test_the_service_hears_what_the_model_hears():
    model = tone_model()
    samples = spoken("abc dab c", seed=3)
    with serving(model) as client:
        said = ask(client, wav(samples, subtype="FLOAT"), response_format="verbose_json").json()
    offline = model.transcribe(samples)
    assert said["text"] == offline.text != ""
    assert [(w["word"], w["start"], w["end"]) for w in said["words"]] == [
        (w.text, w.start_s, w.end_s) for w in offline.words
    ]


def test_models_health_and_page(client):
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["tones"]
    assert client.get("/v1/models/tones").json()["object"] == "model"
    assert client.get("/healthz").json() == {"status": "ok"}
    head = client.head("/healthz")  # how some load balancers ask
    assert (head.status_code, head.content) == (200, b"")
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    files = [path.name for path in PAGE.iterdir() if path.name != "index.html"]
    parts = [page.text, *(client.get(name).raise_for_status().text for name in files)]
    assert all(name in "".join(parts) for name in files)
    assert not re.search(r"https?://|//cdn", "".join(parts)), "the page asks no other host"


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"", "a.wav", "empty"),
        (b"this is no sound", "notes.wav", "notes.wav"),
        (wav()[:200], "a.wav", "cut short"),
        (wav(np.full(100, np.nan), subtype="FLOAT"), "a.wav", "not numbers"),
    ],
)
def test_what_is_no_recording_is_answered_400_with_a_reason(client, data, name, words):
    response = ask(client, data, name=name)
    error = response.json()["error"]
    assert response.status_code == 400
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert "/tmp" not in response.text and "Traceback" not in response.text


@pytest.mark.parametrize(
    "sound",
    [
        wav(np.zeros(80)),
        wav(np.zeros((4000, 7))),
        wav(np.zeros(9600), rate_hz=192_000),
        wav(np.zeros(8000), rate_hz=16_000, form="FLAC"),
    ],
)
def test_odd_recordings_are_answered(client, sound):
    assert ask(client, sound).status_code == 200


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"response_format": "docx"}, 400, "response_format"),
        ({"timestamp_granularities[]": "letter"}, 400, "timestamp_granularities"),
        ({"stream": "true"}, 400, "stream"),
        ({"model": "gpt-4o-transcribe"}, 404, "model"),
    ],
)
def test_wishes_that_cannot_be_met_are_named(client, fields, status, param):
    response = ask(client, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param)


def test_a_request_without_a_file_or_form_is_refused(client):
    assert client.post("/v1/audio/transcriptions", data={"model": "tones"}).status_code == 400
    assert client.post("/v1/audio/transcriptions", content=b"{}").status_code == 400
    form = {"content-type": "application/x-www-form-urlencoded"}  # as curl --data-binary sends it
    bare = client.post("/v1/audio/transcriptions", content=b"RIFF&" * 40, headers=form)
    assert bare.status_code == 400 and "curl -F file=@recording.wav" in bare.json()["error"]["message"]
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/v1/audio/transcriptions", content=b"nonsense", headers=broken).status_code == 400
    assert client.get("/nothing").status_code == 404


def test_failures_inside_leak_nothing_and_the_service_lives_on(client):
    response = ask(client, wav(np.zeros(1234)))
    assert response.status_code == 500
    assert "secret" not in response.text
    assert ask(client).status_code == 200


def test_uploads_beyond_the_limit_are_refused_with_and_without_a_stated_length():
    def chunks() -> Iterator[bytes]:
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        yield from [head, *[b"0" * 5000] * 3, b"\r\n--x--\r\n"]

    with serving(Echo(), upload_bytes=10_000) as client:
        assert ask(client, wav(np.zeros(6000))).status_code == 413
        headers = {"content-type": "multipart/form-data; boundary=x"}
        response = client.post("/v1/audio/transcriptions", content=chunks(), headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_large")
        assert ask(client, wav(np.zeros(100))).status_code == 200


def test_recordings_beyond_the_limit_are_refused_before_they_are_read():
    with serving(model := Echo(), longest_s=1.0) as client:
        response = ask(client, wav(np.zeros(20_000), rate_hz=16_000, form="FLAC"))
        assert (response.status_code, response.json()["error"]["code"]) == (413, "too_long")
        assert not model.batches
        assert ask(client, wav(np.zeros(16_000), rate_hz=16_000, form="FLAC")).status_code == 200


def test_a_token_is_asked_for_where_one_is_set():
    with serving(Echo(), token="geheim ü") as client:
        assert ask(client).status_code == client.get("/v1/models").status_code == 401
        assert client.get("/healthz").status_code == 200
        client.headers["authorization"] = "Bearer wrong"
        assert ask(client).status_code == 401
        client.headers["authorization"] = "bearer geheim ü"
        assert ask(client).status_code == 200


def test_load_is_batched_and_beyond_the_queue_answered_503():
    model = Echo()
    with serving(model, waiting=4) as client, ThreadPoolExecutor(12) as pool:
        model.go.clear()
        first = pool.submit(ask, client)
        while not model.batches:
            time.sleep(0.01)
        rest = [pool.submit(ask, client) for _ in range(10)]
        while sum(answer.done() for answer in rest) < 6:
            time.sleep(0.01)
        model.go.set()
        statuses = sorted(answer.result().status_code for answer in [first, *rest])
        assert statuses == [200] * 5 + [503] * 6
        assert model.batches == [1, 4]
        counts = dict(re.findall(r'asr_requests_total\{status="(\d+)"\} (\d+)', client.get("/metrics").text))
        assert counts == {"200": "5", "503": "6"}


def test_metrics_are_in_the_form_that_prometheus_reads(client):
    ask(client)
    lines = client.get("/metrics").text.splitlines()
    typed = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    samples = [
        re.fullmatch(r'([a-z_]+)(?:\{\w+="[^"]*"\})? (\d+(?:\.\d+)?)', x) for x in lines if x[0] != "#"
    ]
    assert all(samples)
    names = {re.sub(r"_(bucket|sum|count)$", "", s[1]) for s in samples if s}
    assert names <= set(typed)
    buckets = [float(s[2]) for s in samples if s and s[1] == "asr_request_seconds_bucket"]
    assert buckets == sorted(buckets) and buckets[-1] >= 1


def test_an_address_that_is_taken_or_none_is_a_clear_error_and_bad_settings_stop_the_start():
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(ConfigError, match="choose another --host or --port"):
        serve(tone_model(), name="tones", port=taken.getsockname()[1])
    with pytest.raises(ConfigError, match=r"nobody can listen at no\.such\.host"):
        serve(tone_model(), name="tones", host="no.such.host.invalid", token="secret")
    with pytest.raises(DecodingError, match="expected greedy, beam"):
        serve(tone_model(), name="tones", port=0, decoder="magic")


def test_the_address_that_is_told_can_be_opened(monkeypatch, capsys):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    for host, told in [("::1", r"http://\[::1\]:\d+ "), ("127.0.0.1", r"http://127\.0\.0\.1:\d+ ")]:
        with socket.create_server(("127.0.0.1", 0)) as door:
            monkeypatch.setattr(jobs, "_listening", lambda *_, door=door: door)
            serve(tone_model(), name="tones", host=host)
        assert re.search(told, capsys.readouterr().err)
