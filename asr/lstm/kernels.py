"""One step of an LSTM between two matrix products, compiled by numba into vector instructions.

bfloat16 numbers come as the 16-bit integers that hold their bits: the upper half of a float32.
"""

from typing import Any

import numpy as np
from numba import njit, types

from asr.machine.instructions import reinterpretation

ONE = np.float32(1.0)
TWO = np.float32(2.0)
MOST = np.float32(80.0)  # beyond ±80 the logistic function is 0 or 1, and its exponential is still finite
LOG2_E = np.float32(1.4426950408889634)
LN_2 = np.float32(0.6931471805599453)
ROUND = np.float32(12582912.0)  # 1.5 · 2^23: a float32 plus this has the rounded integer in its low bits
ROUND_BITS = np.int32(0x4B400000)
BIAS = np.int32(127)  # of a float32's exponent
# exp(z) for |z| ≤ ln 2 / 2 by its series to 3e−7, more than bfloat16's 8 binary digits can tell.
C2, C3, C4, C5 = (np.float32(1 / n) for n in (2, 6, 24, 120))

Bits = Any  # contiguous array of uint16
Floats = Any  # contiguous array of float32
Number = Any  # float32 or uint16

_float = reinterpretation(types.int32, types.float32)
_int = reinterpretation(types.float32, types.int32)


@njit(nogil=True, error_model="numpy")
def _wide(bits: Number) -> Number:
    """A bfloat16 as float32."""
    return _float(np.int32(np.int32(bits) << np.int32(16)))


@njit(nogil=True, error_model="numpy")
def _narrow(x: Number) -> Number:
    """A float32 as the nearest bfloat16."""
    bits = _int(x)
    odd = np.int32((bits >> np.int32(16)) & np.int32(1))
    return np.uint16(np.int32(bits + np.int32(0x7FFF) + odd) >> np.int32(16))


@njit(nogil=True, error_model="numpy")
def _logistic(x: Number) -> Number:
    """1 / (1 + exp(−x)), exp(−x) being 2^i · exp(z); not a number if x is not finite."""
    y = min(max(np.float32(-x), -MOST), MOST)
    shifted = np.float32(y * LOG2_E + ROUND)
    z = np.float32(y - np.float32(shifted - ROUND) * LN_2)
    series = ONE + z * (ONE + z * (C2 + z * (C3 + z * (C4 + z * C5))))
    power = _float(np.int32(np.int32(_int(shifted) - ROUND_BITS + BIAS) << np.int32(23)))
    return np.float32(ONE / (ONE + series * power) + (x - x))


@njit(nogil=True, error_model="numpy")
def _tanh(x: Number) -> Number:
    return np.float32(TWO * _logistic(np.float32(TWO * x)) - ONE)


@njit(nogil=True, error_model="numpy")
def _open(gate: Bits, product: Bits, scale: Number) -> None:
    """What the gates of one kind let through, in their place: logistic for scale 1, tanh for scale 2."""
    for j in range(gate.shape[0]):
        x = np.float32(_wide(gate[j]) + _wide(product[j]))
        gate[j] = _narrow(np.float32(scale * _logistic(np.float32(scale * x)) - (scale - ONE)))


@njit(nogil=True, error_model="numpy")
def _advance(i: Bits, f: Bits, g: Bits, o: Bits, before: Floats, cells: Floats, y: Bits) -> None:
    """The state and the outputs behind it."""
    for j in range(y.shape[0]):
        c = np.float32(_wide(f[j]) * before[j] + _wide(i[j]) * _wide(g[j]))
        cells[j] = c
        y[j] = _narrow(np.float32(_wide(o[j]) * _tanh(c)))


@njit(nogil=True, error_model="numpy", cache=True)
def forward_step(t: int, gates_TBG: Bits, product_BG: Bits, y_TBH: Bits, cells_TBH: Floats) -> None:
    """Outputs of step t and the state behind it; its gates are found as inputs and left as they are open.

    cells_TBH holds the state before step t at t, zero at first, and has one place more than there are steps.
    """
    batch, width = y_TBH.shape[1], y_TBH.shape[2]
    for b in range(batch):
        gates, product = gates_TBG[t, b], product_BG[b]
        i, f = gates[:width], gates[width : 2 * width]
        g, o = gates[2 * width : 3 * width], gates[3 * width :]
        _open(gates[: 2 * width], product[: 2 * width], ONE)
        _open(g, product[2 * width : 3 * width], TWO)
        _open(o, product[3 * width :], ONE)
        _advance(i, f, g, o, cells_TBH[t, b], cells_TBH[t + 1, b], y_TBH[t, b])


@njit(nogil=True, error_model="numpy")
def _retreat(
    i: Bits, f: Bits, g: Bits, o: Bits, before: Floats, after: Floats, grad: Bits, more: Bits, carried: Floats
) -> None:
    """The gradients of the inputs of the gates in place of the gates."""
    for j in range(grad.shape[0]):
        ij, fj, gj, oj = _wide(i[j]), _wide(f[j]), _wide(g[j]), _wide(o[j])
        y_grad, shown = np.float32(_wide(grad[j]) + _wide(more[j])), _tanh(after[j])
        c_grad = np.float32(carried[j] + y_grad * oj * (ONE - shown * shown))
        i[j] = _narrow(np.float32(c_grad * gj * ij * (ONE - ij)))
        f[j] = _narrow(np.float32(c_grad * before[j] * fj * (ONE - fj)))
        g[j] = _narrow(np.float32(c_grad * ij * (ONE - gj * gj)))
        o[j] = _narrow(np.float32(y_grad * shown * oj * (ONE - oj)))
        carried[j] = np.float32(c_grad * fj)


@njit(nogil=True, error_model="numpy", cache=True)
def backward_step(
    t: int, gates_TBG: Bits, grad_TBH: Bits, product_BH: Bits, cells_TBH: Floats, cell_grad_BH: Floats
) -> None:
    """The gradients of the inputs of the gates of step t in place of the gates, and that of the state before.

    grad_TBH are the gradients of the outputs; product_BH is what comes back to them from step t + 1, and
    cell_grad_BH what comes back to the state.
    """
    batch, width = grad_TBH.shape[1], grad_TBH.shape[2]
    for b in range(batch):
        gates, grad, more = gates_TBG[t, b], grad_TBH[t, b], product_BH[b]
        i, f = gates[:width], gates[width : 2 * width]
        g, o = gates[2 * width : 3 * width], gates[3 * width :]
        _retreat(i, f, g, o, cells_TBH[t, b], cells_TBH[t + 1, b], grad, more, cell_grad_BH[b])
