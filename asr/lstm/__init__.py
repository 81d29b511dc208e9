"""A bfloat16 LSTM on a CPU at the speed of its matrix products: torch's cell with a faster gradient.

torch hands an LSTM in bfloat16 to oneDNN, whose backward pass is slow: for wide layers slower than in
float32. Here everything that does not depend on the previous step is one large product over all steps: the
inputs of the gates before the recurrence, the gradients of inputs and weights after it. The steps are one
compiled loop: a product with the recurrent matrix, which is packed for it, and a pass over the gates.
Utterances are independent, so they are divided among torch's threads.

Products are bfloat16 with float32 accumulation; the cell state and all gate functions are float32; what is
kept for the backward pass is bfloat16, except the state. Errors are like those of oneDNN's bfloat16.

Source: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000; gates in torch's order:
input, forget, cell, output. `asr.lab.recurrence` has the same equations to read.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional

from asr.machine.threads import in_threads
from asr.subsampling import State


def outputs(run: nn.Module, x_BTF: Tensor) -> Tensor:
    """The outputs (B, T, H) of a batch-first recurrence from a zero state, by what is fastest here."""
    if isinstance(run, nn.RNNBase) and is_faster(run, x_BTF):
        return run_in_bfloat16(run, x_BTF)
    return by_torch(run, x_BTF, None)[0]


def by_torch(run: nn.Module, x_BTF: Tensor, state: State | None) -> tuple[Tensor, State]:
    """The outputs and the state after them; in float32 where torch lacks a bfloat16 LSTM.

    A state is (outputs, cells) of an LSTM, or (outputs,) of another cell, each (1, B, H).
    """
    if isinstance(run, nn.RNNBase) and is_missing(run, x_BTF):
        with torch.autocast("cpu", enabled=False):
            y_BTH, state = by_torch(run, x_BTF.float(), state and tuple(part.float() for part in state))
        return y_BTH.bfloat16(), tuple(part.bfloat16() for part in state)
    hidden: Any = state[0] if state and len(state) == 1 else state
    y_BTH, hidden = run(x_BTF, hidden)
    return y_BTH, hidden if isinstance(hidden, tuple) else (hidden,)


@torch.no_grad()
def set_forget_bias(run: nn.LSTM, value: float) -> None:
    """Let the forget gates start with this bias: with 1 a cell keeps most of its state at first."""
    run.get_parameter("bias_ih_l0").chunk(4)[1].fill_(value)  # gates: input, forget, cell, output
    run.get_parameter("bias_hh_l0").chunk(4)[1].zero_()


def is_faster(run: nn.RNNBase, x_BTF: Tensor) -> bool:
    """True where `run_in_bfloat16` beats torch: an LSTM trained in bfloat16 on a CPU made for it."""
    return torch.is_grad_enabled() and _is_in_bfloat16(run, x_BTF) and _processor_is_made_for_it()


def is_missing(run: nn.RNNBase, x_BTF: Tensor) -> bool:
    """True where torch cannot run it: oneDNN's bfloat16 LSTM needs AVX-512 and fails on other CPUs."""
    return _is_in_bfloat16(run, x_BTF) and not torch.cpu._is_avx512_supported()


def _is_in_bfloat16(run: nn.RNNBase, x_BTF: Tensor) -> bool:
    is_wanted = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return run.mode == "LSTM" and x_BTF.device.type == "cpu" and is_wanted


def _processor_is_made_for_it() -> bool:
    from asr.machine.products import AVAILABLE

    return AVAILABLE


