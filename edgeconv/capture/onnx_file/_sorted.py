"""TopK with ``sorted`` = 0 is made to sort, so that results of two runtimes can be compared.

The specification of TopK leaves the order open then: onnxruntime's differs from release to release, TFLite sorts.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx


def sort_largest(model: onnx.ModelProto) -> bool:
    """Makes every TopK sort, in place, in subgraphs and functions too; returns whether one did not."""
    return sum(map(_sort, [model.graph, *model.functions])) > 0


def sorted_file(data: bytes) -> bytes:
    """The bytes of the same file with every TopK sorting; unchanged if all of them did."""
    model = onnx.ModelProto.FromString(data)
    return model.SerializeToString() if sort_largest(model) else data


def _sort(graph: onnx.GraphProto | onnx.FunctionProto) -> int:
    return sum(_sort_node(node) for node in graph.node)


def _sort_node(node: onnx.NodeProto) -> int:
    count = 0
    for attribute in list(node.attribute):
        if node.op_type == "TopK" and attribute.name == "sorted" and attribute.i == 0:
            node.attribute.remove(attribute)
            count += 1
        else:
            count += sum(map(_sort, _graphs(attribute)))
    return count


def _graphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    return [attribute.g, *attribute.graphs]
