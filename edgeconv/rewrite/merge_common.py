"""Common subexpressions: equal constants and equal nodes become one."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from edgeconv.core import Array
from edgeconv.graph.constants import unrounded
from edgeconv.graph.edit import MODULE, tensor_of

_GLANCE = 64  # elements


class MergeCommonPass(ir.passes.InPlacePass):
    """Merges equal constants, and nodes that compute the same from the same inputs.

    1. Requires: constants of equal dtype, shape and (before rounding) numbers; nodes of equal operator, attributes
       and inputs that are deterministic and have no subgraph.
    2. Ensures: the first one is left, under its name. Graph outputs keep their names; a value that takes one keeps its
       former name in its metadata.
    3. Exact: equal inputs give equal results.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Constants first, since they make nodes equal."""
        merged = _merge_constants(model.graph)
        # onnx_ir's pass gives a value that becomes a graph output the output's name, and forgets its own.
        names = {id(value): value.name for node in model.graph for value in node.outputs}
        result = common.CommonSubexpressionEliminationPass()(model)
        for value in model.graph.outputs:  # (2)
            former = names.get(id(value))
            if former and former != value.name:
                value.metadata_props.setdefault(MODULE, former)
        return ir.passes.PassResult(model, merged or result.modified)


# onnx_ir's DeduplicateInitializersPass compares rounded tensors: it would merge two weights that only round to the same
# float32, before a later rewrite multiplies one of them.
def _merge_constants(graph: ir.Graph) -> bool:
    # Weights of one shape are hardly ever equal: a glance at the stored numbers tells, before all are compared.
    alike: dict[tuple[object, ...], list[ir.Value]] = {}
    merged = False
    for name, value in tuple(graph.initializers.items()):
        tensor = tensor_of(value)
        if tensor is None or tensor.dtype == ir.DataType.STRING or value.is_graph_input() or value.is_graph_output():
            continue
        stored = tensor.numpy().reshape(-1)
        key = tensor.dtype, tensor.shape.numpy(), stored[:: max(1, stored.size // _GLANCE)].tobytes()
        others = alike.setdefault(key, [])
        # Compared before rounding: equal as stored, two constants may have been rounded from different numbers.
        original = next((other for other in others if _is_same(unrounded(other), unrounded(value))), None)
        if original is None:
            others.append(value)
            continue
        ir.convenience.replace_all_uses_with(value, original)
        del graph.initializers[name]
        merged = True
    return merged


def _is_same(array: Array | None, other: Array | None) -> bool:
    """Whether two constants have the same bits: 0 and -0 differ, and a NaN is the same NaN."""
    return array is not None and other is not None and array.tobytes() == other.tobytes()
