"""Fewer frames for the recurrent layers: frame stacking or strided convolutions.

Conventions. An utterance of n frames has ceil(n / factor) outputs; padding after it changes none of them,
and a stream computed block by block gives the same.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.spans import inside

State = tuple[Tensor, ...]
"""What is carried from one block of a stream to the next."""


class Stack(nn.Module):
    """Every `factor` frames concatenated into one; the last group is zero-padded."""

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
        """The outputs of a block of whole groups; there is no state."""
        return self(x_BTF), ()


class Convolution(nn.Module):
    """Two strided convolutions over time and frequency; an output sees only its own and earlier frames.

    With a time stride of s the kernel covers the s frames of an output and the two before them, so that no
    output needs a frame beyond its group, and a stream can be computed block by block.
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
            # Mask whole groups only: the zero padding of the last group counts as frames, as in `step`.
            x_BCTF = x_BCTF * inside(lengths_B * per_output, x_BCTF.shape[2])[:, None]
        return x_BCTF.transpose(1, 2).flatten(2)

    def step(self, x_BTF: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The outputs of a block of whole groups, and as state the last input frames of each convolution."""
        x_BCTF, after = x_BTF[:, None], []
        for i, convolution in enumerate(self.convolutions):
            if state is None:
                x_BCTF = functional.pad(x_BCTF, (0, 0, self._CONTEXT, 0))
            else:
                x_BCTF = torch.cat([state[i], x_BCTF], 2)
            after.append(x_BCTF[:, :, -self._CONTEXT :])
            x_BCTF = functional.relu(convolution(x_BCTF))
        return x_BCTF.transpose(1, 2).flatten(2), tuple(after)
