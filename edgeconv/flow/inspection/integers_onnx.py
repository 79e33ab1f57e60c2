"""What keeps an .onnx file from being computed in integers alone.

ONNX states quantization as QuantizeLinear and DequantizeLinear around float operators, and a runtime fuses them. So
what is checked is the statement: every operator reads dequantized numbers and writes what is quantized next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeconv.flow.inspection.damaged import NO_ONNX, damaged
from edgeconv.graph.traits import Trait, having

if TYPE_CHECKING:
    import onnx

_STANDARD = {"", "ai.onnx"}
# Operands that are settings and not data: bounds, regions, scales, fill values.
_SETTINGS = {"Clip": {1, 2}, "Resize": {1, 2}, "Pad": {2}}


def float_parts_of_onnx(data: bytes) -> list[str]:
    """One line per operator with a floating input or output that has no QuantizeLinear or DequantizeLinear next to it.

    Raises:
        EmitError: damaged.
        CaptureError: its functions never end, or are too many; names no file.
    """
    import onnx.inliner

    from edgeconv.capture.onnx_file._soundness import check_functions, open_sizes

    with damaged(NO_ONNX):
        model = onnx.ModelProto.FromString(data)
        check_functions(model, "")
        open_sizes(model)
        model = onnx.inliner.inline_local_functions(model)
        model = onnx.shape_inference.infer_shapes(model)
        return list(_parts(model.graph, _Enclosing()))


@dataclass(frozen=True)
class _Enclosing:
    """What a subgraph can refer to of the graphs around it."""

    integers: frozenset[str] = frozenset()
    producers: Mapping[str, onnx.NodeProto] = field(default_factory=dict)


def _parts(graph: onnx.GraphProto, around: _Enclosing) -> Iterator[str]:
    # 1. Which values are floats, who makes and who reads each; a subgraph sees those of the graphs around it.
    integers = around.integers | _integer_values(graph)
    floats = {name for node in graph.node for name in (*node.input, *node.output) if name} - integers
    producers = {**around.producers, **{name: node for node in graph.node for name in node.output}}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for value in graph.output}
    # 2. Each operator: floats that it reads come out of DequantizeLinear, floats that it writes go into QuantizeLinear.
    for node in graph.node:
        if node.op_type in having(Trait.SCALED) or not node.output:
            continue
        if node.domain not in _STANDARD:
            yield f"{node.op_type} of {node.output[0]!r}: nobody can tell what {node.domain} computes in"
            continue
        for branch in _branches(node):
            yield from _parts(branch, _Enclosing(integers, producers))
        for index, name in enumerate(node.input):
            if name in floats and index not in _SETTINGS.get(node.op_type, set()):
                # An initializer without a producer is a weight that was left in floats.
                producer = producers.get(name)
                if producer is None or not (producer.op_type == "DequantizeLinear" or _is_fused(node, readers[name])):
                    yield f"{node.op_type} of {node.output[0]!r}: reads {name!r} as floats"
        for name in node.output:
            if name in floats and (
                name in outputs or not all(_takes(reader, readers[name]) for reader in readers[name])
            ):
                yield f"{node.op_type} of {node.output[0]!r}: writes {name!r} as floats"


def _branches(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _takes(reader: onnx.NodeProto, readers: list[onnx.NodeProto]) -> bool:
    return reader.op_type == "QuantizeLinear" or _is_fused(reader, readers)


def _is_fused(node: onnx.NodeProto, readers: list[onnx.NodeProto]) -> bool:
    """Whether a clamp alone reads the value: runtimes fuse it into the operator before."""
    return node.op_type in having(Trait.CLAMPS) and len(readers) == 1


def _integer_values(graph: onnx.GraphProto) -> frozenset[str]:
    """Names of values whose declared type is not floating; an undeclared type counts as floating."""
    import onnx

    unknown = {getattr(onnx.TensorProto, name) for name in ("UNDEFINED", "FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")}
    declared = (*graph.input, *graph.output, *graph.value_info)
    typed = {value.name for value in declared if value.type.tensor_type.elem_type not in unknown}
    return frozenset(typed | {tensor.name for tensor in graph.initializer if tensor.data_type not in unknown})
