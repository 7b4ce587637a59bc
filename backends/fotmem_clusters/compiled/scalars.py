"""What becomes an instruction, or a few."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic, overload

from fotmem_clusters.compiled.kept import remove_stale

P = ParamSpec("P")
T = TypeVar("T")

LINE = 64
"""Bytes of a line of the cache."""
LEAST_EXPONENT = np.float32(-87.0)
"""What is exponentiated is at least that: its exp is nearly the least float32."""
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp", "afn"},  # infinite numbers stay infinite
}

remove_stale(Path(__file__).parents[1])


def compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a function when it is first called; keep that for other processes, if possible."""
    return _compiled(function)


def inner(function: Callable[P, T]) -> Callable[P, T]:
    """Compile a function that only compiled functions call."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _compiled(function: Callable[P, T], **options: Any) -> Callable[P, T]:
    try:
        return numba.njit(cache=True, **OPTIONS, **options)(function)
    except RuntimeError:  # no folder for that can be written
        return numba.njit(**OPTIONS, **options)(function)


def float_of(number):
    """Return a float32, or that of the bits of a bfloat16 in a uint16."""
    raise NotImplementedError("only compiled functions call it")


@overload(float_of)
def _float_of(number):
    if number == numba.uint16:
        return lambda number: _shifted(number)  # noqa: PLW0108 - Numba takes no intrinsic here
    return lambda number: number


@intrinsic
def _shifted(context: Any, number: Any) -> Any:
    """The float32 whose upper half has these bits."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        wide = builder.zext(values[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.IntType(32)(16)), ir.FloatType())

    return numba.float32(number), code


@intrinsic
def _with_bits(context: Any, number: Any) -> Any:
    """The float32 with the bits of an int32."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.FloatType())

    return numba.float32(number), code


@inner
def exp(number: np.float32) -> np.float32:
    """Return the exp of a float32 of at most 88, to 3 parts in 10 million.

    Unlike that of a library, a loop of it becomes vector instructions. The polynomial is that of
    Cephes (Moshier 1989).
    """
    number = max(number, LEAST_EXPONENT)
    power = np.floor(number * np.float32(1.44269504) + np.float32(0.5))
    rest = number - power * np.float32(0.693359375) + power * np.float32(2.12194440e-4)
    found = np.float32(1.9875691500e-4)
    found = found * rest + np.float32(1.3981999507e-3)
    found = found * rest + np.float32(8.3334519073e-3)
    found = found * rest + np.float32(4.1665795894e-2)
    found = found * rest + np.float32(1.6666665459e-1)
    found = found * rest + np.float32(5.0000001201e-1)
    found = found * rest * rest + rest + np.float32(1)
    return found * _with_bits(np.int32((np.int32(power) + 127) << 23))


@intrinsic
def _prefetch(context: Any, rows: Any, row: Any, offset: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, values[0])
        stride = cgutils.unpack_tuple(builder, array.strides)[0]
        place = builder.add(builder.mul(values[1], stride), values[2])
        start = builder.bitcast(array.data, ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [start.type, number, number, number])
        name = "llvm.prefetch.p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, [builder.gep(start, [place]), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return numba.void(rows, numba.int64, numba.int64), code


@inner
def prefetch(rows: np.ndarray, row: int) -> None:
    """Ask the memory for a row that is read soon."""
    for offset in range(0, rows.shape[1] * rows.itemsize, LINE):
        _prefetch(rows, row, offset)
