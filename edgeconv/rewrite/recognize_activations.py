"""Recognizes activations that are written out with several operators."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeconv.graph.affine_maps import affine
from edgeconv.graph.constants import add_constant, exact
from edgeconv.graph.edit import graph_of, hand_on, only_reader, producer_of, remove_unread
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import take_over
from edgeconv.graph.traits import Trait, having

_HARD_SWISH_OPSET = 14  # the first with HardSwish
_CLOSE = 2.0**-24  # relative: the float32 nearest to 1/6, and not its neighbors


class RecognizeActivationsPass(ir.passes.InPlacePass):
    """Replaces ``x * relu6(x + 3) / 6`` by HardSwish, and a clamp of a clamp by one clamp.

    1. Requires: for HardSwish, the constants 3, 0, 6 and 1/6 (up to its rounding), a product in any order, or
       ``x * HardSigmoid(x)`` with these constants; for clamps (Relu, Clip), constant bounds. Nobody else reads what
       lies between.
    2. Ensures: the operator's result has the name of the last node's.
    3. Exact: HardSwish is defined so. Clamping to [a, b] and then to [c, d] is clamping to [a, b], with both of its
       bounds clamped to [c, d].

    SiLU and GELU stay written out: ONNX has no operators for them before opset 24 and 20, and the runtimes and the
    TFLite emitter recognize their forms. ``relu6(x + 3) / 6`` alone stays too: as HardSigmoid its slope would be a
    rounded 1/6; written out, a convolution before it absorbs the + 3, and in the runtimes the clamp as well.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Recognizes them in the graph's order."""
        modified = False
        for node in tuple(model.graph):
            if node.domain != "" or node.graph is None:
                continue
            if node.op_type in ("Clip", "HardSigmoid"):
                modified = _hard_swish(node) or modified
            if node.op_type in having(Trait.CLAMPS) and node.graph is not None:
                modified = _one_clamp(node) or modified
        return ir.passes.PassResult(model, modified)


def _hard_swish(node: ir.Node) -> bool:
    """Replaces ``x * gate / 6`` if the node is such a gate; returns whether it did."""
    gate = _gate(node)
    if gate is None or graph_of(node).opset_imports.get("", 0) < _HARD_SWISH_OPSET:
        return False
    # Follows the products behind the gate until both x and, in all, 1/6 have been multiplied, in any order.
    x, factor, times_x = gate[0], gate[1], False
    while not (times_x and abs(6 * factor - 1) < _CLOSE):
        after = only_reader(node.outputs[0])
        if after is None or after.op_type not in ("Mul", "Div") or after.domain != "":
            return False
        scale = affine(after)
        if scale is not None and scale.axis is None:
            factor *= float(scale.scale[0])
        elif after.op_type == "Mul" and not times_x and x in after.inputs:
            times_x = True
        else:
            return False
        node = after
    _replace(node, "HardSwish", [x])
    return True


def _gate(node: ir.Node) -> tuple[ir.Value, float] | None:
    """x, and the factor that ``relu6(x + 3)`` has so far; None if the node is no such gate."""
    source = node.inputs[0]
    if node.op_type == "HardSigmoid":
        slope, offset = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
        fits = abs(6 * slope - 1) < _CLOSE and offset == 0.5
        return (source, 1 / 6) if fits and source is not None else None
    before = producer_of(source)
    shifted = affine(before) if before is not None else None
    if _bounds(node) != (0.0, 6.0) or shifted is None or shifted.axis is not None:
        return None
    return (shifted.source, 1.0) if (shifted.scale[0], shifted.shift[0]) == (1.0, 3.0) else None


def _one_clamp(node: ir.Node) -> bool:
    """Merges a clamp with the one before it; returns whether there was one."""
    source = node.inputs[0]
    before = producer_of(source)
    if source is None or before is None or only_reader(source) is not node:
        return False
    if before.op_type not in having(Trait.CLAMPS):
        return False
    # Exact because the inner bounds themselves pass through the outer clamp (3).
    inner, outer = _bounds(before), _bounds(node)
    if inner is None or outer is None or node.outputs[0].dtype is None:
        return False
    lowest, highest = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    if (lowest, highest) == (0.0, math.inf):
        _replace(node, "Relu", [before.inputs[0]])
    else:
        _replace(node, "Clip", [before.inputs[0], _bound(node, "min", lowest), _bound(node, "max", highest)])
    return True


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """The bounds of a Relu or Clip; None if one is not constant, or they are in the wrong order."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    stated = (*node.inputs[1:], None, None)[:2]
    bounds = [default if value is None else exact(value) for value, default in zip(stated, _UNBOUNDED, strict=True)]
    lowest, highest = (math.nan if bound is None else float(np.reshape(bound, ())) for bound in bounds)
    return (lowest, highest) if lowest <= highest else None


def _bound(node: ir.Node, what: str, number: float) -> ir.Value | None:
    """A bound of a new Clip; None if it is infinite."""
    if math.isinf(number):
        return None
    graph, dtype = graph_of(node), node.outputs[0].dtype or ir.DataType.FLOAT
    return add_constant(graph, unique_name(graph, f"{node.outputs[0].name}.{what}"), np.array(number), dtype)


def _replace(node: ir.Node, op_type: str, inputs: list[ir.Value | None]) -> None:
    """Replaces a node, and the nodes that only it depends on, by an operator."""
    result, former = node.outputs[0], node.inputs
    replacement = ir.Value(name=None, type=result.type, shape=result.shape)
    new = ir.Node("", op_type, inputs, outputs=[replacement], name=result.name)
    hand_on(node, new)
    graph_of(node).insert_before(node, new)
    take_over(result, replacement)
    remove_unread(former)


_UNBOUNDED = (-math.inf, math.inf)
