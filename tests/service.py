"""A service that runs while a test asks it, recordings to send, and a stand-in for a model."""

import io
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import httpx
import numpy as np
import soundfile
import uvicorn
from tones import RATE_HZ

from asr import audio
from asr.errors import AudioError
from asr.serving.service import ServingConfig, create_app
from asr.transcript import Segment, Transcript, Word

WORDS = (Word("one", 0.1, 0.4, 0.9), Word("two", 0.5, 0.75, 0.5))
SAID = Transcript("one two", WORDS, (Segment("one two", 0.1, 0.75, WORDS),), 1.0, -1.0)


class Echo:
    """Reads recordings as a recogniser does, and hears the same in all of them."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.batches: list[int] = []
        self.streams = False

    def outcomes(self, sources) -> Iterator[Transcript | AudioError]:
        self.batches.append(len(sources))
        self.go.wait(20)
        for source in sources:
            try:
                samples = audio.read(source, RATE_HZ)
                assert len(samples) != 1234, "/secret/path"
                yield SAID
            except AudioError as error:
                yield error


@dataclass
class Running:
    """A service at work."""

    url: str
    server: uvicorn.Server


def running(model, **config) -> AbstractContextManager[Running]:
    """The service for a model, named `tones`, on a free port of this machine."""
    return hosted(create_app(model, ServingConfig(name="tones", **config)))


@contextmanager
def hosted(app) -> Iterator[Running]:
    """An app on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="websockets-sansio"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(f"http://127.0.0.1:{port}", server)
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serving(model, **config) -> Iterator[httpx.Client]:
    """A client of `running`."""
    with (
        running(model, **config) as service,
        httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client,
    ):
        yield client


def wav(
    samples: np.ndarray | None = None, *, rate_hz: int = RATE_HZ, form: str = "WAV", **rest: str
) -> bytes:
    """The bytes of a recording; half a second of silence if no samples are given."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(4000) if samples is None else samples, rate_hz, format=form, **rest)
    return file.getvalue()
