"""ONNX graph -> TFLite graph, node by node in the graph's order; then simplified and given its element types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from edgeconv.core import NHWC, TensorSpec
from edgeconv.emit.half_precision import float32_region, places
from edgeconv.emit.tflite._graph import Graph, Tensor
from edgeconv.emit.tflite.file._encoding import Encoding, encode
from edgeconv.emit.tflite.file._flatbuffer import knows_dtype
from edgeconv.emit.tflite.lower._inside import held
from edgeconv.emit.tflite.lower._layout import Form, first, last, permuted
from edgeconv.emit.tflite.lower._lowering import Lowering, another_way, maker_of, refusal
from edgeconv.emit.tflite.lower._operators import LOWERINGS, activation, functions, tables
from edgeconv.emit.tflite.lower._pool_places import with_places
from edgeconv.emit.tflite.lower._qdq import REQUANTIZE, strip
from edgeconv.emit.tflite.lower._recurrent import unrolled
from edgeconv.emit.tflite.simplify._simplify import simplify
from edgeconv.errors import ONNX_ONLY, EmitError
from edgeconv.graph.gelus import Gelu, gelus
from edgeconv.graph.integer_rules import LOOKED_UP
from edgeconv.graph.near_zero import NearZero, near_zero
from edgeconv.graph.thresholds import Threshold, inside, threshold_of
from edgeconv.reference import evaluate_node

_ELSEWHERE = ("Constant", "Shape", REQUANTIZE)  # what reads them lowers them, or the integers do
_NAMED = 8  # operators that an error lists before it says "and more"


def convert(
    model: ir.Model, layout: str, encoding: Encoding, sizes: Mapping[str, int] | None = None
) -> tuple[Lowering, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Lowers the whole graph, at these sizes of its symbolic dimensions; with the specs of its inputs and outputs."""
    # 1. ONNX to ONNX: what TFLite has no operator for is written out, and quantization becomes scales of values.
    quantized = strip(with_places(unrolled(model, sizes or {})))
    model = quantized.model
    low = Lowering(sizes, activations=quantized.activations)
    low.graph.border_types = quantized.borders
    compound, inner = _groups(low, model.graph)
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            raise EmitError(f"the initializer {name!r} has no value", where="tflite", hint="capture the module again")
        low.arrays[value] = value.const_value.numpy()
        if name in quantized.constants:
            low.scales[value] = quantized.constants[name]
    # 2. Inputs, operators and outputs, as TFLite tensors.
    inputs = [value for value in model.graph.inputs if value not in low.arrays]
    for value in inputs:
        form = border_form(low, value, layout)
        tensor = Tensor(value.name or "input", permuted(low.shape(value), form), low.dtype(value))
        tensor.owner = tensor.name
        low.graph.inputs.append(tensor)
        low.forms[value] = {form: tensor}
    _lower_all(low, model.graph, compound, inner)
    for value in model.graph.outputs:
        low.node = value.producer()
        _finish_output(low, value, border_form(low, value, layout))
    # 3. Every form of a value has the value's scale.
    for value, forms in low.forms.items():
        for tensor in forms.values():
            tensor.quantization = tensor.quantization or quantized.activations.get(value.name or "")
    for value, (tensor, _) in low.feature_orders.items():
        tensor.quantization = tensor.quantization or quantized.activations.get(value.name or "")
    # 4. Fewer operators; integers where there are scales; notes, and where the plan's integers are in the file.
    reshaped = simplify(low.graph)
    low.notes = (*low.rounded, *encode(low.graph, encoding, integer=low.integer))
    low.notes += _computed_in_float32(low.graph, model.graph) if encoding.halves else ()
    low.held = held(low.graph, low.forms, quantized.integers, reshaped, hidden=low.reordered)
    borders = ((inputs, low.graph.inputs), (model.graph.outputs, low.graph.outputs))
    specs = [tuple(spec(low, *pair, layout) for pair in zip(*border, strict=True)) for border in borders]
    return low, specs[0], specs[1]


def _computed_in_float32(graph: Graph, source: ir.Graph) -> tuple[str, ...]:
    """Says whether the whole file may be computed in float16, by processors that can; else why not."""
    region = float32_region(source, tflite=True)
    why = [f"{node.op_type} {node.outputs[0].name!r}: {reason}" for node, reason in region.items() if reason]
    graph.all_halves = graph.all_halves and not why
    if graph.all_halves:
        return ()
    return (f"float16 is stored, and float32 computed: {why[0] if why else 'it does not hold a constant'}",)


