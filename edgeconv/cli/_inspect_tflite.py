"""What a .tflite file says of itself.

The file is read in place, field by field: the schema's object form would first build all of it, and in a damaged
file a wrong length can make that many gigabytes. Every count is held against what the file can hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from edgeconv.cli._damaged import NO_TFLITE, damaged
from edgeconv.errors import EmitError

_MOST = 100_000  # inputs, operators, metadata entries: far above any network's
_LONGEST = 1 << 16  # bytes of a name
_CUSTOM = 32


class _DamagedError(Exception):
    """A field cannot be what it says."""


def read_tflite(data: bytes) -> dict[str, Any]:
    """Inputs, outputs, operators, signatures and metadata of the first subgraph.

    Raises:
        EmitError: damaged, or no TFLite file.
    """
    if data[4:8] != b"TFL3":
        raise EmitError("not a TFLite file (no TFL3 identifier)", mend="export it again")
    with damaged(NO_TFLITE):
        return _described(data)


def _described(data: bytes) -> dict[str, Any]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(_checked(0, model.SubgraphsLength()))
    types = _names(schema.TensorType)

    def interface(indices: Any, count: int) -> dict[str, str]:
        _limited(count)
        tensors = [graph.Tensors(_checked(int(indices(i)), graph.TensorsLength())) for i in range(count)]
        return {_text(tensor.Name()): f"{types[tensor.Type()].lower()} {_shape(tensor)}" for tensor in tensors}

    operators = Counter(_operators(model, graph))
    return {
        "format": "tflite",
        "inputs": interface(graph.Inputs, graph.InputsLength()),
        "outputs": interface(graph.Outputs, graph.OutputsLength()),
        "operators": dict(operators.most_common()),
        "operator_count": operators.total(),
        "signatures": [
            _text(model.SignatureDefs(index).SignatureKey()) for index in range(_limited(model.SignatureDefsLength()))
        ],
        "metadata": dict(_metadata(model)),
    }


def _operators(model: Any, graph: Any) -> Iterator[str]:
    from ai_edge_litert import schema_py_generated as schema

    names = _names(schema.BuiltinOperator)
    titles: dict[int, str] = {}
    for index in range(_limited(graph.OperatorsLength())):
        code_index = _checked(graph.Operators(index).OpcodeIndex(), model.OperatorCodesLength())
        if code_index not in titles:
            code = model.OperatorCodes(code_index)
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # old files know only the byte-wide field
            name = _text(code.CustomCode()) if number == _CUSTOM else names[number]
            titles[code_index] = f"{name} v{code.Version()}"
        yield titles[code_index]


def _metadata(model: Any) -> Iterator[tuple[str, str]]:
    for index in range(_limited(model.MetadataLength())):
        item = model.Metadata(index)
        buffer = model.Buffers(_checked(item.Buffer(), model.BuffersLength()))
        if not buffer.DataIsNone():
            value = bytes(buffer.DataAsNumpy()[:_LONGEST])
            yield _text(item.Name()), value.rstrip(b"\0").decode(errors="replace")


def _shape(tensor: Any) -> list[int | str]:
    """The dimensions; one that the file leaves open, for `resize_tensor_input`, is ``"?"``: TFLite does not name it."""
    if not tensor.ShapeLength():
        return []
    sizes = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
    return ["?" if dim < 0 else int(dim) for dim in sizes]


def _names(enumeration: Any) -> dict[int, str]:
    return {code: name for name, code in vars(enumeration).items() if isinstance(code, int)}


def _text(data: bytes | None) -> str:
    if data is not None and len(data) > _LONGEST:
        raise _DamagedError(f"a name of {len(data)} bytes")
    return (data or b"").decode()


def _checked(index: int, length: int) -> int:
    if not 0 <= index < length:
        raise _DamagedError(f"index {index} of {length}")
    return index


def _limited(count: int) -> int:
    if count > _MOST:
        raise _DamagedError(f"{count} entries")
    return count
