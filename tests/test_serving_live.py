"""Streams over a WebSocket, by an independent client, against a running server."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR, create_server
from typing import Any

import numpy as np
import pytest
from tone_model import spoken, tone_model
from tones import RATE_HZ

from asr import audio
from asr.jobs import serve as jobs
from asr.streaming import TranscriptStream
from asr.transcript import Partial

uvicorn = pytest.importorskip("uvicorn", reason="the service needs asr[serve]")
client_of = pytest.importorskip("websockets.sync.client", reason="the service needs asr[serve]")
from service import Running, hosted  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.routing import WebSocketRoute  # noqa: E402
from starlette.websockets import WebSocket  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

from asr.serving.live import PATH, Live, LiveConfig  # noqa: E402
from asr.serving.service import ServingConfig, create_app  # noqa: E402

SAMPLES = spoken("abc dab c", seed=3)
PCM = (SAMPLES * 32767).astype("<i2").tobytes()
END = json.dumps({"type": "end"})


def address_of(service: Running) -> str:
    return f"{service.url.replace('http', 'ws')}{PATH}"


@contextmanager
def serving(**bounds: Any) -> Iterator[tuple[str, Live]]:
    live = Live(tone_model(bidirectional=False), config=LiveConfig(**bounds))
    with hosted(Starlette(routes=[WebSocketRoute(PATH, live.serve)])) as service:
        yield address_of(service), live


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, Live]]:
    with serving() as opened:
        yield opened


def connect(address: str, **options: Any) -> Any:
    return client_of.connect(address, proxy=None, **options)


def converse(address: str, pcm: bytes, block: int = 1600, *, rate_hz: int = RATE_HZ) -> list[dict[str, Any]]:
    """All messages of the service while the sound is sent block by block."""
    with connect(f"{address}?sample_rate={rate_hz}") as socket:
        for i in range(0, len(pcm), block):
            socket.send(pcm[i : i + block])
        socket.send(END)
        return [json.loads(message) for message in socket]


def error_of(address: str, *messages: str | bytes, query: str = "", **options: Any) -> tuple[str, str, int]:
    """(code, message, closing code) with which the service ends a stream."""
    with connect(address + query, **options) as socket:
        received: list[dict[str, Any]] = []
        with suppress(ConnectionClosed):
            for message in messages:
                socket.send(message)
        with suppress(ConnectionClosed):
            while True:
                received.append(json.loads(socket.recv()))
        assert received[-1]["type"] == "error"
        return received[-1]["code"], received[-1]["message"], socket.close_code


def test_words_come_while_they_are_said_and_make_the_transcript(service) -> None:
    address, live = service
    offline = tone_model(bidirectional=False).transcribe(np.frombuffer(PCM, "<i2").astype(np.float32) / 32768)
    for block in (160, 1600, 1601, len(PCM)):  # a message may end within a sample
        *partials, final = converse(address, PCM, block)
        assert {m["type"] for m in partials} == {"partial"} and final["type"] == "final"
        assert final["text"] == offline.text == "abc dab c"
        assert [(w["word"], w["start"], w["end"]) for w in final["words"]] == [
            (w.text, w.start_s, w.end_s) for w in offline.words
        ]
        assert final["duration"] == round(offline.duration_s, 3)
        assert final["text"].startswith("".join(m["stable"] for m in partials))
        words = [word for m in partials for word in m["words"]]
        assert words == final["words"][: len(words)]
        heard = [m["heard"] for m in partials]
        assert heard == sorted(heard)
        if block < len(PCM):
            assert len(words) >= 2 and partials[0]["heard"] < 0.5
    assert live.open == 0


def test_other_rates_are_taken(service) -> None:
    samples = audio.resample(SAMPLES, RATE_HZ, 22_050)
    *_, final = converse(service[0], (samples * 32767).astype("<i2").tobytes(), 4410, rate_hz=22_050)
    assert final["text"] == "abc dab c"
    assert final["duration"] == pytest.approx(len(SAMPLES) / RATE_HZ, abs=0.01)


def test_a_stream_without_sound_ends_with_nothing(service) -> None:
    [final] = converse(service[0], b"")
    assert (final["type"], final["text"], final["words"], final["duration"]) == ("final", "", [], 0)


def test_many_streams_at_once_do_not_mix(service) -> None:
    texts = ["abc dab c", "d cab", "ba ba dad", "cc"] * 3
    sounds = [(spoken(t, seed=i) * 32767).astype("<i2") for i, t in enumerate(texts)]
    with ThreadPoolExecutor(len(texts)) as pool:
        said = list(pool.map(lambda pcm: converse(service[0], pcm.tobytes(), 800)[-1]["text"], sounds))
    model = tone_model(bidirectional=False)
    assert said == [model.transcribe(pcm.astype(np.float32) / 32768).text for pcm in sounds]
    assert len(set(said)) >= 4
    assert service[1].open == 0


@pytest.mark.parametrize(
    ("messages", "query", "code", "why"),
    [
        (["hello"], "", "invalid_message", '"type": "end"'),
        ([json.dumps({"type": "stop"})], "", "invalid_message", "end"),
        ([], "?sample_rate=7", "invalid_rate", "1000 to 192000"),
        ([], "?sample_rate=-16000", "invalid_rate", "1000 to 192000"),
        ([], "?sample_rate=" + "9" * 5000, "invalid_rate", "1000 to 192000"),
        (["[" * 100_000], "", "invalid_message", "end"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_reason(service, messages, query, code, why) -> None:
    found, message, closing = error_of(service[0], *messages, query=query)
    assert (found, closing) == (code, 1008)
    assert why in message and len(message) < 200
    assert service[1].open == 0


def test_streams_have_bounds() -> None:
    with serving(message_bytes=1000, longest_s=1.0, idle_s=0.3) as (address, live):
        assert error_of(address, bytes(1002))[::2] == ("too_large", 1009)
        assert error_of(address, *[bytes(1000)] * 17)[::2] == ("too_long", 1008)
        assert error_of(address)[::2] == ("idle", 1008)
        assert live.open == 0


def test_one_stream_too_many_is_told_to_come_again() -> None:
    with serving(streams=1) as (address, live):
        with connect(address) as first:
            first.send(PCM)
            first.recv()
            assert error_of(address)[::2] == ("busy", 1013)
            first.send(END)
            assert [json.loads(m)["type"] for m in first][-1] == "final"
        assert converse(address, PCM)[-1]["text"] == "abc dab c"
        assert live.open == 0


def test_a_client_that_leaves_leaves_nothing_behind(service) -> None:
    address, live = service
    for _ in range(3):
        with connect(address) as socket:
            socket.send(PCM[:8000])
            socket.socket.shutdown(SHUT_RDWR)  # no word of farewell
    with connect(address) as polite:
        polite.send(PCM[:8000])
    until = time.monotonic() + 20
    while live.open and time.monotonic() < until:
        time.sleep(0.01)
    assert live.open == 0
    assert converse(address, PCM)[-1]["text"] == "abc dab c"


def test_a_client_that_sends_faster_than_recognition_runs_is_not_cut_off(monkeypatch) -> None:
    """Its pongs come late: uvicorn, here very impatient, must not wait for any."""
    new_config, new_server, feed = uvicorn.Config, uvicorn.Server, TranscriptStream.feed
    servers: list[uvicorn.Server] = []

    def impatient(app: Any, **settings: Any) -> uvicorn.Config:
        return new_config(app, **{"ws_ping_interval": 0.05, "ws_ping_timeout": 0.05} | settings)

    def slowly(stream: TranscriptStream, samples: np.ndarray) -> Partial:
        time.sleep(0.1)
        return feed(stream, samples)

    def noted(config: uvicorn.Config) -> uvicorn.Server:
        servers.append(new_server(config))
        return servers[-1]

    monkeypatch.setattr(uvicorn, "Config", impatient)
    monkeypatch.setattr(uvicorn, "Server", noted)
    monkeypatch.setattr(TranscriptStream, "feed", slowly)
    with create_server(("127.0.0.1", 0)) as door:
        monkeypatch.setattr(jobs, "_listening", lambda *_: door)
        thread = threading.Thread(target=lambda: jobs.serve(tone_model(bidirectional=False), name="tones"))
        thread.start()
        try:
            address = f"ws://127.0.0.1:{door.getsockname()[1]}{PATH}"
            assert converse(address, PCM, len(PCM) // 16 * 2)[-1]["text"] == "abc dab c"
        finally:
            servers[0].should_exit = True
            thread.join()


async def wait_for_ever() -> None:
    """As uvicorn does when its buffer is full."""
    await asyncio.Event().wait()


async def refuse() -> None:
    """As uvicorn does once it has closed the connection by itself."""
    raise RuntimeError("Unexpected ASGI message 'websocket.send', after sending 'websocket.close'.")


@pytest.mark.parametrize("fate", [wait_for_ever, refuse])
def test_a_client_that_takes_nothing_gives_its_place_back_and_is_no_failure(fate, caplog) -> None:
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.receive", "bytes": PCM} if sent else {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])
        if message["type"] != "websocket.accept":
            await fate()

    live = Live(tone_model(bidirectional=False), config=LiveConfig(idle_s=0.1))
    scope = {"type": "websocket", "path": PATH, "headers": [], "query_string": b""}
    asyncio.run(asyncio.wait_for(live.serve(WebSocket(scope, receive, send)), 20))
    assert (sent, live.open, caplog.messages) == (["websocket.accept", "websocket.send"], 0, [])


def test_what_fails_within_is_told_without_its_inside(monkeypatch) -> None:
    with serving() as (address, live):
        monkeypatch.setattr(Live, "_open_stream", lambda *_: 1 / 0)
        code, message, closing = error_of(address)
        assert (code, closing, live.open) == ("internal", 1011, 0)
        assert "division" not in message


def test_the_service_asks_for_its_token_and_knows_other_sites() -> None:
    app = create_app(tone_model(bidirectional=False), ServingConfig(token="secret"))
    with hosted(app) as service:
        address = address_of(service)
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            with pytest.raises(InvalidStatus) as caught, connect(address, additional_headers=headers):
                pass
            assert caught.value.response.status_code == 401
            assert json.loads(caught.value.response.body)["error"]["code"] == "invalid_api_key"
        for offered in (
            ["asr"],
            ["asr", "bearer.d3Jvbmc"],
            ["asr", "bearer.c"],
            ["bearer.c2VjcmV0", "bearer."],
        ):
            with pytest.raises(InvalidStatus) as caught, connect(address, subprotocols=offered):
                pass
            assert caught.value.response.status_code == 401
        with connect(address, subprotocols=["asr", "bearer.c2VjcmV0"]) as socket:
            assert socket.subprotocol == "asr"
            socket.send(END)
            assert json.loads(socket.recv())["type"] == "final"
        right = {"Authorization": "Bearer secret"}
        for origin in ("https://elsewhere.example", "http://["):
            with (
                pytest.raises(InvalidStatus) as caught,
                connect(address, additional_headers=right, origin=origin),
            ):
                pass
            assert caught.value.response.status_code == 403
        with connect(address, additional_headers=right, origin=service.url) as socket:
            socket.send(END)
            assert json.loads(socket.recv())["type"] == "final"


def test_a_model_that_needs_the_whole_says_what_to_train() -> None:
    with hosted(create_app(tone_model())) as service:
        code, message, closing = error_of(address_of(service))
    assert (code, closing) == ("unsupported", 1008)
    assert "asr run digits/streaming" in message
