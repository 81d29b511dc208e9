"""Single processor instructions for loops compiled by numba."""

from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

_settings: Any = config


def has(feature: str) -> bool:
    """Whether numba compiles for a processor with this feature, by LLVM's name for it."""
    features: str | None = _settings.CPU_FEATURES
    if features is None:
        features = "" if _settings.CPU_NAME == "generic" else get_host_cpu_features()
    return f"+{feature}" in features.split(",")


def _count_bits(_typing: Any, _x: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), generate


def _prefetch(_typing: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, _ = signature.args
        view = context.make_array(array_type)(context, builder, arguments[0])
        pointer = cgutils.get_item_pointer(context, builder, array_type, view, [arguments[1]])
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        name = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        to_read, near, data = flag(0), flag(3), flag(1)
        builder.call(name, [builder.bitcast(pointer, byte), to_read, near, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def reinterpretation(given: Any, wanted: Any) -> Any:
    """A function for compiled code that reinterprets the bits of one type as another (bit cast)."""

    @intrinsic
    def reinterpret(_typing: Any, _x: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(wanted))

        return wanted(given), generate

    return reinterpret


count_bits: Any = intrinsic(_count_bits)
"""`count_bits(x)`: the number of bits that are set in an int64."""

prefetch: Any = intrinsic(_prefetch)
"""`prefetch(array, index)`: fetch an item of a one-dimensional array into the cache, because it will be read
soon. Does not wait for it."""
