"""The sequential steps of an LSTM, compiled by numba into vector instructions.

bfloat16 numbers are given as 16-bit integers that hold their bits: the upper half of a float32.
"""

from typing import Any

import numpy as np
from numba import njit, types

from asr.machine.compilation import kernel
from asr.machine.instructions import reinterpretation
from asr.machine.products import multiply, wide

ONE = np.float32(1.0)
TWO = np.float32(2.0)
MOST = np.float32(80.0)  # beyond ±80 the logistic function is 0 or 1, and its exponential is still finite
LOG2_E = np.float32(1.4426950408889634)
LN_2 = np.float32(0.6931471805599453)
ROUND = np.float32(12582912.0)  # 1.5 · 2^23: a float32 plus this has the rounded integer in its low bits
ROUND_BITS = np.int32(0x4B400000)
BIAS = np.int32(127)  # of a float32's exponent
# exp(z) for |z| ≤ ln 2 / 2 by its series to 3e−7, far more precise than bfloat16's 8 binary digits.
C2, C3, C4, C5 = (np.float32(1 / n) for n in (2, 6, 24, 120))

_FAST: Any = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}  # a product and a sum are one

Bits = Any  # contiguous array of uint16
Floats = Any  # contiguous array of float32
Number = Any  # float32 or uint16

_float = reinterpretation(types.int32, types.float32)
_int = reinterpretation(types.float32, types.int32)


@njit(**_FAST)
def _narrow(x: Number) -> Number:
    """A float32 as the nearest bfloat16."""
    bits = _int(x)
    odd = np.int32((bits >> np.int32(16)) & np.int32(1))
    return np.uint16(np.int32(bits + np.int32(0x7FFF) + odd) >> np.int32(16))


@njit(**_FAST)
def _logistic(x: Number) -> Number:
    """1 / (1 + exp(−x)), with exp(−x) as 2^i · exp(z); NaN if x is not finite."""
    y = min(max(np.float32(-x), -MOST), MOST)
    shifted = np.float32(y * LOG2_E + ROUND)
    z = np.float32(y - np.float32(shifted - ROUND) * LN_2)
    series = ONE + z * (ONE + z * (C2 + z * (C3 + z * (C4 + z * C5))))
    power = _float(np.int32(np.int32(_int(shifted) - ROUND_BITS + BIAS) << np.int32(23)))
    return np.float32(ONE / (ONE + series * power) + (x - x))


@njit(**_FAST)
def _tanh(x: Number) -> Number:
    return np.float32(TWO * _logistic(np.float32(TWO * x)) - ONE)


@njit(**_FAST)
def _open(gate: Bits, product: Floats, scale: Number) -> None:
    """Replace gate inputs by gate activations, in place: logistic for scale 1, tanh for scale 2."""
    for j in range(gate.shape[0]):
        x = np.float32(wide(gate[j]) + product[j])
        gate[j] = _narrow(np.float32(scale * _logistic(np.float32(scale * x)) - (scale - ONE)))


@njit(**_FAST)
def _advance(i: Bits, f: Bits, g: Bits, o: Bits, before: Floats, cells: Floats, y: Bits) -> None:
    """The new cell state and the outputs."""
    for j in range(y.shape[0]):
        c = np.float32(wide(f[j]) * before[j] + wide(i[j]) * wide(g[j]))
        cells[j] = c
        y[j] = _narrow(np.float32(wide(o[j]) * _tanh(c)))


@kernel(**_FAST)
def run_forward(
    first: int, end: int, panels: Any, gates_TBG: Bits, product_BG: Floats, y_TBH: Bits, cells_TBH: Floats
) -> None:
    """Outputs and cell states of all steps; the gates' inputs are replaced by their activations.

    Args:
        first, end: utterances of the batch to work on; the others are left alone.
        panels: the recurrent matrix (H, G), packed.
        product_BG: buffer for a product, initially zero.
        cells_TBH: the state before step t at index t, zero at index 0; one more entry than steps.
    """
    steps, _, width = y_TBH.shape
    for t in range(steps):
        if t:
            multiply(y_TBH[t - 1, first:end], panels, product_BG[first:end])
        for b in range(first, end):
            gates, product = gates_TBG[t, b], product_BG[b]
            i, f = gates[:width], gates[width : 2 * width]
            g, o = gates[2 * width : 3 * width], gates[3 * width :]
            _open(gates[: 2 * width], product[: 2 * width], ONE)
            _open(g, product[2 * width : 3 * width], TWO)
            _open(o, product[3 * width :], ONE)
            _advance(i, f, g, o, cells_TBH[t, b], cells_TBH[t + 1, b], y_TBH[t, b])


@njit(**_FAST)
def _retreat(
    i: Bits,
    f: Bits,
    g: Bits,
    o: Bits,
    before: Floats,
    after: Floats,
    grad: Bits,
    more: Floats,
    carried: Floats,
) -> None:
    """Replace the gates' activations by the gradients of their inputs."""
    for j in range(grad.shape[0]):
        ij, fj, gj, oj = wide(i[j]), wide(f[j]), wide(g[j]), wide(o[j])
        y_grad, shown = np.float32(wide(grad[j]) + more[j]), _tanh(after[j])
        c_grad = np.float32(carried[j] + y_grad * oj * (ONE - shown * shown))
        i[j] = _narrow(np.float32(c_grad * gj * ij * (ONE - ij)))
        f[j] = _narrow(np.float32(c_grad * before[j] * fj * (ONE - fj)))
        g[j] = _narrow(np.float32(c_grad * ij * (ONE - gj * gj)))
        o[j] = _narrow(np.float32(y_grad * shown * oj * (ONE - oj)))
        carried[j] = np.float32(c_grad * fj)


@kernel(**_FAST)
def run_backward(
    first: int,
    end: int,
    panels: Any,
    gates_TBG: Bits,
    product_BH: Floats,
    grad_TBH: Bits,
    cells_TBH: Floats,
    carried_BH: Floats,
) -> None:
    """Replace the gates' activations by the gradients of their inputs, for all steps.

    Args:
        first, end: as in `run_forward`.
        gates_TBG, cells_TBH: as `run_forward` left them.
        panels: the recurrent matrix transposed, (G, H), packed.
        product_BH: buffer for the outputs' gradient from the following step, initially zero.
        grad_TBH: gradients of the outputs.
        carried_BH: buffer for the state's gradient from the following step, initially zero.
    """
    steps, _, width = grad_TBH.shape
    for t in range(steps - 1, -1, -1):
        for b in range(first, end):
            gates, grad, more = gates_TBG[t, b], grad_TBH[t, b], product_BH[b]
            i, f = gates[:width], gates[width : 2 * width]
            g, o = gates[2 * width : 3 * width], gates[3 * width :]
            _retreat(i, f, g, o, cells_TBH[t, b], cells_TBH[t + 1, b], grad, more, carried_BH[b])
        if t:
            multiply(gates_TBG[t, first:end], panels, product_BH[first:end])
