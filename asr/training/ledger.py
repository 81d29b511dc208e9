"""Results of each update: numbers that stay on the device until they are read, many updates at a time."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asr.errors import TrainingError
from asr.training.checkpoint import Progress
from asr.training.optim import TrainingConfig

UPDATES_BETWEEN_READS = {"cuda": 10}
"""Updates per read, by device type (1 elsewhere): reading waits for the GPU, which then runs out of work."""


class Ledger:
    """Collects a row of numbers for each update, and enters them into the run's progress when they are read.

    Args:
        progress: is updated.
        config: for the limit of non-finite updates in a row, and for the message about it.
        observe: called for updates that were skipped.
    """

    def __init__(
        self, progress: Progress, config: TrainingConfig, observe: Callable[[str, dict[str, Any]], None]
    ) -> None:
        self.progress, self.config, self.observe = progress, config, observe
        self.stop_requests = 0
        """Number of ranks that were asked to stop, as of the last update read."""
        self.loss, self.norm = math.nan, math.nan
        """Loss per label and norm of the gradient of that update."""
        self._rows: list[Tensor] = []

    def add(self, sums: Tensor, norm: Tensor) -> None:
        """Record an update.

        Args:
            sums: float64 (5,), summed over all ranks (in float32 if there are several): loss, labels,
                utterances too short for their text, batches that were split, ranks that were asked to stop.
            norm: of the gradient, before clipping.
        """
        self._rows.append(torch.cat([sums, norm.double()[None]]))

    @property
    def is_due(self) -> bool:
        """True when enough updates have been recorded to be read; the same on all ranks."""
        return len(self._rows) >= UPDATES_BETWEEN_READS.get(self._rows[0].device.type, 1)

    def read(self) -> None:
        """Enter all recorded updates into the progress.

        Raises:
            TrainingError: too many updates in a row were not finite.
        """
        rows, self._rows = self._rows, []
        for row in torch.stack(rows).tolist() if rows else ():
            self._enter(*row)

    def _enter(
        self, loss: float, labels: float, infeasible: float, splits: float, stop_requests: float, norm: float
    ) -> None:
        p = self.progress
        self.loss, self.norm, self.stop_requests = loss / max(labels, 1), norm, int(stop_requests)
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
