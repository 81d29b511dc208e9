"""A row times a matrix, both float32, for compiled loops: sums stay in registers, the matrix is read once.

A small matrix is read as fast as the second-level cache delivers it. Written with LLVM's
vectors, so it runs on any processor; one without AVX-512 takes several instructions for each.
"""

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""The columns of a matrix must be a multiple of this."""
DEPTH = 4
"""The rows of a matrix must be a multiple of this."""
_FUSED = ("contract",)
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ZEROS, _NOTHING = ir.Constant(_VECTOR, [0.0] * LANES), ir.Constant(_VECTOR, ir.Undefined)
_FIRST_LANE = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)


def _multiply_strip(vectors: int, chains: int) -> Any:
    """An intrinsic for so many vectors of columns, beginning with `first`.

    The rows of the matrix are dealt out to several chains of sums, since a sum must wait for the one before.
    """

    def declare(_typing: Any, row: Any, matrix: Any, first: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = {
                i: context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 3)
            }
            word = arguments[2].type

            def at(which: int, *indices: Any) -> Any:
                return cgutils.get_item_pointer(
                    context, builder, signature.args[which], arrays[which], indices
                )

            def vector_at(which: int, *indices: Any) -> Any:
                return builder.bitcast(at(which, *indices), _VECTOR.as_pointer())

            columns = [builder.add(arguments[2], word(LANES * v)) for v in range(vectors)]
            sums = [[cgutils.alloca_once(builder, _VECTOR) for _ in columns] for _ in range(chains)]
            for place in [place for chain in sums for place in chain]:
                builder.store(_ZEROS, place)
            rows = builder.extract_value(arrays[1].shape, 0)
            with cgutils.for_range_slice(builder, word(0), rows, word(chains)) as (index, _):
                for k, chain in enumerate(sums):
                    this = builder.add(index, word(k))
                    lane = builder.insert_element(_NOTHING, builder.load(at(0, this)), _INT(0))
                    factor = builder.shuffle_vector(lane, _NOTHING, _FIRST_LANE)
                    for place, column in zip(chain, columns, strict=True):
                        strip = builder.load(vector_at(1, this, column), align=4)
                        more = builder.fmul(factor, strip, flags=_FUSED)
                        builder.store(builder.fadd(builder.load(place), more, flags=_FUSED), place)
            for v, column in enumerate(columns):
                total = builder.load(sums[0][v])
                for chain in sums[1:]:
                    total = builder.fadd(total, builder.load(chain[v]))
                builder.store(total, vector_at(3, column), align=4)
            return context.get_dummy_value()

        return types.void(row, matrix, types.intp, out), generate

    return intrinsic(declare)


_one, _two, _three, _four = (_multiply_strip(*sizes) for sizes in ((1, 4), (2, 4), (3, 2), (4, 2)))


@njit(nogil=True)
def multiply_row(row_K: Any, matrix_KN: Any, out_N: Any) -> None:
    """out = row · matrix, of which the first K numbers of the row are taken."""
    first, columns = 0, out_N.shape[0]
    while columns - first >= 4 * LANES:
        _four(row_K, matrix_KN, first, out_N)
        first += 4 * LANES
    if columns - first == 3 * LANES:
        _three(row_K, matrix_KN, first, out_N)
    elif columns - first == 2 * LANES:
        _two(row_K, matrix_KN, first, out_N)
    elif columns - first == LANES:
        _one(row_K, matrix_KN, first, out_N)
