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

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional

from asr.ctc.lattice import at_least_float32, check_batch
from asr.errors import CtcError
from asr.machine.devices import sent
from asr.machine.threads import in_threads

_HUGE = 1e300
"""Futures above this, of states that are next to impossible, are taken for this."""


def log_denominator(log_probs_BTV: Tensor, input_lengths_B: Tensor, trigram_VVV: Tensor) -> Tensor:
    """ln Σ_l P(l) p(l | log-probs) of each utterance in nats, (B,), differentiable in the log-probabilities.

    The gradient is the occupancy: the share of the sum that passes through each output at each frame. If no
    labelling is possible, the value is −∞ and the gradient zero. On a CPU both are computed in single
    precision where that suffices, elsewhere in double.

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
    log_probs_BTV, _, input_lengths_B, _ = check_batch(
        log_probs_BTV, nothing_B0, input_lengths_B, nothing_B0.sum(1)
    )
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
    device = trigram_VVV.device
    targets_BS, lengths_B = sent(targets_BS, device).long(), sent(target_lengths_B, device)
    place_S = torch.arange(targets_BS.shape[1], device=device)
    labels_BS = torch.where(place_S < lengths_B[:, None], targets_BS, 0)
    history_BS = functional.pad(labels_BS, (2, 1))
    log_BS = trigram_VVV[history_BS[:, :-2], history_BS[:, 1:-1], history_BS[:, 2:]].log()
    place_S = torch.arange(log_BS.shape[1], device=device)
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
            total_1, occupancy_1TV = portable(log_probs_BTV[i : i + 1, :n], lengths_B[i : i + 1], trigram_VVV)
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
    """The same on any device, in double precision: all utterances at once, frame by frame.

    What a frame costs on a GPU is the number of its operations, so they are few; and nothing is waited for.
    The state of an utterance is, for each last label b, both parts (B, L) for each label a before it.
    """
    (batch, frames, outputs), device = log_probs_BTV.shape, log_probs_BTV.device
    frame_T, lengths_B = torch.arange(frames, device=device), sent(lengths_B, device)
    inside_BT1 = (frame_T < lengths_B[:, None])[..., None]
    # Beyond its end an utterance is blank with certainty, which changes neither the sum nor the occupancy.
    blank_V = torch.arange(outputs, device=device) == 0
    probs_BTV = torch.where(inside_BT1, log_probs_BTV.double().exp(), blank_V.double())
    both_BTV2 = torch.stack([probs_BTV[..., :1].expand_as(probs_BTV), probs_BTV], 3)
    factor_TVB21 = both_BTV2.permute(1, 2, 0, 3)[..., None].contiguous()
    next_VSV, end_V11V = _transitions(trigram_VVV.to(device).double())
    state_VB2V = probs_BTV.new_zeros(outputs, batch, 2, outputs)
    state_VB2V[0, :, 0, 0] = 1.0
    label_TVBV = probs_BTV.new_empty(frames, outputs, batch, outputs)
    scale_TB = probs_BTV.new_empty(frames, batch)
    blank_VBV, label_VBV = state_VB2V.unbind(2)
    for t in range(frames):
        moved_VBV = torch.bmm(state_VB2V.flatten(2), next_VSV)  # to c, at [b, :, c]
        moved_VBV += label_VBV.permute(2, 1, 0)
        blank_VBV += label_VBV
        label_VBV.copy_(moved_VBV.permute(2, 1, 0))
        state_VB2V *= factor_TVB21[t]
        torch.sum(state_VB2V, (0, 2, 3), out=scale_TB[t])
        state_VB2V /= scale_TB[t][:, None, None]
        label_TVBV[t] = label_VBV
    last_B = (state_VB2V * end_V11V).sum((0, 2, 3))
    total_B = scale_TB.log().sum(0) + last_B.log()
    factor_TVB21 /= scale_TB[:, None, :, None, None]
    future_VB2V = (end_V11V / last_B[:, None, None]).expand_as(state_VB2V).contiguous()
    occupancy_TVB = _occupancy(label_TVBV, factor_TVB21, future_VB2V, next_VSV.mT)
    occupancy_TVB[:, 0] = 1.0 - occupancy_TVB[:, 1:].sum(1)
    # Where the sum became zero, what follows is 0 / 0.
    is_impossible_B = (scale_TB == 0).any(0) | (last_B == 0)
    total_B = torch.where(is_impossible_B, -math.inf, total_B)
    is_used_BT1 = inside_BT1 & ~is_impossible_B[:, None, None]
    occupancy_BTV = torch.where(is_used_BT1, occupancy_TVB.permute(2, 0, 1), 0.0)
    return total_B.to(log_probs_BTV.dtype), occupancy_BTV.to(log_probs_BTV.dtype)


def _transitions(trigram_VVV: Tensor) -> tuple[Tensor, Tensor]:
    """P(c | a, b) at [b, a, c] after a blank, [b, V + a, c] after a label; P(end | a, b) at [b, 0, 0, a]."""
    after_blank_VVV = trigram_VVV.transpose(0, 1).clone()
    end_VV = after_blank_VVV[:, :, 0].clone()
    after_blank_VVV[:, :, 0] = 0.0
    after_label_VVV = after_blank_VVV.clone()
    after_label_VVV.diagonal(dim1=0, dim2=2).zero_()  # a label may follow itself only after a blank
    return torch.cat([after_blank_VVV, after_label_VVV], 1), end_VV[:, None, None]


def _occupancy(label_TVBV: Tensor, factor_TVB21: Tensor, future_VB2V: Tensor, before_VVS: Tensor) -> Tensor:
    """The share of the sum that passes through each label at each frame, from the last frame back."""
    occupancy_TVB = label_TVBV.new_empty(label_TVBV.shape[:3])
    blank_VBV, label_VBV = future_VB2V.unbind(2)
    for t in range(len(label_TVBV) - 1, -1, -1):
        torch.sum(label_TVBV[t] * label_VBV, 2, out=occupancy_TVB[t])
        future_VB2V *= factor_TVB21[t]
        future_VB2V.clamp_(max=_HUGE)
        moved_VBS = torch.bmm(label_VBV.permute(2, 1, 0), before_VVS)
        label_VBV += blank_VBV
        future_VB2V += moved_VBS.view_as(future_VB2V)
    return occupancy_TVB