def _lower_all(
    low: Lowering, graph: ir.Graph, compound: Mapping[ir.Node, Gelu | NearZero | Threshold], inner: Collection[ir.Node]
) -> None:
    """Lowers node after node; whatever is lacking and whatever is refused is told together at the end."""
    refused: list[EmitError] = []
    lacking = [node for node in graph if _is_lacking(node, inner)]
    placing = places(graph)
    for node in graph:
        before = len(low.graph.operators)
        try:
            if node in lacking:
                if not _stand_in(low, node):
                    break
            elif node in compound:
                _lower_group(low, node, compound[node])
            elif node not in inner:
                _lower(low, node)
        except EmitError as error:
            # A stand-in lets the walk go on, so that one error names everything that is to be changed.
            refused.append(error)
            if not _stand_in(low, node):
                break
        low.keep_float(node, before)
        for operator in low.graph.operators[before:] if node in placing else ():
            operator.places = True
    _refuse_all([_lack_of(lacking), *refused] if lacking else refused)


def _groups(low: Lowering, graph: ir.Graph) -> tuple[dict[ir.Node, Gelu | NearZero | Threshold], Collection[ir.Node]]:
    """The last nodes of all that spell one function out, and the nodes before them that need not be computed.

    Among integers ln(1 + x) and exp(x) - 1 stay two operators, each with its own scale, and a threshold is looked up.
    """
    compound, inner = gelus(graph)
    if not low.integer:
        functions_of_one, inside_those = near_zero(graph)
        return {**compound, **functions_of_one}, inner | inside_those
    limits = {node: threshold for node in graph if (threshold := threshold_of(node)) is not None}
    limits = {node: threshold for node, threshold in limits.items() if tables.is_of_integers(low, node, threshold)}
    inside_limits = {other for node, threshold in limits.items() for other in inside(node, threshold)}
    return {**compound, **limits}, inner | inside_limits


def _lower_group(low: Lowering, node: ir.Node, group: Gelu | NearZero | Threshold) -> None:
    """Lowers nodes that spell one function out; this is their last one."""
    low.node = node
    if isinstance(group, Gelu):
        activation.gelu_of(low, group.x, node.outputs[0], tanh=group.tanh)
    elif isinstance(group, Threshold):
        tables.threshold_of_integers(low, group, node.outputs[0])
    else:
        functions.near_zero_of(low, group.x, node.outputs[0], is_logarithm=group.is_logarithm)


def border_form(low: Lowering, value: ir.Value, layout: str) -> Form:
    """The form of a graph input or output: the file's layout for rank 4, torch's order for every other rank."""
    rank = len(low.shape(value))
    return last(rank) if layout == NHWC and rank == 4 else first(rank)


def spec(low: Lowering, value: ir.Value, tensor: Tensor, layout: str) -> TensorSpec:
    """How the file declares a graph input or output, whose tensor this is."""
    shape, form = low.shape(value), border_form(low, value, layout)
    kind = NHWC if form != first(len(shape)) else "nchw"
    declared = TensorSpec(value.name or "", permuted(shape, form), tensor.dtype.name, kind)
    quantization = tensor.quantization
    if quantization is None or tensor.name in low.graph.border_types:  # else the graph's own numbers are real ones
        return declared
    return replace(declared, scale=quantization.scale[0], zero_point=quantization.zero_point[0])


def _lower(low: Lowering, node: ir.Node) -> None:
    low.node = node
    if node.op_type == "Constant" or _is_constant(low, node):
        _evaluate(low, node)
    elif node.op_type == REQUANTIZE:
        # Between two scales; where both sides turn out to be floats or alike, the integers' stage takes it out.
        activation.unary("QUANTIZE")(low, node)
    elif low.integer and node.op_type in LOOKED_UP and tables.is_known(low, node):
        tables.look_up(low, node)
    else:
        LOWERINGS[node.op_type](low, node)
        _refuse_unwritten(low, node)


def _refuse_unwritten(low: Lowering, node: ir.Node) -> None:
    """A second output (indices of maxima, statistics) that somebody takes and that its operator did not write."""
    for index, value in enumerate(node.outputs):
        taken = value.uses() or value.is_graph_output()
        if taken and not (value in low.forms or value in low.arrays or value in low.feature_orders):
            hint = f'leave {value.name!r} out of the outputs, or export formats = ["onnx"] only'
            low.refuse(f"its output {_output_name(node, index)!r} has no form there", hint=hint)


