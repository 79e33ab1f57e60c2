"""What an .onnx file says of itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from edgeconv.errors import EmitError
from edgeconv.flow.inspection.damaged import NO_ONNX, damaged

if TYPE_CHECKING:
    import onnx


def read_onnx(data: bytes) -> dict[str, Any]:
    """Inputs, outputs, operators and metadata; external weight files are not opened.

    Raises:
        EmitError: damaged, or no ONNX file.
    """
    import onnx

    with damaged(NO_ONNX):
        model = onnx.ModelProto.FromString(data)
        if not model.ir_version or not model.HasField("graph"):
            raise ValueError("neither version nor graph")
        return _described(model)


def _described(model: onnx.ModelProto) -> dict[str, Any]:
    graph = model.graph
    constants = {item.name for item in graph.initializer}
    return {
        "format": "onnx",
        "opset": max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0),
        "inputs": {_text(value.name): _spec(value) for value in graph.input if value.name not in constants},
        "outputs": {_text(value.name): _spec(value) for value in graph.output},
        "operators": dict(Counter(_text(node.op_type) for node in graph.node).most_common()),
        "operator_count": len(graph.node),
        "metadata": {_text(item.key): _text(item.value) for item in model.metadata_props},
    }


def _text(value: str | bytes) -> str:
    """A text of the file. Protobuf gives bytes for one that is no UTF-8; what can be read of it is shown."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _spec(value: onnx.ValueInfoProto) -> str:
    import onnx

    tensor = value.type.tensor_type
    if tensor.elem_type not in onnx.TensorProto.DataType.values():
        what = f"{value.name!r} is of the element type {tensor.elem_type}, which there is not"
        raise EmitError(what, hint="export it again")
    dims = [_text(dim.dim_param) or dim.dim_value for dim in tensor.shape.dim]
    return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} {dims}"
