"""Products of a few rows with a constant matrix: bfloat16 inputs, float32 sums, for compiled loops.

A recurrence multiplies a handful of rows by the same matrix step after step. Libraries are made for large
products: their call overhead alone costs as much as such a small one. Here the matrix is packed once, in the
order in which it will be read, and `multiply` is compiled into the loop around it: for the matrix unit of the
processor (AMX) if it has one, else for its vector instructions (AVX-512 BF16). On other processors `multiply`
is correct but slow.
"""

from typing import Any

import numpy as np
from numba import njit, types

from asr.machine import tiles, vectors
from asr.machine.instructions import reinterpretation
from asr.machine.vectors import COLUMNS as COLUMNS

AVAILABLE = tiles.AVAILABLE or vectors.AVAILABLE
"""Whether this processor has either."""
DEPTH = tiles.DEPTH
"""The number of rows of a matrix must be a multiple of this."""

_float = reinterpretation(types.int32, types.float32)


@njit(nogil=True, error_model="numpy")
def wide(bits: Any) -> Any:
    """The float32 value of a bfloat16 given as the integer of its bits."""
    return _float(np.int32(np.int32(bits) << np.int32(16)))


@njit(nogil=True, error_model="numpy")
def multiply_plainly(a_BK: Any, panels_PKC: Any, out_BN: Any) -> None:
    """`multiply`, element by element, for any processor; the panels are those of `asr.machine.vectors`."""
    for p in range(panels_PKC.shape[0]):
        for b in range(a_BK.shape[0]):
            for c in range(COLUMNS):
                total = np.float32(0.0)
                for k in range(panels_PKC.shape[1]):
                    pair = panels_PKC[p, k, c]
                    low, high = wide(np.uint16(pair & 0xFFFF)), wide(np.uint16((pair >> 16) & 0xFFFF))
                    total += wide(a_BK[b, 2 * k]) * low + wide(a_BK[b, 2 * k + 1]) * high
                out_BN[b, p * COLUMNS + c] = total


pack: Any = tiles.pack if tiles.AVAILABLE else vectors.pack
"""`pack(matrix_KN)`: a bfloat16 matrix in panels of 64 columns for `multiply`; K is a multiple of `DEPTH`."""

multiply: Any = (
    tiles.multiply if tiles.AVAILABLE else vectors.multiply if vectors.AVAILABLE else multiply_plainly
)
"""`multiply(a_BK, panels, out_BN)`: out = a · matrix, in compiled code.

a_BK holds bits of bfloat16, contiguous, K the rows of the matrix; out_BN is float32, 64 columns per panel.
"""
