"""An LSTM in bfloat16 on a CPU at the rate of its matrix products: torch's cell with a faster gradient.

torch hands an LSTM in bfloat16 to oneDNN, whose backward run is slow: for wide layers it takes longer than
in float32. Narrow ones are better off there. Here everything that does not depend on the step before is one
large product over all steps: the inputs of the gates before the run, the gradients of inputs and weights
behind it. A step is one product with the recurrent matrix and one compiled pass over the gates.

Products are of bfloat16 with float32 sums; the state of the cell and all functions of the gates are float32;
what is kept for the backward run is bfloat16, but the state. Errors are those of oneDNN's bfloat16.

Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000; gates in torch's order:
input, forget, cell, output. `asr.lab.recurrence` has the same equations to read.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

WIDE = 512
"""Inputs and units of a direction together from which on `run` is faster; scripts/bench_train.md."""


def is_faster(run: nn.RNNBase, x_BTF: Tensor) -> bool:
    """True where our `run` beats torch's: a wide LSTM in training on a CPU under bfloat16 autocast."""
    return (
        run.mode == "LSTM"
        and run.input_size + run.hidden_size >= WIDE
        and x_BTF.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def run(lstm: nn.RNNBase, x_BTF: Tensor) -> Tensor:
    """The outputs (B, T, H), bfloat16, of a batch-first LSTM of one layer and one direction."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    y_BTH: Tensor = _Run.apply(x_BTF, *(getattr(lstm, name) for name in names))
    return y_BTH


class _Run(Function):
    """One direction over a whole batch. G is 4H: the gates side by side."""

    @staticmethod
    def forward(
        ctx: Any, x_BTF: Tensor, input_GF: Tensor, recurrent_GH: Tensor, bias_G: Tensor, more_bias_G: Tensor
    ) -> Tensor:
        from asr.lstm.kernels import forward_step

        batch, steps, width = *x_BTF.shape[:2], recurrent_GH.shape[1]
        with torch.autocast("cpu", enabled=False):
            x_TBF = torch.empty(steps, batch, x_BTF.shape[2], dtype=torch.bfloat16).copy_(
                x_BTF.transpose(0, 1)
            )
            input_GF, recurrent_GH = input_GF.bfloat16(), recurrent_GH.bfloat16()
            gates_TBG = nn.functional.linear(x_TBF, input_GF, (bias_G + more_bias_G).bfloat16())
            y_TBH = torch.empty(steps, batch, width, dtype=torch.bfloat16)
            cells_TBH = torch.zeros(steps + 1, batch, width)
            product_BG = torch.zeros(batch, 4 * width, dtype=torch.bfloat16)
            numbers = [_bits(t) for t in (gates_TBG, product_BG, y_TBH)]
            for t in range(steps):
                if t:
                    torch.mm(y_TBH[t - 1], recurrent_GH.t(), out=product_BG)
                forward_step(t, *numbers, cells_TBH.numpy())
        ctx.is_spent = False
        ctx.save_for_backward(x_TBF, gates_TBG, cells_TBH, y_TBH, input_GF, recurrent_GH)
        return y_TBH.transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTH: Tensor) -> tuple[Tensor | None, ...]:
        from asr.lstm.kernels import backward_step

        x_TBF, gates_TBG, cells_TBH, y_TBH, input_GF, recurrent_GH = ctx.saved_tensors
        if ctx.is_spent:
            raise RuntimeError("the gradient of this run has been taken: its gates are no longer there")
        ctx.is_spent = True
        steps, batch, width = y_TBH.shape
        with torch.autocast("cpu", enabled=False):
            grad_TBH = torch.empty_like(y_TBH).copy_(grad_BTH.transpose(0, 1))
            product_BH = torch.zeros(batch, width, dtype=torch.bfloat16)
            cell_grad_BH = torch.zeros(batch, width)
            numbers = [_bits(t) for t in (gates_TBG, grad_TBH, product_BH)]
            for t in range(steps - 1, -1, -1):  # the gates of step t become their gradients
                backward_step(t, *numbers, cells_TBH.numpy(), cell_grad_BH.numpy())
                torch.mm(gates_TBG[t], recurrent_GH, out=product_BH)
            gates_NG = gates_TBG.flatten(0, 1)
            x_grad_BTF = None
            if ctx.needs_input_grad[0]:
                x_grad_BTF = (gates_NG @ input_GF).view(steps, batch, -1).transpose(0, 1)
            input_grad_GF = gates_NG.t() @ x_TBF.flatten(0, 1)
            recurrent_grad_GH = gates_NG[batch:].t() @ y_TBH[:-1].flatten(0, 1)
            bias_grad_G = (torch.ones(1, len(gates_NG), dtype=torch.bfloat16) @ gates_NG)[0].float()
        return x_grad_BTF, input_grad_GF.float(), recurrent_grad_GH.float(), bias_grad_G, bias_grad_G


def _bits(tensor: Tensor) -> Any:
    """The bfloat16 numbers of a tensor as an array of 16-bit integers over the same memory."""
    return tensor.view(torch.uint16).numpy()
