"""Evaluates one node, for constant folding.

Mostly the shapes that a file computes are folded, and weights that it moves. `EXACT` does that in numpy, with the same
bits as the engine: exporting a file need not load torch for it (1 s, 200 MB).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.reference._exact import Array, computed, in_type


def evaluate_node(node: ir.Node, arrays: Sequence[Array | None], *, opset: int) -> tuple[Array, ...]:
    """Evaluates one node of a graph, in float64.

    Args:
        node: without subgraphs; its attributes are read, its operands are `arrays`, which may have other shapes.
        arrays: one per input of the node; None where an optional one is left out.
        opset: version of the default ONNX domain that the node is written in.

    Returns:
        Its results in their order: floats in float64, integers in the element type that the graph states (if it states
        none, in the one that the reference computes in).

    Raises:
        RewriteError: as `evaluate`; also where the results are sequences.
    """
    results = computed(node, arrays, opset)
    if results is not None:
        return tuple(in_type(result, value.dtype) for value, result in zip(node.outputs, results, strict=True))
    from edgeconv.reference._evaluate import evaluate_alone  # torch

    return evaluate_alone(node, arrays, opset=opset)
