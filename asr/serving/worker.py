"""A worker thread that recognises uploaded recordings in batches, with a bounded queue."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from asr.errors import AsrError, AudioError, ServingError
from asr.recognizer import Recognizer
from asr.transcript import Transcript

MOST_IN_BATCH = 32
"""Maximum number of requests that are recognised together."""


class FullError(ServingError):
    """The queue is full."""


@dataclass
class Task:
    """A recording and the future of its transcript."""

    recording: BinaryIO
    future: "Future[Transcript]" = field(default_factory=Future)


class Worker:
    """Recognises recordings in a thread of its own.

    Args:
        model: a loaded recogniser.
        waiting: maximum number of queued recordings; further ones are refused.
        on_batch: called after each batch with (recordings, seconds).
        settings: `decoder` and the settings of `Recognizer.decode`.
    """

    def __init__(
        self, model: Recognizer, *, waiting: int, on_batch: Callable[[int, float], None], **settings: Any
    ) -> None:
        self._model, self._settings, self._on_batch = model, settings, on_batch
        self._queue: queue.Queue[Task | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._work, name="recogniser", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Recordings in the queue."""
        return self._queue.qsize()

    @property
    def is_alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def submit(self, recording: BinaryIO) -> "Future[Transcript]":
        """The future of the transcript; its result raises AudioError if the recording has no readable audio.

        Raises:
            FullError: the queue is full.
        """
        task = Task(recording)
        try:
            self._queue.put_nowait(task)
        except queue.Full:
            raise FullError(f"{self._queue.maxsize} recordings wait already; try again later") from None
        return task.future

    def close(self) -> None:
        """Finish the recordings in the queue, then end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            tasks = [self._queue.get()]
            while len(tasks) < MOST_IN_BATCH and not self._queue.empty():
                tasks.append(self._queue.get())
            wanted = [t for t in tasks if t is not None and t.future.set_running_or_notify_cancel()]
            if wanted:
                began = time.monotonic()
                self._recognise(wanted)
                self._on_batch(len(wanted), time.monotonic() - began)
            if None in tasks:
                return

    def _recognise(self, tasks: list[Task]) -> None:
        try:
            outcomes = self._model.outcomes([t.recording for t in tasks], **self._settings)
            for task, outcome in zip(tasks, outcomes, strict=True):
                if isinstance(outcome, AudioError):
                    task.future.set_exception(outcome)
                else:
                    task.future.set_result(outcome)
        except Exception as error:
            # The thread must survive. The rest is retried one by one, so that only the culprit fails.
            left = [t for t in tasks if not t.future.done()]
            if len(left) > 1:
                for task in left:
                    task.recording.seek(0)
                    self._recognise([task])
            elif left:
                known = isinstance(error, AsrError)
                left[0].future.set_exception(
                    error if known else ServingError(f"recognition failed: {error!r}")
                )
