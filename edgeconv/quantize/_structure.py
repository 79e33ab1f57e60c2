"""What there is to quantize in a graph: which values, which of them share parameters, which weights.

This depends on the graph and on the operators that are to stay float; not on data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import clip_bounds
from edgeconv.graph.edit import constant, input_of, only_reader, producer_of
from edgeconv.graph.gelus import spelled_out
from edgeconv.graph.integer_rules import CONSTANT_OPERANDS, FIXED, FUSING, LAYERS, SHARED, WITH_INTEGERS
from edgeconv.graph.thresholds import is_compared
from edgeconv.quantize._divisors import WHY, divisors
from edgeconv.quantize._graph import is_activation, name_of, named, nodes_around

_COMPARED = "it is only compared, and rounding would move numbers next to the limit across it"


@dataclass(frozen=True)
class Layer:
    """An operator with a weight.

    Attributes:
        node: Conv, ConvTranspose, Gemm or MatMul.
        weight: its initializer.
        axis: of the weight, along which the output channels lie (of one group, in a ConvTranspose).
        bias: its initializer of one number per output channel; None where it has none.
        output: the value after the fused activation, whose quantization the layer writes.
        added: the Add behind a MatMul that makes up for its bias, and which operand of that is the vector.
    """

    node: ir.Node
    weight: ir.Value
    axis: int
    bias: ir.Value | None
    output: ir.Value
    added: tuple[ir.Node, int] | None = None

    @property
    def vector(self) -> ir.Value | None:
        """What is added to each output channel: the bias, or the operand of the Add behind it."""
        return self.bias if self.added is None else self.added[0].inputs[self.added[1]]

    @property
    def name(self) -> str:
        """The name in plans: the node's output."""
        return name_of(self.node)

    @property
    def groups(self) -> int:
        """The groups of a convolution; 1 for products."""
        return self.node.attributes.get_int("group", 1)

    @property
    def input(self) -> ir.Value:
        """The activation."""
        value = self.node.inputs[0]
        assert value is not None  # layer_of looked
        return value


@dataclass(frozen=True)
class Structure:
    """What there is to quantize.

    Attributes:
        activations: the values with parameters of their own or of their group, in graph order.
        groups: for each of them, the name of the first value of its group.
        fixed: operator that prescribes the parameters of a group, by the group's name.
        layers: quantized operators with weights, by name.
        operands: constant operands of quantized operators, by name.
        kept_float: name of each operator that stays float, and why.
        spelled: the nodes that spell out an operator, and the last of them, which stands for it.
    """

    activations: tuple[ir.Value, ...]
    groups: Mapping[str, str]
    fixed: Mapping[str, str]
    layers: Mapping[str, Layer]
    operands: Mapping[str, ir.Value]
    kept_float: Mapping[str, str]
    spelled: Mapping[ir.Node, ir.Node]

    def operator(self, node: ir.Node) -> str:
        """A node's operator, or the one that it computes together with the nodes before it."""
        return "Gelu" if self.spelled.get(node) is node else node.op_type

    def members(self) -> dict[str, list[str]]:
        """The names of the values of each group."""
        by_group: dict[str, list[str]] = {}
        for name, group in self.groups.items():
            by_group.setdefault(group, []).append(name)
        return by_group


