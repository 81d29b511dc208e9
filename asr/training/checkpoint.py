"""The checkpoints of a training run, and what they hold besides weights and optimiser."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.errors import TrainingError
from asr.machine import states

_log = logging.getLogger(__name__)


def last(experiment: Path) -> Path:
    """The file of an experiment's last checkpoint; the best epochs are in the same folder."""
    return experiment / "checkpoints" / "last.pt"


@dataclass
class Progress:
    """A run's state apart from weights and optimiser, as plain values; saved with each checkpoint."""

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    labels: int = 0
    skipped: int = 0
    """Updates skipped because loss or gradient was not finite."""
    skipped_in_a_row: int = 0
    infeasible: int = 0
    """Utterances whose augmented audio was too short for their text; they did not contribute gradients."""
    out_of_memory: int = 0
    """Number of times that a batch was split because it did not fit into memory."""
    best: list[list[float]] = field(default_factory=list)
    """[WER, loss, epoch] on the development set of the best epochs, best first; their weights are kept."""
    stale_epochs: int = 0
    finished: bool = False
    ranks: int = 0
    """Processes that share the batches of this epoch, of which `step` counts the updates; 0 if not known."""

    @classmethod
    def resumed(cls, state: dict[str, Any], ranks: int) -> "Progress":
        """The saved state for so many processes: if it was another number, the epoch begins anew."""
        progress = cls(**state)
        if progress.step and progress.ranks not in (0, ranks):
            _log.warning(
                "epoch %d begins anew: its batches were shared by %d processes, now by %d",
                progress.epoch + 1,
                progress.ranks,
                ranks,
            )
            progress.step, progress.loss_sum, progress.labels = 0, 0.0, 0
        progress.ranks = ranks
        return progress


write = partial(states.write, error=TrainingError)
read = partial(states.read, error=TrainingError)


def average(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several sets of weights, computed in float64; integer tensors are taken from the first."""
    first = states[0]
    return {
        key: torch.stack([s[key].double() for s in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for key, value in first.items()
    }
