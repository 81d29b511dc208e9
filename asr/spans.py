"""Maximum, mean and variance over a sliding window, the span, around every frame.

Conventions. The span around a frame has a fixed number of frames. At both ends of an utterance it is shifted
inwards, and an utterance that is no longer than the span has a single span for all its frames.
Source: as Kaldi's sliding-window normalisation, `apply-cmvn-sliding --center=true`.
"""

import torch
from torch import Tensor
from torch.nn import functional


def inside(lengths_B: Tensor, size: int) -> Tensor:
    """True (B, size, 1) for the frames of each utterance, False beyond its end."""
    return (torch.arange(size, device=lengths_B.device) < lengths_B[:, None])[..., None]


def _is_one(size: int, span: int) -> bool:
    """Whether every utterance is one span; never in ONNX export, as the graph has to serve every length."""
    return size <= span and not torch.onnx.is_in_onnx_export()


def _spans(frames_B: Tensor, size: int, span: int) -> tuple[Tensor, Tensor]:
    """Where the span around each frame begins (B, size, 1), and how long it is (B, 1, 1)."""
    length_B1 = frames_B.clamp(max=span)[:, None]
    first_BT = torch.arange(size, device=frames_B.device) - length_B1 // 2
    first_BT = torch.minimum(first_BT, frames_B[:, None] - length_B1).clamp(min=0)
    return first_BT[..., None], length_B1[..., None]


def greatest_in_spans(x_BT1: Tensor, frames_B: Tensor, span: int) -> Tensor:
    """The maximum (B, T or 1, 1) over the span of each frame; x is ≥ 0, and 0 beyond the lengths."""
    if _is_one(x_BT1.shape[1], span):
        return x_BT1.amax(1, keepdim=True)
    first_BT1, _ = _spans(frames_B, x_BT1.shape[1], span)
    padded_B1T = functional.pad(x_BT1.transpose(1, 2), (0, span - 1))
    greatest_BT1 = functional.max_pool1d(padded_B1T, span, stride=1).transpose(1, 2)
    return greatest_BT1.gather(1, first_BT1)


def moments_of_spans(x_BTF: Tensor, frames_B: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, T or 1, F) over the span of each frame, by cumulative sums.

    Args:
        x_BTF: zero beyond the lengths.
        frames_B: the lengths.
        span: frames.
    """
    if _is_one(x_BTF.shape[1], span):
        frames_B11 = frames_B[:, None, None]
        mean_B1F = x_BTF.sum(1, keepdim=True) / frames_B11
        centred_BTF = (x_BTF - mean_B1F) * inside(frames_B, x_BTF.shape[1])
        return mean_B1F, centred_BTF.square().sum(1, keepdim=True) / frames_B11
    first_BT1, length_B11 = _spans(frames_B, x_BTF.shape[1], span)
    first_BTF = first_BT1.expand(-1, -1, x_BTF.shape[2])

    def mean(y_BTF: Tensor) -> Tensor:
        sums_BTF = functional.pad(y_BTF.cumsum(1), (0, 0, 1, 0))
        return (sums_BTF.gather(1, first_BTF + length_B11) - sums_BTF.gather(1, first_BTF)) / length_B11

    mean_BTF = mean(x_BTF.double())
    variance_BTF = mean(x_BTF.double().square()) - mean_BTF.square()
    return mean_BTF.to(x_BTF.dtype), variance_BTF.clamp(min=0.0).to(x_BTF.dtype)


def pooled_moments(
    ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], share: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance of two populations together, from those of each and our share of all members."""
    (mean, variance), (their_mean, their_variance) = ours, theirs
    away = their_mean - mean
    between = share * (1 - share) * away.square()
    return mean + (1 - share) * away, share * variance + (1 - share) * their_variance + between
