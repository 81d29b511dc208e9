"""Where the samples of a batch come from: the corpus' memory map, or a copy of it in device memory.

Both give the same bits. From the memory map, the CPU assembles the batch, which is then copied to the device;
from device memory, one gather on the device does it, and only the positions of the pieces are copied.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asr.corpus.packed import PackedCorpus
from asr.errors import ConfigError
from asr.machine.devices import sent

_log = logging.getLogger(__name__)

SHARE = 0.5
"""Largest share of a GPU's free memory that `auto` uses for a corpus."""
_FULL_SCALE = 32768
_VOICES, _MURMUR_S = 6, 240  # at once, and for how long before they are repeated
_UTTERANCES_AT_ONCE = 16
_AT_ONCE = 1 << 26  # samples copied to the device at a time, 128 MiB


@dataclass(frozen=True)
class Pieces:
    """Which pieces of a corpus make a batch, and their positions in it, in samples."""

    shape: tuple[int, int]
    """(utterances, samples of the longest) of the batch; what no piece covers is zero."""
    source_K: np.ndarray
    """int64: where each piece begins in the corpus."""
    target_K: np.ndarray
    """int64: where each piece begins in the flattened batch."""
    length_K: np.ndarray
    """int64."""


Samples = Callable[[Pieces], Tensor]
"""Pieces → samples_BT, float32 in [-1, 1]."""


def mapped(corpus: PackedCorpus) -> Samples:
    """The samples of batches from the memory map, on the CPU."""

    def samples(pieces: Pieces) -> Tensor:
        flat = np.zeros(pieces.shape[0] * pieces.shape[1], np.float32)
        for source, target, length in zip(pieces.source_K, pieces.target_K, pieces.length_K, strict=True):
            piece = corpus.pcm[source : source + length]
            np.multiply(piece, np.float32(1 / _FULL_SCALE), out=flat[target : target + length])
        return torch.from_numpy(flat).view(pieces.shape)

    return samples


def in_batches(corpus: PackedCorpus, utterances: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Utterances, the shortest first: samples_BT with zeros after each, and lengths_B, on the CPU."""
    ordered = sorted(utterances, key=lambda i: int(corpus.lengths_samples[i]))
    for first in range(0, len(ordered), _UTTERANCES_AT_ONCE):
        chosen = np.array(ordered[first : first + _UTTERANCES_AT_ONCE])
        length_K = corpus.lengths_samples[chosen]
        shape = (len(chosen), int(length_K.max()))
        pieces = Pieces(shape, corpus.offsets_samples[chosen], np.arange(len(chosen)) * shape[1], length_K)
        yield mapped(corpus)(pieces), torch.from_numpy(length_K)


def murmur(corpus: PackedCorpus, utterances: Sequence[int]) -> Tensor:
    """Voices that speak at once, for `augmentation.voices`: float32 (samples,) of power 1, always the same.

    Each voice is utterances of the corpus, one after the other, all of the same power; short corpora repeat.
    Utterances without any sound are left out, so that there may be nothing, (0,).
    """

    def shuffled(i: int) -> bytes:
        return hashlib.sha256(corpus.utterances[i].id.encode(errors="surrogatepass")).digest()

    parts: list[np.ndarray] = []
    missing = needed = _VOICES * _MURMUR_S * corpus.rate_hz
    for i in sorted(utterances, key=shuffled):
        start = corpus.offsets_samples[i]
        wave = corpus.pcm[start : start + corpus.lengths_samples[i]].astype(np.float32)
        if (level := math.sqrt(float(np.square(wave).mean()))) > 0:
            parts.append(wave / level)
            missing -= len(wave)
        if missing <= 0:
            break
    if not parts:
        return torch.zeros(0)
    mixed = np.resize(np.concatenate(parts), (_VOICES, needed // _VOICES)).sum(0)
    return torch.from_numpy(mixed / math.sqrt(float(np.square(mixed).mean())))


class Resident:
    """The samples of batches from a copy of the whole corpus in the memory of a device.

    Args:
        corpus: to be copied.
        device: to hold the copy.
    """

    def __init__(self, corpus: PackedCorpus, device: torch.device) -> None:
        self.pcm = torch.empty(len(corpus.pcm), dtype=torch.int16, device=device)
        for start in range(0, len(corpus.pcm), _AT_ONCE):
            part = np.array(corpus.pcm[start : start + _AT_ONCE])  # a copy: the memory map is read-only
            self.pcm[start : start + len(part)] = torch.from_numpy(part)

    def __call__(self, pieces: Pieces) -> Tensor:
        """float32 samples_BT on the device, without a device sync."""
        device, total = self.pcm.device, int(pieces.length_K.sum())
        start_K = np.cumsum(pieces.length_K) - pieces.length_K
        places = np.stack([pieces.length_K, pieces.source_K - start_K, pieces.target_K - start_K])
        length_K, source_K, target_K = sent(torch.from_numpy(places), device)
        piece_N = torch.repeat_interleave(length_K, output_size=total)
        place_N = torch.arange(total, device=device)
        flat = torch.zeros(pieces.shape[0] * pieces.shape[1], device=device)
        flat[place_N + target_K[piece_N]] = self.pcm[place_N + source_K[piece_N]].float() / _FULL_SCALE
        return flat.view(pieces.shape)


def open_samples(corpus: PackedCorpus, device: torch.device, resident: str) -> Samples:
    """The function that reads a corpus' samples, as chosen by `resident`.

    Args:
        corpus: the training corpus.
        device: used for training.
        resident: `always` copies the corpus into the memory of the device, `never` does not, `auto` does on a
            GPU if the copy takes no more than half of its free memory. On a CPU `auto` copies nothing, as
            the system caches what was read anyway while there is room.

    Raises:
        ConfigError: not enough memory, or an unknown value.
    """
    if resident not in ("auto", "never", "always"):
        raise ConfigError(f"data.resident={resident}: expected auto, never or always")
    size = 2 * len(corpus.pcm)
    if resident == "never" or (resident == "auto" and not fits(size, device)):
        return mapped(corpus)
    try:
        return Resident(corpus, device)
    except (RuntimeError, MemoryError) as error:
        if resident == "auto":  # somebody else took the room in between
            _log.warning("%s is read from the memory map: %s", corpus.stem, str(error).splitlines()[0])
            return mapped(corpus)
        raise ConfigError(
            f"data.resident=always: {device} has no room for the {size / 1e9:.1f} GB of {corpus.stem} "
            f"({str(error).splitlines()[0]}); take data.resident=auto"
        ) from error


def fits(size: int, device: torch.device) -> bool:
    """True for a GPU if the given number of bytes is no more than half of its free memory."""
    return device.type == "cuda" and size <= SHARE * torch.cuda.mem_get_info(device)[0]