def _output_name(node: ir.Node, index: int) -> str:
    """The name of an output in the operator's specification."""
    from onnx.defs import get_schema

    return str(get_schema(node.op_type).outputs[index].name)


def _stand_in(low: Lowering, node: ir.Node) -> bool:
    """Binds a refused node's results to tensors that nothing computes, so that the walk finds all other refusals.

    False where a result has no static shape or type to bind: what reads it could only be refused for that.
    """
    for value in node.outputs:
        static = value.shape is not None and value.shape.evaluate(low.sizes).is_static()
        if not static or value.dtype is None or not knows_dtype(value.dtype.numpy()):
            return False
        shape = low.shape(value)
        low.forms[value] = {first(len(shape)): Tensor(value.name or "value", shape, low.dtype(value))}
    return True


def _refuse_all(refused: Sequence[EmitError]) -> None:
    """One error for all that was refused, the first of each operator and reason in full."""
    if not refused:
        return
    reasons = list(dict.fromkeys(error.what for error in refused))
    if len(reasons) == 1:
        raise refused[0]
    more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    raise EmitError("; ".join(reasons[:_NAMED]) + more, where=refused[0].where, hint=refused[0].hint) from refused[0]


def _is_constant(low: Lowering, node: ir.Node) -> bool:
    if node.op_type == "Shape" and node.inputs[0] is not None:
        return node.inputs[0].shape is not None and node.inputs[0].shape.is_static()
    return bool(node.inputs) and all(value is None or value in low.arrays for value in node.inputs)


def _evaluate(low: Lowering, node: ir.Node) -> None:
    """Computes a node whose inputs are all constants: in float64, rounded once."""
    if node.op_type == "Shape" and node.inputs[0] not in low.arrays:
        shape = np.array(low.shape(node.inputs[0]), np.int64)  # type: ignore[arg-type]
        low.arrays[node.outputs[0]] = shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)]
        return
    if node.op_type == REQUANTIZE:
        (value,), (source,) = node.outputs, node.inputs
        parameters = low.activations[value.name or ""]
        integers = parameters.quantized(low.constant(source, "operand"))
        low.arrays[value] = parameters.dequantized(integers).astype(np.float32)
        return
    opset = node.graph.opset_imports.get("", 1) if isinstance(node.graph, ir.Graph) else 1
    arrays = [None if value is None else low.arrays[value] for value in node.inputs]
    for value, array in zip(node.outputs, evaluate_node(node, arrays, opset=opset), strict=True):
        low.arrays[value] = array if value.dtype is None else array.astype(value.dtype.numpy())


def _finish_output(low: Lowering, value: ir.Value, form: Form) -> None:
    """Makes the value an output of the file under its own name, by a copy if the tensor has another role already."""
    tensor = low.tensor(value, form)
    name = value.name or "output"
    graph = low.graph
    if tensor in graph.inputs or tensor in graph.outputs or tensor.data is not None:
        shape = low.integers(tensor.shape)
        tensor = graph.add("RESHAPE", [tensor, shape], [tensor.shape], name, newShape=list(tensor.shape))[0]
    # Another form of the same value was named after it first.
    for other in low.forms.get(value, {}).values():
        if other is not tensor and other.name == name:
            other.name, other.owner = f"{name}/inner", ""
    tensor.name = tensor.owner = name
    graph.outputs.append(tensor)


def _is_lacking(node: ir.Node, matched: Collection[ir.Node]) -> bool:
    """Whether the emitter has nothing for an operator, and no pattern takes it."""
    if node.domain != "":
        return True
    return node not in matched and node.op_type not in LOWERINGS and node.op_type not in _ELSEWHERE


def _lack_of(nodes: Sequence[ir.Node]) -> EmitError:
    """One error for all operators that the emitter does not have, each with what made it."""
    unknown = {(node.op_type, maker_of(node)): node for node in nodes}
    if len(unknown) == 1:
        return refusal(nodes[0], "the emitter has no such operator")
    listed = [f"{operator} ({maker})" for operator, maker in list(unknown)[:_NAMED]]
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    hint = f"{ONNX_ONLY}, or {another_way(list(unknown.values()))}"
    return EmitError(f"the TFLite emitter has no {', '.join(listed)}{more}", where="tflite", hint=hint)
