"""The random numbers of augmentation: a pure function of (seed, epoch, utterance id).

`draw` hashes these into uniform numbers, one column for each use, so that neither the batch, nor the process,
nor another option changes what happens to an utterance. Global random state is neither read nor written.
`asr.augmentation` applies the draws.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from asr.errors import ConfigError, demands_of

TAPE_SAMPLES = 1 << 20
"""Length of the noise signal from which utterances take excerpts."""
EQUALISER_POINTS = 7
"""Frequencies whose gain is drawn: 0 Hz, then octaves up to half the sample rate."""
LARGEST_TRIM = 10
"""At most 1 / this of an utterance is trimmed at either end."""
_DIRECT_DB = (0.0, 12.0)  # direct-to-reverberant ratio
_PHONE_LOW_HZ = (200.0, 400.0)
_PHONE_HIGH_HZ = (3000.0, 3800.0)


@dataclass
class AugmentationConfig:
    """How training recordings are augmented."""

    speed: tuple[float, ...] = (0.9, 0.95, 1.0, 1.05, 1.1)
    """Speed perturbation factors (tempo and pitch), multiples of 0.01, equally likely; () is off."""
    tempo: float = 0.0
    """Speech is made slower or faster by a factor of up to 1 + this, without changing voice or pitch."""
    pad_s: float = 0.1
    """Maximum silence added at each end."""
    trim_s: float = 0.0
    """Maximum audio removed at each end; never more than a tenth of the utterance."""
    reverb: float = 0.0
    """Share of utterances with simulated room reverberation."""
    reverb_s: tuple[float, float] = (0.15, 0.6)
    """Range of the reverberation time (decay by 60 dB)."""
    noise: float = 0.5
    """Share of utterances with white, pink or brown noise added."""
    noise_snr_db: tuple[float, float] = (5.0, 40.0)
    voices: float = 0.0
    """Share of utterances with a murmur of six other voices of the training corpus added."""
    voices_snr_db: tuple[float, float] = (5.0, 25.0)
    silence: float = 0.02
    """Share of utterances whose speech is removed, leaving noise or silence; their target is empty."""
    telephone: float = 0.0
    """Share of utterances band-limited as on a telephone."""
    equaliser_db: float = 0.0
    """The gain of each octave is changed by up to ± this, as microphones and rooms do."""
    gain_db: float = 0.0
    """The gain is changed by up to ± this."""
    warp: float = 0.1
    """Vocal-tract-length perturbation: factors within 1 ± this, applied by the features."""
    time_masks: int = 5
    time_mask_share: float = 0.05
    """Longest time mask, as a share of the utterance's frames."""
    frequency_masks: int = 2
    frequency_mask_share: float = 0.3
    """Widest frequency mask, as a share of the bands."""


@dataclass(frozen=True)
class Draws:
    """What happens to each utterance of a batch: tensors on the CPU, one row per utterance."""

    speed_index_B: Tensor
    """Position in `config.speed`."""
    lead_s_B: Tensor
    """Silence added before the utterance; negative: audio removed."""
    trail_s_B: Tensor
    reverb_s_B: Tensor
    """Reverberation time; 0: none."""
    direct_db_B: Tensor
    noise_snr_db_B: Tensor
    """Infinity: no noise."""
    colour_B: Tensor
    """0 white, 1 pink, 2 brown."""
    tape_B: Tensor
    """Sample of the tape (the fixed noise signal) at which the utterance's noise begins."""
    voices_snr_db_B: Tensor
    """Infinity: no other voices, as for all whose speech is removed."""
    voices_B: Tensor
    """Where in their signal the other voices begin, from 0 to 1."""
    silent_B: Tensor
    """True: the speech is removed."""
    phone_hz_B2: Tensor
    """Lower and upper edge of the band; 0 to infinity: not band-limited."""
    equaliser_db_BK: Tensor
    """Gain at 0 Hz, then at each octave up to half the sample rate."""
    gain_B: Tensor
    """Amplitude factor."""
    warp_B: Tensor | None
    tempo_B: Tensor
    """Tempo factor: n frames become ceil(n / factor); 1: unchanged."""
    time_masks_BM2: Tensor
    """Width and position of each mask, both from 0 to 1."""
    frequency_masks_BM2: Tensor

    def and_other_masks(self, seed: int, utterance_ids: Sequence[str]) -> "Draws":
        """These draws followed by copies with other masks, for two views of each utterance (consistency).

        Args:
            seed: of the other masks, which also depend on the ids.
            utterance_ids: one for each row.
        """
        config = AugmentationConfig(
            time_masks=self.time_masks_BM2.shape[1], frequency_masks=self.frequency_masks_BM2.shape[1]
        )
        other = draw(config, seed=seed, epoch=0, utterance_ids=utterance_ids)
        masks = {"time_masks_BM2": other.time_masks_BM2, "frequency_masks_BM2": other.frequency_masks_BM2}
        return self._with(lambda name, row_B: torch.cat([row_B, masks.get(name, row_B)]))

    def rows(self, start: int, stop: int) -> "Draws":
        """The draws of the utterances `start` to `stop`."""
        return self._with(lambda _, row_B: row_B[start:stop])

    def _with(self, change: Callable[[str, Tensor], Tensor]) -> "Draws":
        return replace(self, **{k: change(k, t) for k, t in vars(self).items() if t is not None})


