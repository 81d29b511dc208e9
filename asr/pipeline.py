"""Recordings of any number and length → transcripts, in full batches and constant memory.

Pieces of all recordings (see `asr.segmentation`) are pooled, sorted by length and recognised in batches. The
log-probabilities of overlapping pieces are joined frame by frame into a stretch, which is decoded as one and
becomes a segment of the transcript, unless nothing is said in it; a stretch that grows too long is cut where
the model itself outputs silence.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr import audio
from asr.decoding import Hypothesis
from asr.ensemble import as_one
from asr.errors import AudioError
from asr.excerpts import Surroundings, certain_blanks
from asr.features import Features
from asr.segmentation import Piece, Segments, longest_samples, pieces, quietest_output
from asr.streaming import silent_outputs
from asr.text import Alphabet
from asr.transcript import Partial, Segment, Transcript
from asr.voice import PauseFinder, SpeechFinder, find_pause

POOL_BATCHES = 4
"""Batches in a pool of sorted pieces: lengths in a batch are similar, and memory stays small."""
LONG_STRETCH_S = 60.0
"""A longer stretch is decoded up to the longest silence between two words, without waiting for its end."""
LONGEST_STRETCH_S = 600.0
"""A longer one is decoded even if there is no such silence."""

Source = audio.Source | np.ndarray


class Model(Protocol):
    """What a pipeline needs of a recogniser."""

    features: Features
    alphabet: Alphabet

    @property
    def rate_hz(self) -> int: ...
    @property
    def frame_s(self) -> float: ...
    @property
    def edges(self) -> int: ...
    def emissions(self, samples: list[np.ndarray], around: list[Surroundings]) -> tuple[Tensor, Tensor]: ...
    def transcript(self, hypothesis: Hypothesis, duration_s: float) -> Transcript: ...


@dataclass
class Stretch:
    """Log-probabilities that are decoded as one, and where they start."""

    recording: "Recording"
    start_s: float
    log_probs_TV: Tensor


@dataclass
class Recording:
    """The state of one recording in the pipeline."""

    number: int
    """Of its source."""
    samples: int = 0
    segments: list[Segment] = field(default_factory=list)
    log_prob: float = 0.0
    open_start: int = 0
    """The recording's output at which the open stretch starts."""
    open_parts: list[Tensor] = field(default_factory=list)
    read: bool = False
    waiting: int = 0
    """Pieces that are not recognised yet."""
    error: AudioError | None = None


