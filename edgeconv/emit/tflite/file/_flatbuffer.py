"""Writes the graph as a TFLite file, byte for byte the same for the same graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._quantization import Quantization
from edgeconv.emit.tflite.file._versions import minimum_runtime, version_of
from edgeconv.graph.names import take_name

SIGNATURE = "serving_default"
_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3  # of tensorflow/lite/schema/schema.fbs, whose files begin TFL3
# tflite/tools/optimize/reduced_precision_support.h; the delegate (tflite/delegates/xnnpack/xnnpack_delegate.cc) asks
# for both the inference and the accumulation in float16.
_PRECISION, _HALF_PRECISION = "reduced_precision_support", b"fp16accfp16"
_ALIGNMENT = 16  # the schema's force_align of Buffer.data, which its Python module does not apply
_BUILTIN_CODES_IN_A_BYTE = 127  # schema.fbs: PLACEHOLDER_FOR_GREATER_OP_CODES

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
    "int16": schema.TensorType.INT16,
    "bool": schema.TensorType.BOOL,
}

# Operators whose options table is not called after them.
_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "TOPK_V2": "TopKV2Options",
    "MAXIMUM": "MaximumMinimumOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "PADV2": "PadV2Options",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "LOG_SOFTMAX": "LogSoftmaxOptions",
    "SELECT_V2": "SelectV2Options",
}
# Operators that have no options table at all.
_BARE = {
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "LOGISTIC",
    "TANH",
    "PRELU",
    "SQRT",
    "RSQRT",
    "LOG",
    "FLOOR",
    "CEIL",
    "ROUND",
    "SIN",
}


def knows_dtype(dtype: np.dtype[Any]) -> bool:
    """Whether a tensor of this element type can be written."""
    return dtype.name in _TYPES


def write(graph: Graph, metadata: Mapping[str, str]) -> tuple[bytes, Mapping[Tensor, str]]:
    """The file's bytes, and what its tensors are called in it.

    ``metadata`` becomes one buffer named ``edgeconv`` that holds sorted JSON. A graph that may be computed in float16
    says so, as XNNPACK asks: without it, ARM processors with float16 arithmetic compute in float32.
    """
    writer = _Writer(graph)
    writer.metadata("min_runtime_version", minimum_runtime(writer.codes).encode().ljust(16, b"\0"))
    if graph.all_halves:
        writer.metadata(_PRECISION, _HALF_PRECISION)
    text = json.dumps(dict(metadata), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    writer.metadata("edgeconv", text.encode())
    return writer.finish(), writer.names


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.codes: dict[tuple[str, int], int] = {}
        self.buffers: list[Array | None] = [None]  # buffer 0 is the empty one, by convention
        # Buffers by the digest of their bytes: equal constants are stored once.
        self.shared: dict[bytes, int] = {}
        self.tensors: dict[Tensor, int] = {}
        self.names: dict[Tensor, str] = {}
        self.entries: list[Any] = []
        self.vectors: dict[bytes, Any] = {}
        self.model = schema.ModelT()
        subgraph = schema.SubGraphT()
        subgraph.name = "main"
        # Tensors are numbered as they are met: inputs first, then operator by operator.
        subgraph.inputs = self._indices(graph.inputs)
        subgraph.operators = [self._operator(operator) for operator in graph.operators]
        subgraph.outputs = self._indices(graph.outputs)
        subgraph.tensors = self._tensors()
        self.model.subgraphs = [subgraph]

    def metadata(self, name: str, data: bytes) -> None:
        """Adds a metadata entry of this name, whose bytes are a buffer."""
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, self._buffer(np.frombuffer(data, np.uint8), data)
        self.entries.append(entry)

    def finish(self) -> bytes:
        """The bytes of the file: operator codes, one signature, buffers and metadata packed."""
        model = self.model
        model.version = _SCHEMA_VERSION
        model.description = "edgeconv"
        model.operatorCodes = [_operator_code(code, version) for code, version in self.codes]
        model.metadata = self.entries
        model.signatureDefs = [self._signature()]
        # A builder that has to grow copies all that it holds.
        total = sum(array.nbytes + 64 for array in self.buffers if array is not None)
        builder = flatbuffers.Builder(total + 4096 + 512 * (len(self.tensors) + len(self.graph.operators)))
        model.buffers = [_Buffer(array) for array in self.buffers]
        builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
        return bytes(builder.Output())

    def _indices(self, tensors: list[Tensor]) -> Array:
        return np.array([self.tensors.setdefault(tensor, len(self.tensors)) for tensor in tensors], np.int32)

    def _operator(self, operator: Operator) -> Any:
        entry = schema.OperatorT()
        key = (operator.code, version_of(operator))
        entry.opcodeIndex = self.codes.setdefault(key, len(self.codes))
        entry.inputs, entry.outputs = self._indices(operator.inputs), self._indices(operator.outputs)
        if operator.code not in _BARE:
            table = _options_table(operator.code)
            options = getattr(schema, f"{table}T")()
            for name, value in operator.options.items():
                setattr(options, name, value)
            entry.builtinOptionsType, entry.builtinOptions = getattr(schema.BuiltinOptions, table), options
        return entry

    def _tensors(self) -> list[Any]:
        names: set[str] = set()
        # What is named after a value of the graph gets its name first; intermediates take what is left.
        named = sorted(self.tensors, key=lambda tensor: (not tensor.owner, self.tensors[tensor]))
        self.names = {tensor: take_name(tensor.name, names) for tensor in named}
        entries = []
        for tensor in self.tensors:
            entry = schema.TensorT()
            entry.name, entry.shape = self.names[tensor], np.array(tensor.shape, np.int32)
            entry.type, entry.hasRank = _TYPES[tensor.dtype.name], True
            entry.buffer = self._buffer(tensor.data, tensor.digest) if tensor.data is not None else 0
            if tensor in self.graph.open_axes:
                # schema.fbs: -1 in shape_signature marks a size that may change; shape then holds 1.
                entry.shapeSignature = entry.shape.copy()
                entry.shapeSignature[self.graph.open_axes[tensor]] = -1
            if tensor.quantization is not None:
                entry.quantization = _Parameters(tensor.quantization, self.vectors)
            entries.append(entry)
        return entries

    def _buffer(self, array: Array, key: bytes) -> int:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if key not in self.shared:
            self.shared[key] = len(self.buffers)
            self.buffers.append(raw)
        return self.shared[key]

    def _signature(self) -> Any:
        entry = schema.SignatureDefT()
        entry.signatureKey, entry.subgraphIndex = SIGNATURE, 0
        entry.inputs = [self._mapping(tensor) for tensor in self.graph.inputs]
        entry.outputs = [self._mapping(tensor) for tensor in self.graph.outputs]
        return entry

    def _mapping(self, tensor: Tensor) -> Any:
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = tensor.name, self.tensors[tensor]
        return entry


class _Buffer:
    """A ``BufferT`` whose data is aligned as the schema asks; kernels read constants in place."""

    def __init__(self, data: Array | None) -> None:
        self.data = data

    def Pack(self, builder: Any) -> Any:  # noqa: N802 (the schema module calls it by this name)
        offset = None
        if self.data is not None and self.data.size:
            # CreateNumpyVector would align to one byte.
            builder.StartVector(1, self.data.size, _ALIGNMENT)
            # flatbuffers builds from the end of its buffer: what is written last lies first.
            builder.head -= self.data.size
            builder.Bytes[builder.head : builder.head + self.data.size] = self.data.data
            offset = builder.EndVector()
        schema.BufferStart(builder)
        if offset is not None:
            schema.BufferAddData(builder, offset)
        return schema.BufferEnd(builder)


class _Parameters:
    """A ``QuantizationParametersT`` that shares equal vectors.

    The zero points of weights and biases, eight bytes each and all 0, would otherwise take 1.5 % of a MobileNet's file.
    """

    def __init__(self, quantization: Quantization, vectors: dict[bytes, Any]) -> None:
        self._scale = np.array(quantization.scale, np.float32)
        self._zero_point = np.array(quantization.zero_point, np.int64)
        self._axis = quantization.axis if quantization.per_channel else 0
        self._vectors = vectors

    def Pack(self, builder: Any) -> Any:  # noqa: N802 (the schema module calls it by this name)
        scale, zero_point = (self._vector(builder, array) for array in (self._scale, self._zero_point))
        schema.QuantizationParametersStart(builder)
        schema.QuantizationParametersAddScale(builder, scale)
        schema.QuantizationParametersAddZeroPoint(builder, zero_point)
        schema.QuantizationParametersAddQuantizedDimension(builder, self._axis)
        return schema.QuantizationParametersEnd(builder)

    def _vector(self, builder: Any, array: Array) -> Any:
        key = array.dtype.char.encode() + array.tobytes()
        if key not in self._vectors:
            self._vectors[key] = builder.CreateNumpyVector(array)
        return self._vectors[key]


def _operator_code(code: str, version: int) -> Any:
    entry = schema.OperatorCodeT()
    entry.builtinCode = getattr(schema.BuiltinOperator, code)
    entry.deprecatedBuiltinCode = min(entry.builtinCode, _BUILTIN_CODES_IN_A_BYTE)
    entry.version = version
    return entry


def _options_table(code: str) -> str:
    return _OPTIONS.get(code) or "".join(part.capitalize() for part in code.split("_")) + "Options"
