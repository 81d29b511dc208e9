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

    def samples(self) -> list[str]:
        """What follows the histogram's name on each line of its samples; buckets are cumulative."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        counts = [*self._counts, self._number]
        buckets = [f'_bucket{{le="{b}"}} {n}' for b, n in zip(bounds, counts, strict=True)]
        return [*buckets, f"_sum {self._sum:.6f}", f"_count {self._number}"]


class Metrics:
    """Requests by status, their latency, seconds of audio, sizes of batches. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[int] = Counter()
        self._latency = Histogram(BUCKETS_S)
        self._batch = Histogram((1, 2, 4, 8, 16, 32))
        self._audio_s = self._busy_s = 0.0

    def request(self, status: int, seconds: float, audio_s: float) -> None:
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

    def render(self, *, waiting: int, streams: int) -> str:
        """All metrics as text."""
        with self._lock:
            requests = [f'{{status="{s}"}} {n}' for s, n in sorted(self._requests.items())]
            latency, batch = self._latency.samples(), self._batch.samples()
            audio_s, busy_s = f" {self._audio_s:.6f}", f" {self._busy_s:.6f}"
        parts = [
            ("asr_requests_total", "counter", "Requests for a transcription by HTTP status.", requests),
            ("asr_request_seconds", "histogram", "Time from upload to answer.", latency),
            ("asr_batch_recordings", "histogram", "Recordings recognised together.", batch),
            ("asr_audio_seconds_total", "counter", "Audio transcribed.", [audio_s]),
            ("asr_busy_seconds_total", "counter", "Time spent recognising.", [busy_s]),
            ("asr_waiting_recordings", "gauge", "Recordings in the queue.", [f" {waiting}"]),
            ("asr_open_streams", "gauge", "Open WebSockets.", [f" {streams}"]),
        ]
        lines = [
            line
            for name, kind, what, samples in parts
            for line in (f"# HELP {name} {what}", f"# TYPE {name} {kind}", *(name + s for s in samples))
        ]
        return "\n".join(lines) + "\n"
