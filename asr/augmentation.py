"""Augmentation: speed, edges, reverberation, noise, voices, telephone, equaliser, gain, tempo, SpecAugment.

A few utterances have their speech removed, so that a model learns to output nothing where nobody speaks.

Conventions. What happens to an utterance is a pure function of (seed, epoch, utterance id), see `asr.draws`.
Noise is an excerpt of the "tape", a fixed noise signal that is the same in every process. No global random
state is read or written. Everything works on whole batches on their device; zero, or an empty list, switches
an option off.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchaudio.transforms import Resample

from asr.draws import (
    EQUALISER_POINTS,
    LARGEST_TRIM,
    TAPE_SAMPLES,
    AugmentationConfig,
    Draws,
    check,
    draw,
)
from asr.errors import ConfigError
from asr.machine.devices import sent
from asr.spans import inside

__all__ = ["Augmentation", "AugmentationConfig", "Draws", "draw"]

_TAPE_SEED = 20_006  # any constant; changing it changes all noise
_EDGE_DB = 50.0  # added edges are pink noise this far below the speech: real silence is never digital
_PHONE_TAPS = 255
_EQUALISER_TAPS = 256


class Augmentation(nn.Module):
    """Applies draws to batches, on the device of the batch.

    Args:
        config: which augmentations, and how strong.
        rate_hz: sample rate of the recordings.
        voices: what `config.voices` adds: a signal of power 1, (samples,), which is repeated without end.

    Raises:
        ConfigError: a setting that cannot work, or voices are to be added and none are given.
    """

    tape: Tensor
    voices: Tensor

    def __init__(self, config: AugmentationConfig, rate_hz: int, *, voices: Tensor | None = None) -> None:
        super().__init__()
        check(config)
        if config.voices and (voices is None or not len(voices)):
            raise ConfigError(f"augmentation.voices={config.voices}: there are no voices to add")
        self.config = config
        self.rate_hz = rate_hz
        ratios = [Fraction(f).limit_denominator(100) for f in config.speed]
        self.resamplers = nn.ModuleList(Resample(r.numerator, r.denominator) for r in ratios)
        uses_tape = config.noise or config.pad_s or config.reverb
        tape = _tape(rate_hz) if uses_tape else torch.zeros(0)
        self.register_buffer("tape", tape, persistent=False)
        self.register_buffer(
            "voices", torch.zeros(0) if voices is None else voices.repeat(2), persistent=False
        )

    def waveforms(self, samples_BT: Tensor, lengths_B: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The augmented recordings and their new lengths (everything but tempo and SpecAugment masks).

        Args:
            samples_BT: float32; samples beyond a length are ignored.
            lengths_B: int64, samples of each utterance; best on the CPU, which avoids a device sync.
            draws: what `draw` returned for the utterances of this batch.

        Returns:
            samples_BT with zeros beyond each length, and lengths_B on the device of the given ones.
        """
        lengths, device = lengths_B.cpu(), samples_BT.device
        samples_BT = _masked(samples_BT, lengths)
        if self.config.speed:
            samples_BT, lengths = self._speed(samples_BT, lengths, draws.speed_index_B)
        if self.config.pad_s or self.config.trim_s:
            samples_BT, lengths = self._edges(samples_BT, lengths, draws)
        if self.config.reverb:
            samples_BT = self._reverb(samples_BT, lengths, draws)
        level_B1 = _level_B1(samples_BT, lengths)
        if self.config.silence:
            samples_BT = samples_BT.masked_fill(sent(draws.silent_B, device)[:, None], 0.0)
        if self.config.noise:
            scale_B1 = level_B1 * 10 ** (-sent(draws.noise_snr_db_B, device)[:, None] / 20)
            noise_BT = self._excerpt(draws.colour_B, draws.tape_B, samples_BT.shape[1])
            samples_BT = _masked(samples_BT.addcmul(noise_BT, scale_B1), lengths)
        if self.config.voices:
            samples_BT = self._among_voices(samples_BT, lengths, draws, level_B1)
        if self.config.telephone:
            samples_BT = self._telephone(samples_BT, lengths, draws.phone_hz_B2)
        if self.config.equaliser_db:
            samples_BT = self._equalised(samples_BT, lengths, draws.equaliser_db_BK)
        if self.config.gain_db:
            samples_BT = samples_BT * sent(draws.gain_B, device)[:, None]
        return samples_BT, lengths.to(lengths_B.device)

    def features(self, features_BTF: Tensor, lengths_B: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The features at another tempo, with blocks of frames and of bands masked to zero, their mean.

        Args:
            features_BTF: normalised; frames beyond a length are ignored.
            lengths_B: int64, frames of each utterance, on the CPU.
            draws: as for `waveforms`.

        Returns:
            features_BTF and their new lengths_B, on the CPU.

        Source: SpecAugment, Park et al. 2019, without time warping; time masks are limited by each
        utterance's true length.
        """
        if self.config.tempo:
            features_BTF, lengths_B = _at_tempo(features_BTF, lengths_B, draws.tempo_B)
        device, bands = features_BTF.device, features_BTF.shape[2]
        lengths_B1 = sent(lengths_B, device)[:, None]
        time_BT = _stripes(
            sent(draws.time_masks_BM2, device),
            lengths_B1,
            features_BTF.shape[1],
            self.config.time_mask_share,
        )
        band_BF = _stripes(
            sent(draws.frequency_masks_BM2, device),
            torch.full_like(lengths_B1, bands),
            bands,
            self.config.frequency_mask_share,
        )
        return features_BTF.masked_fill(time_BT[:, :, None] | band_BF[:, None, :], 0.0), lengths_B

    def _speed(self, samples_BT: Tensor, lengths: Tensor, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Each utterance resampled by its speed factor; utterances of equal factors are done together."""
        groups: list[tuple[Tensor, Tensor]] = []
        after = lengths.clone()
        for i, resample in enumerate(cast(Sequence[Resample], self.resamplers)):
            rows = (index_B == i).nonzero()[:, 0]
            if len(rows):
                before, over = resample.orig_freq, resample.new_freq
                after[rows] = (lengths[rows] * over + before - 1) // before
                longest = int(lengths[rows].max())
                groups.append((rows, resample(samples_BT[sent(rows, samples_BT.device), :longest])))
        result_BT = samples_BT.new_zeros(len(samples_BT), int(after.max()))
        for rows, group_BT in groups:
            result_BT[sent(rows, samples_BT.device), : group_BT.shape[1]] = group_BT
        return _masked(result_BT, after), after

    def _edges(self, samples_BT: Tensor, lengths: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Each utterance padded or trimmed at both ends; padding is noise far below the speech."""
        lead, trail = (
            torch.maximum((s * self.rate_hz).round().long(), -(lengths // LARGEST_TRIM))
            for s in (draws.lead_s_B, draws.trail_s_B)
        )
        after = lengths + lead + trail
        device, size, margin = samples_BT.device, int(after.max()), max(int(lead.max()), 0)
        right = max(size - int(lead.min()) - samples_BT.shape[1], 0)
        padded_BT = functional.pad(samples_BT, (margin, right))
        rows_B, begin_B = torch.arange(len(lead), device=device), sent(margin - lead, device)
        # Rows are copied from a view of all possible windows, which needs no index for every sample.
        moved_BT = padded_BT.unfold(1, size, 1)[rows_B, begin_B]
        if self.config.pad_s:
            place_T = torch.arange(size, device=device)
            old_BT = (place_T >= sent(lead, device)[:, None]) & (
                place_T < sent(lead + lengths, device)[:, None]
            )
            quiet_B1 = _level_B1(samples_BT, lengths) * 10 ** (-_EDGE_DB / 20)
            silence_BT = self._excerpt(torch.ones_like(lead), draws.tape_B, size) * quiet_B1
            moved_BT = torch.where(old_BT, moved_BT, silence_BT)
        return _masked(moved_BT, after), after

    def _excerpt(self, colour_B: Tensor, start_B: Tensor, size: int) -> Tensor:
        """Excerpts (B, size) of the tape of these colours that begin at these samples."""
        tape = self.tape
        if size > TAPE_SAMPLES:
            tape = tape.repeat(1, 1 + size // TAPE_SAMPLES)
        # As in `_edges`: rows of a view of all possible excerpts.
        return tape.unfold(1, size, 1)[sent(colour_B, tape.device), sent(start_B, tape.device)]

    def _among_voices(self, samples_BT: Tensor, lengths: Tensor, draws: Draws, level_B1: Tensor) -> Tensor:
        """The chosen utterances, of these levels, with other voices so far below."""
        rows = draws.voices_snr_db_B.isfinite().nonzero()[:, 0]
        if not len(rows):
            return samples_BT
        device, size, count = samples_BT.device, samples_BT.shape[1], len(self.voices) // 2
        signal = self.voices.repeat(1 + size // count) if size > count else self.voices
        start = sent((draws.voices_B[rows] * count).long(), device)
        chosen, snr_db = sent(rows, device), sent(draws.voices_snr_db_B[rows], device)
        voices_BT = signal.unfold(0, size, 1)[start] * (level_B1[chosen] * 10 ** (-snr_db[:, None] / 20))
        return samples_BT.index_add(0, chosen, _masked(voices_BT, lengths[rows]))

    def _reverb(self, samples_BT: Tensor, lengths: Tensor, draws: Draws) -> Tensor:
        """The chosen utterances reverberated: direct sound, then an exponentially decaying noise tail."""
        rows = (draws.reverb_s_B > 0).nonzero()[:, 0]
        if not len(rows):
            return samples_BT
        taps = math.ceil(self.config.reverb_s[1] * self.rate_hz)
        start = (draws.tape_B[rows] + TAPE_SAMPLES // 2) % TAPE_SAMPLES
        tail_BL = self._excerpt(torch.zeros_like(start), start, taps)
        time_L = torch.arange(taps, device=tail_BL.device) / self.rate_hz
        seconds_B1 = sent(draws.reverb_s_B[rows], tail_BL.device)[:, None]
        tail_BL = (tail_BL * 10 ** (-3 * time_L / seconds_B1)).masked_fill(time_L == 0, 0.0)
        ratio_B1 = 10 ** (-sent(draws.direct_db_B[rows], tail_BL.device)[:, None] / 20)
        tail_BL = tail_BL * ratio_B1 / tail_BL.square().sum(1, keepdim=True).sqrt()
        impulse_BL = (tail_BL + (time_L == 0)) / (1 + ratio_B1.square()).sqrt()
        return _filtered(samples_BT, lengths, rows, impulse_BL, 0)

    def _telephone(self, samples_BT: Tensor, lengths: Tensor, phone_hz_B2: Tensor) -> Tensor:
        """The chosen utterances band-passed by zero-phase windowed-sinc filters."""
        rows = (phone_hz_B2[:, 0] > 0).nonzero()[:, 0]
        if not len(rows):
            return samples_BT
        edge_BL2 = (2 * phone_hz_B2[rows] / self.rate_hz).clamp(max=1.0)[:, None, :]
        time_L1 = (torch.arange(_PHONE_TAPS) - _PHONE_TAPS // 2)[:, None]
        low_BL, high_BL = (edge_BL2 * torch.sinc(edge_BL2 * time_L1)).unbind(2)
        window_L = torch.hann_window(_PHONE_TAPS + 2, periodic=False)[1:-1]
        impulse_BL = sent((high_BL - low_BL) * window_L, samples_BT.device)
        return _filtered(samples_BT, lengths, rows, impulse_BL, _PHONE_TAPS // 2)

    def _equalised(self, samples_BT: Tensor, lengths: Tensor, db_BK: Tensor) -> Tensor:
        """Utterances through zero-phase filters; the gain in dB is interpolated linearly between octaves."""
        bins = _EQUALISER_TAPS // 2 + 1
        octave_K = (torch.arange(bins) / (bins - 1)).clamp(min=2.0 ** (1 - EQUALISER_POINTS)).log2()
        place_K = octave_K + EQUALISER_POINTS - 1
        left_K = place_K.long().clamp(max=EQUALISER_POINTS - 2)
        db_BK = torch.lerp(db_BK[:, left_K], db_BK[:, left_K + 1], place_K - left_K)
        impulse_BL = torch.fft.fftshift(torch.fft.irfft(10 ** (db_BK / 20), _EQUALISER_TAPS), dim=1)
        impulse_BL = impulse_BL * torch.hann_window(_EQUALISER_TAPS)
        rows = torch.arange(len(samples_BT))
        return _filtered(samples_BT, lengths, rows, sent(impulse_BL, samples_BT.device), _EQUALISER_TAPS // 2)


def _at_tempo(features_BTF: Tensor, lengths_B: Tensor, tempo_B: Tensor) -> tuple[Tensor, Tensor]:
    """Each utterance at its tempo, linearly interpolated between frames, and its new number of frames."""
    after_B = (lengths_B / tempo_B).ceil().long()
    place_BT = torch.arange(int(after_B.max())) * tempo_B[:, None]
    place_BT = sent(place_BT.minimum(lengths_B[:, None] - 1), features_BTF.device)
    before_BT = place_BT.long()
    rows_B1 = torch.arange(len(before_BT), device=features_BTF.device)[:, None]
    left_BTF = features_BTF[rows_B1, before_BT]
    right_BTF = features_BTF[rows_B1, (before_BT + 1).clamp(max=features_BTF.shape[1] - 1)]
    return torch.lerp(left_BTF, right_BTF, (place_BT - before_BT)[..., None]), after_B


def _tape(rate_hz: int) -> Tensor:
    """White, pink and brown noise (3, samples) of power 1, repeated twice without a seam.

    Pink falls by 3 and brown by 6 dB per octave; both are flat below 50 Hz, so that their power is audible.
    """
    generator = torch.Generator().manual_seed(_TAPE_SEED)
    spectrum_3K = torch.fft.rfft(torch.randn(3, TAPE_SAMPLES, generator=generator))
    hz_K = torch.linspace(0, rate_hz / 2, spectrum_3K.shape[1]).clamp(min=50.0)
    slope_31 = torch.tensor([[0.0], [0.5], [1.0]])
    tape = torch.fft.irfft(spectrum_3K / hz_K**slope_31, TAPE_SAMPLES)
    return (tape / tape.square().mean(1, keepdim=True).sqrt()).repeat(1, 2)


def _filtered(samples_BT: Tensor, lengths: Tensor, rows: Tensor, impulse_BL: Tensor, delay: int) -> Tensor:
    """The batch with the chosen rows convolved, the filter's delay removed, cut to their lengths."""
    rows_on_device = sent(rows, samples_BT.device)
    frames, taps = samples_BT.shape[1], impulse_BL.shape[1]
    step = 1 << max((frames + taps).bit_length() - 4, 0)
    size = -(-(frames + taps) // step) * step  # an FFT size of 8 to 16 times a power of two
    spectrum = torch.fft.rfft(samples_BT[rows_on_device], size) * torch.fft.rfft(impulse_BL, size)
    heard_BT = torch.fft.irfft(spectrum, size)[:, delay : delay + frames]
    return samples_BT.index_copy(0, rows_on_device, _masked(heard_BT, lengths[rows]))


def _stripes(masks_BM2: Tensor, lengths_B1: Tensor, size: int, share: float) -> Tensor:
    """True (B, size) inside any mask; each is at most share · length wide and lies within the length."""
    width_BM = (masks_BM2[..., 0] * ((share * lengths_B1).long() + 1)).long()
    start_BM = (masks_BM2[..., 1] * (lengths_B1 - width_BM + 1)).long()
    place_T = torch.arange(size, device=masks_BM2.device)
    after_BMT = place_T >= start_BM[..., None]
    return (after_BMT & (place_T < (start_BM + width_BM)[..., None])).any(1)


def _level_B1(samples_BT: Tensor, lengths: Tensor) -> Tensor:
    """RMS level of each utterance (B, 1)."""
    return (
        torch.linalg.vector_norm(samples_BT, dim=1, keepdim=True)
        / sent(lengths, samples_BT.device)[:, None].sqrt()
    )


def _masked(samples_BT: Tensor, lengths: Tensor) -> Tensor:
    is_heard_BT1 = inside(sent(lengths, samples_BT.device), samples_BT.shape[1])
    return torch.where(is_heard_BT1[..., 0], samples_BT, 0.0)
