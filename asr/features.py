"""Samples → feature frames: log-mel energies or MFCCs, normalised, computed in batches on the device.

Conventions. Frame i is centred on sample i · hop, and what lies outside an utterance is zero, so an utterance
of n samples has 1 + n // hop frames and zero padding in a batch changes none of them; except in training,
`edge_s` adds frames of silence at both ends. Power is relative to a full-scale sine tone, logarithms are
natural; for mel bands see `asr.filterbank`.
A stream is computed in overlapping blocks and gives the same frames, but cannot be normalised by utterance.
An utterance is normalised by its own mean and variance; in a recording longer than `span_s` each frame is
normalised over the span around it, shifted inwards at both ends, as in Kaldi's sliding-window normalisation.
Consecutive speakers are then normalised nearly as if each were alone.
With `pool_s` average speech takes part in these moments, with the loudest frame of both equally loud.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.errors import AudioError, ConfigError, demands_of
from asr.filterbank import energies, mel_edges, triangles, warped
from asr.spans import greatest_in_spans, inside, moments_of_spans, pooled_moments

_QUIET = 1e-12  # −120 dB below a full-scale tone: about what 16-bit quantisation leaves in one band
_SILENT = 1e-30  # keeps the logarithm of digital silence finite
_SMALLEST_VARIANCE = 1e-4  # of natural-log energies; speech has 1 to 20


@dataclass
class FeaturesConfig:
    """How samples become frames."""

    kind: Literal["logmel", "mfcc"] = "logmel"
    rate_hz: int = 16_000
    bands: int = 80
    """Mel bands."""
    coefficients: int = 40
    """Cepstral coefficients kept (mfcc only)."""
    window_s: float = 0.025
    hop_s: float = 0.010
    low_hz: float = 20.0
    high_hz: float = 0.0
    """Upper edge of the highest band; 0 is half the sample rate."""
    preemphasis: float = 0.0
    """Pre-emphasis: share of the previous sample that is subtracted from each sample; 0 is off."""
    normalise: Literal["utterance", "global", "none"] = "utterance"
    """Whether every output gets mean 0 and variance 1 per utterance, over the training corpus, or not."""
    span_s: float = 15.0
    """Longer recordings are normalised over a sliding window of this length (utterance only)."""
    pool_s: float = 0.0
    """So many seconds of average training speech take part in each utterance's, or span's, mean and variance:
    else nothing tells a short word of one vowel from another vowel; 0 is off (utterance only)."""
    by_speaker: bool = False
    """Whether training normalises by mean and variance of all the speaker's recordings instead (those without
    a speaker count as one's). What is recognised has `pool_s`, which must not be 0, whoever says it."""
    floor_db: float = 80.0
    """Band energies are floored this far below the loudest one of the utterance, or span (utterance only)."""
    edge_s: float = 0.0
    """Silence put before and after what is recognised (in training, `augmentation.pad_s` draws it), so that
    closely cut words begin and end like others. A multiple of the time between outputs; does not stream."""
    trim_db: float = 0.0
    """When a recording is recognised, what is so far below its loudest moment at its beginning and its end is
    not heard, but taken for silence; 0 is off (utterance only)."""