def run_in_bfloat16(lstm: nn.RNNBase, x_BTF: Tensor) -> Tensor:
    """The outputs (B, T, H), bfloat16, of a batch-first LSTM of one layer and one direction."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    y_BTH: Tensor = _Run.apply(x_BTF, *(getattr(lstm, name) for name in names))
    return y_BTH


class _Run(Function):
    """One direction over a batch. H is the number of units, rounded up to whole vectors; G is 4H, by gate."""

    @staticmethod
    def forward(
        ctx: Any, x_BTF: Tensor, input_GF: Tensor, recurrent_GH: Tensor, bias_G: Tensor, more_bias_G: Tensor
    ) -> Tensor:
        from asr.lstm.kernels import run_forward
        from asr.machine.products import DEPTH, pack

        batch, steps, units = *x_BTF.shape[:2], recurrent_GH.shape[1]
        width = -(-units // DEPTH) * DEPTH
        with torch.autocast("cpu", enabled=False):
            x_TBF = torch.empty(steps, batch, x_BTF.shape[2], dtype=torch.bfloat16).copy_(
                x_BTF.transpose(0, 1)
            )
            input_GF = _rounded(input_GF, width)
            recurrent_GH = functional.pad(_rounded(recurrent_GH, width), (0, width - units))
            bias_G = _rounded((bias_G + more_bias_G)[:, None], width)[:, 0]
            gates_TBG = functional.linear(x_TBF, input_GF, bias_G)
            y_TBH = torch.empty(steps, batch, width, dtype=torch.bfloat16)
            cells_TBH = torch.zeros(steps + 1, batch, width)
            product_BG = torch.zeros(batch, 4 * width)
            panels = pack(recurrent_GH.t())
            _share_out(run_forward, batch, panels, gates_TBG, product_BG, y_TBH, cells_TBH)
        ctx.is_spent = False
        ctx.save_for_backward(x_TBF, gates_TBG, cells_TBH, y_TBH, input_GF, recurrent_GH)
        return y_TBH[..., :units].transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTH: Tensor) -> tuple[Tensor | None, ...]:
        from asr.lstm.kernels import run_backward
        from asr.machine.products import COLUMNS, pack

        x_TBF, gates_TBG, cells_TBH, y_TBH, input_GF, recurrent_GH = ctx.saved_tensors
        if ctx.is_spent:
            raise RuntimeError("the gradient of this run has been taken: its gates are no longer there")
        ctx.is_spent = True
        steps, batch, width = y_TBH.shape
        units = grad_BTH.shape[2]
        with torch.autocast("cpu", enabled=False):
            grad_TBH = functional.pad(grad_BTH.transpose(0, 1), (0, width - units)).bfloat16().contiguous()
            panels = pack(recurrent_GH)
            product_BH = torch.zeros(batch, len(panels) * COLUMNS)
            carried_BH = torch.zeros(batch, width)
            _share_out(run_backward, batch, panels, gates_TBG, product_BH, grad_TBH, cells_TBH, carried_BH)
            gates_NG = gates_TBG.flatten(0, 1)
            x_grad_BTF = None
            if ctx.needs_input_grad[0]:
                x_grad_BTF = (gates_NG @ input_GF).view(steps, batch, -1).transpose(0, 1)
            input_grad_GF = gates_NG.t() @ x_TBF.flatten(0, 1)
            recurrent_grad_GH = gates_NG[batch:].t() @ y_TBH[:-1].flatten(0, 1)
            bias_grad_G1 = gates_NG.t() @ torch.ones(len(gates_NG), 1, dtype=torch.bfloat16)
        gradients = input_grad_GF, recurrent_grad_GH[:, :units], bias_grad_G1
        input_grad, recurrent_grad, bias_grad = (
            part.unflatten(0, (4, width))[:, :units].flatten(0, 1).float() for part in gradients
        )
        # Each bias has memory of its own, as gradients are later added and scaled in place.
        return x_grad_BTF, input_grad, recurrent_grad, bias_grad[:, 0], bias_grad[:, 0].clone()


def _rounded(weights_GX: Tensor, width: int) -> Tensor:
    """The weights in bfloat16, the rows of each gate zero-padded to `width`."""
    gates_4HX = weights_GX.bfloat16().unflatten(0, (4, -1))
    return functional.pad(gates_4HX, (0, 0, 0, width - gates_4HX.shape[1])).flatten(0, 1)


def _share_out(kernel: Callable[..., None], batch: int, panels: Any, *tensors: Tensor) -> None:
    """Run a kernel over the utterances of a batch, a share of them on each of torch's threads."""
    arrays = [t.view(torch.uint16).numpy() if t.dtype == torch.bfloat16 else t.numpy() for t in tensors]
    parts = min(torch.get_num_threads(), batch)
    in_threads(lambda i: kernel(batch * i // parts, batch * (i + 1) // parts, panels, *arrays), parts)
