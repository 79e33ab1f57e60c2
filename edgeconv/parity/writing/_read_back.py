"""A file of any converter, read back for its own sake: what goes in and comes out, what it holds, what it computes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgeconv.core import Array, TensorSpec
from edgeconv.core.named_files import is_onnx, naming, read_named
from edgeconv.core.threads import one_thread
from edgeconv.errors import ParityError
from edgeconv.graph.quantized_operators import misread, spell_out
from edgeconv.graph.stored_integers import dequantize_stored
from edgeconv.parity.writing._borders import onnx_faults
from edgeconv.parity.writing._contents import (
    Contents,
    contents_of_onnx,
    contents_of_tflite,
    writer_of_onnx,
    writer_of_tflite,
)
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._integer_borders import border_scales
from edgeconv.parity.writing._node_order import IN_ORDER, POSITIVE, misplaced, without_scale
from edgeconv.parity.writing._real_file import RealFile, real_onnx, real_tflite
from edgeconv.parity.writing._specification import onnx_contradictions, tflite_contradictions
from edgeconv.parity.writing._tflite_integers import tflite_integers, tflite_misread
from edgeconv.reference import OPERATORS, evaluate, tflite

_CONVERTED = "give one that a converter wrote"


class ReadBack(Protocol):
    """A file, read back.

    Attributes:
        variant: what it computes in: ``"fp32"``, ``"fp16"``, ``"int8"``, ``"int8-weights"``, ``"int16x8"``.
        inputs: as the file declares them, in its own layout, which it does not tell.
        outputs: likewise.
        titles: what else its inputs and outputs are called, by name: a signature's names.
        constants: the numbers of its floating-point constants, by name.
        integers: of its quantized constants, by name: the real numbers that they stand for, and a step that broadcasts.
        real: the file on real numbers; None where it is not read so.
        misread: tensors whose integers are read as other numbers than they were written as, with one line each.
        contradictions: what its format's specification rules out, or what it says in two ways: a name and a line each.
        unknown: its operators that the reference does not compute.
        writer: what edgeconv says of a file that it wrote: ``"variant"``, ``"layout"``, …; nothing of any other.
        contents: all of its numbers.
    """

    @property
    def variant(self) -> str: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def titles(self) -> Mapping[str, str]: ...
    @property
    def constants(self) -> Mapping[str, Array]: ...
    @property
    def integers(self) -> Mapping[str, tuple[Array, Array]]: ...
    @property
    def real(self) -> RealFile | None: ...
    @property
    def misread(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def contradictions(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def unknown(self) -> tuple[str, ...]: ...
    @property
    def writer(self) -> Mapping[str, str]: ...
    @property
    def contents(self) -> Contents: ...

    def computed(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Its outputs, in its order: real numbers in float64, integers as they are stored.

        Args:
            inputs: in its order, layout and element types.

        Raises:
            RewriteError: it cannot be evaluated (``.onnx``).
            EmitError: it cannot be evaluated (``.tflite``).
        """
        ...


def read_back(path: Path) -> ReadBack:
    """Reads a file.

    Raises:
        ParityError: it has neither of the two suffixes, cannot be read, is no ONNX file, its nodes are not in order, or
            a scale of it is no positive number.
        EmitError: it is no TFLite file, or damaged.
    """
    if is_onnx(path):
        return _Onnx(path)
    if path.suffix.lower() == ".tflite":
        with naming(path):
            return _Tflite(path)
    raise ParityError("is no .onnx and no .tflite file by its name", where=str(path), hint="give such a file")


