"""What each update did: numbers that stay on the device until they are read, many updates at a time."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asr.errors import TrainingError
from asr.training.checkpoint import Progress
from asr.training.optim import TrainingConfig

UPDATES_BETWEEN_READS = {"cuda": 10}
"""Reading waits for a GPU, which then waits for the next orders: it is done after so many updates."""


class Ledger:
    """Takes a row of numbers for each update, and enters the rows into the run's progress when it is read.

    Args:
        progress: what is kept up to date.
        config: says when to give up, and which learning rate was too high.
        observe: told of updates that were left out.
    """

    def __init__(
        self, progress: Progress, config: TrainingConfig, observe: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self.progress, self.config, self.observe = progress, config, observe
        self.wishes = 0
        """Ranks that were asked to stop, at the last update that has been read."""
        self.loss, self.norm = math.nan, math.nan
        """Loss per label and norm of the gradient of that update."""
        self._rows: list[Tensor] = []

    def add(self, sums: Tensor, norm: Tensor) -> None:
        """Note an update.

        Args:
            sums: float64 (5,) over all ranks: loss, labels, utterances too short for their text, batches
                that were split, and ranks that were asked to stop.
            norm: of the gradient, before it was clipped.
        """
        self._rows.append(torch.cat([sums, norm.double()[None]]))

    @property
    def is_due(self) -> bool:
        """True when as many updates wait as may; the same on all ranks."""
        return len(self._rows) >= UPDATES_BETWEEN_READS.get(self._rows[0].device.type, 1)

    def read(self) -> None:
        """Enter all updates that have been noted into the progress.

        Raises:
            TrainingError: too many updates in a row were not finite.
        """
        rows, self._rows = self._rows, []
        for row in torch.stack(rows).tolist() if rows else ():
            self._enter(*row)

    def _enter(
        self, loss: float, labels: float, infeasible: float, splits: float, wishes: float, norm: float
    ) -> None:
        p = self.progress
        self.loss, self.norm, self.wishes = loss / max(labels, 1), norm, int(wishes)
        if math.isfinite(loss) and math.isfinite(norm):
            p.skipped_in_a_row = 0
        else:
            p.skipped, p.skipped_in_a_row = p.skipped + 1, p.skipped_in_a_row + 1
            self.observe("skipped", {"loss": loss, "gradient_norm": norm, "skipped": p.skipped})
        if p.skipped_in_a_row >= self.config.give_up_after:
            raise TrainingError(
                f"loss or gradient was not finite in {p.skipped_in_a_row} updates in a row; lower "
                f"training.learning_rate (now {self.config.learning_rate}) or try training.precision=float32"
            )
        p.infeasible += int(infeasible)
        p.out_of_memory += int(splits)
        if math.isfinite(loss):
            p.loss_sum += loss
            p.labels += int(labels)