def draw(config: AugmentationConfig, *, seed: int, epoch: int, utterance_ids: Sequence[str]) -> Draws:
    """What happens to these utterances in this epoch; the same for an id in any batch, process and machine.

    >>> config = AugmentationConfig()
    >>> both = draw(config, seed=1, epoch=0, utterance_ids=["a", "b"])
    >>> alone = draw(config, seed=1, epoch=0, utterance_ids=["b"])
    >>> bool(both.warp_B[1] == alone.warp_B[0])
    True
    """
    masks = config.time_masks + config.frequency_masks
    fixed = 16 + EQUALISER_POINTS
    count = fixed + 2 * masks
    uniform_BN = torch.from_numpy(np.stack([_uniform(seed, epoch, i, count) for i in utterance_ids]))
    tempo_B = torch.from_numpy(_tempo(config, seed, epoch, utterance_ids))
    silent_B = uniform_BN[:, 15] < config.silence
    voices_B, voices_snr_db_B = _voices(config, seed, epoch, utterance_ids)
    u = iter(uniform_BN[:, :16].unbind(1))

    def between(low: float, high: float) -> Tensor:
        return (low + (high - low) * next(u)).float()

    def chosen(share: float, value_B: Tensor, otherwise: float) -> Tensor:
        return torch.where(next(u) < share, value_B, otherwise)

    speed_index_B = (next(u) * max(len(config.speed), 1)).long()
    lead_s_B, trail_s_B = between(-config.trim_s, config.pad_s), between(-config.trim_s, config.pad_s)
    phone_hz_B2 = torch.stack([between(*_PHONE_LOW_HZ), between(*_PHONE_HIGH_HZ)], 1)
    on_phone_B1 = (next(u) < config.telephone)[:, None]
    mask_BM2 = uniform_BN[:, fixed:].reshape(len(utterance_ids), masks, 2)
    return Draws(
        speed_index_B=speed_index_B,
        lead_s_B=lead_s_B,
        trail_s_B=trail_s_B,
        reverb_s_B=chosen(config.reverb, between(*config.reverb_s), 0.0),
        direct_db_B=between(*_DIRECT_DB),
        noise_snr_db_B=chosen(config.noise, between(*config.noise_snr_db), math.inf),
        colour_B=(next(u) * 3).long(),
        tape_B=(next(u) * TAPE_SAMPLES).long(),
        phone_hz_B2=torch.where(on_phone_B1, phone_hz_B2, torch.tensor([0.0, math.inf])),
        equaliser_db_BK=(2 * uniform_BN[:, 16:fixed].float() - 1) * config.equaliser_db,
        gain_B=10 ** (between(-config.gain_db, config.gain_db) / 20),
        warp_B=between(1 - config.warp, 1 + config.warp) if config.warp else None,
        tempo_B=tempo_B.float(),
        silent_B=silent_B,
        voices_snr_db_B=voices_snr_db_B.masked_fill(silent_B, math.inf),
        voices_B=voices_B,
        time_masks_BM2=mask_BM2[:, : config.time_masks],
        frequency_masks_BM2=mask_BM2[:, config.time_masks :],
    )


