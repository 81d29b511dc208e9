"""`/v1/audio/stream`: a WebSocket that takes audio and returns the words while they are spoken.

The client opens `ws://…/v1/audio/stream?sample_rate=16000` (a browser that needs a token adds the
subprotocols `asr` and `bearer.` + the token in base64url), sends binary messages of mono 16-bit PCM
(little-endian, cut anywhere, any length up to a bound), and finally the text `{"type": "end"}`. The service
sends JSON:

* `{"type": "partial", "stable": …, "unstable": …, "words": […], "heard": …}` whenever something changes.
  `stable` is to be appended to the previous stable text and never changes; `unstable` is a guess at what
  follows it; `words` are those completed since the last message, with their times in seconds; `heard` is the
  audio received so far in seconds.
* `{"type": "final", "text": …, "segments": […], "words": […], "duration": …}` for the whole stream after its
  end, as in `verbose_json`. Then it closes.
* `{"type": "error", "code": …, "message": …}` instead, on failure. Then it closes.

Nothing is kept of a stream that has ended, whoever ended it. A client that sends faster than recognition runs
is held back by flow control: only a few messages are buffered here. Its pings wait behind its sound.
"""

import asyncio
import json
import logging
import re
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from asr.audio import LOWEST_RATE_HZ
from asr.errors import AsrError
from asr.jobs.formats import news
from asr.recognizer import Recognizer
from asr.serving.answers import RefusalError, verbose
from asr.serving.limits import authorise
from asr.streaming import TranscriptStream
from asr.transcript import Partial

