"""The bytes of a `.tflite` file become a graph."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.errors import EmitError
from edgeconv.reference._extent import MOST_ELEMENTS
from edgeconv.reference.tflite._graph import Array, Operator, Quantization, Tensor, TfliteGraph
from edgeconv.reference.tflite._options import options_of
from edgeconv.reference.tflite._verify import open_tflite, operator_number, require, text_of

_HIGHEST_RANK = 8
_WIDEST_ZERO_POINT = 2**31
_CUSTOM = 32
# How a buffer stores the elements of each type; those of four bits lie in pairs, the lower half first.
_STORED = {
    "bool": "|b1", "float16": "<f2", "float32": "<f4", "float64": "<f8", "int8": "|i1", "int16": "<i2", "int32": "<i4",
    "int64": "<i8", "uint8": "|u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "bfloat16": "<u2", "int4": "|u1",
}  # fmt: skip


def read(source: Path | str | bytes) -> TfliteGraph:
    """Reads the main graph of a file.

    Args:
        source: the file's path, or its bytes.

    Returns:
        The graph of the first subgraph. Every index in it is one of what there is, every constant has the size that its
        shape and type ask for, and every quantization parameter is a sound number.

    Raises:
        EmitError: the file cannot be read, is damaged or no TFLite file, or holds what is not read here: sparse
            tensors, strings, more than `MOST_ELEMENTS` elements in one tensor. Says where.
    """
    if isinstance(source, bytes):
        data = source
    else:
        try:
            data = Path(source).read_bytes()
        except (OSError, ValueError) as error:
            raise EmitError(f"cannot be read: {error}", where=str(source), hint="check the path") from error
    model = open_tflite(data)
    graph = model.Subgraphs(0)
    names = _names([text_of(graph.Tensors(at).Name()) for at in range(graph.TensorsLength())])
    return TfliteGraph(
        tuple(_tensor(data, model, graph.Tensors(at), name) for at, name in enumerate(names)),
        tuple(_operator(data, model, graph.Operators(at), at) for at in range(graph.OperatorsLength())),
        tuple(int(graph.Inputs(at)) for at in range(graph.InputsLength())),
        tuple(int(graph.Outputs(at)) for at in range(graph.OutputsLength())),
    )


def _names(stored: list[str]) -> list[str]:
    counts = Counter(stored)
    return [name if name and counts[name] == 1 else f"{name}#{index}" for index, name in enumerate(stored)]


def _tensor(data: bytes, model: Any, tensor: Any, name: str) -> Tensor:
    where = f"tensor {name!r}"
    dtype = _type_name(tensor.Type())
    if dtype not in _STORED:
        raise EmitError(f"it is of type {dtype}, which is not read", where=where, hint="read the file on a runtime")
    require(tensor.ShapeLength() <= _HIGHEST_RANK, f"{where} has {tensor.ShapeLength()} dimensions")
    shape = tuple(int(tensor.Shape(at)) for at in range(tensor.ShapeLength()))
    require(all(size >= 0 for size in shape), f"{where} has the shape {list(shape)}")
    require(math.prod(shape) <= MOST_ELEMENTS, f"{where} has more than {MOST_ELEMENTS:,} elements")
    stored = _stored(data, model.Buffers(tensor.Buffer()), where) if tensor.Buffer() < model.BuffersLength() else b""
    if stored and tensor.Sparsity() is not None:
        raise EmitError("the constant is sparse, which is not read", where=where, hint="convert it dense")
    return Tensor(
        name,
        shape,
        dtype,
        _quantization(tensor.Quantization(), shape, where),
        _constant(stored, shape, dtype, where) if stored else None,
        bool(tensor.IsVariable()),
    )


def _type_name(number: int) -> str:
    from ai_edge_litert import schema_py_generated as schema

    return next(str(name) for name, value in vars(schema.TensorType).items() if value == number).lower()


def _stored(data: bytes, buffer: Any, where: str) -> bytes:
    """A buffer's bytes: within the table, or, in files of more than 2 GB, behind it."""
    length = buffer.DataLength()
    if length:
        return bytes(memoryview(buffer.DataAsNumpy()))
    offset, size = buffer.Offset(), buffer.Size()
    if offset <= 1 or size == 0:
        return b""
    require(offset + size <= len(data), f"{where} has its values outside of the file")
    return data[offset : offset + size]


def _constant(stored: bytes, shape: tuple[int, ...], dtype: str, where: str) -> Array:
    kind, count = np.dtype(_STORED[dtype]), math.prod(shape)
    size = (count + 1) // 2 if dtype == "int4" else count * kind.itemsize
    require(len(stored) == size, f"{where} of shape {list(shape)} has {len(stored)} bytes where it needs {size}")
    if dtype == "bool":  # any byte but 0
        values: Array = np.frombuffer(stored, np.uint8) != 0
    else:
        values = np.frombuffer(stored, kind)
    if dtype == "bfloat16":
        values = (values.astype("<u4") << 16).view("<f4")
    elif dtype == "int4":
        halves = np.stack([values & 15, values >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
        values = np.where(halves > 7, halves - 16, halves).astype(np.int8)
    values = values.reshape(shape)
    values.flags.writeable = False
    return values


def _quantization(table: Any, shape: tuple[int, ...], where: str) -> Quantization | None:
    count = table.ScaleLength() if table is not None else 0
    if not count:
        return None
    axis = int(table.QuantizedDimension())
    if count > 1:
        sound = 0 <= axis < len(shape) and count == shape[axis]
        require(sound, f"{where} of shape {list(shape)} has {count} scales along axis {axis}")
    scales = tuple(float(scale) for scale in table.ScaleAsNumpy())
    require(all(0 < scale < math.inf for scale in scales), f"{where} has a scale that is no positive number")
    stated = table.ZeroPointLength()
    require(stated in (0, 1, count), f"{where} has {count} scales and {stated} zero points")
    points = tuple(int(point) for point in table.ZeroPointAsNumpy()) if stated else (0,)
    sound = all(-_WIDEST_ZERO_POINT <= point < _WIDEST_ZERO_POINT for point in points)
    require(sound, f"{where} has a zero point of more than 32 bits")
    return Quantization(scales, points if len(points) == count else points * count, axis)


def _operator(data: bytes, model: Any, operator: Any, index: int) -> Operator:
    from ai_edge_litert import schema_py_generated as schema

    code = model.OperatorCodes(operator.OpcodeIndex())
    number = operator_number(code)
    custom = number == _CUSTOM
    builtin = next(name for name, value in vars(schema.BuiltinOperator).items() if value == number)
    name = text_of(code.CustomCode()) if custom else builtin
    where = f"operator {index} ({name})"
    return Operator(
        name,
        tuple(int(operator.Inputs(at)) for at in range(operator.InputsLength())),
        tuple(int(operator.Outputs(at)) for at in range(operator.OutputsLength())),
        {} if custom else options_of(name, operator, data, where),
        int(code.Version()),
        custom,
    )
