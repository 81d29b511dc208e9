"""Regularisation between recurrent layers in training: masked batch normalisation and dropout.

On a CPU each is a compiled loop over the data, forward and backward. As torch operations they took a fifth
of a training step, since each operation writes a tensor of its own. On other devices they are torch
operations, which also define what the compiled ones must compute.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional

_EPSILON = 1e-5


class MaskedBatchNorm(nn.Module):
    """Batch normalisation whose statistics exclude padding.

    Source: Ioffe & Szegedy 2015, over batch and time together; running averages with momentum 0.1.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum = 0.1
    """Share of each batch in the running averages."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x_BTF: Tensor, inside_BT1: Tensor | None) -> Tensor:
        """Normalised x, float32; `inside_BT1` is True for frames that are not padding, None if none are."""
        x_BTF = x_BTF.float()
        if not self.training:
            scale_F = (self.running_var + _EPSILON).rsqrt() * self.weight
            return (x_BTF - self.running_mean) * scale_F + self.bias
        if inside_BT1 is None:
            inside_BT1 = torch.ones_like(x_BTF[..., :1], dtype=torch.bool)
        count = inside_BT1.sum()
        normalise = _Normalised.apply if x_BTF.device.type == "cpu" else _plain
        y_BTF, mean_F, var_F = normalise(x_BTF, inside_BT1, count, self.weight, self.bias)
        self._follow(self.running_mean, mean_F)
        self._follow(self.running_var, var_F * count / (count - 1).clamp(min=1))
        return y_BTF

    @torch.no_grad()
    def _follow(self, running_F: Tensor, now_F: Tensor) -> None:
        """Move a running moment towards that of the batch, unless that is not finite."""
        running_F.lerp_(torch.where(now_F.isfinite(), now_F, running_F), self.momentum)


class Dropout(nn.Module):
    """Zeroes a share p of the values in training and scales up the rest, so that the mean is kept."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x after dropout (float32 on a CPU, seeded by torch's generator); x itself in evaluation."""
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.p)
        dropped: Tensor = _Dropout.apply(x.float(), self.p, int(torch.randint(1 << 62, ())))
        return dropped


def _plain(
    x_BTF: Tensor, inside_BT1: Tensor, count: Tensor, weight_F: Tensor, bias_F: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """y, and mean and variance over the frames that are not padding, by torch operations."""
    weight = inside_BT1.float()
    mean_F = (x_BTF * weight).sum((0, 1)) / count
    var_F = ((x_BTF - mean_F).square() * weight).sum((0, 1)) / count
    return (x_BTF - mean_F) * (var_F + _EPSILON).rsqrt() * weight_F + bias_F, mean_F, var_F


class _Normalised(Function):
    """`_plain` compiled for a CPU; mean and variance are not differentiable."""

    @staticmethod
    def forward(
        ctx: Any, x_BTF: Tensor, inside_BT1: Tensor, count: Tensor, weight_F: Tensor, bias_F: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        from asr.regularisation.kernels import moments, scale_rows

        x_BTF, ctx.count = x_BTF.contiguous(), float(count)
        inside_N, x_NF = inside_BT1.flatten().numpy(), x_BTF.detach().flatten(0, 1).numpy()
        mean_F, var_F = map(torch.from_numpy, moments(x_NF, inside_N, ctx.count))
        rate_F = (var_F + _EPSILON).rsqrt()
        y_BTF = torch.empty_like(x_BTF)
        factor_F = rate_F * weight_F.detach()
        offset_F = bias_F.detach() - mean_F * factor_F
        scale_rows(x_NF, factor_F.numpy(), offset_F.numpy(), y_BTF.flatten(0, 1).numpy())
        ctx.save_for_backward(x_BTF, inside_BT1, mean_F, rate_F, weight_F)
        ctx.mark_non_differentiable(mean_F, var_F)
        return y_BTF, mean_F, var_F

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTF: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        from asr.regularisation.kernels import gradient_of_rows, gradient_sums

        x_BTF, inside_BT1, mean_F, rate_F, weight_F = ctx.saved_tensors
        x_NF, grad_NF = x_BTF.flatten(0, 1).numpy(), grad_BTF.contiguous().flatten(0, 1).numpy()
        sums = gradient_sums(x_NF, grad_NF, mean_F.numpy(), rate_F.numpy())
        bias_grad_F, weight_grad_F = map(torch.from_numpy, sums)
        x_grad_BTF = torch.empty_like(x_BTF)
        gradient_of_rows(
            x_NF, grad_NF, inside_BT1.flatten().numpy(), mean_F.numpy(), rate_F.numpy(),
            weight_F.detach().numpy(), sums[0] / ctx.count, sums[1] / ctx.count,
            x_grad_BTF.flatten(0, 1).numpy(),
        )  # fmt: skip
        return x_grad_BTF, None, None, weight_grad_F, bias_grad_F


class _Dropout(Function):
    """Dropout as a function of seed and position, so that no mask is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed
        return _thinned(x, p, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _thinned(grad.float(), ctx.p, ctx.seed), None, None


def _thinned(x: Tensor, p: float, seed: int) -> Tensor:
    from asr.regularisation.kernels import drop

    x = x.detach().contiguous()
    kept = torch.empty_like(x)
    drop(x.view(-1).numpy(), p, seed, kept.view(-1).numpy())
    return kept
