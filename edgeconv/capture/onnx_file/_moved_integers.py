"""Integers that are moved, picked, clipped or an exponent, and dequantized later: dequantized first, as QDQ has it.

Quantizers that write integer operators (QOperator, and exports of other frameworks) reshape, pad, pool or join the
integers themselves; brevitas clips integers of 8 bits to the range of fewer. Later stages know pairs around operators
of real numbers. One scale for all is a factor above zero and moves nothing: ``scale * (op(q) - zero)`` is
``op(scale * (q - zero))``, number for number. What of them is an output of the graph is quantized by that scale again,
behind what moved it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.affine import dequantized
from edgeconv.graph.constants import add_constant
from edgeconv.graph.edit import constant, input_of, producer_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.origin import origin_of, set_origin
from edgeconv.graph.steps import Steps, sizes_of
from edgeconv.graph.traits import Trait, having_any

_MOVING = having_any([Trait.MOVES, Trait.LARGEST, Trait.SMALLEST])
_OF_ALL = frozenset({"Concat", "Max", "Min"})
"""Whose operands are all moved; of the others the first is, beside Pad's value."""
_VALUE = 2  # which operand of Pad it is
_BOUNDS = 1, 2  # which operands of Clip they are


def settle_moved_integers(graph: ir.Graph) -> None:
    """Puts each DequantizeLinear of one constant scale in front of what moves its integers; shapes must be known."""
    _quantize_moved_outputs(graph)
    # Backwards: a DequantizeLinear that has passed one operator may pass the one before it.
    for node in reversed(list(graph)):
        if not _moves(node):
            continue
        for result in node.outputs:
            for reader in [use.node for use in result.uses()]:
                if _is_plain(reader, result):
                    _exchange(graph, node, result, reader)
        if not any(result.uses() or result.is_graph_output() for result in node.outputs):
            graph.remove(node, safe=True)


def _quantize_moved_outputs(graph: ir.Graph) -> None:
    """Dequantizes and quantizes again each output that is moved integers, by what made these."""
    for index, value in enumerate(graph.outputs):
        node = producer_of(value)
        quantizer = _quantizer_of(value)
        if node is None or quantizer is None or node is quantizer or value.is_graph_input():
            continue
        parameters = quantizer.inputs[1:]
        real = ir.node("DequantizeLinear", [value, *parameters])
        again = ir.node("QuantizeLinear", [real.outputs[0], *parameters])
        floats = None if quantizer.inputs[0] is None else quantizer.inputs[0].type
        for result, kind in ((real.outputs[0], floats), (again.outputs[0], value.type)):
            result.shape, result.type = value.shape, kind
        again.outputs[0].name, value.name = value.name, unique_name(graph, f"{value.name}.moved")
        real.outputs[0].name = unique_name(graph, f"{again.outputs[0].name}.real")
        for added in (real, again):
            set_origin(added, origin_of(node))
            added.metadata_props.update(node.metadata_props)
        graph.insert_after(node, [real, again])
        graph.outputs[index] = again.outputs[0]


def _quantizer_of(value: ir.Value | None) -> ir.Node | None:
    """The QuantizeLinear of one scale whose integers these are, moved or not; None where there is not one for all."""
    node = producer_of(value)
    if node is None or node.op_type == "QuantizeLinear":
        scale = None if node is None else constant(node.inputs[1])
        return node if scale is not None and scale.size == 1 else None
    if not _moves(node):
        return None
    operands = node.inputs if node.op_type in _OF_ALL else node.inputs[:1]
    first, *others = (_quantizer_of(operand) for operand in operands)
    if first is None or any(other is None or not _are_alike(first, other) for other in others):
        return None
    return first


