"""The HTTP service: OpenAI's `/v1/audio/transcriptions` and `/v1/models`, a web page, health and metrics.

An upload is held in memory or in an unnamed temporary file, which the system removes whatever happens.
Responses never contain paths or tracebacks.
"""

import asyncio
import io
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from fastapi import FastAPI, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from asr import audio
from asr.errors import AsrError, AudioError
from asr.recognizer import Recognizer
from asr.serving import live
from asr.serving.answers import RESPONSE_FORMATS, RefusalError, answer
from asr.serving.limits import UploadLimit, authorise
from asr.serving.metrics import Metrics
from asr.serving.worker import FullError, Worker
from asr.transcript import Transcript

PAGE = Path(__file__).parent / "page"
FOREIGN_NAME = "whisper-1"
"""Clients made for OpenAI's service ask for this model; it is an alias of the model that is served."""

log = logging.getLogger(__name__)


@dataclass
class ServingConfig:
    """Name, token and limits of the service."""

    name: str = "asr"
    """Name of the model in `/v1/models`."""
    token: str = ""
    """Clients must send it as `Authorization: Bearer`; empty requires none."""
    waiting: int = 64
    """Maximum number of queued requests, and of uploads in progress; further ones are answered with 503."""
    upload_bytes: int = 100 * 2**20
    """Larger uploads are answered with 413."""
    longest_s: float = 4 * 3600.0
    """Longer recordings are answered with 413."""
    idle_s: float = 60.0
    """An upload of which nothing comes for so long is answered with 408."""


