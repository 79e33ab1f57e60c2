"""What keeps an .onnx file from being computed in integers alone.

ONNX states quantisation as QuantizeLinear and DequantizeLinear around float operators, and a runtime fuses them. So
what is checked is the statement: every operator reads dequantised numbers and writes what is quantised next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeconv.cli._damaged import NO_ONNX, damaged

if TYPE_CHECKING:
    import onnx

_PAIR = {"QuantizeLinear", "DequantizeLinear"}
# Clamps that runtimes fuse into the operator before them: no quantisation stands between.
_FUSED = {"Relu", "Clip"}
# Operands that are settings and not data: bounds, regions, scales, fill values.
_SETTINGS = {"Clip": {1, 2}, "Resize": {1, 2}, "Pad": {2}}


def float_parts_of_onnx(data: bytes) -> list[str]:
    """One line per operator that reads or writes floats which no QuantizeLinear or DequantizeLinear stands beside.

    Raises:
        EmitError: damaged.
    """
    import onnx

    with damaged(NO_ONNX):
        model = onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(data))
        return list(_parts(model.graph))


def _parts(graph: onnx.GraphProto) -> Iterator[str]:
    floats = _float_values(graph)
    producers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type in _PAIR:
            continue
        for index, name in enumerate(node.input):
            if name in floats and index not in _SETTINGS.get(node.op_type, set()):
                producer = producers.get(name)
                if producer is None or not (producer.op_type == "DequantizeLinear" or _is_fused(node, readers[name])):
                    yield f"{node.op_type} of {node.output[0]!r}: reads {name!r} as floats"
        for name in node.output:
            if name in floats and (
                name in outputs or not all(_takes(reader, readers[name]) for reader in readers[name])
            ):
                yield f"{node.op_type} of {node.output[0]!r}: writes {name!r} as floats"


def _takes(reader: onnx.NodeProto, readers: list[onnx.NodeProto]) -> bool:
    return reader.op_type == "QuantizeLinear" or _is_fused(reader, readers)


def _is_fused(node: onnx.NodeProto, readers: list[onnx.NodeProto]) -> bool:
    return node.op_type in _FUSED and len(readers) == 1


def _float_values(graph: onnx.GraphProto) -> set[str]:
    import onnx

    kinds = {getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")}
    declared = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name for value in declared if value.type.tensor_type.elem_type in kinds}
    return found | {tensor.name for tensor in graph.initializer if tensor.data_type in kinds}
