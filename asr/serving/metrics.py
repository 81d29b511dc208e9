"""Metrics of the service, in the text format of Prometheus (version 0.0.4)."""

import threading
from collections import Counter
from collections.abc import Sequence

BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the latency histogram."""


class Histogram:
    """Counts of values up to each bound, their number and sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * len(self._bounds)
        self._number, self._sum = 0, 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        for i, bound in enumerate(self._bounds):
            self._counts[i] += value <= bound
        self._number += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        """The histogram in Prometheus' text format; buckets are cumulative."""
        buckets = [
            f'{name}_bucket{{le="{bound:g}"}} {count}'
            for bound, count in zip(self._bounds, self._counts, strict=True)
        ]
        return [
            *buckets,
            f'{name}_bucket{{le="+Inf"}} {self._number}',
            f"{name}_sum {self._sum:.6f}",
            f"{name}_count {self._number}",
        ]


class Metrics:
    """Requests by status, their latency, seconds of audio, sizes of batches. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[int] = Counter()
        self._latency = Histogram(BUCKETS_S)
        self._batch = Histogram((1, 2, 4, 8, 16, 32))
        self._audio_s = self._busy_s = 0.0

    def request(self, status: int, seconds: float, audio_s: float = 0.0) -> None:
        """Count a request for a transcription."""
        with self._lock:
            self._requests[status] += 1
            self._latency.add(seconds)
            self._audio_s += audio_s

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch that was recognised."""
        with self._lock:
            self._batch.add(size)
            self._busy_s += seconds

    def render(self, *, waiting: int, streams: int = 0) -> str:
        """All metrics as text."""
        with self._lock:
            requests = [f'asr_requests_total{{status="{s}"}} {n}' for s, n in sorted(self._requests.items())]
            parts = [
                ("asr_requests_total", "counter", "Requests for a transcription by HTTP status.", requests),
                (
                    "asr_request_seconds",
                    "histogram",
                    "Time from upload to answer.",
                    self._latency.lines("asr_request_seconds"),
                ),
                (
                    "asr_batch_recordings",
                    "histogram",
                    "Recordings recognised together.",
                    self._batch.lines("asr_batch_recordings"),
                ),
                (
                    "asr_audio_seconds_total",
                    "counter",
                    "Audio transcribed.",
                    [f"asr_audio_seconds_total {self._audio_s:.6f}"],
                ),
                (
                    "asr_busy_seconds_total",
                    "counter",
                    "Time spent recognising.",
                    [f"asr_busy_seconds_total {self._busy_s:.6f}"],
                ),
                (
                    "asr_waiting_recordings",
                    "gauge",
                    "Recordings in the queue.",
                    [f"asr_waiting_recordings {waiting}"],
                ),
                ("asr_open_streams", "gauge", "Open WebSockets.", [f"asr_open_streams {streams}"]),
            ]
        lines = [
            line
            for name, kind, what, values in parts
            for line in (f"# HELP {name} {what}", f"# TYPE {name} {kind}", *values)
        ]
        return "\n".join(lines) + "\n"
