"""Mono samples at one rate → the same at another by soxr, whole or block by block without seams."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from asr.errors import AudioError


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """The mono samples (n,) at another rate, as float32; the same array if the rates are equal.

    Raises:
        AudioError: a rate that is not positive.
    """
    _check_rates(from_hz, to_hz)
    samples = np.asarray(samples, np.float32)
    if from_hz == to_hz or not len(samples):
        return samples
    return clip(np.asarray(soxr.resample(samples, from_hz, to_hz), np.float32))


def resample_blocks(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """`resample` of the concatenated blocks, block by block, without seams.

    Raises:
        AudioError: a rate that is not positive.
    """
    resampler = Resampler(from_hz, to_hz)
    for block in blocks:
        yield resampler.feed(block)
    if len(rest := resampler.finish()):
        yield rest


class Resampler:
    """`resample` for audio that arrives in blocks.

    Raises:
        AudioError: a rate that is not positive.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        _check_rates(from_hz, to_hz)
        equal = from_hz == to_hz
        self._converter = None if equal else soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")

    def feed(self, block: np.ndarray) -> np.ndarray:
        """The output available after this block (n,): about as long, some milliseconds delayed."""
        block = np.asarray(block, np.float32)
        return block if self._converter is None else clip(self._converter.resample_chunk(block))

    def finish(self) -> np.ndarray:
        """The remaining output; `feed` must not be called afterwards."""
        nothing = np.zeros(0, np.float32)
        if self._converter is None:
            return nothing
        return clip(self._converter.resample_chunk(nothing, last=True))


def clip(samples: np.ndarray) -> np.ndarray:
    """The samples in [-1, 1], in place."""
    return np.clip(samples, -1.0, 1.0, out=samples)


def _check_rates(from_hz: int, to_hz: int) -> None:
    if from_hz <= 0 or to_hz <= 0:
        raise AudioError(f"resampling from {from_hz} to {to_hz} Hz: both rates must be positive")