def heard_s(
    config: AugmentationConfig,
    *,
    seed: int,
    epoch: int,
    utterance_ids: Sequence[str],
    lengths_s: np.ndarray,
) -> np.ndarray:
    """The duration of each utterance after `draw`'s speed, edges and tempo, to within a frame.

    >>> config = AugmentationConfig(speed=(0.5,), pad_s=0.0)
    >>> heard_s(config, seed=1, epoch=0, utterance_ids=["a", "b"], lengths_s=np.array([1.0, 3.0]))
    array([2., 6.])
    """
    uniform_B3 = np.array([_uniform(seed, epoch, i, 3) for i in utterance_ids]).reshape(-1, 3)
    speeds = np.array(config.speed or (1.0,))
    spoken_s = lengths_s / speeds[(uniform_B3[:, 0] * len(speeds)).astype(int)]
    edges_s = -config.trim_s + (config.pad_s + config.trim_s) * uniform_B3[:, 1:]
    after_s = spoken_s + np.maximum(edges_s, -spoken_s[:, None] / LARGEST_TRIM).sum(1)
    return np.asarray(after_s / _tempo(config, seed, epoch, utterance_ids))


def _voices(
    config: AugmentationConfig, seed: int, epoch: int, utterance_ids: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Where other voices begin, and their SNR in dB; of a hash of its own, as `_tempo`."""
    if not config.voices:
        return torch.zeros(len(utterance_ids)), torch.full((len(utterance_ids),), math.inf)
    uniform_B3 = np.array([_uniform(seed, epoch, f"{i}\0voices", 3) for i in utterance_ids]).reshape(-1, 3)
    is_in_B, place_B, snr_B = torch.from_numpy(uniform_B3).unbind(1)
    low, high = config.voices_snr_db
    return place_B, torch.where(is_in_B < config.voices, low + (high - low) * snr_B, math.inf).float()


def _tempo(config: AugmentationConfig, seed: int, epoch: int, utterance_ids: Sequence[str]) -> np.ndarray:
    """The tempo of each utterance; of a hash of its own, as the numbers of the other are all in use."""
    if not config.tempo:
        return np.ones(len(utterance_ids))
    uniform_B = np.array([_uniform(seed, epoch, f"{i}\0tempo", 1)[0] for i in utterance_ids])
    return np.exp((2 * uniform_B - 1) * math.log1p(config.tempo))


def _uniform(seed: int, epoch: int, utterance_id: str, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) by hashing; a larger count begins with the same numbers."""
    key = f"{seed}\0{epoch}\0{utterance_id}".encode(errors="surrogatepass")  # a file name may be no UTF-8
    words = np.frombuffer(hashlib.shake_256(key).digest(8 * count), dtype="<u8")
    return (words >> np.uint64(11)) * 2.0**-53


def mix(*parts: object) -> int:
    """A 63-bit hash of all parts, to seed what is drawn otherwise."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def check(config: AugmentationConfig) -> None:
    """Raises ConfigError at the first setting that cannot work."""
    demand = demands_of("augmentation", config)
    shares = ["reverb", "noise", "voices", "silence", "telephone", "time_mask_share", "frequency_mask_share"]
    for name in shares:
        demand(0 <= getattr(config, name) <= 1, name, "a share, 0 to 1")
    for name in ("pad_s", "trim_s", "equaliser_db", "gain_db", "time_masks", "frequency_masks"):
        demand(getattr(config, name) >= 0, name, "0 (off) or more")
    for factor in config.speed:
        if not 0.5 <= factor <= 2 or abs(factor * 100 - round(factor * 100)) > 1e-6:
            raise ConfigError(f"augmentation.speed has {factor}: expected multiples of 0.01 from 0.5 to 2")
    for name in ("reverb_s", "noise_snr_db", "voices_snr_db"):
        bounds = [*getattr(config, name)]
        if len(bounds) != 2 or bounds != sorted(bounds) or (name == "reverb_s" and bounds[0] <= 0):
            raise ConfigError(f"augmentation.{name}={bounds}: expected a lower and an upper bound")
    demand(0 <= config.tempo <= 1, "tempo", "0 (off) to 1")
    demand(0 <= config.warp <= 0.5, "warp", "0 (off) to 0.5")
