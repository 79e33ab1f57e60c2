"""`.tflite` files of one operator, written with the schema's own objects, and what LiteRT makes of them.

Nothing of edgeconv writes here: the reader is held against the runtime, not against our writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgeconv.reference import tflite

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Spec:
    """A tensor to be written; one without data, that is not variable, is an input of the graph where it is read.

    Attributes:
        scale: None where it is not quantized; a sequence for one per channel.
        zero: as many as scales.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: float | Sequence[float] | None = None
    zero: int | Sequence[int] = 0
    axis: int = 0
    data: Array | None = None
    variable: bool = False
    name: str = ""


def constant(data: Any, dtype: str = "float32", **quantization: Any) -> Spec:
    """A constant of these numbers."""
    array = np.asarray(data, "int8" if dtype == "int4" else dtype)
    return Spec(array.shape, dtype, data=array, **quantization)


def ints(*values: int) -> Spec:
    """A constant vector of int32."""
    return constant(np.array(values, np.int32), "int32")


def file_of(
    name: str, sources: Sequence[Spec | None], results: Sequence[Spec], *, version: int = 1, **options: Any
) -> bytes:
    """A file of one operator.

    Args:
        name: of the builtin operator.
        sources: its inputs; None for one that is left out.
        results: its outputs.
        version: of the operator.
        options: of its table, by the schema's names in this module's spelling (``strideW``); ``table`` names the table
            where that is not the operator's own name.
    """
    model = schema.ModelT()
    model.version, model.description = 3, b"test"
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs = [], [], []
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [], []
    for kind, specs in (("x", sources), ("y", results)):
        for index, spec in enumerate(specs):
            at = -1 if spec is None else len(graph.tensors)
            (operator.inputs if kind == "x" else operator.outputs).append(at)
            if spec is None:
                continue
            graph.tensors.append(_tensor(model, spec, spec.name or f"{kind}{index}"))
            if kind == "y":
                graph.outputs.append(at)
            elif spec.data is None and not spec.variable:
                graph.inputs.append(at)
    table = options.pop("table", "".join(word.capitalize() for word in name.split("_")) + "Options")
    if hasattr(schema.BuiltinOptions, table):
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
        operator.builtinOptions = getattr(schema, f"{table}T")()
        for key, value in options.items():
            assert hasattr(operator.builtinOptions, key), key
            setattr(operator.builtinOptions, key, value)
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = getattr(schema.BuiltinOperator, name), version
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    graph.operators = [operator]
    model.operatorCodes, model.subgraphs = [code], [graph]
    return packed(model)


def packed(model: Any) -> bytes:
    """A model of the schema's objects as a file."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def windows(x: Spec, first: Spec, shape: tuple[int, ...], body: str, **options: Any) -> bytes:
    """A file of one STABLEHLO_REDUCE_WINDOW, whose body is a subgraph of one operator."""
    model = schema.ModelT.InitFromPackedBuf(file_of("STABLEHLO_REDUCE_WINDOW", [x, first], [Spec(shape, x.dtype)]), 0)
    scalar = Spec((), x.dtype)
    inner = schema.ModelT.InitFromPackedBuf(file_of(body, [scalar, scalar], [scalar], table="none"), 0)
    model.operatorCodes.append(inner.operatorCodes[0])
    inner.subgraphs[0].operators[0].opcodeIndex = 1
    model.subgraphs.append(inner.subgraphs[0])
    operator = model.subgraphs[0].operators[0]
    operator.builtinOptions2Type = schema.BuiltinOptions2.StablehloReduceWindowOptions
    operator.builtinOptions2 = table = schema.StablehloReduceWindowOptionsT()
    rank = len(x.shape)
    whole = {"windowStrides": [1] * rank, "baseDilations": [1] * rank, "windowDilations": [1] * rank}
    for name, numbers in {**whole, "padding": [0] * (2 * rank), **options}.items():
        setattr(table, name, np.array(numbers, np.int64))
    table.bodySubgraphIndex = 1
    return packed(model)


def _tensor(model: Any, spec: Spec, name: str) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape = name.encode(), np.array(spec.shape, np.int32)
    tensor.type = getattr(schema.TensorType, spec.dtype.upper())
    tensor.isVariable = spec.variable
    if spec.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(_bytes(spec), np.uint8)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
    if spec.scale is not None:
        parameters = schema.QuantizationParametersT()
        parameters.scale = np.atleast_1d(np.asarray(spec.scale, np.float32))
        parameters.zeroPoint = np.broadcast_to(np.asarray(spec.zero, np.int64), parameters.scale.shape)
        parameters.quantizedDimension = spec.axis
        tensor.quantization = parameters
    return tensor


def _bytes(spec: Spec) -> bytes:
    assert spec.data is not None
    if spec.dtype != "int4":
        return np.ascontiguousarray(spec.data).tobytes()
    halves = np.append(spec.data.reshape(-1) & 15, [0] * (spec.data.size % 2)).astype(np.uint8)
    return (halves[::2] | halves[1::2] << 4).tobytes()


def on_litert(data: bytes, inputs: Mapping[str, Array], *, reference: bool = True) -> dict[str, Array]:
    """The outputs of a file on LiteRT's reference kernels, or on those without XNNPACK that it takes by itself."""
    resolver = OpResolverType.BUILTIN_REF if reference else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    interpreter.invoke()
    return {detail["name"]: interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()}


