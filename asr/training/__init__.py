"""Training: the loop, its optimiser, its checkpoints and its history.

Everything random in step n is a function of (seed, epoch, step, utterance), so no random state is saved, and
a killed run continues as if it had not been: on a CPU with the same bits, on a GPU but for the order of
sums in torch's CTC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asr.training.optim import TrainingConfig

if TYPE_CHECKING:
    from asr.training.loop import Trainer as Trainer

__all__ = ["Trainer", "TrainingConfig"]


def __getattr__(name: str) -> Any:
    if name == "Trainer":
        return import_module("asr.training.loop").Trainer
    raise AttributeError(f"module 'asr.training' has no attribute {name!r}")
