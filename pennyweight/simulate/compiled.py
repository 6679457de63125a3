"""How the fast simulation is compiled: the only file here that imports numba. The files `compiled_*` hold its parts.

These parts see a `World` as one pointer, to a table with the address and the shape of each array. Numba would hand over
a named tuple as some two hundred arguments, and take minutes to compile calls with them.

Only the entry is kept on disk. Its key includes a digest of all parts, because numba looks at one file only and would
otherwise run a part that has been changed since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import from_dtype, njit, types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import infer_getattr, intrinsic, lower_getattr_generic, models, register_model
from numba.np.arrayobj import make_array, populate_array
from numpy.typing import NDArray

from pennyweight.simulate import records
from pennyweight.simulate.records import World

Compiled = Callable[..., Any]
WORD = ir.IntType(64)
WORDS = 3  # of one array in the table: its address, and its shape in at most two dimensions

compiled: Callable[[Callable[..., Any]], Compiled] = njit(error_model="numpy")
kept: Callable[[Callable[..., Any]], Compiled] = njit(error_model="numpy", cache=True)


def digest() -> str:
    """Of the sources of everything that is compiled."""
    folder = Path(__file__).parent
    sources = [*sorted(folder.glob("compiled*.py")), folder / "records.py", folder / "scaling.py"]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def table_of(world: World) -> NDArray[np.int64]:
    """What `as_world` reads. The world must stay alive as long as it does."""
    rows = []
    for name, array in zip(World._fields, world, strict=True):
        kind = ARRAYS[name]
        if (from_dtype(array.dtype), array.ndim) != (kind.dtype, kind.ndim) or not array.flags.c_contiguous:
            raise TypeError(f"{name} is no array of the kind that is compiled")
        rows.append([array.ctypes.data, *array.shape, *[1] * (WORDS - 1 - array.ndim)])
    return np.array(rows, dtype=np.int64).reshape(-1)


def _array(dtype: Any, dimensions: int = 1) -> Any:
    return types.Array(from_dtype(np.dtype(dtype)), dimensions, "C")


ARRAYS = {
    "run": _array(records.RUN),
    "pool": _array(records.POOL),
    "replica": _array(records.REPLICA),
    "rank": _array(records.RANK),
    "request": _array(records.REQUEST),
    "running": _array(np.int32, 2),
    "hashes": _array(np.int32),
    "unit": _array(records.UNIT),
    "unit_buckets": _array(np.int32),
    "memory": _array(records.MEMORY),
    "memory_table": _array(np.int32),
    "memory_heads": _array(np.int32),
    "heap": _array(np.int32),
    "pending_time": _array(np.float64),
    "pending_request": _array(np.int32),
    "least": _array(np.int64, 2),
    "largest": _array(np.int64, 2),
    "counts": _array(np.int64, 2),
    "ring_places": _array(np.int64),
    "ring_owners": _array(np.int64),
    "kill_time": _array(np.float64),
    "kill_slot": _array(np.int64),
    "arrived_before": _array(np.float64),
    "targets": _array(np.int64),
}


class WorldType(types.Type):  # type: ignore[misc]
    """The type of `world` in compiled code."""

    def __init__(self) -> None:
        super().__init__(name="World")


WORLD = WorldType()
register_model(WorldType)(models.OpaqueModel)


@intrinsic  # type: ignore[untyped-decorator]
def as_world(_: Any, table: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.bitcast(data, context.get_value_type(WORLD))

    return WORLD(table), generate


@infer_getattr
class WorldAttributes(AttributeTemplate):  # type: ignore[misc]
    key = WorldType

    def generic_resolve(self, _: Any, name: str) -> Any:
        return ARRAYS.get(name)


@lower_getattr_generic(WorldType)  # type: ignore[untyped-decorator]
def array_of(context: Any, builder: Any, _: Any, world: Any, name: str) -> Any:
    """Build the array from its row of the table."""
    kind = ARRAYS[name]
    first = WORDS * World._fields.index(name)
    table = builder.bitcast(world, WORD.as_pointer())
    words = [builder.load(builder.gep(table, [ir.Constant(WORD, first + word)])) for word in range(1 + kind.ndim)]
    array = make_array(kind)(context, builder)
    itemsize = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    strides = [ir.Constant(WORD, itemsize)]
    if kind.ndim == 2:
        strides.insert(0, builder.mul(words[2], strides[0]))
    data = builder.inttoptr(words[0], array.data.type)
    populate_array(array, data=data, shape=words[1:], strides=strides, itemsize=strides[-1], meminfo=None)
    return array._getvalue()
