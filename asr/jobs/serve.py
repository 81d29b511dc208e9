"""`asr serve`: a model as a service on this machine."""

import ipaddress
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from asr.bundle import FILE
from asr.errors import ConfigError, how_to_install
from asr.jobs.console import say, warn
from asr.recognizer import Recognizer

PATIENCE_S = 5
"""Time for requests in progress to finish when the service is stopped."""


def serve(
    model: Recognizer,
    *,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    waiting: int = 64,
    upload_mb: int = 100,
    longest_s: float = 4 * 3600.0,
    **settings: Any,
) -> None:
    """Answer requests until interrupted.

    Args:
        model: a loaded recogniser.
        name: what clients call it.
        host: address to listen at; a loopback address cannot be reached from other machines.
        port: 0 takes a free one.
        token: bearer token that clients must send; empty requires none.
        waiting: requests that may wait.
        upload_mb: largest upload in MiB.
        longest_s: longest recording that is uploaded, in seconds.
        settings: `decoder` and the settings of `Recognizer.decode`.

    Raises:
        ConfigError: the packages of the extra `serve` are missing, or the address is taken or none.
        DecodingError: settings that cannot work.
    """
    try:
        import uvicorn

        from asr.serving.live import LiveConfig
        from asr.serving.service import ServingConfig, create_app
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed; the service needs: {how_to_install('serve')}"
        ) from error
    if not token and not _is_loopback(host):
        warn(f"{host} is open to other machines, and no --token is asked for")
    upload_bytes = upload_mb * 2**20
    config = ServingConfig(name, token, waiting=waiting, upload_bytes=upload_bytes, longest_s=longest_s)
    app = create_app(model, config, **settings)
    silence = np.zeros(model.rate_hz // 10, np.float32)
    model.transcribe(silence, **settings)  # settings that cannot work are refused now, and code is loaded
    how = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=PATIENCE_S,
        ws="websockets-sansio",
        ws_max_size=LiveConfig.message_bytes,
        ws_ping_interval=None,  # a pong waits behind the sound; streams end clients that are silent
    )
    with _listening(host, port) as door:
        say(f"{name} at http://{_in_brackets(host)}:{door.getsockname()[1]}  (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):  # that is how it ends
            server = uvicorn.Server(how)
            server.handle_exit = _at_once_if_repeated(server)  # type: ignore[method-assign, assignment]
            server.run(sockets=[door])


def _at_once_if_repeated(server: Any) -> Callable[[int, Any], None]:
    """The handler of Ctrl-C: the second one does not wait for the recogniser, which no thread can stop."""
    handle_exit: Callable[[int, Any], None] = server.handle_exit

    def handle(number: int, frame: Any) -> None:
        if server.should_exit:
            os._exit(128 + number)
        handle_exit(number, frame)

    return handle


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"nobody can listen at {host}:{port} ({error.strerror}): choose another --host or --port"
        ) from error


def default_name(model: str) -> str:
    """The default name of a bundle: that of the experiment that made it.

    >>> default_name("exp/digits/model"), default_name("german.safetensors")
    ('digits', 'german')
    >>> default_name("exp/digits/training.learning_rate=1e-3/model"), default_name(f"exp/both/{FILE}")
    ('training.learning_rate=1e-3', 'both')
    """
    path = Path(model).resolve()
    for usual in (FILE, "model"):
        path = path.parent if path.name == usual else path
    return (path.stem if path.suffix in (".safetensors", ".onnx") else path.name) or "asr"


def _in_brackets(host: str) -> str:
    """The host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