class Features(nn.Module):
    """Log-mel energies or MFCCs of a batch of utterances.

    Raises:
        ConfigError: a setting that cannot work.
    """

    window: Tensor
    bin_hz: Tensor
    edge_hz: Tensor
    bank: Tensor
    dct: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: FeaturesConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or FeaturesConfig()
        _check(config)
        self.hop_samples = round(config.rate_hz * config.hop_s)
        self.window_samples = round(config.rate_hz * config.window_s)
        self.fft_samples = 1 << (self.window_samples - 1).bit_length()
        self.span_frames = max(1, round(config.span_s / config.hop_s))
        self.silent_frames = round(config.edge_s / config.hop_s)
        window = torch.hann_window(self.window_samples, dtype=torch.float64)
        before = (self.fft_samples - self.window_samples) // 2
        window = functional.pad(window, (before, self.fft_samples - self.window_samples - before))
        self.register_buffer("window", (window / (window.sum() / 2)).float(), persistent=False)
        bin_hz = torch.linspace(0, config.rate_hz / 2, self.fft_samples // 2 + 1, dtype=torch.float64)
        self.register_buffer("bin_hz", bin_hz, persistent=False)
        edge_hz = mel_edges(config.bands, config.low_hz, config.high_hz or config.rate_hz / 2)
        self.register_buffer("edge_hz", edge_hz, persistent=False)
        self.register_buffer("bank", triangles(self.bin_hz, self.edge_hz).float(), persistent=False)
        if (self.bank.sum(0) == 0).any():
            raise ConfigError(
                f"features.bands={config.bands}: some bands lie between two bins of the "
                f"{self.fft_samples}-point spectrum; take fewer bands or a longer window_s than "
                f"{config.window_s}"
            )
        if config.kind == "mfcc":
            from torchaudio.functional import create_dct  # whose import takes a while

            self.register_buffer(
                "dct", create_dct(config.coefficients, config.bands, "ortho"), persistent=False
            )
        if self.has_statistics:
            self.register_buffer("mean", torch.zeros(self.outputs))
            self.register_buffer("std", torch.zeros(self.outputs))
            self.fitted = False
            self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "fitted", True))

    @property
    def has_statistics(self) -> bool:
        """Whether it needs those of the training corpus, from `fit` or a bundle."""
        return self.config.normalise == "global" or self.config.pool_s > 0

    @property
    def outputs(self) -> int:
        """Values per frame."""
        return self.config.bands if self.config.kind == "logmel" else self.config.coefficients

    @property
    def edge_frames(self) -> int:
        """Frames of silence before and after every utterance; none in training mode."""
        return 0 if self.training else self.silent_frames

    @property
    def context_s(self) -> float:
        """Seconds before and after a frame that can influence it, beyond its window.

        Half a span for its normalisation, and half a span more for the floor of the frames in that span.
        """
        return self.config.span_s if self.config.normalise == "utterance" else 0.0

    def output_lengths(self, lengths_B: Tensor) -> Tensor:
        """Number of frames of each utterance, given its samples: 1 + samples // hop, and both edges."""
        return 1 + lengths_B // self.hop_samples + 2 * self.edge_frames

    def forward(
        self,
        samples_BT: Tensor,
        lengths_B: Tensor,
        warp_B: Tensor | None = None,
        moments_B2F: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The frames of every utterance, zero beyond its end, and how many it has.

        Args:
            samples_BT: float32 in [-1, 1] at the configured rate; samples beyond a length are ignored.
            lengths_B: int64, samples of each utterance, at least 1. Values are checked if on the CPU.
            warp_B: vocal-tract-length factors, about 0.8 to 1.25: energy at f counts as being at warp · f.
                None, or 1.0, is the plain filterbank.
            moments_B2F: mean and mean square to normalise by, instead of those of the utterance.

        Returns:
            features_BTF float32 and lengths_B int64 (frames), both on the device of the samples.

        Raises:
            AudioError: an empty batch or utterance, or shapes that do not belong together.
            ConfigError: statistics of the corpus are needed, before `fit` or loading.
        """
        with torch.autocast(samples_BT.device.type, enabled=False):
            raw_BTF, frames_B = self._raw(samples_BT, lengths_B, warp_B)
            return self._normalised(raw_BTF, frames_B, moments_B2F), frames_B

    def step(self, samples_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The frames of a block of each stream, one for every whole window in it, and how many it has.

        With `fft_samples // 2` zeros before and after a stream, and blocks that overlap by
        `fft_samples − hop_samples`, the frames of all blocks are those that `forward` gives for the whole.

        Args:
            samples_BT: float32, T at least `fft_samples`; the first frame is centred on `fft_samples // 2`.
            lengths_B: int64, samples of the block before its stream ends; 0 to T.

        Returns:
            features_BTF float32, zero beyond the end of a stream, and lengths_B int64 (frames).

        Raises:
            ConfigError: normalised per utterance, which needs its end, or global and not fitted.
        """
        if self.config.normalise == "utterance":
            raise ConfigError(
                "normalise=utterance needs the whole utterance before its first frame: for block by block "
                "recognition train with features.normalise=global"
            )
        with torch.autocast(samples_BT.device.type, enabled=False):
            emphasised_BT = self._emphasised(samples_BT.float(), lengths_B)
            log_BTF = self._log(energies(emphasised_BT, self.window, self.bank, hop=self.hop_samples))
            frames_B = (lengths_B - self.fft_samples // 2) // self.hop_samples + 1
            frames_B = frames_B.clamp(0, log_BTF.shape[1])
            return self._normalised(log_BTF, frames_B), frames_B

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Sets mean and standard deviation of the corpus from batches of (samples_BT, lengths_B).

        Raises:
            ConfigError: the configured normalisation does not need them, or there are no batches.
        """
        if not self.has_statistics:
            raise ConfigError(f"fit belongs to normalise=global or pool_s, not {self.config.normalise!r}")
        total_2F, frames = torch.zeros(2, self.outputs, dtype=torch.float64), 0
        for samples_BT, lengths_B in batches:
            sums_2F, count = self.sums(samples_BT.to(self.window.device), lengths_B)
            total_2F += sums_2F
            frames += count
        if not frames:
            raise ConfigError("fit was given no batches: expected (samples_BT, lengths_B) pairs")
        mean_F, square_F = total_2F / frames
        self.mean.copy_(mean_F)
        self.std.copy_((square_F - mean_F.square()).clamp(min=_SMALLEST_VARIANCE).sqrt())
        self.fitted = True

    @torch.no_grad()
    def sums(self, samples_BT: Tensor, lengths_B: Tensor, warp_B: Tensor | None = None) -> tuple[Tensor, int]:
        """Sums of all frames before normalisation and of their squares (2, F), float64; their number."""
        raw_BTF, frames_B = self._raw(samples_BT, lengths_B, warp_B)
        true_NF = raw_BTF[inside(frames_B, raw_BTF.shape[1])[..., 0]].double().cpu()
        return torch.stack([true_NF.sum(0), true_NF.square().sum(0)]), len(true_NF)

    def _raw(self, samples_BT: Tensor, lengths_B: Tensor, warp_B: Tensor | None) -> tuple[Tensor, Tensor]:
        lengths_B = _checked(samples_BT, lengths_B)
        bank = self.bank if warp_B is None else self.warped_bank(warp_B.to(samples_BT.device))
        silence = self.fft_samples // 2 + self.edge_frames * self.hop_samples
        samples_BT = functional.pad(self._emphasised(samples_BT.float(), lengths_B), (silence, silence))
        mel_BTF = energies(samples_BT, self.window, bank, hop=self.hop_samples)
        frames_B = self.output_lengths(lengths_B)
        floor: Tensor | None = None
        if self.config.normalise == "utterance":
            loudest_BT1 = (mel_BTF * inside(frames_B, mel_BTF.shape[1])).amax(2, keepdim=True)
            if self.config.pool_s:
                greatest_B11 = loudest_BT1.amax(1, keepdim=True).clamp(min=_SILENT)
                mel_BTF, loudest_BT1 = mel_BTF / greatest_B11, loudest_BT1 / greatest_B11
            loudest_BT1 = greatest_in_spans(loudest_BT1, frames_B, self.span_frames)
            floor = (loudest_BT1 * 10 ** (-self.config.floor_db / 10)).clamp(min=_SILENT)
        return self._log(mel_BTF, floor), frames_B

    def _log(self, mel_BTF: Tensor, floor: Tensor | None = None) -> Tensor:
        """Log energies, or the cepstral coefficients computed from them."""
        log_BTF = (mel_BTF.clamp(min=_QUIET) if floor is None else torch.maximum(mel_BTF, floor)).log()
        return log_BTF @ self.dct if self.config.kind == "mfcc" else log_BTF

    def _emphasised(self, samples_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The pre-emphasised samples, zero beyond each length.

        The first sample lacks its predecessor: it begins an utterance, or has weight 0 in every window.
        """
        if self.config.preemphasis:
            samples_BT = samples_BT - self.config.preemphasis * functional.pad(samples_BT, (1, 0))[:, :-1]
        inside_BT = torch.arange(samples_BT.shape[1], device=samples_BT.device) < lengths_B[:, None]
        return torch.where(inside_BT, samples_BT, 0.0)

    def _normalised(self, raw_BTF: Tensor, frames_B: Tensor, moments_B2F: Tensor | None = None) -> Tensor:
        """The features, zero beyond the end of each utterance."""
        mask_BT1 = inside(frames_B, raw_BTF.shape[1])
        if self.has_statistics and not self.fitted:
            raise ConfigError("the features need mean and variance of the corpus: call fit(batches) first")
        if self.config.normalise == "utterance":
            if moments_B2F is None:
                mean_BTF, variance_BTF = self._own_moments(raw_BTF * mask_BT1, frames_B)
            else:
                mean_BTF, square_BTF = moments_B2F.split(1, 1)
                variance_BTF = square_BTF - mean_BTF.square()
            raw_BTF = (raw_BTF - mean_BTF) * (variance_BTF + _SMALLEST_VARIANCE).rsqrt()
        elif self.config.normalise == "global":
            raw_BTF = (raw_BTF - self.mean) / self.std
        return raw_BTF * mask_BT1

    def _own_moments(self, raw_BTF: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the utterance, or of the span around each frame, with average speech."""
        ours = moments_of_spans(raw_BTF, frames_B, self.span_frames)
        if not self.config.pool_s:
            return ours
        frames_B11, pool = frames_B[:, None, None], self.config.pool_s / self.config.hop_s
        share_B11 = 1 / (1 + pool / frames_B11.clamp(max=self.span_frames))
        return pooled_moments(ours, (self.mean, self.std.square()), share_B11)

    def warped_bank(self, warp_B: Tensor) -> Tensor:
        """A filterbank (B, bins, bands) for every vocal-tract-length factor."""
        warped_BK = warped(self.bin_hz, warp_B, self.config.rate_hz / 2)
        return triangles(warped_BK, self.edge_hz).float()


def _checked(samples_BT: Tensor, lengths_B: Tensor) -> Tensor:
    shapes = f"samples of shape {tuple(samples_BT.shape)} with lengths of shape {tuple(lengths_B.shape)}"
    if samples_BT.ndim != 2 or lengths_B.shape != samples_BT.shape[:1] or lengths_B.is_floating_point():
        raise AudioError(f"{shapes} ({lengths_B.dtype}): expected (batch, time) and (batch,) integers")
    if 0 in samples_BT.shape:
        raise AudioError(f"{shapes}: expected at least one utterance of at least one sample")
    if lengths_B.device.type == "cpu" and not ((lengths_B > 0) & (lengths_B <= samples_BT.shape[1])).all():
        raise AudioError(f"lengths {lengths_B.tolist()}: expected 1 to {samples_BT.shape[1]} samples in each")
    return lengths_B.to(samples_BT.device)


def _check(config: FeaturesConfig) -> None:
    """Raises ConfigError at the first setting that cannot work."""
    demand = demands_of("features", config)
    demand(config.rate_hz >= 1, "rate_hz", "samples per second, say 16000")
    demand(config.kind in ("logmel", "mfcc"), "kind", "logmel or mfcc")
    demand(config.normalise in ("utterance", "global", "none"), "normalise", "utterance, global or none")
    demand(config.bands >= 1, "bands", "at least 1")
    if config.kind == "mfcc":
        demand(1 <= config.coefficients <= config.bands, "coefficients", f"1 to bands={config.bands}")
    hop = config.rate_hz * config.hop_s
    if not (hop >= 1 and abs(hop - round(hop)) < 1e-6):
        raise ConfigError(
            f"features.hop_s={config.hop_s} is {hop:g} samples at {config.rate_hz} Hz: expected whole ones"
        )
    demand(
        config.rate_hz * config.window_s >= 2 and config.window_s >= config.hop_s,
        "window_s",
        f"at least hop_s={config.hop_s}, so that no sample is lost",
    )
    half_hz = config.rate_hz / 2
    demand(
        0 <= config.low_hz < (config.high_hz or half_hz) <= half_hz,
        "low_hz high_hz",
        f"0 ≤ low < high ≤ {half_hz:g}, half of rate_hz (high_hz=0 stands for that)",
    )
    demand(config.span_s >= 0.1, "span_s", "at least 0.1 seconds")
    for name, unit in (("pool_s", "seconds"), ("trim_db", "decibels")):
        value = getattr(config, name)
        is_possible = value == 0 or (value > 0 and config.normalise == "utterance")
        demand(is_possible, name, f"{unit}, at least 0, beside normalise=utterance")
    if config.by_speaker and not config.pool_s > 0:
        raise ConfigError(
            f"features.by_speaker with pool_s={config.pool_s}: what is recognised needs pool_s, say 0.5"
        )
    demand(config.floor_db > 0, "floor_db", "more than 0")
    demand(config.edge_s >= 0, "edge_s", "0 (off) or more")
    demand(0 <= config.preemphasis < 1, "preemphasis", "0 to below 1")
