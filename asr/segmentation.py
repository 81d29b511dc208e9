"""A recording of any length → pieces short enough to recognise at once, cut at pauses where there are any.

Conventions. Energies are those of frames of 10 ms, in dB relative to full scale. A pause is a quarter of a
second or more below a threshold between the noise and the speech around it, so it needs no absolute level.
Pieces start on multiples of the encoder's step, so that the outputs of pieces that overlap fall onto one grid
and can be put together frame by frame. Nothing is left out: every sample is in a piece. Each comes with the
samples before and behind it that its features are scaled by, so that they are those of the whole recording.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from asr.voice import PauseFinder, find_pause

LONGEST_S = 40.0
"""A recording up to this long is one piece, as are utterances of the usual corpora; no piece is longer."""
OVERLAP_S = 6.0
"""What two pieces share where no pause parts them: half of it is context that is thrown away."""


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
    before: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Samples of the recording up to its start, for the scale of its features alone."""
    after: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """The same behind its end."""


def pieces(
    blocks: Iterable[np.ndarray],
    *,
    rate_hz: int,
    step_samples: int,
    longest_s: float = LONGEST_S,
    overlap_s: float = OVERLAP_S,
    context_s: float = 0.0,
    pause: PauseFinder = find_pause,
) -> Iterator[Piece]:
    """The pieces of a recording that comes block by block, in order; memory is that of one piece and block.

    Args:
        blocks: mono float32 samples, of any lengths.
        rate_hz: their rate.
        step_samples: samples from one output of the encoder to the next.
        longest_s: no piece is longer.
        overlap_s: shared by two pieces that no pause parts, at most half of `longest_s`.
        context_s: of the recording around each piece, for the scale of its features.
        pause: finds the pause to cut at; see `asr.voice`.
    """
    longest = longest_samples(rate_hz, step_samples, longest_s)
    half = int(overlap_s * rate_hz / 2) // step_samples * step_samples
    context = -(-int(context_s * rate_hz) // step_samples) * step_samples
    before, held, start, skip = np.zeros(0, np.float32), np.zeros(0, np.float32), 0, 0
    for block in chain(blocks, [None]):
        ahead = 0 if block is None else context
        held = held if block is None else np.concatenate([held, block])
        while len(held) > longest + ahead:
            cut = pause(held[:longest], rate_hz, after_samples=max(longest // 3, 2 * half))
            closes = cut is not None
            size = longest if cut is None else cut // step_samples * step_samples
            end = size // step_samples - (0 if closes else half // step_samples)
            after = held[size : size + context].copy()
            yield Piece(start, held[:size].copy(), skip, end, closes, before, after)
            passed, skip = (size, 0) if closes else (size - 2 * half, half // step_samples)
            passed_by = np.concatenate([before, held[:passed]])
            before = passed_by[max(0, len(passed_by) - context) :]
            held, start = held[passed:], start + passed
    if len(held):
        yield Piece(start, held, skip, before=before)


def longest_samples(rate_hz: int, step_samples: int, longest_s: float = LONGEST_S) -> int:
    """Samples of the longest piece, whole steps."""
    return int(longest_s * rate_hz) // step_samples * step_samples
