"""`edgeconv inspect`: what is in a file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeconv.core import sha256_of
from edgeconv.errors import EmitError


def command(
    file: Annotated[Path, typer.Argument(help="An .onnx or .tflite file.", metavar="FILE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> int:
    """Show a file's inputs, outputs, operators, metadata and size."""
    readers = {".onnx": _onnx, ".tflite": _tflite}
    reader = readers.get(file.suffix)
    if reader is None:
        raise EmitError(
            f"{file.suffix or 'no suffix'} is not known", where=str(file), mend="give an .onnx or .tflite file"
        )
    try:
        found = {"file": file.name, "size_bytes": file.stat().st_size, "sha256": sha256_of(file), **reader(file)}
    except OSError as error:
        raise EmitError(f"cannot read: {error.strerror}", where=str(file), mend="check the path") from error
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    for key, value in found.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, item in value.items():
                print(f"  {name}: {item}")
        else:
            print(f"{key}: {value}")
    return 0


def _onnx(file: Path) -> dict[str, Any]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(file)
    except DecodeError as error:
        raise EmitError("not an ONNX file, or damaged", where=str(file), mend="export it again") from error

    def spec(value: onnx.ValueInfoProto) -> str:
        tensor = value.type.tensor_type
        dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        return f"{onnx.TensorProto.DataType.Name(tensor.elem_type).lower()} {dims}"

    constants = {item.name for item in model.graph.initializer}
    return {
        "format": "onnx",
        "opset": max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0),
        "inputs": {value.name: spec(value) for value in model.graph.input if value.name not in constants},
        "outputs": {value.name: spec(value) for value in model.graph.output},
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "operator_count": len(model.graph.node),
        "metadata": {item.key: item.value for item in model.metadata_props},
    }


def _tflite(file: Path) -> dict[str, Any]:
    import struct

    from ai_edge_litert import schema_py_generated as schema

    data = file.read_bytes()
    if not schema.Model.ModelBufferHasIdentifier(data, 0):
        raise EmitError("not a TFLite file (no TFL3 identifier)", where=str(file), mend="export it again")
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
    except (struct.error, IndexError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise EmitError("the TFLite file is damaged", where=str(file), mend="export it again") from error
    operator_names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    tensor_types = {code: name.lower() for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    graph = model.subgraphs[0]

    def spec(index: int) -> str:
        tensor = graph.tensors[index]
        return f"{tensor_types[tensor.type]} {[int(dim) for dim in tensor.shape]}"

    def name(index: int) -> str:
        return str(graph.tensors[index].name.decode())

    codes = [model.operatorCodes[operator.opcodeIndex] for operator in graph.operators]
    used = Counter(f"{operator_names[code.builtinCode]} v{code.version}" for code in codes)
    buffers = {item.name.decode(): model.buffers[item.buffer].data for item in model.metadata or ()}
    return {
        "format": "tflite",
        "inputs": {name(index): spec(index) for index in graph.inputs},
        "outputs": {name(index): spec(index) for index in graph.outputs},
        "operators": dict(used.most_common()),
        "operator_count": len(graph.operators),
        "signatures": [signature.signatureKey.decode() for signature in model.signatureDefs or ()],
        "metadata": {
            key: bytes(value).rstrip(b"\0").decode(errors="replace")
            for key, value in buffers.items()
            if value is not None
        },
    }