class _Onnx:
    """See `ReadBack`."""

    def __init__(self, path: Path) -> None:
        data = read_named(path, kind=".onnx", error=ParityError)
        try:
            proto = onnx.load_model_from_string(data)
        except DecodeError as error:
            raise ParityError("is no ONNX file", where=str(path), hint=_CONVERTED) from error
        if not proto.graph.output:  # a file of no bytes is a message of no fields
            raise ParityError("is no ONNX file, or computes nothing", where=str(path), hint=_CONVERTED)
        for line in onnx_faults(proto.graph):
            raise ParityError(line, where=str(path), hint="give the file as its converter wrote it")
        model = ir.from_proto(proto)
        if why := misplaced(model.graph):
            raise ParityError(why, where=str(path), hint=IN_ORDER)
        if why := without_scale(model.graph):
            raise ParityError(why, where=str(path), hint=POSITIVE)
        ir.external_data.set_base_dir(model.graph, path.parent)
        self.writer = writer_of_onnx(model)
        self.contradictions = tuple(onnx_contradictions(model.graph))
        dequantize_stored(model.graph)
        kinds = {node.op_type for node in model.graph.all_nodes()}
        spell_out(model, all_of_them=True)  # QLinearConv and its like, in operators that the reference knows
        self._model = model
        graph = model.graph
        scales = border_scales(graph)
        self.inputs = tuple(_scaled(onnx_spec(x), scales) for x in graph.inputs if not x.is_initializer())
        self.outputs = tuple(_scaled(onnx_spec(x), scales) for x in graph.outputs)
        self.titles: Mapping[str, str] = {}
        parts: list[ir.Graph | ir.Function] = [graph, *model.functions.values()]
        called = {node.op_type for part in parts for node in part.all_nodes()}
        functions = {name for _, name, _ in model.functions}
        self.unknown = tuple(sorted(called - functions - OPERATORS.keys()))
        self.variant = _variant_of(kinds, graph.initializers.values())

    @property
    def contents(self) -> Contents:
        return contents_of_onnx(self._model)

    @property
    def constants(self) -> Mapping[str, Array]:
        return Graph(self._model).real_constants

    @property
    def integers(self) -> Mapping[str, tuple[Array, Array]]:
        graph = Graph(self._model)
        constants = graph.constants
        return {name: (constants[name], step) for name, step in graph.constant_steps.items() if name in constants}

    @property
    def real(self) -> RealFile | None:
        return real_onnx(Graph(self._model))

    @property
    def misread(self) -> tuple[tuple[str, str], ...]:
        return tuple(misread(self._model))

    def computed(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        names = [spec.name for spec in self.outputs]
        fed = {spec.name: array for spec, array in zip(self.inputs, inputs, strict=True)}
        with one_thread():
            values = evaluate(self._model, fed, keep=names)
        return tuple(values[name] for name in names)


def onnx_spec(value: ir.Value) -> TensorSpec:
    """An input or output of an `.onnx` file, as it states it."""
    sizes = [size if isinstance(size, int) else size.value or f"d{at}" for at, size in enumerate(value.shape or ())]
    dtype = value.dtype or ir.DataType.FLOAT
    return TensorSpec(value.name or "", tuple(sizes), dtype.numpy().name)


def _scaled(spec: TensorSpec, scales: Mapping[str, tuple[float, int]]) -> TensorSpec:
    """A spec with scale and zero point of integers that the graph itself dequantizes, or has quantized."""
    if spec.name not in scales:
        return spec
    scale, zero_point = scales[spec.name]
    return replace(spec, scale=scale, zero_point=zero_point)


def _variant_of(kinds: Collection[str], initializers: Collection[ir.Value]) -> str:
    """By whose thresholds a file is judged; a file that only dequantizes has weights alone in integers."""
    if "QuantizeLinear" in kinds or any(kind.startswith("QLinear") or kind.endswith("Integer") for kind in kinds):
        return "int8"
    if "DequantizeLinear" in kinds:
        return "int8-weights"
    return "fp16" if any(value.dtype == ir.DataType.FLOAT16 for value in initializers) else "fp32"


class _Tflite:
    """See `ReadBack`."""

    def __init__(self, path: Path) -> None:
        data = read_named(path, kind=".tflite", error=ParityError)
        self._graph = graph = tflite.read(data)
        self.inputs = tuple(tflite_spec(graph.tensors[index]) for index in graph.inputs)
        self.outputs = tuple(
            _with_open_axes(tflite_spec(graph.tensors[index]), index, graph) for index in graph.outputs
        )
        model = tflite.open_tflite(data)
        self.titles = dict(signature_names(model, graph))
        self.writer = writer_of_tflite(model)
        self.contradictions = tuple(tflite_contradictions(graph, self.titles))
        constants = [tensor for tensor in graph.tensors if tensor.data is not None]
        self.constants: Mapping[str, Array] = {
            tensor.name: np.asarray(tensor.data) for tensor in constants if tensor.floating
        }
        names = {operator.name for operator in graph.operators}
        self.unknown = tuple(sorted(name for name in names if name not in tflite.OPERATORS))
        self.variant = _tflite_variant(graph)

    @property
    def contents(self) -> Contents:
        return contents_of_tflite(self._graph)

    @property
    def integers(self) -> Mapping[str, tuple[Array, Array]]:
        return dict(tflite_integers(self._graph))

    @property
    def real(self) -> RealFile:
        return real_tflite(self._graph)

    @property
    def misread(self) -> tuple[tuple[str, str], ...]:
        return tuple(tflite_misread(self._graph))

    def computed(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        fed = {spec.name: array for spec, array in zip(self.inputs, inputs, strict=True)}
        values = tflite.evaluate(self._graph, fed)
        return tuple(values[spec.name] for spec in self.outputs)


def _tflite_variant(graph: tflite.TfliteGraph) -> str:
    quantized = [tensor for tensor in graph.tensors if tensor.quantization is not None and not tensor.floating]
    varying = {tensor.dtype for tensor in quantized if tensor.data is None}
    if varying:
        return "int16x8" if "int16" in varying else "int8"
    if quantized:
        return "int8-weights"
    halves = any(tensor.dtype == "float16" and tensor.data is not None for tensor in graph.tensors)
    return "fp16" if halves else "fp32"


def tflite_spec(tensor: tflite.Tensor) -> TensorSpec:
    """An input or output of a `.tflite` file, as it states it."""
    quantization = None if tensor.floating else tensor.quantization
    if quantization is None:
        return TensorSpec(tensor.name, tensor.shape, tensor.dtype)
    scale, zero_point = quantization.scales[0], quantization.zero_points[0]
    return TensorSpec(tensor.name, tensor.shape, tensor.dtype, scale=scale, zero_point=zero_point)


def _with_open_axes(spec: TensorSpec, index: int, graph: tflite.TfliteGraph) -> TensorSpec:
    """An output whose size a runtime computes has no size yet: files of TensorFlow state 1 for it."""
    axes = graph.tensors[index].open_axes
    return replace(spec, shape=tuple("?" if axis in axes else size for axis, size in enumerate(spec.shape)))


def signature_names(model: Any, graph: tflite.TfliteGraph) -> Iterator[tuple[str, str]]:
    """The names that the first signature of the graph gives to tensors, by the tensors' own."""
    signatures = (model.SignatureDefs(at) for at in range(model.SignatureDefsLength()))
    signature = next((item for item in signatures if item.SubgraphIndex() == 0), None)
    for side in ("Inputs", "Outputs") if signature is not None else ():
        for at in range(getattr(signature, f"{side}Length")()):
            item = getattr(signature, side)(at)
            yield graph.tensors[item.TensorIndex()].name, tflite.text_of(item.Name())
