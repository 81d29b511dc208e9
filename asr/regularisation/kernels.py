"""Loops over the outputs of a layer, compiled by numba into vector instructions.

N are the concatenated frames of all utterances, F the units. Sums over frames are float64.
"""

from typing import Any

import numpy as np

from asr.machine.compilation import kernel

Floats = Any  # contiguous array of float32
Flags = Any  # contiguous array of bool

GOLDEN, FIRST, SECOND = np.uint32(0x9E3779B9), np.uint32(0x21F0AAAD), np.uint32(0xD35A2D97)


@kernel(error_model="numpy")
def moments(x_NF: Floats, inside_N: Flags, count: float) -> tuple[Floats, Floats]:
    """Mean and variance of the rows that `inside_N` marks; `count` is their number."""
    total_F, square_F = np.zeros(x_NF.shape[1]), np.zeros(x_NF.shape[1])
    for n in range(len(x_NF)):
        if inside_N[n]:
            x_F = x_NF[n]
            for j in range(len(x_F)):
                total_F[j] += x_F[j]
    mean_F = (total_F / count).astype(np.float32)
    for n in range(len(x_NF)):
        if inside_N[n]:
            x_F = x_NF[n]
            for j in range(len(x_F)):
                difference = np.float32(x_F[j] - mean_F[j])
                square_F[j] += np.float32(difference * difference)
    return mean_F, (square_F / count).astype(np.float32)


@kernel(error_model="numpy")
def scale_rows(x_NF: Floats, factor_F: Floats, offset_F: Floats, y_NF: Floats) -> None:
    """y = x · factor + offset."""
    for n in range(len(x_NF)):
        x_F, y_F = x_NF[n], y_NF[n]
        for j in range(len(x_F)):
            y_F[j] = np.float32(x_F[j] * factor_F[j] + offset_F[j])


@kernel(error_model="numpy")
def gradient_sums(x_NF: Floats, grad_NF: Floats, mean_F: Floats, rate_F: Floats) -> tuple[Floats, Floats]:
    """The sums over all rows of the gradient, and of the gradient times normalised x."""
    plain_F, along_F = np.zeros(x_NF.shape[1]), np.zeros(x_NF.shape[1])
    for n in range(len(x_NF)):
        x_F, grad_F = x_NF[n], grad_NF[n]
        for j in range(len(x_F)):
            plain_F[j] += grad_F[j]
            along_F[j] += np.float32(grad_F[j] * np.float32(x_F[j] - mean_F[j]))
    return plain_F.astype(np.float32), (along_F * rate_F).astype(np.float32)


@kernel(error_model="numpy")
def gradient_of_rows(
    x_NF: Floats,
    grad_NF: Floats,
    inside_N: Flags,
    mean_F: Floats,
    rate_F: Floats,
    weight_F: Floats,
    plain_F: Floats,
    along_F: Floats,
    x_grad_NF: Floats,
) -> None:
    """The gradient of x; `plain_F` and `along_F` are `gradient_sums` divided by the number of marked rows."""
    factor_F = rate_F * weight_F
    for n in range(len(x_NF)):
        x_F, grad_F, x_grad_F = x_NF[n], grad_NF[n], x_grad_NF[n]
        if inside_N[n]:
            for j in range(len(x_F)):
                through = np.float32(plain_F[j] + np.float32(x_F[j] - mean_F[j]) * rate_F[j] * along_F[j])
                x_grad_F[j] = np.float32(factor_F[j] * np.float32(grad_F[j] - through))
        else:
            for j in range(len(x_F)):
                x_grad_F[j] = np.float32(factor_F[j] * grad_F[j])


@kernel(error_model="numpy")
def drop(x: Floats, p: float, seed: int, kept: Floats) -> None:
    """Write x / (1 − p) to `kept`, but 0 at a share p of the positions, determined by the seed.

    Position and seed are hashed by multiplications and shifts; not cryptographically secure.
    """
    low, high = np.uint32(seed), np.uint32(seed >> 31)
    least, scale = np.uint32(min(p * 2.0**32, 2.0**32 - 1)), np.float32(1.0 / (1.0 - p))
    for i in range(len(x)):
        h = np.uint32(np.uint32(i) * GOLDEN + low)
        h = np.uint32(np.uint32(h ^ np.uint32(h >> np.uint32(16))) * FIRST)
        h = np.uint32(np.uint32(h ^ np.uint32(h >> np.uint32(15))) + high)
        h = np.uint32(h * SECOND)
        h = np.uint32(h ^ np.uint32(h >> np.uint32(15)))
        kept[i] = np.float32(x[i] * scale) if h >= least else np.float32(0.0)