def noise(spec: Spec, rng: np.random.Generator, *, whole: bool = False) -> Array:
    """Values for a tensor: all integers that it holds, or normal numbers; small integers for exact sums."""
    if spec.dtype == "bool":
        return rng.random(spec.shape) < 0.5
    if spec.dtype == "float32":
        drawn = rng.integers(-8, 9, spec.shape) if whole else rng.standard_normal(spec.shape)
        return drawn.astype(np.float32)
    limits = np.iinfo(spec.dtype)
    low, high = (limits.min, limits.max) if spec.scale is not None else (-9, 9)
    return rng.integers(low, high, spec.shape, endpoint=True).astype(spec.dtype)


def both(
    data: bytes, rng: np.random.Generator, *, whole: bool = False, reference: bool = True, **given: Array
) -> list[tuple[Array, Array]]:
    """What LiteRT and the reader make of the same inputs, for each output; shapes and dtypes are held together."""
    graph = tflite.read(data)
    inputs = {}
    for index in graph.inputs:
        tensor = graph.tensors[index]
        scale = tensor.quantization.scales if tensor.quantization else None
        inputs[tensor.name] = given.get(tensor.name, noise(Spec(tensor.shape, tensor.dtype, scale), rng, whole=whole))
    theirs = on_litert(data, inputs, reference=reference)
    ours = tflite.evaluate(graph, inputs)
    pairs = []
    for index in graph.outputs:
        tensor = graph.tensors[index]
        a, b = theirs[tensor.name], ours[tensor.name]
        assert a.shape == b.shape, (a.shape, b.shape)
        assert b.dtype == (np.float64 if a.dtype.kind == "f" else a.dtype)
        pairs.append((a, b))
    return pairs


def equal(pairs: list[tuple[Array, Array]]) -> None:
    """Every number the same."""
    for theirs, ours in pairs:
        np.testing.assert_array_equal(theirs, ours)


def within_steps(pairs: list[tuple[Array, Array]], steps: int = 1, share: float = 0.02) -> None:
    """Integers at the most so far apart, and but for this share the same."""
    for theirs, ours in pairs:
        apart = np.abs(theirs.astype(np.int64) - ours.astype(np.int64))
        assert apart.max(initial=0) <= steps
        assert (apart > 0).mean() <= share


def within_ulps(pairs: list[tuple[Array, Array]], ulps: float = 4.0) -> None:
    """Real numbers so many units of float32 apart, at the most."""
    for theirs, ours in pairs:
        unit = np.spacing(np.abs(ours).astype(np.float32)).astype(np.float64)
        assert (np.abs(theirs.astype(np.float64) - ours) <= ulps * unit).all()


def quantized(spec: Spec, dtype: str, scale: float = 0.1, zero: int = 0) -> Spec:
    """The same tensor in integers; those of 16 bits have no zero point."""
    return replace(spec, dtype=dtype, scale=scale, zero=0 if dtype == "int16" else zero)
