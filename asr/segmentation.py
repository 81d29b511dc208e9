"""A recording of any length → pieces short enough to recognise at once, and its outputs → segments to decode.

Conventions. Pieces end in a pause, as `asr.voice` finds it, wherever there is one in time. They start on
multiples of the encoder's step, so that the outputs of overlapping pieces fall onto one grid and can be
joined frame by frame. Nothing is left out: every sample is in a piece. Each comes with the samples around it
by which its features are normalised, so that they are those of the whole recording. Pauses that the model
itself recognises are found in its outputs; cutting there splits no word.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from asr.voice import PauseFinder, find_pause, runs_of

LONGEST_S = 40.0
"""A recording up to this long is one piece, as are utterances of the usual corpora; no piece is longer."""
OVERLAP_S = 6.0
"""Overlap of two pieces without a pause between them; each discards half of it, which is context only."""

ENDPOINT_S = 0.7
"""Silence after speech that ends a segment."""
SEGMENT_S = 60.0
"""A longer segment ends at the next pause of `PAUSE_S`, and one n times as long at one n times as short."""
PAUSE_S = 0.5
"""See `SEGMENT_S`; only between words."""
LONGEST_SEGMENT_S = 600.0
"""At this length a segment ends even inside a word."""


@dataclass(frozen=True)
class Piece:
    """Samples to recognise at once, and which of their outputs count."""

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
    """Samples of the recording before its start, only for normalising its features."""
    after: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """The same after its end."""


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
    """The pieces of a recording that comes block by block, in order; one piece and block are in memory.

    Args:
        blocks: mono float32 samples, of any lengths.
        rate_hz: their rate.
        step_samples: samples from one output of the encoder to the next.
        longest_s: no piece is longer.
        overlap_s: shared by two pieces without a pause between them, at most half of `longest_s`.
        context_s: seconds of the recording around each piece, for normalising its features.
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


class Segments:
    """Finds where segments end, output by output, so that the division into blocks makes no difference.

    Args:
        silent: the blank and, if the alphabet has one, the space between words.
        frame_s: from one output to the next.
    """

    def __init__(self, silent: tuple[int, ...], frame_s: float) -> None:
        self._silent, self._frame_s = silent, frame_s
        self._begin(is_parted=True)

    def _begin(self, *, is_parted: bool) -> None:
        self._outputs = self._quiet = 0
        self._has_speech = self._has_space = False
        self._awaits_space = not is_parted

    def cut(self, log_probs_TV: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """The next outputs in parts that each belong to one segment, and whether it ends after the part.

        If a pause ends a segment before a space is output, a later space has nothing left to separate: until
        the next sound its probability is added to the blank's.

        >>> segments = Segments((0, 1), frame_s=0.25)
        >>> heard = [2, 0, 0, 0, 0, 0, 1, 2, 2]
        >>> probs_TV = torch.eye(3)[heard].clamp(0.01, 0.98)
        >>> [(part.argmax(1).tolist(), ends) for part, ends in segments.cut(probs_TV.log())]
        [([2, 0, 0, 0], True), ([0, 0, 0, 2, 2], False)]
        """
        parts, begin = [], 0
        for t, heard in enumerate(log_probs_TV.argmax(-1).tolist()):
            if heard in self._silent and self._awaits_space:
                parts.append(log_probs_TV[begin:t])
                parts.append(_without_space(log_probs_TV[t : t + 1], self._silent))
                begin = t + 1
            if self._ends_with(heard):
                yield torch.cat([*parts, log_probs_TV[begin : t + 1]]), True
                parts, begin = [], t + 1
        if parts or begin < len(log_probs_TV):
            yield torch.cat([*parts, log_probs_TV[begin:]]), False

    def _ends_with(self, heard: int) -> bool:
        """Whether the segment ends with the next frame, whose best output is `heard`."""
        is_silent = heard in self._silent
        self._outputs += 1
        self._quiet = self._quiet + 1 if is_silent else 0
        self._has_speech |= not is_silent
        self._awaits_space &= is_silent
        self._has_space = is_silent and (self._has_space or heard == self._silent[-1])
        length_s, quiet_s = self._outputs * self._frame_s, self._quiet * self._frame_s
        is_pause = length_s > SEGMENT_S and self._has_space and quiet_s * length_s >= PAUSE_S * SEGMENT_S
        is_endpoint = self._has_speech and quiet_s >= ENDPOINT_S
        if ends := is_endpoint or is_pause or length_s >= LONGEST_SEGMENT_S:
            self._begin(is_parted=self._has_space or not is_silent)
        return ends


def _without_space(log_probs_TV: Tensor, silent: tuple[int, ...]) -> Tensor:
    """The same with the probability of the space added to that of the blank."""
    blank, space = silent[0], silent[-1]
    if space == blank:
        return log_probs_TV
    result_TV = log_probs_TV.clone()
    result_TV[:, blank] = torch.logaddexp(log_probs_TV[:, blank], log_probs_TV[:, space])
    result_TV[:, space] = -math.inf
    return result_TV


def quietest_output(log_probs_TV: Tensor, silent: tuple[int, ...] = (0,)) -> int | None:
    """The output in the middle of the longest silence between words in the second half, or None.

    Args:
        log_probs_TV: natural logs.
        silent: the blank and, if the alphabet has one, the space, which a silence between words must contain.

    >>> heard = torch.tensor([1, 0, 0, 1, 2, 0, 0, 0, 1, 2])
    >>> quietest_output(torch.eye(3)[heard].log())
    6
    >>> quietest_output(torch.eye(3)[heard].log(), (0, 1))
    7
    >>> quietest_output(torch.eye(4)[heard].log(), (0, 3)) is None
    True
    """
    best_T = log_probs_TV.argmax(-1).numpy()
    is_silent_T = np.isin(best_T, silent)
    is_silent_T[: len(is_silent_T) // 2] = False
    runs = [(first, end) for first, end in runs_of(is_silent_T) if silent[-1] in best_T[first:end]]
    if not runs:
        return None
    first, end = max(runs, key=lambda run: run[1] - run[0])
    return (first + end) // 2