class Upload:
    """An uploaded file with the name that the client gave it, for error messages."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self.name = file, name

    def abandon(self) -> None:
        """Let a thread that still reads it find the end of the file; the file itself may then be closed."""
        self._file = io.BytesIO()

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._file, attribute)


def create_app(model: Recognizer, config: ServingConfig | None = None, **settings: Any) -> FastAPI:
    """The service for a model, to be run by uvicorn or another ASGI server.

    Args:
        model: a loaded recogniser.
        config: name, token and limits.
        settings: `decoder` and the settings of `Recognizer.decode`.
    """
    config = config or ServingConfig()
    metrics = Metrics()
    worker = Worker(model, waiting=config.waiting, on_batch=metrics.batch, **settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(worker.close)

    app = FastAPI(title="asr", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    streams = live.Live(model, token=config.token, **settings)
    service = Service(worker, metrics, config, streams)
    read = ["GET", "HEAD"]
    app.add_api_route("/v1/audio/transcriptions", service.transcribe, methods=["POST"])
    app.add_api_route("/v1/models", service.models, methods=read)
    app.add_api_route("/v1/models/{name}", service.model, methods=read)
    app.add_api_route("/healthz", service.health, methods=read)
    app.add_api_route("/metrics", service.metrics, methods=read)
    app.add_api_websocket_route(live.PATH, streams.serve)
    for file in sorted(PAGE.iterdir()):
        path = "/" if file.name == "index.html" else f"/{file.name}"
        app.add_api_route(path, _file(file), methods=read)
    app.add_exception_handler(RefusalError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_middleware(UploadLimit, most_bytes=config.upload_bytes, idle_s=config.idle_s)
    return app


class Service:
    """The request handlers."""

    def __init__(self, worker: Worker, metrics: Metrics, config: ServingConfig, streams: live.Live) -> None:
        self._worker, self._metrics, self._config, self._streams = worker, metrics, config, streams
        self._began, self._uploads = int(time.time()), 0

    async def transcribe(self, request: Request) -> Response:
        """`POST /v1/audio/transcriptions`: file, model, response_format, timestamp_granularities[].

        language, prompt and temperature are accepted, but ignored: they mean nothing to this kind of model.
        """
        began, status, audio_s = time.monotonic(), 500, 0.0
        try:
            authorise(request.headers, self._config.token)
            if not request.headers.get("content-type", "").startswith("multipart/form-data"):
                why = "the recording as a field of a form: curl -F file=@recording.wav"
                raise RefusalError(400, f"expected {why}", code="missing", param="file")
            async with AsyncExitStack() as stack:
                with self._uploading():
                    form = await stack.enter_async_context(request.form(max_files=1, max_fields=32))
                    upload, response_format, granularities = self._wishes(form)
                    stack.callback(upload.abandon)  # before the form closes the file
                    future = await self._queue(upload)
                transcript = await self._outcome(request, future)
            audio_s, status = transcript.duration_s, 200
            return answer(transcript, response_format, granularities)
        except RefusalError as refusal:
            status = refusal.status
            raise
        except HTTPException as error:
            status = error.status_code
            raise
        except ClientDisconnect:
            status = 499
            return Response(status_code=499)
        except asyncio.CancelledError:  # the server shuts down and has waited long enough
            status = 503
            return RefusalError(503, "the service is ending", code="ending").response()
        finally:
            self._metrics.request(status, time.monotonic() - began, audio_s)

    def _wishes(self, form: FormData) -> tuple[Upload, str, set[str]]:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RefusalError(
                400, "no recording: expected a file in the field 'file'", code="missing", param="file"
            )
        self._check_model(str(form.get("model", FOREIGN_NAME)))
        response_format = str(form.get("response_format", "json"))
        if response_format not in RESPONSE_FORMATS:
            raise RefusalError(
                400,
                f"response_format {response_format!r}: expected {', '.join(RESPONSE_FORMATS)}",
                code="invalid_value",
                param="response_format",
            )
        if str(form.get("stream", "false")).lower() == "true":
            raise RefusalError(
                400, "stream=true is not supported: send stream=false", code="unsupported", param="stream"
            )
        field = "timestamp_granularities"
        granularities = {str(v) for key in (f"{field}[]", field) for v in form.getlist(key)}
        if strange := granularities - {"word", "segment"}:
            raise RefusalError(
                400, f"{field} {sorted(strange)}: expected word or segment", code="invalid_value", param=field
            )
        if not granularities:
            granularities = {"segment", "word"} if response_format == "verbose_json" else {"segment"}
        return Upload(file.file, Path(file.filename or "the recording").name), response_format, granularities

    def _check_model(self, name: str) -> None:
        if name not in (self._config.name, FOREIGN_NAME):
            raise RefusalError(
                404,
                f"no model {name!r} here: expected {self._config.name!r}",
                code="model_not_found",
                param="model",
            )

    @contextmanager
    def _uploading(self) -> Iterator[None]:
        """Count an upload until its recording is queued, and refuse one too many."""
        if self._uploads >= self._config.waiting:
            why = f"{self._uploads} uploads are in progress already; try again later"
            raise RefusalError(503, why, code="overloaded")
        self._uploads += 1
        try:
            yield
        finally:
            self._uploads -= 1

    async def _queue(self, upload: Upload) -> "Future[Transcript]":
        file, longest_s = cast(BinaryIO, upload), self._config.longest_s
        try:
            duration_s = (await asyncio.to_thread(audio.info, file)).duration_s
            if duration_s > longest_s:
                why = f"the recording has {duration_s:.0f} s; at most {longest_s:g} s are taken: cut it"
                raise RefusalError(413, why, code="too_long", param="file")
            upload.seek(0)
            return self._worker.submit(file)
        except AudioError as error:
            raise _no_audio(error) from None
        except FullError as full:
            raise RefusalError(503, str(full), code="overloaded") from None

    async def _outcome(self, request: Request, future: "Future[Transcript]") -> Transcript:
        waiter = asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait([waiter], timeout=0.5))[0]:
                if await request.is_disconnected():
                    raise ClientDisconnect
        finally:  # nobody asks for the outcome any more, unless it is there
            waiter.cancel()
        try:
            return waiter.result()
        except AudioError as error:
            raise _no_audio(error) from None
        except AsrError as error:
            log.error("a recording could not be recognised: %s", error)
            raise RefusalError(500, "the recording could not be recognised", code="internal") from None

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        authorise(request.headers, self._config.token)
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request, name: str) -> Response:
        """`GET /v1/models/{name}`."""
        authorise(request.headers, self._config.token)
        self._check_model(name)
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        """The model in OpenAI's format, and whether it can stream."""
        known = {"id": self._config.name, "object": "model", "created": self._began, "owned_by": "asr"}
        return known | {"streams": self._streams.is_possible}

    async def health(self) -> Response:
        """`GET /healthz`: 200 while the worker thread is alive, else 503."""
        alive = self._worker.is_alive
        return JSONResponse(
            {"status": "ok" if alive else "the recogniser has stopped"}, 200 if alive else 503
        )

    async def metrics(self) -> Response:
        """`GET /metrics`."""
        text = self._metrics.render(waiting=self._worker.waiting, streams=self._streams.open)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _no_audio(error: AudioError) -> RefusalError:
    return RefusalError(400, str(error), code="invalid_audio", param="file")


def _file(path: Path) -> Callable[[], Awaitable[Response]]:
    headers = {
        "Content-Security-Policy": "default-src 'self'; media-src blob:; img-src data:",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }

    async def send() -> Response:
        return FileResponse(path, headers=headers)

    return send


async def _refuse(_: Request, error: Exception) -> Response:
    return cast(RefusalError, error).response()


async def _refuse_http(_: Request, error: Exception) -> Response:
    status = cast(HTTPException, error).status_code
    detail = str(cast(HTTPException, error).detail)
    return RefusalError(status, detail, code="invalid_request").response()
