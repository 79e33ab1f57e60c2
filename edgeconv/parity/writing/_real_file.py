"""A file of integers as operators on real numbers: what it would compute if nothing but its constants were rounded."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import limits_of
from edgeconv.core.precision import to_float64
from edgeconv.graph.traits import Trait, having
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._steps import Steps, steps_of
from edgeconv.parity.writing._tflite_integers import WITH_BIAS, parameters_of, real_numbers
from edgeconv.reference import evaluate_node
from edgeconv.reference.tflite import Operator, Tensor, TfliteGraph, evaluate_operator

_QUANTIZATION = having(Trait.SCALED)
_DYNAMIC = frozenset({"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
_STORED = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16)
_SUBGRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_SUMS = having(Trait.LAYER)
_SAME = frozenset({"QUANTIZE", "DEQUANTIZE"})  # the same real numbers in other integers, or in none
_CLAMPS = frozenset({"MAXIMUM", "MINIMUM"})
_BEYOND = 64  # steps that a clamp may be beyond the end of a range: a quarter of what 8 bits reach

Values = Mapping[Hashable, Array]


@dataclass(frozen=True, eq=False)
class Part:
    """One operator.

    Attributes:
        operator: its kind, as the format calls it.
        inputs: keys of what it reads, constants among them.
        outputs: keys of its results.
        compute: the results, of real numbers by key.
        factors: keys of data and weight, and of a bias, of a sum of products.
        added_up: that sum, without an activation, of real numbers by key.
        activates: whether the operator has an activation of its own.
    """

    operator: str
    inputs: tuple[Hashable, ...]
    outputs: tuple[Hashable, ...]
    compute: Callable[[Values], Sequence[Array]]
    factors: tuple[Hashable, ...] = ()
    added_up: Callable[[Values], Sequence[Array]] | None = None
    activates: bool = False


@dataclass(frozen=True, eq=False)
class RealFile:
    """A file whose activations are not rounded, and whose constants are the real numbers that it stores.

    Attributes:
        parts: its operators, in the order of execution.
        inputs: keys, in the file's order.
        outputs: likewise.
        constants: real numbers, and integers that are no quantized numbers, by key.
        steps: of the quantized constants, one integer's worth of each number; of halves, their distance.
        ranges: of the quantized activations that have one scale.
        names: of all tensors, by key.
        channels_last: whether the format has them so.
    """

    parts: tuple[Part, ...]
    inputs: tuple[Hashable, ...]
    outputs: tuple[Hashable, ...]
    constants: Values
    steps: Values
    ranges: Mapping[Hashable, Steps]
    names: Mapping[Hashable, str]
    channels_last: bool = True


def real_tflite(graph: TfliteGraph) -> RealFile:
    """Of a `.tflite` file; operators that read integers as places of a table read the nearest ones."""
    real = replace(graph, tensors=tuple(map(in_real_numbers, graph.tensors)))
    clamps = {at for operator in graph.operators if operator.name in _CLAMPS for at in operator.inputs}
    steps: dict[Hashable, Array] = {
        at: _steps_of_constant(tensor, clamps=at in clamps)
        for at, tensor in enumerate(graph.tensors)
        if tensor.data is not None and tensor.quantization is not None and not tensor.floating
    }
    steps |= {
        at: _steps_of_halves(np.asarray(tensor.data))
        for at, tensor in enumerate(graph.tensors)
        if tensor.data is not None and tensor.dtype == "float16"
    }
    varying = [(at, tensor) for at, tensor in enumerate(graph.tensors) if tensor.data is None]
    ranges: dict[Hashable, Steps] = {at: of for at, tensor in varying if (of := range_of(tensor))}
    parts = (_part(graph, real, operator) for operator in graph.operators)
    names: dict[Hashable, str] = {at: tensor.name for at, tensor in enumerate(graph.tensors)}
    constants: dict[Hashable, Array] = dict(real.stored.items())
    return RealFile(tuple(parts), graph.inputs, graph.outputs, constants, steps, ranges, names)


def real_onnx(graph: Graph) -> RealFile | None:
    """Of an `.onnx` file; none where it chooses scales as it runs, or has subgraphs."""
    model = graph.model.clone()
    nodes = list(model.graph)
    if any(node.op_type in _DYNAMIC or any(a.type in _SUBGRAPHS for a in node.attributes.values()) for node in nodes):
        return None
    for value in (value for node in nodes for value in node.outputs):
        if value.dtype in _STORED:
            value.type = None  # what only moves integers (Reshape, MaxPool) moves what they stand for
    opset = graph.model.graph.opset_imports.get("", 1)
    initializers = graph.model.graph.initializers
    constants: dict[Hashable, Array] = {
        name: value.const_value.numpy() for name, value in initializers.items() if value.const_value is not None
    }
    halves = {name: _steps_of_halves(array) for name, array in constants.items() if array.dtype == np.float16}
    constants = {name: to_float64(array) for name, array in constants.items()}
    steps: dict[Hashable, Array] = halves | {
        name: np.broadcast_to(step, constants[name].shape) for name, step in graph.constant_steps.items()
    }
    ranges: dict[Hashable, Steps] = {
        value.name or "": of for node in nodes for value in node.outputs if (of := _range_of_node(node))
    }
    inputs = tuple(value.name or "" for value in graph.model.graph.inputs if value.name not in initializers)
    parts = tuple(_part_of_node(node, opset) for node in nodes)
    names = {key: str(key) for key in (*constants, *(key for part in parts for key in part.outputs))}
    return RealFile(parts, inputs, tuple(graph.outputs), constants, steps, ranges, names, channels_last=False)


def _range_of_node(node: ir.Node) -> Steps | None:
    """Of a value that is quantized, or dequantized, by one scale."""
    if node.op_type not in _QUANTIZATION:
        return None
    scale, point = (None if value is None else value.const_value for value in (*node.inputs[1:3], None)[:2])
    if scale is None or scale.size != 1 or point is None:
        return None
    zero = int(point.numpy().reshape(-1)[0])
    return steps_of(float(scale.numpy().reshape(-1)[0]), zero, point.dtype.numpy().name)


def _part_of_node(node: ir.Node, opset: int) -> Part:
    inputs = tuple("" if value is None else value.name or "" for value in node.inputs)
    outputs = tuple(value.name or "" for value in node.outputs)
    if node.op_type in _QUANTIZATION:
        return Part(node.op_type, inputs, outputs, lambda values: (values[inputs[0]],))

    def compute(values: Values) -> Sequence[Array]:
        return evaluate_node(node, [values[name] if name else None for name in inputs], opset=opset)

    # A Gemm with another alpha or beta is no plain sum of products, whose variance is that of its factors.
    plain = all(attribute.value == 1 for name, attribute in node.attributes.items() if name in ("alpha", "beta"))
    summed = node.op_type in _SUMS and plain and all(inputs)
    return Part(node.op_type, inputs, outputs, compute, inputs if summed else (), compute if summed else None)


def _part(graph: TfliteGraph, real: TfliteGraph, operator: Operator) -> Part:
    activates = bool(operator.options.get("fused_activation_function", 0))
    compute = partial(_computed, graph, real, operator)
    part = Part(operator.name, operator.inputs, operator.outputs, compute, activates=activates)
    places = [at for at in WITH_BIAS.get(operator.name, ()) if at < len(operator.inputs)]
    factors = tuple(operator.inputs[at] for at in places if operator.inputs[at] >= 0)
    if len(factors) < 2:
        return part
    options = {name: 0 if name == "fused_activation_function" else item for name, item in operator.options.items()}
    bare = replace(operator, options=options)
    return replace(part, factors=factors, added_up=partial(_computed, graph, real, bare))


def in_real_numbers(tensor: Tensor) -> Tensor:
    """A quantized tensor as one of real numbers, float16 constants as they are."""
    if tensor.quantization is None or tensor.floating:
        return tensor
    data = None if tensor.data is None else real_numbers(tensor, tensor.data)
    return replace(tensor, dtype="float32", quantization=None, data=data)


def range_of(tensor: Tensor) -> Steps | None:
    """Of a quantized tensor with one scale."""
    if tensor.quantization is None or tensor.floating or tensor.quantization.per_channel:
        return None
    (scale, *_), (point, *_) = parameters_of(tensor)
    return steps_of(scale, point, str(tensor.held_as))


def as_stored(tensor: Tensor, real: Array) -> Array:
    """The integers that stand for real numbers."""
    (scale, *_), (point, *_) = parameters_of(tensor)
    return np.asarray(np.clip(np.rint(real / scale) + point, *limits_of(str(tensor.held_as))), tensor.held_as)


def _steps_of_halves(array: Array) -> Array:
    """Distances between the halves around each number."""
    return np.asarray(np.spacing(np.abs(array.astype(np.float16))), np.float64)


def _steps_of_constant(tensor: Tensor, *, clamps: bool) -> Array:
    """One integer's worth; a clamp at an end of what integers reach may stand for one far beyond."""
    steps = real_numbers(tensor, np.ones(tensor.shape)) - real_numbers(tensor, np.zeros(tensor.shape))
    if not clamps:
        return steps
    least, greatest = limits_of(str(tensor.held_as))
    return np.where(np.isin(np.asarray(tensor.data), (least, greatest)), steps * _BEYOND, steps)


def _computed(graph: TfliteGraph, real: TfliteGraph, operator: Operator, values: Values) -> Sequence[Array]:
    """The results of an operator on real numbers."""
    read = {at: values[at] for at in operator.inputs if at in values}
    source = graph.tensors[operator.inputs[0]] if operator.inputs else None
    if operator.name in _SAME:
        return (read[operator.inputs[0]],)
    if operator.name == "CAST" and source is not None and source.quantization is not None:
        stored = {operator.inputs[0]: as_stored(source, read[operator.inputs[0]])}
        return evaluate_operator(graph, operator, stored)
    return evaluate_operator(real, operator, read)