def structure_of(model: ir.Model, kept_float: Mapping[str, str] | None = None) -> Structure:
    """Reads the graph.

    Args:
        model: float32, NCHW.
        kept_float: operators (by the name of their first output) that stay float, and why, beside those that no
            integer kernel computes.
    """
    spelled, by_choice, dividing = spelled_out(model.graph), kept_float or {}, divisors(model.graph)
    # 1. What stays float: by choice, without an integer kernel, as a divisor, or as it is compared only. Of several
    # nodes that spell out one operator (a GELU) each alone may have no kernel, while the operator has; one in float
    # keeps all in float.
    reasons = {}
    for node in model.graph:
        reason = by_choice.get(name_of(node))
        if reason is None and node not in spelled:
            reason = unquantizable(node)
        if reason is None and node in dividing:
            reason = WHY
        if reason is None and node.op_type == "Abs" and is_compared(node):
            reason = _COMPARED
        if reason is not None and any(is_activation(value) for value in (*node.inputs, *node.outputs)):
            reasons[name_of(spelled.get(node, node))] = reason
    added = {node: behind for node in model.graph if (behind := bias_add(node)) is not None and node not in spelled}
    for node, (add, _) in added.items():  # no integers lie between the two: what one computes in float is not rounded
        if name_of(node) in reasons:
            reasons.setdefault(name_of(add), reasons[name_of(node)])
    # 2. All else is quantized: the layers by their weights, others by their operands.
    quantized = [n for n in model.graph if spelled.get(n, n) is n and name_of(n) not in reasons]
    added = dict(_biases(added, set(quantized)))
    fused = dict(_fusions(quantized)) | {node.outputs[0]: add.outputs[0] for node, (add, _) in added.items()}
    layers: dict[str, Layer] = {}
    operands: dict[str, ir.Value] = {}
    biases = {add for add, _ in added.values()}
    for node in quantized:
        layer = layer_of(node, fused)
        if layer is not None:
            layers[layer.name] = replace(layer, added=added.get(node))
        elif node.op_type in CONSTANT_OPERANDS and node not in spelled and node not in biases:
            operands |= {named(value): value for value in node.inputs if value is not None and _is_operand(node, value)}
    # 3. Which values get parameters, and which of these have to share them.
    activations = tuple(_activations(model.graph, set(quantized), spelled, fused))
    groups, fixed = _groups(quantized, activations)
    return Structure(activations, groups, fixed, layers, operands, reasons, spelled)


def layer_of(node: ir.Node, fused: Mapping[ir.Value, ir.Value] | None = None) -> Layer | None:
    """The node as a layer; None where it has no constant weight, or computes more than its weight and bias say."""
    weight = input_of(node, 1)
    array = constant(weight) if node.op_type in LAYERS else None
    if array is None or weight is None or not is_activation(input_of(node, 0)) or _unfit_layer(node) is not None:
        return None
    axis = weight_axis(node, array.ndim)
    assert axis is not None  # of LAYERS
    output = node.outputs[0]
    while fused is not None and output in fused:
        output = fused[output]
    return Layer(node, weight, axis, input_of(node, 2), output)


