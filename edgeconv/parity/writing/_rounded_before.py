"""Values that a `.tflite` file rounds before they are moved, and the graph behind a move that it makes in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeconv.graph.traits import Trait, having
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._real_file import range_of
from edgeconv.parity.writing._steps import Steps
from edgeconv.reference.tflite import TfliteGraph


def rounded_before_moves(file: TfliteGraph, names: Mapping[int, str], graph: Graph) -> frozenset[str]:
    """The graph's quantized values that no tensor holds, as the file rounds before what the graph moves in float.

    Several readers may move such integers, each by itself: none of them is the graph's value, but all saturate where
    it does.

    Args:
        file: with its quantization.
        names: the values of the graph that tensors hold, by tensor.
        graph: the one that was written.
    """
    values: set[str] = set()
    for operator in file.operators:
        if operator.name != "QUANTIZE" or operator.inputs[0] not in names or operator.outputs[0] in names:
            continue
        steps = range_of(file.tensors[operator.outputs[0]])
        if steps is not None:
            values.update(_rounded_behind(graph, names[operator.inputs[0]], steps))
    return frozenset(values)


def _rounded_behind(graph: Graph, name: str, steps: Steps) -> Iterator[str]:
    """The quantized values that a float one becomes when it is moved, and then rounded to these steps."""
    waiting = [value for node in graph.model.graph for value in node.outputs if value.name == name]
    while waiting:
        for use in waiting.pop().uses():
            result = use.node.outputs[0]
            if use.node.op_type in having(Trait.MOVES):
                waiting.append(result)
            elif (result.name or "") in graph.quantizers and graph.steps(result.name or "") == steps:
                yield result.name or ""
