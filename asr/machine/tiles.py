"""Products of a few rows with a constant matrix by AMX, the matrix unit of Intel's processors.

The unit has eight tiles, registers of up to 16 rows of 64 bytes. One instruction multiplies a tile of 16
rows and 32 columns of one factor by a tile of 32 rows and 16 columns of the other, and adds the product to a
third. What limits a small product then is how fast the matrix comes from the second-level cache, so it is
read only once for up to 32 rows.

Source: Intel's Architecture Instruction Set Extensions Programming Reference, chapter "AMX".
"""

import ctypes
import platform
import sys
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
from asr.machine.vectors import COLUMNS, LANES

DEPTH = 32
"""Rows of the matrix that one instruction multiplies."""
_WIDTHS = COLUMNS // LANES  # tiles next to each other in a panel
_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18  # numbers of Linux on x86-64


def _is_permitted() -> bool:
    """Ask Linux for the tiles, which a process may not use before; False where there are none."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    if not has("amx-bf16"):
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) == 0)


AVAILABLE: bool = _is_permitted()
"""Whether this processor has tiles, and this process may use them."""


def pack(matrix_KN: Tensor) -> np.ndarray:
    """The tiles (⌈N / 64⌉, K / 32, 4, 16, 16) of a bfloat16 matrix, in the order in which they are read.

    Each int32 holds the numbers of a pair of rows.

    Args:
        matrix_KN: K is a multiple of 32. The last panel is padded with columns of zeros.
    """
    rows, columns = matrix_KN.shape
    panels = -(-columns // COLUMNS)
    padded_KN = functional.pad(matrix_KN, (0, panels * COLUMNS - columns))
    apart = padded_KN.view(rows // DEPTH, DEPTH // 2, 2, panels, _WIDTHS, LANES)
    tiles: np.ndarray = apart.permute(3, 0, 4, 1, 5, 2).contiguous().view(torch.int32).squeeze(-1).numpy()
    return tiles


_BYTE, _WORD = ir.IntType(8), ir.IntType(64)
_POINTER = _BYTE.as_pointer()


def _emit(builder: Any, name: str, *arguments: Any) -> None:
    """A call of one of LLVM's functions for AMX; the numbers of tiles are constant bytes."""
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.{name}"), arguments)


def _configure(_typing: Any, shapes: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        _emit(builder, "ldtilecfg", builder.bitcast(array.data, _POINTER))
        return context.get_dummy_value()

    return types.void(shapes), generate


def _release(_typing: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:
        _emit(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


def _multiply_panel(blocks: int) -> Any:
    """An intrinsic that multiplies one or two blocks of rows of a by a panel, into those rows of out.

    Sums are in tiles 0 to 3: of four widths for one block, of two at a time for two blocks. Rows of a are in
    tile 4, or 4 and 5; the matrix is in the others.
    """

    def declare(_typing: Any, a: Any, first: Any, second: Any, panels: Any, number: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = {
                i: context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 3, 5)
            }
            starts, number = arguments[1 : 1 + blocks], arguments[4]
            word = number.type

            def at(which: int, *indices: Any) -> Any:
                kind = signature.args[which]
                place = cgutils.get_item_pointer(context, builder, kind, arrays[which], indices)
                return builder.bitcast(place, _POINTER)

            def move(name: str, tile: int, place: Any, stride: Any) -> None:
                _emit(builder, name, _BYTE(tile), place, stride)

            a_stride, out_stride = (builder.extract_value(arrays[i].strides, 0) for i in (0, 5))
            rows = [at(0, start, word(0)) for start in starts]
            together = _WIDTHS // blocks
            for begin in range(0, _WIDTHS, together):
                sums = {(r, w): r * together + w for r in range(blocks) for w in range(together)}
                for tile in sums.values():
                    _emit(builder, "tilezero", _BYTE(tile))
                with cgutils.for_range(builder, builder.extract_value(arrays[3].shape, 1)) as loop:
                    for r, row in enumerate(rows):
                        place = builder.gep(row, [builder.mul(loop.index, word(2 * DEPTH))])
                        move("tileloadd64", 4 + r, place, a_stride)
                    for w in range(together):
                        tile = 4 + blocks + w % (4 - blocks)
                        place = at(3, number, loop.index, word(begin + w), word(0), word(0))
                        move("tileloadd64", tile, place, _WORD(4 * LANES))
                        for r in range(blocks):
                            _emit(builder, "tdpbf16ps", _BYTE(sums[r, w]), _BYTE(4 + r), _BYTE(tile))
                for (r, w), tile in sums.items():
                    column = builder.add(builder.mul(number, word(COLUMNS)), word(LANES * (begin + w)))
                    move("tilestored64", tile, at(5, starts[r], column), out_stride)
            return context.get_dummy_value()

        return types.void(a, types.intp, types.intp, panels, types.intp, out), generate

    return intrinsic(declare)


_shape: Any = intrinsic(_configure)
_free: Any = intrinsic(_release)
_one_block, _two_blocks = _multiply_panel(1), _multiply_panel(2)


@njit(nogil=True, error_model="numpy")
def multiply(a_BK: Any, tiles: Any, out_BN: Any) -> None:
    """See `asr.machine.products.multiply`."""
    shapes = np.zeros(64, np.uint8)  # the first kind of palette; bytes of a row and rows of each tile
    shapes[0], shapes[16:32:2] = 1, 64
    rows = shapes[48:56]
    batch = a_BK.shape[0]
    groups = (batch + 31) // 32
    for group in range(groups):  # of nearly equal sizes
        first, end = batch * group // groups, batch * (group + 1) // groups
        rows[:] = 16
        if end - first <= 16:
            rows[:5] = end - first
            _shape(shapes)
            for p in range(tiles.shape[0]):
                _one_block(a_BK, first, first, tiles, p, out_BN)
        else:
            second = (first + end + 1) // 2
            rows[0:2] = rows[4] = second - first
            rows[2:4] = rows[5] = end - second
            _shape(shapes)
            for p in range(tiles.shape[0]):
                _two_blocks(a_BK, first, second, tiles, p, out_BN)
    _free()
