"""The state of a training run on disk: written whole or not at all, read without running code."""

import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.errors import TrainingError

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


def write(path: Path, state: dict[str, Any]) -> None:
    """Save the state to `path` atomically: a temporary file, flushed to disk, replaces the old one.

    Raises:
        TrainingError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(
            f"{path}: the checkpoint could not be written ({error}); the last one is kept: free some space "
            "and run again, training goes on from it"
        ) from error


def read(path: Path) -> dict[str, Any] | None:
    """The state that was saved, or None if there is none.

    Raises:
        TrainingError: a damaged file.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise TrainingError(
            f"{path}: not a readable checkpoint ({error}); remove it to start anew"
        ) from error
    return state


def average(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several sets of weights, computed in float64; integer tensors are taken from the first."""
    first = states[0]
    return {
        key: torch.stack([s[key].double() for s in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for key, value in first.items()
    }
