"""Reads the bytes of a `.tflite` file as a graph."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.core import values
from edgeconv.core.named_files import naming, read_named
from edgeconv.errors import EmitError
from edgeconv.reference._extent import MOST_ELEMENTS
from edgeconv.reference.tflite._graph import Array, Operator, Option, Quantization, Tensor, TfliteGraph
from edgeconv.reference.tflite._options import options_of
from edgeconv.reference.tflite._verify import indices_of, names_of, open_tflite, operator_number, require, text_of

_HIGHEST_RANK = 8
_WIDEST_ZERO_POINT = 2**31  # kernels hold it as int32, though the file's field has 64 bits
# The numpy type of a buffer's elements, by tensor type; int4 is stored in pairs, the first element in the lower half.
_STORED = {
    "bool": "|b1", "float16": "<f2", "float32": "<f4", "float64": "<f8", "int8": "|i1", "int16": "<i2", "int32": "<i4",
    "int64": "<i8", "uint8": "|u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "bfloat16": "<u2", "int4": "|u1",
}  # fmt: skip
# ReduceWindowFunction (schema.fbs), by the operator of its body.
_REDUCTIONS = {
    "ADD": 1,
    "MUL": 2,
    "MULTIPLY": 2,
    "MINIMUM": 3,
    "MAXIMUM": 4,
    "LOGICAL_AND": 5,
    "AND": 5,
    "LOGICAL_OR": 6,
    "OR": 6,
}


def read(source: Path | str | bytes) -> TfliteGraph:
    """Reads the main graph of a file.

    Args:
        source: the file's path, or its bytes; at most 2 GiB, and no pipe.

    Returns:
        The graph of the first subgraph. Every index in it is in range, every constant has the size of its shape and
        type, and every scale is positive and finite. No input is a constant, or there twice. Operators write no tensor
        twice, and no constant or input; what they read, and every output, is an input, a constant, a variable or the
        result of an earlier operator. A signature of the graph names each of its inputs and outputs, an input once,
        and no other tensor.

    Raises:
        EmitError: the file cannot be read, is damaged or no TFLite file, or holds what is not read here: sparse
            tensors, strings, constants in other files, quantization by blocks, more than `MOST_ELEMENTS` elements in
            one tensor or in all constants. Says where.
    """
    if not isinstance(source, bytes):
        path = values.path(source, "source", EmitError, hint="give the path of a .tflite file, or its bytes")
        with naming(path):
            return read(read_named(path, kind=".tflite", error=EmitError))
    data = source
    model = open_tflite(data)
    graph = model.Subgraphs(0)
    read_graph = TfliteGraph(
        _tensors(data, model, graph),
        tuple(_operator(data, model, graph.Operators(at), at) for at in range(graph.OperatorsLength())),
        indices_of(graph, "Inputs"),
        indices_of(graph, "Outputs"),
    )
    _check_order(read_graph)
    _check_signatures(model, read_graph)
    return read_graph


def _has_value(tensor: Tensor) -> bool:
    """Whether a tensor has a value before any operator runs: a constant or a variable."""
    return tensor.data is not None or tensor.variable


def _check_order(graph: TfliteGraph) -> None:
    """Checks that each tensor is written once, before it is read, and is no constant or input; nor inputs constants."""
    for at, index in enumerate(graph.inputs):
        name = graph.tensors[index].name
        require(index not in graph.inputs[:at], f"it has the input {name!r} twice")
        require(graph.tensors[index].data is None, f"its input {name!r} is a constant")
    valued = {*graph.inputs, *(index for index, tensor in enumerate(graph.tensors) if _has_value(tensor))}
    for at, operator in enumerate(graph.operators):
        where = f"operator {at} ({operator.name})"
        for index in operator.inputs:
            is_computed = index < 0 or index in valued
            require(is_computed, f"{where} reads {graph.tensors[max(index, 0)].name!r}, which nothing has computed yet")
        for index in operator.outputs:
            what = f"{where} writes {graph.tensors[index].name!r}, which has a value already"
            require(index not in valued, what)
            valued.add(index)
    for index in graph.outputs:
        require(index in valued, f"nothing computes the output {graph.tensors[index].name!r}")


def _check_signatures(model: Any, graph: TfliteGraph) -> None:
    """Checks that who calls by a signature's names reaches the ends of the graph.

    Runtimes take whatever tensors a signature names: an inner one is written and computed over, or read when its
    memory is another's already.
    """
    for at in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(at)
        where = f"signature {text_of(signature.SignatureKey(), f'signature {at}')!r}"
        subgraph = signature.SubgraphIndex()
        require(subgraph < model.SubgraphsLength(), f"{where} is of subgraph {subgraph}, which the file does not have")
        if subgraph:
            continue  # of a graph that is not read here
        inputs, outputs = (
            [(item.TensorIndex(), text_of(item.Name(), where)) for item in items] for items in _entries(signature)
        )
        for side, entries, ends in (("input", inputs, graph.inputs), ("output", outputs, graph.outputs)):
            for index, name in entries:
                require(index in ends, f"{where} names {name!r} as {side}, whose tensor is no {side} of the graph")
            names = Counter(name for _, name in entries)
            for name, count in names.items():
                require(count == 1, f"{where} has {count} {side}s named {name!r}")
        stated = Counter(index for index, _ in inputs)
        for index in graph.inputs:
            name = graph.tensors[index].name
            require(stated[index] == 1, f"{where} names the input {name!r} {stated[index]} times")
        for index in {*graph.outputs}.difference(index for index, _ in outputs):
            require(False, f"{where} leaves out the output {graph.tensors[index].name!r}")


def _entries(signature: Any) -> tuple[list[Any], list[Any]]:
    """What a signature says of inputs and outputs."""
    inputs = [signature.Inputs(at) for at in range(signature.InputsLength())]
    return inputs, [signature.Outputs(at) for at in range(signature.OutputsLength())]


def _tensors(data: bytes, model: Any, graph: Any) -> tuple[Tensor, ...]:
    """All tensors. The elements of constants are limited in all: in a small file many may share one buffer."""
    tensors, elements = [], 0
    operators = [graph.Operators(at) for at in range(graph.OperatorsLength())]
    computed = {*indices_of(graph, "Inputs"), *(index for item in operators for index in indices_of(item, "Outputs"))}
    for at, name in enumerate(_names([text_of(graph.Tensors(at).Name()) for at in range(graph.TensorsLength())])):
        tensors.append(_tensor(data, model, graph.Tensors(at), name, computed=at in computed))
        elements += math.prod(tensors[-1].shape) if _has_value(tensors[-1]) else 0
        require(elements <= MOST_ELEMENTS, f"its constants have more than {MOST_ELEMENTS:,} elements together")
    return tuple(tensors)


def _names(stored: list[str]) -> list[str]:
    """Unique names: one that is empty or stored twice gets ``#index`` appended, until no other tensor has that name."""
    counts = Counter(stored)
    taken = {name for name in stored if name and counts[name] == 1}
    names = []
    for index, name in enumerate(stored):
        unique = name
        if not name or counts[name] > 1:
            unique = f"{name}#{index}"
            while unique in taken:
                unique += f"#{index}"
        taken.add(unique)
        names.append(unique)
    return names