def bias_add(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add of a constant vector that alone reads what a MatMul by a constant makes, and which operand it is.

    Integer kernels add it to the sums, before anything is rounded, as the bias of a Gemm.
    """
    weight, result = constant(input_of(node, 1)), node.outputs[0]
    add = only_reader(result)
    if node.op_type != "MatMul" or weight is None or weight.ndim != 2 or add is None or add.op_type != "Add":
        return None
    place = 1 if add.inputs[0] is result else 0
    vector, rank = constant(input_of(add, place)), len(result.shape or ())
    if vector is None or vector.dtype != np.float32 or not 0 < vector.ndim <= rank:
        return None
    return (add, place) if vector.size == weight.shape[1] == vector.shape[-1] else None


def weight_axis(node: ir.Node, rank: int) -> int | None:
    """The axis of a layer's weight along which its output channels lie; None for operators that are no layers."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    # Weights are (out, in/groups, …) in Conv and (in, out/groups, …) in ConvTranspose (onnx/docs/Operators.md).
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(node.op_type)


def unquantizable(node: ir.Node) -> str | None:
    """Why no integer kernel computes the node; None where one does."""
    if node.domain != "" or node.op_type not in WITH_INTEGERS:
        return f"{node.op_type} has no integer form"
    if node.op_type in LAYERS:
        return _unfit_layer(node)
    if node.op_type == "Clip" and clip_bounds(node) is None:
        return "the bounds of Clip are no constants"
    # TFLite has no int8 DIV; a constant divisor becomes a MUL by its reciprocal.
    if node.op_type == "Div" and ((divisor := constant(input_of(node, 1))) is None or not divisor.all()):
        return "Div by zero or by what is computed has no integer form"
    return None


def _unfit_layer(node: ir.Node) -> str | None:
    weight = constant(input_of(node, 1))
    if constant(input_of(node, 0)) is not None:
        return f"the left side of {node.op_type} is a constant"
    if weight is None:
        # Two computed matrices are BATCH_MATMUL of integers; convolutions of computed weights have no kernel.
        return None if node.op_type == "MatMul" else f"the weight of {node.op_type} is no constant"
    if node.op_type == "MatMul" and weight.ndim != 2:
        return "MatMul by a constant that is no matrix"
    if node.op_type == "Gemm":
        scaled = any(node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta"))
        bias = constant(input_of(node, 2))
        columns = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
        # FULLY_CONNECTED adds one number per output channel.
        per_row = bias is not None and (bias.size != columns or bias.shape[-1:] not in ((), (columns,)))
        if scaled or per_row or node.attributes.get_int("transA", 0):
            return "Gemm with alpha, beta, transA or a bias that is no vector"
    if input_of(node, 2) is not None and constant(input_of(node, 2)) is None:
        return f"the bias of {node.op_type} is no constant"
    return None


def _fusions(quantized: Collection[ir.Node]) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Values that are clamped right after they are made, and what they become; they are not quantized."""
    producers = set(quantized)
    for node in quantized:
        bounds = clip_bounds(node)
        before = node.inputs[0] if node.inputs else None
        producer = producer_of(before)
        if bounds is None or before is None or producer is None or only_reader(before) is not node:
            continue
        # A range always holds zero, so one that is clamped to [1, 2] would not be the clamp's range.
        if producer.op_type in FUSING and producer in producers and bounds[0] <= 0 <= bounds[1]:
            yield before, node.outputs[0]


def _biases(
    added: Mapping[ir.Node, tuple[ir.Node, int]], quantized: Collection[ir.Node]
) -> Iterator[tuple[ir.Node, tuple[ir.Node, int]]]:
    """The Adds that are biases of quantized layers, of vectors that nothing else reads, which would want 8 bits."""
    adds = {add for node, (add, _) in added.items() if node in quantized and add in quantized}
    for node, (add, place) in added.items():
        vector = add.inputs[place]
        if add in adds and vector is not None and all(use.node in adds for use in vector.uses()):
            yield node, (add, place)


def _activations(
    graph: ir.Graph, quantized: Collection[ir.Node], spelled: Mapping[ir.Node, ir.Node], fused: Collection[ir.Value]
) -> Iterator[ir.Value]:
    """Graph inputs and values of nodes that a quantized operator makes or reads."""
    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        producer = value.producer()
        is_inside = producer is not None and spelled.get(producer, producer) is not producer
        if not is_activation(value) or value in fused or is_inside:
            continue
        if any(spelled.get(node, node) in quantized for node in nodes_around(value)):
            yield value


def _is_operand(node: ir.Node, value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.dtype == np.float32 and (node.op_type != "PRelu" or value is node.inputs[1])


def _groups(quantized: Collection[ir.Node], activations: Collection[ir.Value]) -> tuple[dict[str, str], dict[str, str]]:
    """The group of every activation, and the groups whose parameters an operator prescribes.

    Where several groups meet in an operator of shared parameters and one of them is prescribed, that one stays apart:
    what it holds is requantized on its way into the operator.
    """
    groups = {named(value): named(value) for value in activations}
    fixed: dict[str, str] = {}
    for node in quantized:
        result = node.outputs[0].name
        if node.op_type in FIXED and result in groups:
            fixed[groups[result]] = node.op_type
        if node.op_type not in SHARED:
            continue
        # A constant among the operands takes the group's parameters as well (`_quantize_operands`).
        read = {groups[value.name] for value in node.inputs if value is not None and value.name in groups}
        alike = len(read) == 1 or len({FIXED.get(fixed.get(group, "")) for group in read}) == 1
        joined = {group for group in read if alike or group not in fixed}
        joined |= {groups[value.name] for value in node.outputs if value.name in groups}
        # Names of groups are those of their first values in graph order: merging does not depend on the order of nodes.
        first = min(joined, key=list(groups).index, default="")
        groups = {name: first if group in joined else group for name, group in groups.items()}
        if (prescribed := next((fixed[group] for group in joined if group in fixed), None)) is not None:
            fixed[first] = prescribed
    return groups, {group: operator for group, operator in fixed.items() if group in groups.values()}
