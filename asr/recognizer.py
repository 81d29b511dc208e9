"""A trained model as one object: samples in, words with times and confidence out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from asr import bundle, ensemble
from asr.decoding import Hypothesis, greedy
from asr.decoding.choice import Choice, Chooser, choose
from asr.decoding.config import DecoderConfig, DecoderName
from asr.encoder import Encoder, EncoderConfig
from asr.errors import AlphabetError, AudioError, BundleError, ConfigError
from asr.excerpts import Excerpts, Surroundings, between_blanks
from asr.features import Features, FeaturesConfig
from asr.lm import NGramModel, RecurrentModel
from asr.machine.devices import choose_device, seeded
from asr.pipeline import Pipeline, Source, samples_of
from asr.precision import Precision, lower, lower_lm
from asr.scoring.calibration import Calibration
from asr.streaming import TranscriptStream, obstacles
from asr.subsampling import State
from asr.text import Alphabet, Style, normalise
from asr.transcript import Clock, Partial, Segment, Transcript, transcript_of
from asr.voice import VoiceDetector, pause_finder

if TYPE_CHECKING:
    from asr.onnx_model import OnnxModel


@dataclass
class Recognizer:
    """Features, encoder, alphabet, decoder settings and perhaps a language model, ready to transcribe."""

    features: Features
    encoder: Encoder
    alphabet: Alphabet
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    style: Style = "basic"
    lm: NGramModel | None = None
    rescorer: RecurrentModel | None = None
    trained_on: dict[str, Any] = field(default_factory=dict)
    """Recipe, seed, corpus fingerprint and development result of the training, as plain values."""
    runtime: "OnnxModel | None" = None
    """Runs an exported (ONNX) model, whose weights are then absent here; None otherwise."""
    _chooser: Chooser = field(default_factory=Chooser, repr=False, compare=False)

    @classmethod
    def build(
        cls,
        alphabet: Alphabet,
        *,
        features: FeaturesConfig | None = None,
        encoder: EncoderConfig | Sequence[EncoderConfig] | None = None,
        seed: int = 1,
        **rest: Any,
    ) -> "Recognizer":
        """An untrained recogniser, its weights determined by the seed; several encoders form an ensemble."""
        front = Features(features or FeaturesConfig())
        with seeded(seed):
            back = ensemble.build(encoder or EncoderConfig(), front.outputs, alphabet.size)
        if front.silent_frames % (n := back.frames_per_output):
            raise ConfigError(
                f"features.edge_s={front.config.edge_s}: expected a multiple of {n} hops, an output"
            )
        return cls(front, back, alphabet, **rest)

    @property
    def rate_hz(self) -> int:
        """Sample rate at which the model was trained."""
        return self.features.config.rate_hz

    @property
    def frame_s(self) -> float:
        """Seconds from one output frame to the next."""
        return self.features.config.hop_s * self.encoder.frames_per_output

    @property
    def edges(self) -> int:
        """Outputs before the first sample and after the last; see `FeaturesConfig.edge_s`."""
        return self.features.edge_frames // self.encoder.frames_per_output

    @property
    def streams(self) -> bool:
        """Whether it can recognise audio while it is still arriving."""
        return not obstacles(self.features, self.encoder)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device("cpu") if self.runtime else next(self.encoder.parameters()).device

    def to(self, device: str | torch.device) -> "Recognizer":
        """The same recogniser with its weights moved to `device`.

        Raises:
            ConfigError: an exported model, which runs on the CPU, is to be moved elsewhere.
        """
        device = choose_device(device)
        if self.runtime is None:
            self.features.to(device)
            self.encoder.to(device)
        elif device.type != "cpu":
            raise ConfigError(f"device={device}: exported models run on the CPU; take the bundle")
        return self

    def eval(self) -> "Recognizer":
        """The same recogniser with dropout off."""
        self.features.eval()
        self.encoder.eval()
        return self

    def log_probs(self, samples: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Natural-log probabilities of the outputs for a batch of recordings.

        Args:
            samples: mono float32 at `rate_hz`, one array per recording; none, or an empty one: AudioError.

        Returns:
            log_probs_BTV float32 and lengths_B (frames), both on the CPU; beyond a length is padding.
        """
        heard, lengths_B = self.emissions(samples)
        return ensemble.as_one(heard, axes=3), lengths_B

    def emissions(
        self, samples: Sequence[np.ndarray], around: Sequence[Surroundings] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `log_probs`, but with `decoder.by_member` those of each member and warp apart, (B, T, M, V).

        `around` is the context before and after each piece of a recording, before it a whole number of output
        frames; it takes part in the normalisation of the features, but has no outputs.
        """
        given, front, back = Excerpts.of(samples, around), self.features, self.encoder
        loud, first_B = given.trimmed(front.config.trim_db, front.hop_samples * back.frames_per_output)
        sizes_B = back.output_lengths(front.output_lengths(given.sizes_B))
        return between_blanks(*self._hear(loud), first_B, sizes_B)

    def _hear(self, given: Excerpts) -> tuple[Tensor, Tensor]:
        """`_compute` of what is given, on a CPU by several threads; or what an exported model computes."""
        if self.runtime is not None:
            return self.runtime.log_probs(given)
        return given.divided(self._compute) if self.device.type == "cpu" else self._compute(given)

    @torch.no_grad()
    def _compute(self, given: Excerpts) -> tuple[Tensor, Tensor]:
        is_apart, warps = (False, ()) if self.streams else (self.decoder.by_member, self.decoder.warps)
        encode = ensemble.each(self.encoder) if is_apart else self.encoder
        heard = [encode(*given.features(self.features, self.device, warp)) for warp in warps or (1.0,)]
        return ensemble.together([x.float().cpu() for x, _ in heard], is_apart=is_apart), heard[0][1].cpu()

    def decode(
        self, log_probs: Tensor, lengths_B: Tensor, *, decoder: DecoderName | None = None, **settings: Any
    ) -> list[Hypothesis]:
        """The best hypothesis of each recording.

        Args:
            log_probs, lengths_B: as `emissions` or `log_probs` gives them.
            decoder: `greedy`, `beam` or `pyctcdecode`; None takes the bundle's.
            settings: `lm`, `beam_width`, `alpha`, `beta`, `hotwords`, `rescore`, overriding the bundle's.

        Raises:
            DecodingError: an unknown decoder, or settings that make no sense.
        """
        if (choice := self._choice(decoder, settings)).name == "greedy":
            return greedy(log_probs, lengths_B)
        return list(self._chooser.decoder(choice).decode(log_probs, lengths_B))

    def beam_decoder(self, **settings: Any) -> Any:
        """A `BeamDecoder` with the bundle's settings, and these instead of its own; see `decode`."""
        return self._chooser.decoder(self._choice("beam", settings))

    def _choice(self, decoder: DecoderName | None, settings: dict[str, Any]) -> Choice:
        rescorer, bundled = None if self.streams else self.rescorer, (self.alphabet, self.decoder, self.lm)
        return choose(decoder, settings, *bundled, style=self.style, rescorer=rescorer)

    @torch.no_grad()
    def step(self, samples_BT: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The log-probabilities of whole outputs of each stream (see `Features.step`), and the new state."""
        if self.runtime is not None:
            return self.runtime.step(samples_BT, lengths_B, state)
        features_BTF, _ = self.features.step(samples_BT.to(self.device), lengths_B.to(self.device))
        log_probs_BTV, state = self.encoder.step(features_BTF, state)
        return log_probs_BTV.float().cpu(), state

    def open_stream(
        self, rate_hz: int | None = None, *, decoder: DecoderName | None = None, **settings: Any
    ) -> TranscriptStream:
        """A transcript of audio that is fed block by block; see `stream`."""
        make = partial(self._chooser.stream_decoder, self._choice(decoder, settings))
        return TranscriptStream(self, make, rate_hz=rate_hz)

    def stream(
        self, blocks: Iterable[np.ndarray], rate_hz: int | None = None, **how: Any
    ) -> Iterator[Partial]:
        """The transcript so far, after each block of audio; the last is that of `transcribe` for all of it.

        Args:
            blocks: mono float32 samples in [-1, 1], of any lengths, at `rate_hz` (None is the model's).
            how: `decoder` and settings as for `decode`; without pyctcdecode.

        Raises:
            ConfigError: the model needs the whole recording; the message says what to train instead.
            AudioError: blocks that are not mono, or have NaN or infinite samples.
        """
        opened = self.open_stream(rate_hz, **how)
        yield from map(opened.feed, blocks)
        yield opened.finish()

    def transcribe(
        self, source: Source, *, decoder: DecoderName | None = None, **settings: Any
    ) -> Transcript:
        """The transcript of one recording.

        Args:
            source: a path, the bytes of a file, an open binary file, or mono float32 samples at `rate_hz`.
            decoder, settings: see `decode`.

        Raises:
            AudioError: the source holds no readable audio.
        """
        return next(self.transcribe_many([source], decoder=decoder, **settings))

    def transcribe_many(
        self,
        sources: Iterable[Source],
        *,
        decoder: DecoderName | None = None,
        batch_s: float = 160.0,
        **settings: Any,
    ) -> Iterator[Transcript]:
        """The transcripts of many recordings, in order, in constant memory and batches of `batch_s` seconds.

        Raises:
            AudioError: at the first source that cannot be read, or one instead of several.
        """
        for outcome in self.outcomes(sources, decoder=decoder, batch_s=batch_s, **settings):
            if isinstance(outcome, AudioError):
                raise outcome
            yield outcome

    def n_best(self, source: Source, count: int, **settings: Any) -> list[Transcript]:
        """At most `count` transcripts of one short recording, with different texts, most probable first.

        Arguments and errors as for `transcribe`; always the beam decoder, over the whole recording at once.
        """
        samples, decoder = samples_of(source, self.rate_hz), self.beam_decoder(**settings)
        [found] = decoder.decode(*self.emissions([samples]), n_best=2 if count == 1 else count)
        return [self.transcript(h, len(samples) / self.rate_hz) for h in found[:count]]

    def outcomes(
        self,
        sources: Iterable[Source],
        *,
        decoder: DecoderName | None = None,
        batch_s: float = 160.0,
        on_segment: Callable[[int, Segment], None] | None = None,
        vad: VoiceDetector = "energy",
        **settings: Any,
    ) -> Iterator[Transcript | AudioError]:
        """For each source, in order, its transcript, or why it cannot be read; no failure stops the rest.

        `on_segment` is called with (number of the source, segment) as soon as a segment is known; `vad` finds
        pauses at which recordings beyond 40 s are cut (`asr.voice`); `silero` also skips noise.
        """
        how: dict[str, Any] = {"decoder": decoder, **settings}
        is_whole = vad == "silero" or self._choice(decoder, settings).name == "pyctcdecode"
        return Pipeline(
            self,
            partial(self.decode, **how),
            stream=None if is_whole or not self.streams else partial(self.stream, **how),
            pause=pause_finder(vad),
            batch_s=batch_s,
            on_segment=on_segment,
        ).run(sources)

    def transcript(self, hypothesis: Hypothesis, duration_s: float) -> Transcript:
        """The hypothesis as a transcript, with times in seconds and calibrated confidences."""
        calibration = Calibration(self.decoder.confidence_slope, self.decoder.confidence_bias)
        clock = Clock(self.frame_s, duration_s, self.edges)
        return transcript_of(hypothesis, self.alphabet, clock=clock, calibration=calibration)

    def targets(self, text: str) -> list[int]:
        """The outputs that spell `text` after the model's normalisation; of phones, each word's first.

        Raises:
            AlphabetError: characters the model was not trained on, or words without pronunciation.
        """
        text = normalise(text, self.style)
        return self.alphabet.with_words(text.split()).encode(text)

    def log_prob(self, source: Source, text: str) -> float:
        """The exact ln p of `text` as `targets` spells it, the sum over paths (Graves et al. 2006, eq. 3)."""
        from asr.ctc import forward_backward

        log_probs_BTV, lengths_B = self.log_probs([samples_of(source, self.rate_hz)])
        targets_1S = torch.tensor([self.targets(text)], dtype=torch.long)
        labels_B = torch.tensor([targets_1S.shape[1]])
        return -float(forward_backward(log_probs_BTV.double(), targets_1S, lengths_B, labels_B).nll_B[0])

    def save(self, path: str | Path, *, small: bool = False) -> Path:
        """Write the bundle, whole or not at all, and return its file; `small`: weights in 8 bits.

        `path` is a folder (made if missing; the file is `model.safetensors` in it) or a `.safetensors` file.
        """
        file = bundle.file_of(Path(path), is_written=True)
        tensors = {f"features.{k}": v for k, v in self.features.state_dict().items()}
        tensors |= {f"encoder.{k}": v for k, v in self.encoder.state_dict().items()}
        tensors |= bundle.pack_lm(self.lm, self.rescorer)
        bundle.write(file, tensors, bundle.describe(self), small=small)
        return file


def load(path: str | Path, *, device: str = "cpu", precision: Precision = "float32") -> Recognizer:
    """The recogniser in a bundle, ready to transcribe.

    Args:
        path: the folder or the file of a bundle, or a `.onnx` file that `asr export` wrote; `english`: the
            small model that comes with the toolkit.
        device: where the weights go, e.g. `cuda`.
        precision: `bf16` and `int8` are often faster, but can raise the error rate; see `asr.precision`.

    Raises:
        BundleError: no such file, one that is truncated or foreign, or one of a newer format.
        ConfigError: onnxruntime is needed and missing, or the precision is not available.
    """
    path = bundle.located(bundle.path_of(path))
    if path.suffix == ".onnx":
        from asr import onnx_model

        if precision != "float32":
            raise ConfigError(f"precision={precision}: exported models compute in float32; take the bundle")
        return Recognizer(**onnx_model.read(path)).to(device)
    header, tensors = bundle.read(file := bundle.file_of(path))
    try:
        recognizer = Recognizer.build(**bundle.parts(header))
        for name in ("features", "encoder"):
            getattr(recognizer, name).load_state_dict(bundle.part(tensors, name))
    except (KeyError, TypeError, RuntimeError, AlphabetError) as error:
        raise BundleError(f"{file}: settings and weights do not belong together: {error}") from error
    recognizer.lm, recognizer.rescorer = bundle.unpack_lm(tensors)
    recognizer.to(device).eval()
    recognizer.encoder = lower(recognizer.encoder, precision)
    recognizer.rescorer = lower_lm(recognizer.rescorer, precision)
    return recognizer
