"""Operators that move integers and change none."""

from __future__ import annotations

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor


def reshape(graph: Graph, source: Tensor, result: Tensor) -> Operator:
    """The same elements in the shape of the result."""
    shape = graph.constant(np.array(result.shape, np.int32), f"{result.name}/shape")
    return Operator("RESHAPE", [source, shape], [result], {"newShape": list(result.shape)})


def transpose(graph: Graph, source: Tensor, result: Tensor, order: tuple[int, ...]) -> Operator:
    """The axes of the source in another order, that of the result."""
    axes = graph.constant(np.array(order, np.int32), f"{result.name}/order")
    return Operator("TRANSPOSE", [source, axes], [result])