def _tensor(data: bytes, model: Any, tensor: Any, name: str, *, computed: bool) -> Tensor:
    where = f"tensor {name!r}"
    dtype = _type_name(tensor.Type())
    if dtype not in _STORED:
        raise EmitError(f"it is of type {dtype}, which is not read", where=where, hint="read the file on a runtime")
    require(tensor.ShapeLength() <= _HIGHEST_RANK, f"{where} has {tensor.ShapeLength()} dimensions")
    shape = tuple(int(tensor.Shape(at)) for at in range(tensor.ShapeLength()))
    require(all(size >= 0 for size in shape), f"{where} has the shape {list(shape)}")
    require(math.prod(shape) <= MOST_ELEMENTS, f"{where} has more than {MOST_ELEMENTS:,} elements")
    stored = _stored(data, model.Buffers(tensor.Buffer()), where) if tensor.Buffer() < model.BuffersLength() else None
    # A computed tensor has an empty buffer (0). So has a constant without elements (the shape of a scalar), which no
    # operator computes.
    is_constant = stored or (stored is not None and 0 in shape and not computed)
    if stored and tensor.Sparsity() is not None:
        raise EmitError("the constant is sparse, which is not read", where=where, hint="convert it dense")
    if tensor.ExternalBuffer():
        raise EmitError("its values are in another file, which is not read", where=where, hint="give a whole file")
    return Tensor(
        name,
        shape,
        dtype,
        _quantization(tensor.Quantization(), shape, where),
        _constant(stored, shape, dtype, where) if stored is not None and is_constant else None,
        bool(tensor.IsVariable()),
        tuple(axis for axis in range(tensor.ShapeSignatureLength()) if tensor.ShapeSignature(axis) == -1),
    )