@dataclass
class Pipeline:
    """Turns sources into transcripts.

    Args:
        model: gives log-probabilities and transcripts.
        decode: log_probs_BTV, lengths_B → hypotheses.
        stream: recognises blocks one after the other, if the model can stream; it then keeps its state
            through long recordings, and nothing is cut or recognised twice.
        pause: finds where to cut long recordings; if it detects speech, no words are written elsewhere.
        batch_s: seconds of audio, padding included, in a batch.
        on_segment: called with (number of the source, segment) as soon as a segment is known.
    """

    model: Model
    decode: Callable[[Tensor, Tensor], list[Hypothesis]]
    stream: Callable[[Iterable[np.ndarray]], Iterator[Partial]] | None = None
    pause: PauseFinder = find_pause
    batch_s: float = 160.0
    on_segment: Callable[[int, Segment], None] | None = None

    def run(self, sources: Iterable[Source]) -> Iterator[Transcript | AudioError]:
        """For each source, in order, its transcript, or the error why it cannot be read.

        Raises:
            AudioError: a single recording instead of several.
        """
        _check_several(sources)
        queue: deque[Recording] = deque()
        pool: list[tuple[Recording, Piece]] = []
        # the first batch is small, so that the first words come soon
        limit_s, most_s, samples = min(self.batch_s, 30.0), self.batch_s * POOL_BATCHES, 0
        for number, source in enumerate(sources):
            recording = Recording(number)
            queue.append(recording)
            for piece in self._pieces(source, recording):
                pool.append((recording, piece))
                samples += len(piece.samples)
                if samples >= limit_s * self.model.rate_hz:
                    self._recognise(pool)
                    pool.clear()
                    limit_s, samples = min(2 * limit_s, most_s), 0
                    yield from self._finished(queue)
        self._recognise(pool)
        yield from self._finished(queue)

    @property
    def _step_samples(self) -> int:
        """Samples from one output to the next."""
        return round(self.model.frame_s * self.model.rate_hz)

    def _pieces(self, source: Source, recording: Recording) -> Iterator[Piece]:
        try:
            blocks = iter(blocks_of(source, self.model.rate_hz))
            if self.stream is not None:
                beginning, is_long = self._beginning(blocks)
                if is_long:
                    self._listen(chain(beginning, blocks), recording)
                blocks = iter(() if is_long else beginning)
            rates = {"rate_hz": self.model.rate_hz, "step_samples": self._step_samples}
            context_s = self.model.features.context_s
            for piece in pieces(blocks, **rates, context_s=context_s, pause=self.pause):
                recording.samples = piece.start_samples + len(piece.samples)
                recording.waiting += 1
                yield piece
        except AudioError as error:
            recording.error = error
        recording.read = True

    def _beginning(self, blocks: Iterator[np.ndarray]) -> tuple[list[np.ndarray], bool]:
        """The blocks up to the length of a piece, and whether the recording is longer than that."""
        taken, left = [], longest_samples(self.model.rate_hz, self._step_samples)
        for block in blocks:
            taken.append(block)
            left -= len(block)
            if left < 0:
                break
        return taken, left < 0

    def _listen(self, blocks: Iterable[np.ndarray], recording: Recording) -> None:
        """Recognise a long recording as a stream, from its beginning to its end."""
        assert self.stream is not None
        for now in self.stream(blocks):
            for segment in now.segments[len(recording.segments) :]:
                self._add(segment, recording)
            recording.samples = round(now.heard_s * self.model.rate_hz)
            if now.transcript is not None:
                recording.log_prob = now.transcript.log_prob

    def _add(self, segment: Segment, recording: Recording) -> None:
        recording.segments.append(segment)
        if self.on_segment is not None:
            self.on_segment(recording.number, segment)

    def _finished(self, queue: deque[Recording]) -> Iterator[Transcript | AudioError]:
        while queue and queue[0].read and not queue[0].waiting:
            recording = queue.popleft()
            if recording.error is not None:
                yield recording.error
                continue
            said = recording.segments
            yield Transcript(
                self.model.alphabet.joint.join(segment.text for segment in said),
                tuple(word for segment in said for word in segment.words),
                tuple(said),
                recording.samples / self.model.rate_hz,
                recording.log_prob,
            )

    def _recognise(self, pool: list[tuple[Recording, Piece]]) -> None:
        found: dict[int, Tensor] = {}
        for batch in self._batches([len(piece.samples) / self.model.rate_hz for _, piece in pool]):
            chosen = [pool[i][1] for i in batch]
            log_probs, lengths_B = self.model.emissions(
                [piece.samples for piece in chosen], [(piece.before, piece.after) for piece in chosen]
            )
            for row, length, i in zip(log_probs, lengths_B.tolist(), batch, strict=True):
                piece = pool[i][1]
                row = self._without_noise(row[:length], piece)
                found[i] = self._counting(row, piece).clone()
        stretches = [
            stretch
            for i, (recording, piece) in enumerate(pool)
            for stretch in self._stretches(recording, piece, found.pop(i))
        ]
        self._decode(stretches)

    def _without_noise(self, log_probs_TV: Tensor, piece: Piece) -> Tensor:
        """The log-probabilities, forced to blank where a speech finder detects no speech."""
        if not isinstance(self.pause, SpeechFinder):
            return log_probs_TV
        spoken_T = self.pause.is_speech(piece.samples, self.model.rate_hz, self._step_samples)
        edges = self.model.edges
        spoken_T = np.pad(spoken_T[: len(log_probs_TV) - 2 * edges], edges, "edge")
        is_spoken = torch.from_numpy(spoken_T).view(-1, *[1] * (log_probs_TV.dim() - 1))
        return torch.where(is_spoken, log_probs_TV, certain_blanks(log_probs_TV[:1]))

    def _counting(self, log_probs_TV: Tensor, piece: Piece) -> Tensor:
        """The outputs of a piece that count, with edges only where a stretch begins or ends."""
        edges = self.model.edges
        first = piece.skip_outputs and piece.skip_outputs + edges
        last = piece.end_output and piece.end_output + edges * (2 if piece.closes else 1)
        return log_probs_TV[first:last]

    def _stretches(self, recording: Recording, piece: Piece, log_probs_TV: Tensor) -> Iterator[Stretch]:
        """What a piece completes: a stretch that it closes, or the first part of one that is too long."""
        recording.waiting -= 1
        if not recording.open_parts:
            recording.open_start = piece.start_samples // self._step_samples + piece.skip_outputs
        recording.open_parts.append(log_probs_TV)
        outputs = sum(map(len, recording.open_parts))
        if piece.closes:
            yield from self._segments(recording, torch.cat(recording.open_parts))
            recording.open_parts = []
        elif outputs * self.model.frame_s > LONG_STRETCH_S:
            whole_TV = torch.cat(recording.open_parts)
            cut = quietest_output(as_one(whole_TV, axes=2), silent_outputs(self.model.alphabet))
            if cut is None and outputs * self.model.frame_s <= LONGEST_STRETCH_S:
                return
            cut = cut or outputs
            yield Stretch(recording, recording.open_start * self.model.frame_s, whole_TV[:cut])
            recording.open_parts = [whole_TV[cut:].clone()]
            recording.open_start += cut

    def _segments(self, recording: Recording, whole_TV: Tensor) -> Iterator[Stretch]:
        """A closed stretch; for a streaming model, cut into the segments that its stream would have."""
        start, frame_s = recording.open_start, self.model.frame_s
        parts = [whole_TV]
        if self.stream is not None:
            cuts = Segments(silent_outputs(self.model.alphabet), frame_s)
            parts = [part_TV for part_TV, _ in cuts.cut(whole_TV)]
        for part_TV in parts:
            yield Stretch(recording, start * frame_s, part_TV)
            start += len(part_TV)

    def _decode(self, stretches: list[Stretch]) -> None:
        told: dict[int, tuple[Segment | None, float]] = {}
        for batch in self._batches([len(s.log_probs_TV) * self.model.frame_s for s in stretches]):
            rows = [stretches[i].log_probs_TV for i in batch]
            lengths_B = torch.tensor([len(row) for row in rows])
            log_probs_BTV = pad_sequence(rows, batch_first=True)
            for i, hypothesis in zip(batch, self.decode(log_probs_BTV, lengths_B), strict=True):
                told[i] = self._segment(stretches[i], hypothesis), hypothesis.log_prob
        for i, stretch in enumerate(stretches):
            segment, log_prob = told[i]
            stretch.recording.log_prob += log_prob
            if segment is not None:
                self._add(segment, stretch.recording)

    def _segment(self, stretch: Stretch, hypothesis: Hypothesis) -> Segment | None:
        left_s = max(0.0, stretch.recording.samples / self.model.rate_hz - stretch.start_s)
        return self.model.transcript(hypothesis, left_s).segment(stretch.start_s)

    def _batches(self, seconds: Sequence[float]) -> Iterator[list[int]]:
        """The numbers of items, shortest first, in batches of up to `batch_s` seconds including padding."""
        batch: list[int] = []
        for i in sorted(range(len(seconds)), key=seconds.__getitem__):
            if batch and seconds[i] * (len(batch) + 1) > self.batch_s:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch


def samples_of(source: Source, rate_hz: int) -> np.ndarray:
    """The mono float32 samples of a recording, or those that are given, checked.

    Raises:
        AudioError: no readable audio, or invalid samples.
    """
    if not isinstance(source, np.ndarray):
        return audio.read(source, rate_hz)
    if not source.size:
        raise AudioError("the samples are empty: expected at least one")
    return audio.check_samples(source)


def blocks_of(source: Source, rate_hz: int) -> Iterable[np.ndarray]:
    """The samples of a recording in blocks of ten seconds; errors as `samples_of`."""
    if not isinstance(source, np.ndarray):
        return audio.stream(source, rate_hz)
    samples, step = samples_of(source, rate_hz), 10 * rate_hz
    return (samples[i : i + step] for i in range(0, len(samples), step))


def _check_several(sources: object) -> None:
    is_file = isinstance(sources, str | Path | bytes | bytearray | memoryview) or hasattr(sources, "read")
    is_sound = isinstance(sources, np.ndarray) and sources.ndim < 2 and sources.dtype.kind == "f"
    if is_file or is_sound or not isinstance(sources, Iterable):
        raise AudioError(
            f"a {type(sources).__name__}: expected several recordings; put a single one in a list"
        )
