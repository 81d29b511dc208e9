"""Uploads that are too large are refused while they come, before they fill memory or disk."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr.serving.answers import RefusalError


class UploadLimit:
    """Answers 413 as soon as a body is, or says that it is, larger than `most_bytes`."""

    def __init__(self, app: ASGIApp, *, most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"0")
        if said.isdigit() and int(said) > self._most_bytes:
            await self._refusal().response()(scope, receive, send)
            return
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._most_bytes:
                raise self._refusal()
            return message

        await self._app(scope, counted, send)

    def _refusal(self) -> RefusalError:
        most = self._most_bytes / 2**20
        return RefusalError(413, f"the upload is larger than {most:g} MiB", code="too_large", param="file")
