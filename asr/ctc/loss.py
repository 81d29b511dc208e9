"""The training loss: −ln p(l | x) by the fastest exact implementation on the device, with gradient −γ.

On the CPU that is our own compiled lattice (asr/ctc/kernels.py), utterances spread over threads. On CUDA it
is torch's own kernel; under `torch.use_deterministic_algorithms`, and on any other device, the plain tensor
operations of asr/ctc/lattice.py. All three give the same numbers: +∞ and a zero gradient for a target that
cannot fit, which the caller counts.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from asr.ctc.lattice import INFINITY, at_least_float32, check_batch, forward_backward
from asr.machine.devices import sent
from asr.machine.threads import in_threads


def ctc_loss(
    log_probs_BTV: Tensor, targets_BS: Tensor, input_lengths_B: Tensor, target_lengths_B: Tensor
) -> Tensor:
    """−ln p(targets | log-probs) of each utterance in nats, (B,); +∞, with zero gradient, if no path fits.

    The gradient with respect to the log-probabilities is minus the occupancy. Half precision is computed and
    returned in float32, also under autocast. On a CPU a loss beyond 2^20 ln 2, some 727,000 nats, is +∞ too.
    Arguments and errors are those of `forward_backward`.

    >>> half = torch.full((1, 2, 2), 0.5).log()
    >>> ctc_loss(half, torch.tensor([[1]]), torch.tensor([2]), torch.tensor([1])).neg().exp()
    tensor([0.7500])
    """
    log_probs_BTV, *others = check_batch(log_probs_BTV, targets_BS, input_lengths_B, target_lengths_B)
    log_probs_BTV = at_least_float32(log_probs_BTV)
    return _implementation(log_probs_BTV.device.type).apply(log_probs_BTV, *others)


def _implementation(device: str) -> Any:
    if device == "cpu":
        return _Compiled
    return _Native if device == "cuda" and not torch.are_deterministic_algorithms_enabled() else _Portable


class _Compiled(Function):
    """CPU: our numba lattice. It stores γ only of the outputs in use, not of all V."""

    @staticmethod
    def forward(
        ctx: Any, log_probs_BTV: Tensor, targets_BS: Tensor, input_lengths_B: Tensor, target_lengths_B: Tensor
    ) -> Tensor:
        nll_B, *parts = _run(
            log_probs_BTV, targets_BS, input_lengths_B, target_lengths_B, ctx.needs_input_grad[0]
        )
        ctx.save_for_backward(*parts)
        ctx.shape = log_probs_BTV.shape
        return nll_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:
        from asr.ctc.kernels import spread

        gamma_BTD, columns_BD, frames_B = ctx.saved_tensors
        grad_BTV = gamma_BTD.new_zeros(ctx.shape)
        grad, gamma, columns = grad_BTV.numpy(), gamma_BTD.numpy(), columns_BD.numpy()
        weights, frames = (-grad_B).tolist(), frames_B.tolist()

        def one(i: int) -> None:
            spread(grad[i, : frames[i]], gamma[i, : frames[i]], columns[i], weights[i])

        in_threads(one, len(weights))
        return grad_BTV, None, None, None


class _Native(Function):
    """CUDA: torch's kernel. Its gradient is that through a softmax, which is undone so that −γ remains."""

    @staticmethod
    def forward(
        ctx: Any, log_probs_BTV: Tensor, targets_BS: Tensor, input_lengths_B: Tensor, target_lengths_B: Tensor
    ) -> Tensor:
        log_probs_TBV = log_probs_BTV.transpose(0, 1)
        lengths = input_lengths_B.tolist(), target_lengths_B.tolist()
        targets_BS = sent(targets_BS, log_probs_BTV.device).long()
        nll_B, log_alpha = torch._ctc_loss(log_probs_TBV, targets_BS, *lengths, 0, False)
        ctx.save_for_backward(log_probs_TBV, targets_BS, nll_B, log_alpha)
        ctx.lengths = lengths
        return nll_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:
        log_probs_TBV, targets_BS, nll_B, log_alpha = ctx.saved_tensors
        grad_TBV = torch.ops.aten._ctc_loss_backward(
            grad_B, log_probs_TBV, targets_BS, *ctx.lengths, nll_B, log_alpha, 0, True
        )
        frames_B = sent(torch.tensor(ctx.lengths[0]), grad_TBV.device)
        inside_TB = torch.arange(len(grad_TBV), device=grad_TBV.device)[:, None] < frames_B
        used_TB1 = (inside_TB & (nll_B != INFINITY))[:, :, None]
        grad_TBV = torch.where(used_TB1, grad_TBV - log_probs_TBV.exp() * grad_B[:, None], 0.0)
        return grad_TBV.transpose(0, 1), None, None, None


class _Portable(Function):
    """Any device: the reference lattice."""

    @staticmethod
    def forward(
        ctx: Any, log_probs_BTV: Tensor, targets_BS: Tensor, input_lengths_B: Tensor, target_lengths_B: Tensor
    ) -> Tensor:
        lattice = forward_backward(log_probs_BTV, targets_BS, input_lengths_B, target_lengths_B)
        ctx.save_for_backward(lattice.occupancy_BTV)
        return lattice.nll_B

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:
        (occupancy_BTV,) = ctx.saved_tensors
        return -grad_B[:, None, None] * occupancy_BTV, None, None, None


def _run(
    log_probs_BTV: Tensor,
    targets_BS: Tensor,
    input_lengths_B: Tensor,
    target_lengths_B: Tensor,
    with_gamma: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The value of each utterance, γ of the outputs in use, which outputs these are, and the frame counts."""
    from asr.ctc.kernels import utterance

    batch, frames, outputs = log_probs_BTV.shape
    columns = min(targets_BS.shape[1] + 1, outputs)
    gamma_BTD = log_probs_BTV.new_zeros(batch, frames, columns if with_gamma else 0)
    columns_BD = torch.zeros(batch, columns, dtype=torch.int64)
    log_probs, gamma, places = (
        log_probs_BTV.detach().contiguous().numpy(),
        gamma_BTD.numpy(),
        columns_BD.numpy(),
    )
    targets = targets_BS.cpu().long().contiguous().numpy()
    lengths = list(zip(input_lengths_B.tolist(), target_lengths_B.tolist(), strict=True))

    def one(i: int) -> float:
        n, labels = lengths[i]
        return utterance(log_probs[i, :n], targets[i, :labels], places[i], gamma[i, :n])

    nll_B = log_probs_BTV.new_tensor(in_threads(one, batch))
    return nll_B, gamma_BTD, columns_BD, input_lengths_B.cpu().long()
