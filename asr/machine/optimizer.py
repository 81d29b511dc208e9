"""AdamW without torch's compiler, and Muon for the matrices of recurrent layers."""

from collections import defaultdict
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

from asr.machine.devices import autocast_dtype

_MOMENTUM = 0.95
_STEPS = ((3.4445, -4.7750, 2.0315),) * 5
_RMS = 0.4


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, its methods without the decorators that torch's compiler needs.

    Those import `torch._dynamo`, with some 850 modules and in more than a second, even where nothing is
    compiled.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class Muon(AdamW):
    """AdamW, but for groups with `blocks`: their matrices move by an orthogonal matrix.

    The gradient of a matrix has a few directions that are much larger than the others. Where its momentum is
    U S V', the matrix moves along U V', so that it learns all directions at one speed. `blocks` is the number
    of matrices that stand above one another in a parameter, as the gates of a recurrent layer do. The root
    mean square of the movement is 0.4 of the learning rate, about as with AdamW, so that its learning rates
    and decay fit.

    Like torch's fused AdamW it divides gradients by `grad_scale`, and does nothing where `found_inf` is 1.

    Sources: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025,
    "Muon is scalable for LLM training" (the size of the movement).
    """

    grad_scale: Tensor
    found_inf: Tensor

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group.get("blocks")]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group.get("blocks"):
                self._turn(group)

    def _turn(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in group["params"]:
            if matrix.grad is not None:
                alike[matrix.shape].append(matrix)
        blocks, is_finite = group["blocks"], self.found_inf == 0
        for shape, matrices in alike.items():
            moves_BMN = torch.cat([self._move(m, is_finite).reshape(blocks, -1, shape[1]) for m in matrices])
            rate = group["lr"] * is_finite
            length = rate * _RMS * max(moves_BMN.shape[1:]) ** 0.5
            for matrix, move_BMN in zip(matrices, orthogonalised(moves_BMN).split(blocks), strict=True):
                matrix.mul_(1 - rate * group["weight_decay"]).sub_(length * move_BMN.reshape(shape))

    def _move(self, matrix: Tensor, is_finite: Tensor) -> Tensor:
        """The matrix's gradient and those before it (Nesterov's momentum)."""
        assert matrix.grad is not None
        gradient = torch.where(is_finite, matrix.grad / self.grad_scale, 0.0)
        state = self.state[matrix]
        if not state:
            state["step"] = torch.zeros(())  # not used, but AdamW looks for it when it is loaded
            state["momentum"] = torch.zeros_like(matrix)
        momentum: Tensor = state["momentum"]
        momentum.lerp_(gradient, (1 - _MOMENTUM) * is_finite)
        return gradient.lerp(momentum, _MOMENTUM)


def orthogonalised(matrices_BMN: Tensor) -> Tensor:
    """About U V' of each matrix U S V', float32: its singular values become 0.7 to 1.2, by products alone.

    Five steps of a Newton–Schulz iteration whose coefficients raise small singular values fast; in bfloat16
    where that is faster.
    """
    is_tall = matrices_BMN.shape[1] > matrices_BMN.shape[2]
    x_BMN = matrices_BMN.mT if is_tall else matrices_BMN
    x_BMN = x_BMN / torch.linalg.matrix_norm(x_BMN, keepdim=True).clamp(min=1e-7)
    x_BMN = x_BMN.to(autocast_dtype("auto", x_BMN.device) or torch.float32)
    for a, b, c in _STEPS:
        square_BMM = x_BMN @ x_BMN.mT
        square_BMM = torch.baddbmm(square_BMM, square_BMM, square_BMM, beta=b, alpha=c)
        x_BMN = torch.baddbmm(x_BMN, square_BMM, x_BMN, beta=a)
    return (x_BMN.mT if is_tall else x_BMN).float()