def _are_alike(first: ir.Node, second: ir.Node) -> bool:
    """Whether two quantize by the same numbers, to the same type."""
    numbers = [[constant(input_of(node, at)) for at in (1, 2)] for node in (first, second)]
    same = all(
        (a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in zip(*numbers, strict=True)
    )
    return same and first.outputs[0].dtype == second.outputs[0].dtype


def _moves(node: ir.Node) -> bool:
    """Whether it moves or picks integers, and nothing else."""
    data = input_of(node, 0)
    if node.domain != "" or data is None or data.dtype is None or not data.dtype.is_integer():
        return False
    attributes = node.attributes
    if node.op_type == "Resize":
        crops = attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
        return attributes.get_string("mode", "nearest") == "nearest" and not crops
    if node.op_type == "Pad":
        value = input_of(node, _VALUE)
        return value is None or constant(value) is not None
    if node.op_type == "Clip":
        bounds = [input_of(node, at) for at in _BOUNDS]
        return all(bound is None or constant(bound) is not None for bound in bounds)
    return node.op_type in _MOVING


def _is_plain(node: ir.Node, integers: ir.Value) -> bool:
    """Whether it dequantizes these integers by one number."""
    if node.op_type != "DequantizeLinear" or node.domain != "" or node.inputs[0] is not integers:
        return False
    zero = input_of(node, 2)
    scale, point = constant(node.inputs[1]), constant(zero)
    return scale is not None and scale.size == 1 and (zero is None or (point is not None and point.size == 1))


def _exchange(graph: ir.Graph, mover: ir.Node, moved: ir.Value, reader: ir.Node) -> None:
    steps, parameters = Steps(graph, reader), list(reader.inputs[1:])
    real = reader.outputs[0].type

    def floats(value: ir.Value | None) -> ir.Value:
        kind = real.dtype if isinstance(real, ir.TensorType) else None
        return steps.add("real", "DequantizeLinear", [value, *parameters], sizes_of(value), dtype=kind)

    operands = list(mover.inputs)
    for at in range(len(operands)) if mover.op_type in _OF_ALL else (0,):
        operands[at] = floats(operands[at])
    if mover.op_type == "Pad" and mover.attributes.get_string("mode", "constant") == "constant":
        operands += [None] * (_VALUE + 1 - len(operands))
        operands[_VALUE] = steps.constant(_real_value(constant(operands[_VALUE]), reader), "value")
    if mover.op_type == "Clip":
        for at in _BOUNDS:
            if input_of(mover, at) is not None:
                operands[at] = steps.constant(_real_value(constant(operands[at]), reader), "bound")
    copied = ir.Node("", mover.op_type, operands, list(mover.attributes.values()), num_outputs=len(mover.outputs))
    for old, new in zip(mover.outputs, copied.outputs, strict=True):
        steps.name(new, "moved")
        new.shape, new.type = old.shape, real if old.dtype == moved.dtype else old.type
    steps.insert(copied)
    steps.replace({reader.outputs[0]: copied.outputs[mover.outputs.index(moved)]})


def _real_value(integer: Array | None, reader: ir.Node) -> Array:
    """What a bound or an integer that is padded with stands for; one left out is 0, which is not the zero point."""
    nothing = np.zeros((), np.int64)
    numbers = [constant(input_of(reader, at)) for at in (1, 2)]
    scale, zero = (nothing if number is None else number.reshape(()) for number in numbers)
    return dequantized(nothing if integer is None else integer.reshape(()), scale, zero).astype(np.float32)


_EXPONENT = 1  # which operand of Pow it is


def settle_exponents(graph: ir.Graph) -> None:
    """Puts a float32 constant in place of each exponent that DequantizeLinear makes of a constant by one scale.

    A power is no continuous function of its exponent where the base is negative: it is a number for 3, and none for
    3.00000004, which 255 times the float32 that is nearest to 3 / 255 is in exact arithmetic. DequantizeLinear's result
    is a float32 by the specification, and that is 3.
    """
    for node in list(graph):
        exponent = input_of(node, _EXPONENT) if node.op_type == "Pow" else None
        maker = producer_of(exponent)
        if maker is None or maker.op_type != "DequantizeLinear":
            continue
        integers, scale = constant(maker.inputs[0]), constant(maker.inputs[1])
        zero = input_of(maker, 2)
        point = np.zeros((), np.int64) if zero is None else constant(zero)
        if integers is None or scale is None or point is None or scale.dtype != np.float32 or scale.size != 1:
            continue
        real = dequantized(integers, scale.reshape(()), point.reshape(()), np.float32)
        name = unique_name(graph, f"{maker.outputs[0].name}.real")
        node.replace_input_with(_EXPONENT, add_constant(graph, name, real, ir.DataType.FLOAT))
        if not maker.outputs[0].uses() and not maker.outputs[0].is_graph_output():
            graph.remove(maker, safe=True)
