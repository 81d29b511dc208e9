"""Recordings, or pieces of them and their surroundings, as a batch that threads can share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.errors import AudioError
from asr.features import Features
from asr.machine.threads import each_alone

Surroundings = tuple[np.ndarray, np.ndarray]
"""The samples of a recording before and after a piece of it."""
IMPOSSIBLE = -50.0
"""ln p of all outputs but the blank where there is nothing to be heard."""
_PREEMPHASIS = 0.97
NOTHING: Surroundings = (np.zeros(0, np.float32), np.zeros(0, np.float32))


class Excerpts(NamedTuple):
    """Zero-padded samples and how many they are, of which a piece is wanted: its start and its length."""

    samples_BT: Tensor
    lengths_B: Tensor
    before_B: Tensor
    sizes_B: Tensor

    @classmethod
    def of(cls, pieces: Sequence[np.ndarray], around: Sequence[Surroundings] | None = None) -> "Excerpts":
        """The pieces, mono float32, each between its surroundings.

        Raises:
            AudioError: none, an empty one, or something else than samples.
        """
        if not len(pieces) or not all(isinstance(piece, np.ndarray) and piece.ndim == 1 for piece in pieces):
            raise AudioError("expected samples as one-dimensional numpy arrays, one for each recording")
        if not all(map(len, pieces)):
            raise AudioError("a recording without samples: expected at least one in each")
        around = around or [NOTHING] * len(pieces)
        parts = ([b, piece, a] for piece, (b, a) in zip(pieces, around, strict=True))
        wholes = [torch.from_numpy(np.concatenate(part, dtype=np.float32)) for part in parts]
        samples_BT = pad_sequence(wholes, batch_first=True)
        sizes = [[len(w) for w in wholes], [len(b) for b, _ in around], [len(p) for p in pieces]]
        return cls(samples_BT, *torch.tensor(sizes))

    def features(self, front: Features, device: torch.device, warp: float = 1.0) -> tuple[Tensor, Tensor]:
        """The features_BTF of the pieces and their frames_B, on the device; `warp` as of `Features`."""
        warp_B = None if warp == 1 else torch.full((len(self.lengths_B),), warp)
        whole_BTF, _ = front(self.samples_BT.to(device), self.lengths_B.to(device), warp_B)
        frames_B = front.output_lengths(self.sizes_B)
        return stretches(whole_BTF, self.before_B // front.hop_samples, frames_B), frames_B.to(device)

    def trimmed(self, db: float, step: int) -> "tuple[Excerpts, Tensor]":
        """Whole recordings without ends that are `db` below their loudest step, pieces of others as they are.

        Args:
            db: difference in energy; 0 leaves all as they are.
            step: samples; so many, or a multiple, are taken away at the beginning.

        Returns:
            The rest, and how many steps each row lost at its beginning.
        """
        if not db:
            return self, torch.zeros_like(self.sizes_B)
        sizes = zip(self.lengths_B.tolist(), self.sizes_B.tolist(), strict=True)
        places = [
            _loud(row[:n].numpy(), db, step) if n == size else (0, n)
            for row, (n, size) in zip(self.samples_BT, sizes, strict=True)
        ]
        rows = [row[first * step : end] for row, (first, end) in zip(self.samples_BT, places, strict=True)]
        lengths_B = torch.tensor([len(row) for row in rows])
        sizes_B = self.sizes_B + lengths_B - self.lengths_B
        kept = Excerpts(pad_sequence(rows, batch_first=True), lengths_B, self.before_B, sizes_B)
        return kept, torch.tensor([first for first, _ in places])

    def divided(self, work: "Callable[[Excerpts], tuple[Tensor, Tensor]]") -> tuple[Tensor, Tensor]:
        """What `work` gives for them, x_BTX and lengths_B, in as many parts as torch may use threads."""
        size = len(self.lengths_B)
        count = min(size, torch.get_num_threads())
        if count < 2:
            return work(self)
        # Neighbours are of similar length, so every count-th gives each thread the same to do.
        parts = each_alone(lambda i: work(Excerpts(*(x[i::count] for x in self))), count)
        longest = max(parts, key=lambda part: part[0].shape[1])[0]
        x_BTX = longest.new_zeros(size, *longest.shape[1:])
        lengths_B = torch.empty(size, dtype=torch.int64)
        for i, (part_BTX, part_B) in enumerate(parts):
            x_BTX[i::count, : part_BTX.shape[1]] = part_BTX
            lengths_B[i::count] = part_B
        return x_BTX, lengths_B


def _loud(samples: np.ndarray, db: float, step: int) -> tuple[int, int]:
    """The first step that is loud enough, and the sample after the last; all of it if none is.

    Energies are those after pre-emphasis, as the quiet consonants at the ends of words are high in frequency.

    >>> _loud(np.array([0, 0, 0.01, 0.01, 1, 1, 0, 0, 1, 1, 0.01]), 30, 2), _loud(np.zeros(4), 30, 2)
    ((2, 11), (0, 4))
    """
    count = len(samples) // step
    steps = samples[: count * step].reshape(count, step)
    energies = np.square(steps[:, 1:] - _PREEMPHASIS * steps[:, :-1], dtype=np.float64).sum(1)
    loud = np.flatnonzero(energies > energies.max(initial=0.0) * 10 ** (-db / 10))
    if not len(loud):
        return 0, len(samples)
    after = int(loud[-1]) + 1
    return int(loud[0]), after * step if after < count else len(samples)


def certain_blanks(log_probs: Tensor) -> Tensor:
    """Natural-log probabilities of that shape, (…, V), in which all is blank."""
    blanks = torch.full_like(log_probs, IMPOSSIBLE)
    blanks[..., 0] = 0.0
    return blanks


def between_blanks(
    log_probs: Tensor, lengths_B: Tensor, first_B: Tensor, sizes_B: Tensor
) -> tuple[Tensor, Tensor]:
    """The outputs of each row from the place of the first on, blanks before and after them.

    Args:
        log_probs, lengths_B: natural logs (B, T, V) or (B, T, M, V), and how many count.
        first_B: where the first belongs.
        sizes_B: how many there are to be.
    """
    if torch.equal(lengths_B, sizes_B):
        return log_probs, lengths_B
    blanks = certain_blanks(log_probs[:, :1]).repeat(1, int(sizes_B.max()), *[1] * (log_probs.dim() - 2))
    for row, heard, n, first in zip(blanks, log_probs, lengths_B.tolist(), first_B.tolist(), strict=True):
        row[first : first + n] = heard[:n]
    return blanks, sizes_B


def stretches(x_BTF: Tensor, first_B: Tensor, lengths_B: Tensor) -> Tensor:
    """`lengths_B` frames of each row from frame `first_B` on; what follows in shorter rows does not count."""
    if not first_B.any() and int(lengths_B.max()) == x_BTF.shape[1]:
        return x_BTF
    places = zip(x_BTF, first_B.tolist(), lengths_B.tolist(), strict=True)
    return pad_sequence([row[first : first + n] for row, first, n in places], batch_first=True)