PATH = "/v1/audio/stream"
PROTOCOL = "asr"
"""WebSocket subprotocol, for clients that must name one, such as browsers that send a token."""
MOST_RATE_HZ = 192_000
CLOSED_NORMALLY, CLOSED_FOR_POLICY, CLOSED_AS_TOO_BIG, CLOSED_FOR_ERROR, CLOSED_AS_BUSY = (
    1000, 1008, 1009, 1011, 1013,
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass
class LiveConfig:
    """Limits of streams."""

    streams: int = 16
    """Maximum number of open streams; further clients are told to try again later."""
    message_bytes: int = 2**20
    """Maximum size of a message."""
    idle_s: float = 30.0
    """A stream is closed when its client has sent no message, or taken none, for so long."""
    longest_s: float = 4 * 3600.0
    """Maximum duration of the audio of a stream."""


class StreamError(AsrError):
    """Why a stream is closed: a short code for programs, a WebSocket close code, and a message."""

    def __init__(self, code: str, message: str, *, closing: int = CLOSED_FOR_POLICY) -> None:
        super().__init__(message)
        self.code, self.closing = code, closing


class Live:
    """The streams of a service.

    Args:
        model: a loaded recogniser.
        token: clients must send it, see `authorise`; empty requires none.
        config: limits.
        settings: `decoder` and the settings of `Recognizer.decode`.
    """

    def __init__(
        self, model: Recognizer, *, token: str = "", config: LiveConfig | None = None, **settings: Any
    ) -> None:
        self._model, self._token, self._settings = model, token, settings
        self._config = config or LiveConfig()
        self.open = 0
        """Number of open streams."""

    @property
    def is_possible(self) -> bool:
        """Whether the model can stream (it uses past context only)."""
        return self._model.streams

    async def serve(self, socket: WebSocket) -> None:
        """Handle one stream, from its opening to its end."""
        try:
            self._admit(socket)
        except RefusalError as refusal:
            await socket.send_denial_response(refusal.response())
            return
        offered = [p.strip() for p in socket.headers.get("sec-websocket-protocol", "").split(",")]
        await socket.accept(PROTOCOL if PROTOCOL in offered else None)
        self.open += 1
        try:
            await self._converse(socket)
        except StreamError as error:
            await self._end(socket, error.closing, type="error", code=error.code, message=str(error))
        except WebSocketDisconnect:
            return
        except Exception as error:  # the client is told that it failed, but no details
            log.error("a stream could not be recognised: %r", error)
            message = "the sound could not be recognised"
            await self._end(socket, CLOSED_FOR_ERROR, type="error", code="internal", message=message)
        finally:
            self.open -= 1

    def _admit(self, socket: WebSocket) -> None:
        """Refuse clients without the token, and pages of other sites, which browsers do not block."""
        authorise(socket.headers, self._token)
        origin = socket.headers.get("origin")
        if origin is not None and _site(origin) != socket.headers.get("host"):
            raise RefusalError(403, "pages of other sites may not open streams", code="foreign_origin")

    async def _converse(self, socket: WebSocket) -> None:
        if self.open > self._config.streams:
            why = f"{self._config.streams} streams are open already; try again later"
            raise StreamError("busy", why, closing=CLOSED_AS_BUSY)
        # building the first decoder with a large language model takes a while
        stream = await asyncio.to_thread(self._open_stream, socket.query_params.get("sample_rate", ""))
        before: Partial | None = None
        held = b""  # half a sample, if a message ended within it
        while (data := await self._next_bytes(socket)) is not None:
            data = held + data
            held = data[len(data) // 2 * 2 :]
            samples = np.frombuffer(data, "<i2", len(data) // 2).astype(np.float32) / 32768
            now = await asyncio.to_thread(stream.feed, samples)
            if now.heard_s > self._config.longest_s:
                raise StreamError("too_long", f"a stream may have {self._config.longest_s:g} s of sound")
            if (message := news(before, now)) is not None:
                await self._sent(socket.send_json(message))
            before = now
        said = (await asyncio.to_thread(stream.finish)).transcript
        assert said is not None
        await self._end(socket, CLOSED_NORMALLY, type="final", **verbose(said, {"segment", "word"}))

    def _open_stream(self, sample_rate: str) -> TranscriptStream:
        rate_hz = int(sample_rate) if re.fullmatch("[0-9]{1,9}", sample_rate) else 0
        if sample_rate and not LOWEST_RATE_HZ <= rate_hz <= MOST_RATE_HZ:
            raise StreamError(
                "invalid_rate",
                f"sample_rate={sample_rate:.20}: expected {LOWEST_RATE_HZ} to {MOST_RATE_HZ} Hz",
            )
        try:
            return self._model.open_stream(rate_hz or None, **self._settings)
        except AsrError as error:
            raise StreamError("unsupported", str(error)) from error

    async def _next_bytes(self, socket: WebSocket) -> bytes | None:
        """The next message of sound; None at the end."""
        try:
            message = await asyncio.wait_for(socket.receive(), self._config.idle_s)
        except TimeoutError:
            raise StreamError("idle", f"nothing came for {self._config.idle_s:g} s") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        data = message.get("bytes")
        if data is None:
            _check_end(message.get("text") or "")
            return None
        if len(data) > self._config.message_bytes:
            most = f"a message may have {self._config.message_bytes} bytes"
            raise StreamError("too_large", most, closing=CLOSED_AS_TOO_BIG)
        return data

    async def _end(self, socket: WebSocket, closing: int, **message: Any) -> None:
        """Send the last message and close, unless the client has left."""
        try:
            await self._sent(socket.send_json(message))
            await self._sent(socket.close(closing))
        except WebSocketDisconnect:
            log.debug("a client left before the end of its stream")

    async def _sent(self, sending: Awaitable[None]) -> None:
        """Wait until something is sent.

        Raises:
            WebSocketDisconnect: the client has left, or takes nothing.
        """
        try:
            await asyncio.wait_for(sending, self._config.idle_s)
        except (TimeoutError, RuntimeError) as error:  # uvicorn raises the latter once it has closed
            raise WebSocketDisconnect from error


def _site(origin: str) -> str:
    """Host and port of an origin; empty if it has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # brackets around no address
        return ""


def _check_end(text: str) -> None:
    with suppress(ValueError, RecursionError):
        if json.loads(text) == {"type": "end"}:
            return
    raise StreamError("invalid_message", 'expected binary messages of samples, or {"type": "end"}')
