"""Transcripts and errors in the format of OpenAI's API."""

import math
import zlib
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from asr.errors import ServingError
from asr.jobs.formats import FORMATS, cues, word_dict
from asr.transcript import Segment, Transcript

RESPONSE_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
_TYPES = {"srt": "application/x-subrip", "vtt": "text/vtt"}


class RefusalError(ServingError):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        message: what was wrong and what is expected.
        code: short and stable, for programs.
        param: the offending field.
    """

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def response(self) -> Response:
        """The error as OpenAI's clients expect it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        headers = {
            401: {"WWW-Authenticate": "Bearer"},
            408: {"Connection": "close"},
            503: {"Retry-After": "2"},
        }.get(self.status)
        body = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": body}, self.status, headers)


def answer(transcript: Transcript, response_format: str, granularities: set[str]) -> Response:
    """The transcript in one of `RESPONSE_FORMATS`."""
    if response_format == "json":
        return JSONResponse({"text": transcript.text})
    if response_format == "verbose_json":
        return JSONResponse(verbose(transcript, granularities))
    form = "txt" if response_format == "text" else response_format
    return PlainTextResponse(
        FORMATS[form](transcript, name="audio", words="word" in granularities),
        media_type=_TYPES.get(form, "text/plain"),
    )


def verbose(transcript: Transcript, granularities: set[str]) -> dict[str, Any]:
    """Text, duration, and the segments or words with their times and probabilities."""
    said: dict[str, Any] = {
        "task": "transcribe",
        "language": "unknown",
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
    }
    if "segment" in granularities:
        said["segments"] = [_segment(i, cue) for i, cue in enumerate(cues(transcript))]
    if "word" in granularities:
        said["words"] = [word_dict(w) for w in transcript.words]
    return said


def _segment(number: int, cue: Segment) -> dict[str, Any]:
    """A segment with all fields of OpenAI's, which typed clients require.

    `avg_logprob` is the mean logarithm of the words' confidences. `seek`, `tokens`, `temperature` and
    `no_speech_prob` mean nothing to this kind of model and are empty.
    """
    logs = [math.log(max(w.confidence, 1e-10)) for w in cue.words]
    text = cue.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": cue.start_s,
        "end": cue.end_s,
        "text": cue.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(logs) / max(len(logs), 1), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),
        "no_speech_prob": 0.0,
    }
