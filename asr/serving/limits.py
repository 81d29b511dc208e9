"""Requests refused before any work: uploads that are too large or do not go on, clients without the token."""

import asyncio
import base64
import hmac
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr.serving.answers import RefusalError

BEARER = "bearer."


class UploadLimit:
    """ASGI middleware: limits the bodies of requests.

    Args:
        most_bytes: once a body, or its declared length, exceeds them, it answers 413.
        idle_s: if nothing of a body comes for so long, it answers 408.
    """

    def __init__(self, app: ASGIApp, *, most_bytes: int, idle_s: float) -> None:
        self._app, self._most_bytes, self._idle_s = app, most_bytes, idle_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, watching its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._most_bytes:
            await self._refusal().response()(scope, receive, send)
            return
        count, goes_on = 0, True

        async def counted() -> Message:
            nonlocal count, goes_on
            # after the body comes only that the client leaves, however late
            message = await (self._next(receive) if goes_on else receive())
            goes_on = message.get("more_body", False)
            count += len(message.get("body", b""))
            if count > self._most_bytes:
                raise self._refusal()
            return message

        await self._app(scope, counted, send)

    async def _next(self, receive: Receive) -> Message:
        try:
            return await asyncio.wait_for(receive(), self._idle_s)
        except TimeoutError:
            why = f"nothing of the upload came for {self._idle_s:g} s"
            raise RefusalError(408, why, code="timeout", param="file") from None

    def _refusal(self) -> RefusalError:
        most = self._most_bytes / 2**20
        return RefusalError(413, f"the upload is larger than {most:g} MiB", code="too_large", param="file")


def authorise(headers: Mapping[str, str], token: str) -> None:
    """Check the client's token; if `token` is empty, none is required.

    It is sent as `Authorization: Bearer …` or, because browsers cannot send that header with a WebSocket, as
    a subprotocol: `bearer.` followed by the token in base64url.

    Raises:
        RefusalError: 401.
    """
    # header values are decoded as Latin-1, whatever their bytes were
    scheme, _, said = headers.get("authorization", "").partition(" ")  # RFC 9110: in any case
    given = (said.strip() if scheme.lower() == "bearer" else "").encode("latin-1")
    for protocol in headers.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(BEARER):
            given = _decoded(protocol.strip().removeprefix(BEARER))
    if token and not hmac.compare_digest(given, token.encode()):
        raise RefusalError(
            401, "this service asks for a token: Authorization: Bearer …", code="invalid_api_key"
        )


def _decoded(text: str) -> bytes:
    """The bytes of base64url without padding; empty if the text is not base64url."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""
