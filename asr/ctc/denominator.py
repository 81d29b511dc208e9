"""The sum over all labellings: ln Σ_l P(l) p(l | x), with P a trigram over labels and p that of CTC.

The denominator of discriminative training. CTC raises the probability of the reference; subtracting this from
the objective lowers that of all competing labellings, weighted by P.

A state of the sum is the last two labels (a, b) and whether the last frame emitted b (L) or a blank after it
(B). The future depends on nothing else:

    L_t(b, c) = y_t(c) (L_{t−1}(b, c) + Σ_a P(c | a, b) (B_{t−1}(a, b) + [b ≠ c] L_{t−1}(a, b)))
    B_t(a, b) = y_t(blank) (B_{t−1}(a, b) + L_{t−1}(a, b))

with y the outputs' probabilities. The values of each frame are divided by their sum, whose logarithm is
accumulated: no cell needs its own. On a CPU the recursion is compiled (asr/ctc/denominator_kernels.py).

Source: Xiang & Ou 2019, "CRF-based single-stage acoustic modeling with CTC topology"; Povey et al. 2016,
"Purely sequence-trained neural networks for ASR based on lattice-free MMI".
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional

from asr.ctc.lattice import at_least_float32, check_batch
from asr.errors import CtcError
from asr.machine.threads import in_threads


def log_denominator(log_probs_BTV: Tensor, input_lengths_B: Tensor, trigram_VVV: Tensor) -> Tensor:
    """ln Σ_l P(l) p(l | log-probs) of each utterance in nats, (B,), differentiable in the log-probabilities.

    The gradient is the occupancy: the share of the sum that passes through each output at each frame. On a
    CPU both are computed in single precision where that suffices.

    Args:
        log_probs_BTV: of the outputs, 0 being the blank.
        input_lengths_B: frames of each utterance.
        trigram_VVV: P(c | a, b) at [a, b, c]. Index 0 stands for the start at a and b, for the end at c.

    Raises:
        CtcError: shapes that do not fit.

    >>> half = torch.full((1, 1, 2), 0.5).log()           # one frame: nothing, or one label
    >>> P = torch.tensor([[[0.2, 0.8], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]]])
    >>> log_denominator(half, torch.tensor([1]), P).exp()   # 0.5 · 0.2 + 0.5 · 0.8 · 0.5
    tensor([0.3000])
    """
    nothing_B0 = torch.zeros(len(log_probs_BTV), 0, dtype=torch.int64)
    check_batch(log_probs_BTV, nothing_B0, input_lengths_B, torch.zeros_like(input_lengths_B))
    outputs = log_probs_BTV.shape[2]
    if trigram_VVV.shape != (outputs,) * 3:
        raise CtcError(
            f"the trigram has shape {tuple(trigram_VVV.shape)}; expected {outputs} outputs along each axis"
        )
    by = compiled if log_probs_BTV.device.type == "cpu" else portable
    total_B: Tensor = _Sum.apply(at_least_float32(log_probs_BTV), input_lengths_B, trigram_VVV, by)
    return total_B


def log_prior(targets_BS: Tensor, target_lengths_B: Tensor, trigram_VVV: Tensor) -> Tensor:
    """ln P(targets) of each utterance under the trigram, end included, (B,)."""
    targets_BS, lengths_B = targets_BS.to(trigram_VVV.device).long(), target_lengths_B.to(trigram_VVV.device)
    place_S = torch.arange(targets_BS.shape[1], device=trigram_VVV.device)
    labels_BS = torch.where(place_S < lengths_B[:, None], targets_BS, 0)
    history_BS = functional.pad(labels_BS, (2, 1))
    log_BS = trigram_VVV[history_BS[:, :-2], history_BS[:, 1:-1], history_BS[:, 2:]].log()
    place_S = torch.arange(log_BS.shape[1], device=trigram_VVV.device)
    return torch.where(place_S <= lengths_B[:, None], log_BS, 0.0).sum(1)


class _Sum(Function):
    """The value; its gradient is the occupancy that is computed with it."""

    @staticmethod
    def forward(
        ctx: Any, log_probs_BTV: Tensor, input_lengths_B: Tensor, trigram_VVV: Tensor, by: Any
    ) -> Tensor:
        total_B, occupancy_BTV = by(log_probs_BTV.detach(), input_lengths_B, trigram_VVV)
        ctx.save_for_backward(occupancy_BTV)
        return total_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:
        (occupancy_BTV,) = ctx.saved_tensors
        return grad_B[:, None, None] * occupancy_BTV, None, None, None


def compiled(log_probs_BTV: Tensor, lengths_B: Tensor, trigram_VVV: Tensor) -> tuple[Tensor, Tensor]:
    """The value (B,) and the occupancy (B, T, V) on a CPU, utterances spread over threads.

    In single precision, with outputs below e^−87 as impossible; an utterance for which that does not suffice
    is computed again by `portable`.
    """
    from asr.ctc.denominator_kernels import denominator

    probs_BTV = log_probs_BTV.exp().float().contiguous()
    occupancy_BTV = torch.zeros_like(probs_BTV)
    following, preceding, again, end = _laid_out(trigram_VVV)
    probs, occupancy, lengths = probs_BTV.numpy(), occupancy_BTV.numpy(), lengths_B.tolist()

    def one(i: int) -> float:
        n = lengths[i]
        total, is_exact = denominator(probs[i, :n], following, preceding, again, end, occupancy[i, :n])
        if not is_exact:
            precise = log_probs_BTV[i : i + 1, :n].double(), lengths_B[i : i + 1], trigram_VVV.double()
            total_1, occupancy_1TV = portable(*precise)
            total, occupancy_BTV[i, :n] = float(total_1), occupancy_1TV[0]
        return total

    total_B = log_probs_BTV.new_tensor(in_threads(one, len(lengths)))
    return total_B, occupancy_BTV.to(log_probs_BTV.dtype)


def _laid_out(trigram_VVV: Tensor) -> list[Any]:
    """The trigram as the compiled loop reads it: P(c | a, b) at [b, a, c] and [b, c, a], again, end."""
    from asr.machine.rows import DEPTH, LANES

    outputs = len(trigram_VVV)
    table = functional.pad(trigram_VVV.float().transpose(0, 1), (0, -outputs % LANES, 0, -outputs % DEPTH))
    turned = functional.pad(trigram_VVV.float().permute(1, 2, 0), (0, -outputs % LANES, 0, -outputs % DEPTH))
    again_VV = turned[:, :outputs].diagonal(dim1=0, dim2=1).t()
    return [part.contiguous().numpy() for part in (table, turned, again_VV, turned[:, 0])]


def portable(log_probs_BTV: Tensor, lengths_B: Tensor, trigram_VVV: Tensor) -> tuple[Tensor, Tensor]:
    """The same on any device, all utterances at once, frame by frame."""
    lengths_B = lengths_B.to(log_probs_BTV.device)
    probs_BTV, trigram_VVV = log_probs_BTV.exp(), trigram_VVV.to(log_probs_BTV)
    outputs = trigram_VVV.shape[0]
    end_VV, next_VVV = trigram_VVV[:, :, 0], trigram_VVV.transpose(0, 1).clone()  # next[b, a, c]
    next_VVV[:, :, 0] = 0.0
    again_VV = next_VVV.diagonal(dim1=0, dim2=2).clone()  # again[a, b] = P(b | a, b)
    blank = log_probs_BTV.new_zeros(len(log_probs_BTV), outputs, outputs)
    blank[:, 0, 0] = 1.0
    label = torch.zeros_like(blank)
    total_B = log_probs_BTV.new_zeros(len(log_probs_BTV))
    rows = []
    for t in range(probs_BTV.shape[1]):
        y_BV = probs_BTV[:, t]
        both = blank + label
        moved = torch.einsum("zab,bac->zbc", both, next_VVV)
        # A label may follow itself only after a blank.
        moved.diagonal(dim1=1, dim2=2).sub_((label * again_VV).sum(1))
        new_label, new_blank = (label + moved) * y_BV[:, None], both * y_BV[:, :1, None]
        scale_B = (new_label + new_blank).sum((1, 2))
        inside_B = t < lengths_B
        factor_B = torch.where(inside_B, 1 / scale_B, 0.0)[:, None, None]
        label = torch.where(inside_B[:, None, None], new_label * factor_B, label)
        blank = torch.where(inside_B[:, None, None], new_blank * factor_B, blank)
        total_B = total_B + torch.where(inside_B, scale_B.log(), 0.0)
        rows.append((label, blank))
    total_B = total_B + ((label + blank) * end_VV).sum((1, 2)).log()
    return total_B, _occupancy(rows, probs_BTV, lengths_B, next_VVV, again_VV, end_VV)


def _occupancy(
    rows: list[tuple[Tensor, Tensor]],
    probs_BTV: Tensor,
    lengths_B: Tensor,
    next_VVV: Tensor,
    again_VV: Tensor,
    end_VV: Tensor,
) -> Tensor:
    occupancy_BTV = torch.zeros_like(probs_BTV)
    end = end_VV.expand(len(probs_BTV), -1, -1)
    label, blank = end, end
    for t in range(len(rows) - 1, -1, -1):
        inside_B = (t < lengths_B)[:, None]
        if t + 1 < len(rows):
            y_BV = probs_BTV[:, t + 1]
            ahead = label * y_BV[:, None]
            moved = torch.einsum("zbc,bac->zab", ahead, next_VVV)
            new_blank = blank * y_BV[:, :1, None] + moved
            new_label = new_blank + ahead - again_VV * ahead.diagonal(dim1=1, dim2=2)[:, None]
            largest_B = torch.maximum(new_label, new_blank).amax((1, 2))[:, None, None]
            goes_on_B = (t + 1 < lengths_B)[:, None, None]
            label = torch.where(goes_on_B, new_label / largest_B, end)
            blank = torch.where(goes_on_B, new_blank / largest_B, end)
        labels_BV, blanks_B = (rows[t][0] * label).sum(1), (rows[t][1] * blank).sum((1, 2))
        shares_BV = labels_BV.clone()
        shares_BV[:, 0] += blanks_B
        occupancy_BTV[:, t] = torch.where(inside_B, shares_BV / shares_BV.sum(1, keepdim=True), 0.0)
    return occupancy_BTV
