"""Frames of probabilities as they come: their best path; the probability and the frames of a labelling.

Of labellings that begin with the same tokens, the part of the lattice that these alone determine is computed
once: a stream does not pay again, block after block, for all that was said before. Compiled by numba.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from asr.ctc import align, ctc_loss
from asr.decoding.prefixes import with_room
from asr.machine.compilation import kernel

FORGET = 1e-60  # lattice states below this fraction of the frame's highest mass are pruned
SURE = 110.0  # nats behind the best path; FORGET is e^−138, so that pruned states hardly matter up to here
Spans = tuple[tuple[int, int], ...]


class Place(NamedTuple):
    """How far a lattice is computed.

    Attributes:
        frame: the next one.
        low, high: the first and the last state that is not negligible.
        moves: how many have been noted.
        ln: of the mass by which the states have been divided; −∞ if no path is left.
    """

    frame: int
    low: int
    high: int
    moves: int
    ln: float


class Heard:
    """The frames so far.

    Args:
        y_TV: the probabilities of the first ones (float64).

    >>> heard = Heard(np.array([[0.2, 0.8], [0.7, 0.3]]))
    >>> heard.add(np.array([[0.1, 0.9]]))
    >>> heard.best_path(), round(math.exp(heard.best_ln()), 3)
    (array([1, 1]), 0.504)
    >>> heard.locate(np.array([1, 1]))[1:]
    (((0, 1), (2, 3)), (0.8, 0.9))
    """

    def __init__(self, y_TV: np.ndarray) -> None:
        self._frames, self._records = len(y_TV), y_TV
        self._best_T, self._ln_T = best_outputs(y_TV), np.log(y_TV.max(1))
        # kept from one labelling to the next, see `_advance` and `_trace`
        self._begins, self._path, self._moves = np.empty(0, int), np.empty(0, int), np.empty(0, np.int8)
        self._forget()

    def _forget(self) -> None:
        """Begin the lattice anew."""
        self._settled = np.empty(0, np.int64)  # the tokens that alone determine it up to this place
        self._place, self._masses = Place(0, 0, 0, 0, 0.0), np.ones((2, 1))  # these of the window there
        self._spans: list[tuple[int, int]] = []  # of the labelling that was located last
        self._peaks: list[float] = []
        self._traced = 0  # frames in which its path is noted and the moves stay as they are

    def add(self, y_TV: np.ndarray) -> None:
        """Take further frames."""
        begin, self._frames = self._frames, self._frames + len(y_TV)
        if begin:
            self._records = with_room(self._records, self._frames)
            self._records[begin : self._frames] = y_TV
        else:
            self._records = y_TV
        self._best_T = np.concatenate([self._best_T, best_outputs(y_TV)])
        self._ln_T = np.concatenate([self._ln_T, np.log(y_TV.max(1))])

    @property
    def y_TV(self) -> np.ndarray:
        """The probabilities of all frames."""
        return self._records[: self._frames]

    def best_path(self) -> np.ndarray:
        """The labelling of the most probable path."""
        is_new_T = np.diff(self._best_T, prepend=0) != 0
        return self._best_T[is_new_T & (self._best_T != 0)]

    def best_ln(self) -> float:
        """ln p of the most probable path."""
        return float(self._ln_T.sum())

    def locate(self, tokens: np.ndarray, settled: int = 0) -> tuple[float, Spans, tuple[float, ...]]:
        """(ln p(tokens), the first frame of each and the one after its last, its highest probability there).

        In log-space where pruned probabilities do not suffice. If no path fits, −∞ and the frames of one that
        nearly does.

        Args:
            tokens: a labelling (S,).
            settled: how many of its first tokens later ones will begin with; any others cost more time.
        """
        ln = self._locate(tokens, settled)
        if ln > -SURE or ln > self.best_ln() - SURE:
            return ln, tuple(self._spans), tuple(self._peaks)
        y_TV = self.y_TV
        log_probs_TV, least = torch.from_numpy(y_TV).log(), math.log(np.finfo(float).tiny)
        lengths = torch.tensor([len(y_TV)]), torch.tensor([len(tokens)])
        ln = -float(ctc_loss(log_probs_TV[None], torch.from_numpy(tokens)[None], *lengths)[0])
        said = align(log_probs_TV.clamp(min=least), tokens)
        peaks = (float(y_TV[span.start_frame : span.end_frame, span.token].max()) for span in said)
        spans = tuple((span.start_frame, span.end_frame) for span in said)
        return ln, spans, tuple(min(peak, 1.0) for peak in peaks)

    def _locate(self, tokens: np.ndarray, settled: int) -> float:
        """ln p(tokens), and their spans and peaks in the lists; −∞ if no path that was kept spells them."""
        if not np.array_equal(tokens[: len(self._settled)], self._settled):
            self._forget()
        if settled > len(self._settled):
            self._settled = tokens[:settled].copy()
        self._begins, self._path = (with_room(a, self._frames) for a in (self._begins, self._path))
        masses = np.zeros((2, 2 * len(tokens) + 3))  # state s lies at s + 2
        masses[:, self._place.low + 2 : self._place.high + 3] = self._masses
        lattice = self.y_TV, tokens, masses, self._begins
        self._place, self._moves = _advance(*lattice, self._moves, self._place, 2 * len(self._settled))
        self._masses = masses[:, self._place.low + 2 : self._place.high + 3].copy()
        end, self._moves = _advance(*lattice, self._moves, self._place, masses.shape[1])
        if end.ln == -math.inf:
            return end.ln
        spans, peaks = np.empty((len(tokens), 2), np.int64), np.empty(len(tokens))
        ln, first = _trace(*lattice, self._moves, self._traced, self._path, spans, peaks)
        if ln > -math.inf:
            self._spans[first:] = map(tuple, spans[first:].tolist())
            self._peaks[first:] = peaks[first:].tolist()
            self._traced = self._place.frame
        return end.ln + ln


@kernel()
def best_outputs(y_TV: Any) -> Any:
    """(T,) the most probable output of each frame."""
    best_T = np.zeros(y_TV.shape[0], np.int64)
    for t in range(y_TV.shape[0]):
        if y_TV[t, 0] <= 0.5:
            for c in range(1, y_TV.shape[1]):
                best_T[t] = c if y_TV[t, c] > y_TV[t, best_T[t]] else best_T[t]
    return best_T


@kernel()
def _advance(
    y_TV: Any, tokens: Any, masses: Any, begins: Any, moves: Any, place: Place, limit: int
) -> tuple[Place, Any]:
    """Compute the lattice from a place on, to the end or until states after `limit` might matter.

    Forward variable and Viterbi over the states blank, token, blank, … (see `asr.ctc`), both as probabilities
    rescaled in every frame, and only over the window of states that are not negligible so far.

    Args:
        masses: the two, (2, states + 2), state s at s + 2; zero outside the window.
        begins: filled with where the moves of each frame are: those to state s at `begins[t] + s`.
        moves: by how many states the best paths move.

    Returns:
        the new place, and the moves in a larger array if they would not fit.
    """
    mass, best = masses[0], masses[1]
    t, low, high, used, ln = place
    while t < y_TV.shape[0] and high + 2 <= limit and ln > -np.inf:
        top, high = 0.0, min(high + 2, 2 * len(tokens))
        if used + high + 1 - low > len(moves):
            moves = np.concatenate((moves, np.empty(len(moves) + 64 * (high + 1 - low), np.int8)))
        begins[t] = used - low
        used += high + 1 - low
        for s in range(high, low - 1, -1):
            label = tokens[s >> 1] if s & 1 else 0
            total, path, move = mass[s + 2] + mass[s + 1], best[s + 2], 0
            if best[s + 1] > path:
                path, move = best[s + 1], 1
            if s & 1 and s > 1 and label != tokens[(s >> 1) - 1]:
                total += mass[s]
                if best[s] > path:
                    path, move = best[s], 2
            mass[s + 2], best[s + 2] = total * y_TV[t, label], path * y_TV[t, label]
            moves[begins[t] + s] = move
            top = max(top, mass[s + 2])
        if not top > 0.0:
            ln = -np.inf
            break
        while mass[high + 2] < FORGET * top:
            mass[high + 2] = best[high + 2] = 0.0
            high -= 1
        while mass[low + 2] < FORGET * top:
            mass[low + 2] = best[low + 2] = 0.0
            low += 1
        for s in range(low, high + 1):
            mass[s + 2] /= top
            best[s + 2] /= top
        ln += math.log(top)
        t += 1
    return Place(t, low, high, used, ln), moves


@kernel()
def _trace(
    y_TV: Any,
    tokens: Any,
    masses: Any,
    begins: Any,
    moves: Any,
    known: int,
    path: Any,
    spans: Any,
    peaks: Any,
) -> tuple[float, int]:
    """(ln of the mass in the final states, the first token that is located); ln is −∞ if no path ends there.

    The best path is traced back to where it meets the one before: earlier tokens stay where that had them.

    Args:
        known: the number of first frames in which the moves are as they were then.
        path: (T,) the state in each frame; of the path before, and then of this one.
        spans, peaks: filled from the first token on.
    """
    s = 2 * len(tokens)
    total = masses[0, s + 2] + (masses[0, s + 1] if s else 0.0)
    if s and masses[1, s + 1] > masses[1, s + 2]:
        s -= 1
    first = len(tokens)
    if not masses[1, s + 2] > 0.0:
        return -np.inf, first
    is_met, after = False, -1
    for t in range(y_TV.shape[0] - 1, -1, -1):
        if is_met and s != after:
            break
        is_met |= t < known and path[t] == s
        if s & 1:
            first = s >> 1
            if s != after:
                spans[first, 1], peaks[first] = t + 1, 0.0
            spans[first, 0], peaks[first] = t, min(max(peaks[first], y_TV[t, tokens[first]]), 1.0)
        path[t] = after = s
        s -= moves[begins[t] + s]
    return math.log(total), first
