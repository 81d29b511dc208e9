"""The best epochs of a run: their ranking, and their weights on disk."""

import math
from pathlib import Path

from torch import Tensor

from asr.errors import TrainingError
from asr.training import checkpoint

Entry = list[float]
"""[WER, loss, epoch] on the development set."""


class BestEpochs:
    """Keeps the weights of the best few epochs, ranked by WER, then loss, then the earlier epoch.

    Args:
        folder: for the weights.
        count: how many are kept.
        entries: `Progress.best`, the list that is saved with checkpoints; updated in place.
        by_loss: rank by loss before WER.
    """

    def __init__(self, folder: Path, *, count: int, entries: list[Entry], by_loss: bool = False) -> None:
        self.folder, self.count, self.entries, self.by_loss = folder, max(1, count), entries, by_loss

    def order(self, entry: Entry) -> Entry:
        """Sort key, smaller for a better epoch."""
        return [entry[1], entry[0], entry[2]] if self.by_loss else entry

    def enter(self, epoch: int, wer: float, loss: float) -> tuple[bool, bool, list[int]]:
        """Whether the epoch is the best, whether it is kept, and which epochs are no longer kept."""
        mine = [wer, loss if math.isfinite(loss) else 1e9, float(epoch)]
        ranked = sorted([*self.entries, mine], key=self.order)
        is_best = ranked[0] == mine
        self.entries[:] = ranked[: self.count]
        return is_best, mine in self.entries, [int(entry[2]) for entry in ranked[self.count :]]

    def write(self, epoch: int, state: dict[str, Tensor]) -> None:
        """Write the weights of an epoch to disk."""
        checkpoint.write(self._file(epoch), state)

    def remove(self, epochs: list[int]) -> None:
        """Delete the weights of epochs that are no longer kept."""
        for epoch in epochs:
            self._file(epoch).unlink(missing_ok=True)

    def read(self) -> list[tuple[int, dict[str, Tensor]]]:
        """(epoch, weights) of those kept, best first.

        Raises:
            TrainingError: some weights are missing or damaged.
        """
        found = []
        for epoch in (int(entry[2]) for entry in self.entries):
            state = checkpoint.read(self._file(epoch))
            if state is None:
                raise TrainingError(
                    f"{self._file(epoch)}: the weights of one of the best epochs are gone; remove "
                    f"{self.folder} to start anew"
                )
            found.append((epoch, state))
        return found

    def _file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}.pt"