def _type_name(number: int) -> str:
    from ai_edge_litert import schema_py_generated as schema

    return names_of(schema.TensorType)[number].lower()


def _stored(data: bytes, buffer: Any, where: str) -> memoryview:
    """A buffer's bytes, not copied, as tensors may share it: in the table, or after it in files of more than 2 GB."""
    if buffer.DataLength():
        return memoryview(buffer.DataAsNumpy())
    offset, size = buffer.Offset(), buffer.Size()
    if offset <= 1 or size == 0:
        return memoryview(b"")
    require(offset + size <= len(data), f"{where} has its values outside of the file")
    return memoryview(data)[offset : offset + size]


def _constant(stored: memoryview, shape: tuple[int, ...], dtype: str, where: str) -> Array:
    kind, count = np.dtype(_STORED[dtype]), math.prod(shape)
    size = (count + 1) // 2 if dtype == "int4" else count * kind.itemsize
    require(len(stored) == size, f"{where} of shape {list(shape)} has {len(stored)} bytes where it needs {size}")
    if dtype == "bool":  # every byte but 0 is true
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
    from ai_edge_litert import schema_py_generated as schema

    if table is not None and table.DetailsType() != schema.QuantizationDetails.NONE:
        what = "it is quantized by blocks or by a rule of its own, which is not read"
        raise EmitError(what, where=where, hint="quantize per tensor or per channel")
    count = table.ScaleLength() if table is not None else 0
    if not count:
        return None
    # A vector has only axis 0, whatever is stated: converters write the axis of the weights to biases, too.
    axis = int(table.QuantizedDimension()) if len(shape) != 1 else 0
    if count > 1:
        sound = 0 <= axis < len(shape) and count == shape[axis]
        require(sound, f"{where} of shape {list(shape)} has {count} scales along axis {axis}: LiteRT refuses it")
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
    custom = number == schema.BuiltinOperator.CUSTOM
    name = text_of(code.CustomCode()) if custom else names_of(schema.BuiltinOperator)[number]
    where = f"operator {index} ({name})"
    options = {} if custom else options_of(name, operator, data, where)
    if "body_subgraph_index" in options:
        options["reduce_function"] = _reduction(model, options["body_subgraph_index"], where)
    return Operator(
        name,
        indices_of(operator, "Inputs"),
        indices_of(operator, "Outputs"),
        options,
        int(code.Version()),
        custom,
    )


def _reduction(model: Any, body: Option, where: str) -> int:
    """The number in ReduceWindowFunction of what a subgraph of one operator does to two numbers; 0 of any other."""
    from ai_edge_litert import schema_py_generated as schema

    require(isinstance(body, int) and 0 <= body < model.SubgraphsLength(), f"{where} has no subgraph {body}")
    graph = model.Subgraphs(body)
    if graph.OperatorsLength() != 1:
        return 0
    number = operator_number(model.OperatorCodes(graph.Operators(0).OpcodeIndex()))
    # GetBodyFunction of kernels/stablehlo_reduce_window.cc
    return _REDUCTIONS.get(names_of(schema.BuiltinOperator)[number].removeprefix("STABLEHLO_"), 0)
