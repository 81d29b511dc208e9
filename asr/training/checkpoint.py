"""The checkpoints of a training run, and what they hold besides weights and optimiser."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from asr.errors import TrainingError
from asr.machine import states

LAST = "last.pt"


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
