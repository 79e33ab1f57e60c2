"""Copies where the memory planner of TFLite would let an operator overwrite what is yet to be read.

``ArenaPlanner::IdentifyInPlaceTensors`` (tflite/arena_planner.cc, TensorFlow Lite 2.14 to LiteRT 2.3) lets the result
of some operators share the memory of an operand. For one that changes the numbers it counts the readers of the operand
and of the first tensor in that memory, but not those of the tensors between: after MUL -> p in the memory of its
operand, and RESHAPE of p, which always shares, a SUB of the RESHAPE's result overwrites p, though others read p later.
XNNPACK plans its own memory and is right; every graph or part that builtin kernels compute is wrong.

So where p may lie in another tensor's memory, is read by others too, and what a RESHAPE makes of it goes to an operator
that computes in place, that operator gets a copy.
"""

from __future__ import annotations

import math

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor

_MOVES = ("RESHAPE",)  # EXPAND_DIMS, SQUEEZE and BITCAST are never written
_IN_PLACE = ("ADD", "SUB", "MUL", "DIV", "SOFTMAX")
_ALWAYS_APART = 4  # bytes: what is as small is never computed in place
_MOST_AXES = 5  # of SLICE


def copy_shared(graph: Graph) -> None:
    """Puts a SLICE of everything, which no planner lets share memory, behind each RESHAPE that needs a copy."""
    producers, consumers = graph.producers(), graph.consumers()

    def references(tensor: Tensor) -> int:
        return len(consumers.get(tensor, ())) + (tensor in graph.outputs)

    def is_overwritten(tensor: Tensor) -> bool:
        """Whether the only reader, past operators that only give another shape, may write over the tensor."""
        if references(tensor) != 1 or tensor in graph.outputs:
            return False
        (reader,) = consumers[tensor]
        if reader.code in _MOVES:
            return is_overwritten(reader.outputs[0])
        return reader.code in _IN_PLACE and math.prod(tensor.shape) * tensor.dtype.itemsize > _ALWAYS_APART

    operators: list[Operator] = []
    for operator in graph.operators:
        operators.append(operator)
        source = operator.inputs[0] if operator.inputs else None
        if operator.code not in _MOVES or source is None or references(source) < 2:
            continue
        before = producers.get(source)
        may_share = before is not None and before.code in (*_IN_PLACE, *_MOVES)
        if may_share and is_overwritten(operator.outputs[0]):
            operators += _copied(graph, operator)
    graph.operators = operators


def _copied(graph: Graph, reshape: Operator) -> list[Operator]:
    """Lets the RESHAPE write another tensor, of which the one that it wrote becomes a copy."""
    (result,) = reshape.outputs
    shape = result.shape if len(result.shape) <= _MOST_AXES else (math.prod(result.shape),)
    inner, copy = (
        Tensor(f"{result.name}/{what}", shape, result.dtype, quantization=result.quantization)
        for what in ("shared", "copy")
    )
    _set_shape(graph, reshape, [reshape.inputs[0]], inner)
    zeros, sizes = (graph.constant(np.array(numbers, np.int32), "integers") for numbers in ([0] * len(shape), shape))
    if shape == result.shape:
        return [Operator("SLICE", [inner, zeros, sizes], [result])]
    shaped = Operator("RESHAPE", [], [])
    _set_shape(graph, shaped, [copy], result)
    return [Operator("SLICE", [inner, zeros, sizes], [copy]), shaped]


def _set_shape(graph: Graph, reshape: Operator, source: list[Tensor], result: Tensor) -> None:
    shape = np.array(result.shape, np.int32)
    reshape.inputs, reshape.outputs = [*source, graph.constant(shape, "integers")], [result]
    reshape.options = {"newShape": shape.tolist()}
