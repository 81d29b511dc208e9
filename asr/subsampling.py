"""Fewer frames for the recurrent layers: several side by side as one, or strided convolutions.

Conventions. An utterance of n frames has ceil(n / factor) outputs; padding behind it changes none of them,
and a stream computed block by block gives the same.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.spans import inside

State = tuple[Tensor, ...]
"""What a layer remembers between blocks."""


class Stack(nn.Module):
    """Every `factor` frames side by side as one; the last group is filled up with zeros."""

    held = 0

    def __init__(self, inputs: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.outputs = inputs * factor

    def forward(self, x_BTF: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Frames (B, ceil(T / factor), F · factor), whatever the lengths."""
        batch, frames, _ = x_BTF.shape
        x_BTF = functional.pad(x_BTF, (0, 0, 0, -frames % self.factor))
        return x_BTF.reshape(batch, -1, self.outputs)

    def step(self, x_BTF: Tensor, state: State | None) -> tuple[Tensor, State]:
        """A block of whole groups; there is nothing to remember."""
        return self(x_BTF), ()


class Convolution(nn.Module):
    """Two convolutions over time and frequency with strides; an output sees its own frames and earlier ones.

    With a stride of s in time the kernel covers the s frames of an output and the two before them, so that no
    output needs a frame beyond its group and blocks can be computed as they come.
    """

    held = 2
    _CONTEXT = 2

    def __init__(self, inputs: int, factor: int, channels: int) -> None:
        super().__init__()
        second = 2 if factor > 2 and factor % 2 == 0 else 1
        self.factor = factor
        self.strides = (factor // second, second)
        self.convolutions = nn.ModuleList()
        planes = (1, channels)
        for count, stride in zip(planes, self.strides, strict=True):
            size = (stride + self._CONTEXT, 3)
            self.convolutions.append(nn.Conv2d(count, channels, size, (stride, 2), padding=(0, 1)))
        self.outputs = channels * (((inputs + 1) // 2 + 1) // 2)

    def forward(self, x_BTF: Tensor, lengths_B: Tensor) -> Tensor:
        """Frames (B, ceil(T / factor), outputs), given the lengths of the outputs."""
        x_BCTF = functional.pad(x_BTF, (0, 0, 0, -x_BTF.shape[1] % self.factor))[:, None]
        per_output = self.factor
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            x_BCTF = functional.relu(convolution(functional.pad(x_BCTF, (0, 0, self._CONTEXT, 0))))
            per_output //= stride
            # Zero whole groups only: within the last one the filling counts as frames, as it does in `step`.
            x_BCTF = x_BCTF * inside(lengths_B * per_output, x_BCTF.shape[2])[:, None]
        return x_BCTF.transpose(1, 2).flatten(2)

    def step(self, x_BTF: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The outputs of a block of whole groups, and the last frames that each convolution saw."""
        x_BCTF, after = x_BTF[:, None], []
        for i, convolution in enumerate(self.convolutions):
            if state is None:
                x_BCTF = functional.pad(x_BCTF, (0, 0, self._CONTEXT, 0))
            else:
                x_BCTF = torch.cat([state[i], x_BCTF], 2)
            after.append(x_BCTF[:, :, -self._CONTEXT :])
            x_BCTF = functional.relu(convolution(x_BCTF))
        return x_BCTF.transpose(1, 2).flatten(2), tuple(after)
