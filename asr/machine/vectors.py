"""Products of a few rows with a constant matrix by AVX-512 BF16, at the peak rate of the instruction.

A panel is a strip of 64 columns: for each pair of the matrix's rows four vectors, each of 16 columns; each
lane of a vector holds the two numbers of a column. One instruction multiplies and accumulates such pairs. For
up to six rows, four vectors of sums each stay in registers (24 of 32) while the panel is read once.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor
from torch.nn import functional

from asr.machine.instructions import has

AVAILABLE: bool = has("avx512bf16")
"""Whether this processor has the instructions."""
LANES, VECTORS = 16, 4
COLUMNS = LANES * VECTORS
"""Columns of a panel."""

_INT, _FLOAT = ir.IntType(32), ir.FloatType()
_SUMS, _PAIRS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)


class _BFloat16(ir.types.Type):
    """LLVM's type bfloat, which llvmlite lacks."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat16)

    def __hash__(self) -> int:
        return hash(_BFloat16)


_NUMBERS = ir.VectorType(_BFloat16(), 2 * LANES)


_ZEROS, _NOTHING = ir.Constant(_SUMS, [0.0] * LANES), ir.Constant(_PAIRS, ir.Undefined)


def pack(matrix_KN: Tensor) -> np.ndarray:
    """The panels (⌈N / 64⌉, K / 2, 64) of a bfloat16 matrix; each int32 holds the numbers of a pair of rows.

    Args:
        matrix_KN: with an even number of rows. The last panel is padded with columns of zeros.
    """
    rows, columns = matrix_KN.shape
    panels = -(-columns // COLUMNS)
    padded_KN = functional.pad(matrix_KN, (0, panels * COLUMNS - columns))
    pairs_PKC2 = padded_KN.view(rows // 2, 2, panels, COLUMNS).permute(2, 0, 3, 1).contiguous()
    panels_PKC: np.ndarray = pairs_PKC2.view(torch.int32).squeeze(-1).numpy()
    return panels_PKC


@dataclass
class _Strip:
    """Emits the loop over one panel's pairs of rows, which multiplies several rows of a by it."""

    builder: Any
    rows: list[Any]
    """Pointers to the pairs of each row of a."""
    panel: Any
    """Pointer to its vectors of pairs."""
    pairs: Any
    """Number of pairs."""

    def sums(self) -> list[list[Any]]:
        """Emit the loop; returns the vectors of sums of each row, as values after the loop."""
        builder, word = self.builder, self.pairs.type
        before, loop = builder.block, builder.append_basic_block("pairs")
        after = builder.append_basic_block("summed")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(word)
        so_far = [[builder.phi(_SUMS) for _ in range(VECTORS)] for _ in self.rows]
        strip = [self._vector(builder.add(builder.mul(k, word(VECTORS)), word(v))) for v in range(VECTORS)]
        then = [self._added(row, k, sums, strip) for row, sums in zip(self.rows, so_far, strict=True)]
        following = builder.add(k, word(1))
        k.add_incoming(word(0), before)
        k.add_incoming(following, loop)
        for sums, added in zip(so_far, then, strict=True):
            for phi, later in zip(sums, added, strict=True):
                phi.add_incoming(_ZEROS, before)
                phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_signed("<", following, self.pairs), loop, after)
        builder.position_at_end(after)
        return then

    def _vector(self, place: Any) -> Any:
        vector = self.builder.load(self.builder.gep(self.panel, [place]), align=4)
        return self.builder.bitcast(vector, _NUMBERS)

    def _added(self, row: Any, k: Any, sums: list[Any], strip: list[Any]) -> list[Any]:
        """The sums plus the products of one pair of a row of a, broadcast to all lanes."""
        builder = self.builder
        pair = builder.load(builder.gep(row, [k]), align=4)
        lane = builder.insert_element(_NOTHING, pair, _INT(0))
        spread = builder.shuffle_vector(lane, _NOTHING, ir.Constant(_PAIRS, [0] * LANES))
        given = builder.bitcast(spread, _NUMBERS)
        kind = ir.FunctionType(_SUMS, [_SUMS, _NUMBERS, _NUMBERS])
        add = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
        return [builder.call(add, [s, given, v]) for s, v in zip(sums, strip, strict=True)]


def _rows(size: int) -> Any:
    """An intrinsic that multiplies rows `first` to `first + size` of a by a panel, into those rows of out."""

    def declare(_typing: Any, a: Any, first: Any, panels: Any, number: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = [
                context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 2, 4)
            ]
            kinds = [signature.args[i] for i in (0, 2, 4)]
            _, first, _, number, _ = arguments
            word = first.type

            def at(which: int, kind: Any, *indices: Any) -> Any:
                pointer = cgutils.get_item_pointer(context, builder, kinds[which], arrays[which], indices)
                return builder.bitcast(pointer, kind.as_pointer())

            numbers = [builder.add(first, word(r)) for r in range(size)]
            strip = _Strip(
                builder,
                [at(0, _INT, row, word(0)) for row in numbers],
                at(1, _PAIRS, number, word(0), word(0)),
                builder.extract_value(arrays[1].shape, 1),
            )
            column = builder.mul(number, word(COLUMNS))
            for row, sums in zip(numbers, strip.sums(), strict=True):
                place = at(2, _SUMS, row, column)
                for v, vector in enumerate(sums):
                    builder.store(vector, builder.gep(place, [word(v)]), align=4)
            return context.get_dummy_value()

        return types.void(a, types.intp, panels, types.intp, out), generate

    return intrinsic(declare)


_one, _two, _three, _four, _five, _six = map(_rows, range(1, 7))


@njit(nogil=True, error_model="numpy")
def multiply(a_BK: Any, panels_PKC: Any, out_BN: Any) -> None:
    """See `asr.machine.products.multiply`."""
    batch = a_BK.shape[0]
    blocks = (batch + 5) // 6
    for p in range(panels_PKC.shape[0]):
        for block in range(blocks):  # of nearly equal sizes
            first = batch * block // blocks
            size = batch * (block + 1) // blocks - first
            if size == 6:
                _six(a_BK, first, panels_PKC, p, out_BN)
            elif size == 5:
                _five(a_BK, first, panels_PKC, p, out_BN)
            elif size == 4:
                _four(a_BK, first, panels_PKC, p, out_BN)
            elif size == 3:
                _three(a_BK, first, panels_PKC, p, out_BN)
            elif size == 2:
                _two(a_BK, first, panels_PKC, p, out_BN)
            else:
                _one(a_BK, first, panels_PKC, p, out_BN)
