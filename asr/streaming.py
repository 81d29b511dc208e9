"""Streaming recognition: live audio → text, a stable part and a provisional rest.

Conventions. A streaming model depends only on past audio and keeps its state from block to block, so its
outputs are those for the whole recording, whatever the blocks. They are decoded in segments, which end where
the model itself outputs a pause: the text before it is then final. Blocks may have any length and any rate.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asr import audio
from asr.decoding import Hypothesis
from asr.decoding.stream import Progress, StreamDecoder
from asr.encoder import Encoder
from asr.errors import AudioError, ConfigError
from asr.features import Features
from asr.segmentation import Segments
from asr.subsampling import State
from asr.text import Alphabet
from asr.transcript import Partial, Segment, Transcript, Word


class Model(Protocol):
    """What streaming needs of a recogniser."""

    features: Features
    encoder: Encoder
    alphabet: Alphabet

    @property
    def rate_hz(self) -> int: ...
    @property
    def frame_s(self) -> float: ...
    def step(self, samples_BT: Tensor, lengths_B: Tensor, state: State | None) -> tuple[Tensor, State]: ...
    def transcript(self, hypothesis: Hypothesis, duration_s: float) -> Transcript: ...


def obstacles(features: Features, encoder: Encoder) -> list[str]:
    """Why a model needs the whole recording before its first output; empty if it can stream."""
    found = []
    if encoder.config.bidirectional:
        found.append("it reads from the end as well (encoder.bidirectional=true)")
    if features.config.normalise == "utterance":
        found.append("it is scaled by the whole utterance (features.normalise=utterance)")
    if features.silent_frames:
        found.append("it hears silence around the utterance (features.edge_s)")
    return found


class OutputStream:
    """Blocks of samples at the model's rate → the log-probabilities of its outputs.

    Raises:
        ConfigError: the model needs the whole recording.
    """

    def __init__(self, model: Model) -> None:
        if found := obstacles(model.features, model.encoder):
            raise ConfigError(
                f"this model cannot recognise sound that is still coming: {' and '.join(found)}; train one "
                "with encoder.bidirectional=false features.normalise=global, as asr run digits/streaming does"
            )
        self._model = model
        self._state: State | None = None
        self._window, self._hop = model.features.fft_samples, model.features.hop_samples
        # samples from the start of the first window that is not computed yet
        self._held = np.zeros(self._window // 2, np.float32)
        self._is_empty = True

    def feed(self, samples: np.ndarray) -> Tensor:
        """The next outputs (T, V), as many as the samples (n,) complete; often none."""
        self._is_empty = self._is_empty and not len(samples)
        self._held = np.concatenate([self._held, samples])
        frames = (len(self._held) - self._window) // self._hop + 1
        return self._compute(frames // self._model.encoder.frames_per_output, len(self._held))

    def finish(self) -> Tensor:
        """The last outputs (T, V); nothing may be fed afterwards."""
        ends = 0 if self._is_empty else len(self._held)
        frames = (ends - self._window // 2) // self._hop + 1
        outputs = -(-frames // self._model.encoder.frames_per_output)
        self._held = np.concatenate([self._held, np.zeros(self._samples(max(outputs, 1)), np.float32)])
        return self._compute(outputs, ends)

    def _compute(self, outputs: int, ends: int) -> Tensor:
        if outputs < 1:
            return torch.zeros(0, self._model.alphabet.size)
        count = self._samples(outputs)
        block_1T = torch.from_numpy(self._held[:count])[None]
        log_probs_1TV, self._state = self._model.step(block_1T, torch.tensor([min(ends, count)]), self._state)
        self._held = self._held[outputs * self._model.encoder.frames_per_output * self._hop :]
        return log_probs_1TV[0]

    def _samples(self, outputs: int) -> int:
        """The number of samples that the windows of `outputs` outputs span."""
        return self._window + (outputs * self._model.encoder.frames_per_output - 1) * self._hop


class TranscriptStream:
    """Blocks of samples → the transcript so far.

    Args:
        model: a recogniser that can stream.
        new_decoder: makes a decoder for a segment.
        rate_hz: of the sound; None is the model's own.

    Raises:
        ConfigError: the model needs the whole recording.
        AudioError: a rate that is not positive.
    """

    def __init__(
        self, model: Model, new_decoder: Callable[[], StreamDecoder], *, rate_hz: int | None = None
    ) -> None:
        self._model, self._new_decoder = model, new_decoder
        self._resampler = audio.Resampler(model.rate_hz if rate_hz is None else rate_hz, model.rate_hz)
        self._outputs, self._is_open = OutputStream(model), True
        self._cuts = Segments(silent_outputs(model.alphabet), model.frame_s)
        self._joint = model.alphabet.joint
        self._samples = self._heard = self._start = 0  # the last two count outputs
        self._segments: list[Segment] = []
        self._text, self._log_prob = "", 0.0  # of the segments that have ended
        self._words: tuple[Word, ...] = ()
        self._decoder = new_decoder()
        self._progress: Progress | None = None  # of the segment that has not

    def feed(self, samples: np.ndarray) -> Partial:
        """The result up to here.

        Args:
            samples: float (n,) in [-1, 1], mono, of any length.

        Raises:
            AudioError: samples of another type or shape, NaN or infinite values, or the stream has ended.
        """
        self._check_open()
        self._hear(self._resampler.feed(audio.check_samples(samples)))
        return self._partial()

    def finish(self) -> Partial:
        """The final result, with the transcript; the stream has then ended.

        Raises:
            AudioError: it has ended before.
        """
        self._check_open()
        self._is_open = False
        self._hear(self._resampler.finish())
        self._decode(self._outputs.finish())
        self._end_segment()
        said = Transcript(self._text, self._words, tuple(self._segments), self._heard_s, self._log_prob)
        return Partial(said.text, "", said.words, len(said.words), said.segments, said.duration_s, said)

    def _check_open(self) -> None:
        if not self._is_open:
            raise AudioError("the stream has ended: open another for further sound")

    @property
    def _heard_s(self) -> float:
        return self._samples / self._model.rate_hz

    def _hear(self, samples: np.ndarray) -> None:
        self._samples += len(samples)
        self._decode(self._outputs.feed(samples))

    def _decode(self, log_probs_TV: Tensor) -> None:
        for part_TV, ends in self._cuts.cut(log_probs_TV):
            self._progress = self._decoder.feed(part_TV)
            self._heard += len(part_TV)
            if ends:
                self._end_segment()

    def _end_segment(self) -> None:
        hypothesis = self._decoder.finish()
        self._log_prob += hypothesis.log_prob
        segment = self._segment(hypothesis)
        if segment is not None:
            self._segments.append(segment)
            self._text = self._joined(segment.text)
            self._words = self._words + segment.words
        self._start, self._decoder, self._progress = self._heard, self._new_decoder(), None

    def _segment(self, hypothesis: Hypothesis) -> Segment | None:
        start_s = self._start * self._model.frame_s
        return self._model.transcript(hypothesis, max(0.0, self._heard_s - start_s)).segment(start_s)

    def _joined(self, text: str) -> str:
        return self._joint.join(part for part in (self._text, text) if part)

    def _partial(self) -> Partial:
        stable, unstable, words, complete = self._text, "", self._words, len(self._words)
        if self._progress is not None:
            alphabet = self._model.alphabet
            segment = self._segment(self._progress.hypothesis)
            words = words + (segment.words if segment is not None else ())
            complete += self._progress.settled_words(alphabet)
            stable = self._joined(self._progress.settled_text(alphabet))
            unstable = self._joined(self._progress.hypothesis.text(alphabet))[len(stable) :]
        return Partial(stable, unstable, words, complete, tuple(self._segments), self._heard_s)


def silent_outputs(alphabet: Alphabet) -> tuple[int, ...]:
    """The outputs without sound: the blank and, if the alphabet has one, the space.

    >>> silent_outputs(Alphabet(["a", " "])), silent_outputs(Alphabet(["a"]))
    ((0, 2), (0,))
    """
    return (0,) if alphabet.space is None else (0, alphabet.space)
