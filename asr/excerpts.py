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
            AudioError: none, or something else than samples.
        """
        if not len(pieces) or not all(isinstance(piece, np.ndarray) and piece.ndim == 1 for piece in pieces):
            raise AudioError("expected samples as one-dimensional numpy arrays, one for each recording")
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


def stretches(x_BTF: Tensor, first_B: Tensor, lengths_B: Tensor) -> Tensor:
    """`lengths_B` frames of each row from frame `first_B` on, zero-padded."""
    if not first_B.any() and int(lengths_B.max()) == x_BTF.shape[1]:
        return x_BTF
    places = zip(x_BTF, first_B.tolist(), lengths_B.tolist(), strict=True)
    return pad_sequence([row[first : first + n] for row, first, n in places], batch_first=True)
