"""The same function in the forms that onnxruntime runs fastest: a table, applied to the graph before it is written.

A value that no longer equals its torch module's output loses its name. Measured with onnxruntime 1.32, one thread,
AVX-512, the files in turns. `FORMS` is the table; forms of more than a few lines have files of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeconv.emit.onnx._averages import averages_as_convolutions, means_as_pools
from edgeconv.emit.onnx._grouped import group_depthwise
from edgeconv.emit.onnx._integers import drop_clamps, float_layers, stated_windows, unsigned_activations
from edgeconv.emit.onnx._narrow import wide_integers
from edgeconv.emit.onnx._pad_channels import pad_channels
from edgeconv.emit.onnx._pad_integers import pad_integers
from edgeconv.emit.onnx._resizes import plain_resizes
from edgeconv.graph.affine_maps import affine
from edgeconv.graph.constants import holds, new_constant
from edgeconv.graph.edit import LOG1P, WRITTEN_OUT, graph_of, hand_on, only_reader
from edgeconv.graph.gelus import Gelu, gelus
from edgeconv.graph.names import unique_name
from edgeconv.graph.near_zero import NearZero, near_zero


def in_fast_forms(model: ir.Model) -> ir.Model:
    """A copy of the graph, in every form of the table; weights are shared with the original."""
    model = model.clone()
    for form in FORMS:
        form(model.graph)
    RemoveUnusedNodesPass()(model)
    return model


def fusable_gelu(graph: ir.Graph) -> None:
    """GELU as (x / 2) · (1 + gate): the order of the products that onnxruntime fuses into one operator.

    FastViT-T8 has twenty; its latency is 0.81 of that with x · (1/2 · (1 + gate)).
    """
    matches = gelus(graph)[0]
    halves = [(gelu, _respell(graph, last, gelu).producer()) for last, gelu in matches.items()]
    for last in matches:
        _remove_unread(last)
    for gelu, half in halves:
        if gelu.tanh and half is not None and _is_halved_elsewhere(gelu.x, half):
            # onnxruntime 1.32 (FastGeluFusion) drops x · 1/2 though others read it, and the file does not load. Equal
            # nodes become one before, so that this one has to be another, of the same numbers; it is not fused.
            half.op_type = "Div"
            half.replace_input_with(1, _scalar(graph, f"{half.outputs[0].name}.two", 2.0, gelu.x))
        if half is not None and (maker := gelu.x.producer()) is not None and maker.op_type == "DequantizeLinear":
            _read_once(gelu, half)


def _read_once(gelu: Gelu, half: ir.Node) -> None:
    """Lets the nodes of a GELU read a dequantized value through a Clip without limits, which changes nothing.

    onnxruntime 1.32 (EnsureUniqueDQForNodeUnit) gives each reader a DequantizeLinear of its own first, after which the
    nodes of the function no longer share their x: it ran as five operators between integers. With the Clip
    FastViT-T8's int8 file takes 0.76 of the time, ConvNeXt-Atto's 0.83.
    """
    x = gelu.x
    pending, inside = [gelu.gate.inputs[0]], {half: None}
    while pending:
        value = pending.pop()
        maker = None if value is None or value is x else value.producer()
        if maker is not None and maker not in inside:
            inside[maker] = None
            pending += maker.inputs
    first = next(node for node in graph_of(half) if node in inside and x in node.inputs)
    same = _insert(first, "Clip", [x], f"{x.name}.once")
    for node in inside:
        for index, value in enumerate(node.inputs):
            if value is x:
                node.replace_input_with(index, same)


def _is_halved_elsewhere(x: ir.Value, half: ir.Node) -> bool:
    """Whether another node computes x · 1/2."""
    maps = [affine(use.node) for use in x.uses() if use.node is not half]
    return any(item is not None and not item.shift.any() and bool((item.scale == 0.5).all()) for item in maps)


def _remove_unread(last: ir.Node) -> None:
    """Removes a node whose results nothing reads, and what only it read."""
    pending = [last]
    while pending:
        node = pending.pop()
        if node.graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        pending += [maker for value in node.inputs if value is not None and (maker := value.producer()) is not None]
        graph_of(node).remove(node, safe=True)


def _respell(graph: ir.Graph, last: ir.Node, gelu: Gelu) -> ir.Value:
    """Adds the nodes, and gives x / 2; the old ones are read by nothing then."""
    result, gate = last.outputs[0], gelu.gate
    ((add, _),) = gate.outputs[0].uses()
    name, x = unique_name(graph, f"{result.name}.gelu"), gelu.x
    # onnxruntime's GeluFusion looks for x / √2 itself, and not for a product with 1 / √2.
    if gate.op_type == "Erf":
        argument = _insert(gate, "Div", [x, _scalar(graph, f"{name}.root", math.sqrt(2), x)], f"{name}.argument")
        gate.replace_input_with(0, argument)
    half = _insert(add, "Mul", [x, _scalar(graph, f"{name}.half", 0.5, x)], f"{name}.scaled")
    product = _insert(last, "Mul", [half, add.outputs[0]], name)
    product.metadata_props.update(result.metadata_props)
    ir.convenience.replace_all_uses_with(result, product, replace_graph_outputs=True)
    unused = unique_name(graph, f"{name}.unused")
    product.name, result.name = result.name, unused
    return half


def near_zero_functions(graph: ir.Graph) -> None:
    """ln(1 + x) and exp(x) - 1 such that nothing of a small x is lost in float32.

    exp(x) - 1 is tanh(x / 2) · (exp(x) + 1). ln(1 + x) is the logarithm of u, which 1 + x is rounded to, plus what that
    lost of x over u (Kahan 1984): (x - (u - 1)) / u. Where nothing was lost, infinity and -1 among it, there is no
    quotient.
    """
    for last, function in near_zero(graph)[0].items():
        name = unique_name(graph, f"{last.outputs[0].name}.near_zero")
        (_write_log1p if function.is_logarithm else _write_expm1)(graph, last, function, name)


def _write_expm1(graph: ir.Graph, last: ir.Node, function: NearZero, name: str) -> None:
    x, exponential = function.x, function.inner.outputs[0]
    half = _insert(last, "Mul", [x, _scalar(graph, f"{name}.half", 0.5, x)], f"{name}.halved")
    tangent = _insert(last, "Tanh", [half], f"{name}.tangent")
    above = _insert(last, "Add", [exponential, _scalar(graph, f"{name}.one", 1.0, x)], f"{name}.above")
    _replace(last, "Mul", [tangent, above])


def _write_log1p(graph: ir.Graph, last: ir.Node, function: NearZero, name: str) -> None:
    x, rounded = function.x, function.inner.outputs[0]
    # Whatever is added from here on, and the sum 1 + x itself, is marked: in float16 all of it would be rounded to 1 +
    # x.
    before = set(graph)
    back = _insert(last, "Sub", [rounded, _scalar(graph, f"{name}.one", 1.0, x)], f"{name}.back")
    is_exact = _insert(last, "Equal", [back, x], f"{name}.is_exact", ir.DataType.BOOL)
    logarithm = _insert(last, "Log", [rounded], f"{name}.logarithm")
    rest = _insert(last, "Div", [_insert(last, "Sub", [x, back], f"{name}.lost"), rounded], f"{name}.rest")
    corrected = _insert(last, "Add", [logarithm, rest], f"{name}.corrected")
    _replace(last, "Where", [is_exact, logarithm, corrected])
    for node in {function.inner, *graph} - before:
        node.metadata_props[WRITTEN_OUT] = LOG1P


def _replace(last: ir.Node, op_type: str, inputs: Sequence[ir.Value]) -> None:
    """Puts an operator in the place of a node, for the same result."""
    result, graph = last.outputs[0], graph_of(last)
    value = ir.Value(name=result.name, type=result.type, shape=result.shape)
    value.metadata_props.update(result.metadata_props)
    new = ir.Node("", op_type, inputs, outputs=[value])
    hand_on(last, new)
    graph.insert_before(last, new)
    ir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
    graph.remove(last, safe=True)
    value.name = result.name


def apart_scales(graph: ir.Graph) -> None:
    """A number times what others read as a number times x is the product of both numbers times x.

    onnxruntime 1.32 (MatMulScaleFusion) takes both numbers into a product of matrices and drops the value between them,
    which others still read: the file does not load. Attention of one value with itself is written so.
    """
    for node in graph:
        outer = affine(node)
        inner = affine(maker) if outer is not None and (maker := outer.source.producer()) is not None else None
        if outer is None or inner is None or only_reader(inner.result) is not None:
            continue
        # Only numbers that are the same for all elements, and no sums.
        if any(factor_map.axis is not None or factor_map.shift.any() for factor_map in (outer, inner)):
            continue
        factor = float(outer.scale[0] * inner.scale[0])
        if not holds(ir.DataType.FLOAT, np.array(factor)) or node.op_type not in ("Mul", "Div"):
            continue
        node.op_type = "Mul"
        node.replace_input_with(0, inner.source)
        node.replace_input_with(1, _scalar(graph, f"{outer.result.name}.factor", factor, inner.source))


FORMS: tuple[Callable[[ir.Graph], object], ...] = (
    fusable_gelu,
    near_zero_functions,
    apart_scales,
    pad_channels,
    stated_windows,
    averages_as_convolutions,
    means_as_pools,
    pad_integers,
    group_depthwise,
    plain_resizes,
    wide_integers,
    unsigned_activations,
    drop_clamps,
    float_layers,
)


def _insert(
    before: ir.Node, op_type: str, inputs: Sequence[ir.Value], name: str, dtype: ir.DataType | None = None
) -> ir.Value:
    """The result of a new node before the given one, of its first input's shape and type, or of a type of its own."""
    graph = graph_of(before)
    result = ir.Value(name=unique_name(graph, name), type=inputs[0].type, shape=inputs[0].shape)
    result.type = result.type if dtype is None else ir.TensorType(dtype)
    graph.insert_before(before, ir.Node("", op_type, inputs, outputs=[result]))
    return result


def _scalar(graph: ir.Graph, name: str, number: float, like: ir.Value) -> ir.Value:
    """A constant of another value's element type."""
    dtype = like.dtype or ir.DataType.FLOAT
    return new_constant(graph, name, np.array(number, dtype.numpy()))
