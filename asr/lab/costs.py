"""Costs of a recurrent network's outputs, each with its output function y = g(v) and δ_out = ∂E/∂v.

In both, the output function is the canonical one: the derivative with respect to v is output minus target,

    squared error:  y = v,           E = ½ Σ_t |y_t − d_t|²        δ_out,t = y_t − d_t
    CTC:            y = softmax(v),  E = −ln p(l | y)              δ_out,t = y_t − γ_t

where γ_t, the occupancy, is the share of each output at frame t among all paths that spell the labels l.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from asr.ctc import forward_backward, required_frames
from asr.errors import CtcError

Array = np.ndarray


class SequenceCost(Protocol):
    """A cost that can be computed only after the last frame."""

    def of_sequence(self, v_TK: Array) -> tuple[float, Array]:
        """E and δ_out (T, K)."""


@runtime_checkable
class FrameCost(Protocol):
    """A cost that is a sum over frames, so that it can be computed frame by frame."""

    def of_frame(self, t: int, v_K: Array) -> tuple[float, Array]:
        """E_t and δ_out,t of frame t = 0, 1, …"""


@dataclass(frozen=True)
class SquaredError:
    """Half the squared distance from the target d (T, K)."""

    d_TK: Array

    def of_frame(self, t: int, v_K: Array) -> tuple[float, Array]:
        error = v_K - self.d_TK[t]
        return 0.5 * float(error @ error), error


@dataclass(frozen=True)
class CtcCost:
    """−ln p(labels | softmax(v)), by forward–backward; output 0 is the blank.

    Raises:
        CtcError: the outputs have too few frames for the labels.
    """

    labels: Sequence[int]

    def of_sequence(self, v_TK: Array) -> tuple[float, Array]:
        log_y_BTK = torch.from_numpy(v_TK)[None].log_softmax(-1)
        labels_BS = torch.tensor([list(self.labels)], dtype=torch.int64)
        lengths = torch.tensor([len(v_TK)]), torch.tensor([len(self.labels)])
        lattice = forward_backward(log_y_BTK, labels_BS, *lengths)
        if lattice.nll_B.isinf().any():
            raise CtcError(
                f"{len(self.labels)} labels need at least {required_frames(self.labels)} frames, but "
                f"there are only {len(v_TK)}"
            )
        return lattice.nll_B.item(), (log_y_BTK.exp() - lattice.occupancy_BTV)[0].numpy()
