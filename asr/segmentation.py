"""A recording of any length → pieces short enough to recognise at once, cut at pauses where there are any.

Conventions. Energies are those of frames of 10 ms, in dB relative to full scale. A pause is a quarter of a
second or more below a threshold between the noise and the speech around it, so it needs no absolute level.
Pieces start on multiples of the encoder's step, so that the outputs of pieces that overlap fall onto one grid
and can be put together frame by frame. Nothing is left out: every sample is in a piece.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

LONGEST_S = 40.0
"""A recording up to this long is one piece, as are utterances of the usual corpora; no piece is longer."""
OVERLAP_S = 6.0
"""What two pieces share where no pause parts them: half of it is context that is thrown away."""
SHORTEST_PAUSE_S = 0.25
"""Longer than the closure of a plosive."""
FRAME_S = 0.010

_SMALLEST_RANGE_DB = 10.0  # between the quiet and the loud frames of sound that has pauses at all
_THRESHOLD = 0.3  # of that range, above the quiet frames
_QUIETEST_DB = -80.0  # digital silence is no deeper than this, or the threshold would follow it down


@dataclass(frozen=True)
class Piece:
    """Samples to recognise at once, and which of the outputs for them count."""

    start_samples: int
    """Where it starts in the recording."""
    samples: np.ndarray
    """Mono float32 (n,)."""
    skip_outputs: int = 0
    """Outputs at the start that belong to the piece before."""
    end_output: int | None = None
    """The output after the last that counts; None keeps all."""
    closes: bool = True
    """Whether a pause, or the end of the recording, follows; if not, the next piece overlaps this one."""


def pieces(
    blocks: Iterable[np.ndarray],
    *,
    rate_hz: int,
    step_samples: int,
    longest_s: float = LONGEST_S,
    overlap_s: float = OVERLAP_S,
) -> Iterator[Piece]:
    """The pieces of a recording that comes block by block, in order; memory is that of one piece and block.

    Args:
        blocks: mono float32 samples, of any lengths.
        rate_hz: their rate.
        step_samples: samples from one output of the encoder to the next.
        longest_s: no piece is longer.
        overlap_s: shared by two pieces that no pause parts, at most half of `longest_s`.
    """
    longest = longest_samples(rate_hz, step_samples, longest_s)
    half = int(overlap_s * rate_hz / 2) // step_samples * step_samples
    held, start, skip = np.zeros(0, np.float32), 0, 0
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) > longest:
            cut = find_pause(held[:longest], rate_hz, after_samples=max(longest // 3, 2 * half))
            if cut is None:
                end = longest // step_samples - half // step_samples
                yield Piece(start, held[:longest].copy(), skip, end, closes=False)
                passed, skip = longest - 2 * half, half // step_samples
            else:
                cut = cut // step_samples * step_samples
                yield Piece(start, held[:cut].copy(), skip, cut // step_samples)
                passed, skip = cut, 0
            held, start = held[passed:], start + passed
    if len(held):
        yield Piece(start, held, skip)


def longest_samples(rate_hz: int, step_samples: int, longest_s: float = LONGEST_S) -> int:
    """Samples of the longest piece, whole steps."""
    return int(longest_s * rate_hz) // step_samples * step_samples


def find_pause(samples: np.ndarray, rate_hz: int, *, after_samples: int = 0) -> int | None:
    """The sample in the middle of the longest pause behind `after_samples`, or None if there is none.

    >>> noise = np.random.default_rng(0).standard_normal(16000)
    >>> noise[8000:12000] *= 0.01
    >>> find_pause(noise, 16000)
    10000
    >>> find_pause(noise[:8000], 16000) is None
    True
    """
    frame = max(1, round(FRAME_S * rate_hz))
    level_N = levels_db(samples, frame)
    if not len(level_N):
        return None
    quiet, loud = np.percentile(level_N, [10, 95])
    if loud - quiet < _SMALLEST_RANGE_DB:
        return None
    is_quiet_N = np.concatenate([[False], level_N < quiet + _THRESHOLD * (loud - quiet), [False]])
    is_quiet_N[: after_samples // frame + 1] = False
    edges = np.flatnonzero(np.diff(is_quiet_N.astype(np.int8))).reshape(-1, 2)
    if not len(edges):
        return None
    first, end = edges[np.argmax(edges[:, 1] - edges[:, 0])]
    if (end - first) * frame < SHORTEST_PAUSE_S * rate_hz:
        return None
    return int(first + end) * frame // 2


def levels_db(samples: np.ndarray, frame_samples: int) -> np.ndarray:
    """The level of each whole frame, in dB relative to full scale, not below −80.

    >>> levels_db(np.array([1.0, -1.0, 0.1, 0.1, 0.0, 0.0]), 2).round(3).tolist()
    [0.0, -20.0, -80.0]
    """
    frames_NT = samples[: len(samples) // frame_samples * frame_samples].reshape(-1, frame_samples)
    power_N = np.einsum("nt,nt->n", frames_NT, frames_NT) / frame_samples
    return 10 * np.log10(np.maximum(power_N, 10 ** (_QUIETEST_DB / 10)))
