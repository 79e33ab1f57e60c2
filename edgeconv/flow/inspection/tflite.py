"""What a .tflite file says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from edgeconv.reference.tflite import names_of, open_tflite, operator_number, text_of

_LONGEST = 1 << 16  # bytes of a metadata value that are shown


def read_tflite(data: bytes) -> dict[str, Any]:
    """Inputs, outputs, operators, signatures and metadata of the first subgraph.

    Raises:
        EmitError: damaged, or no TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = open_tflite(data)
    graph = model.Subgraphs(0)
    types = names_of(schema.TensorType)

    def interface(indices: Any, count: int) -> dict[str, str]:
        tensors = [graph.Tensors(int(indices(at))) for at in range(count)]
        return {text_of(tensor.Name()): f"{types[tensor.Type()].lower()} {_shape(tensor)}" for tensor in tensors}

    operators = Counter(titles_of(model, graph))
    return {
        "format": "tflite",
        "inputs": interface(graph.Inputs, graph.InputsLength()),
        "outputs": interface(graph.Outputs, graph.OutputsLength()),
        "operators": dict(operators.most_common()),
        "operator_count": operators.total(),
        "signatures": [
            text_of(model.SignatureDefs(index).SignatureKey()) for index in range(model.SignatureDefsLength())
        ],
        "metadata": dict(_metadata(model)),
    }


def titles_of(model: Any, graph: Any) -> Iterator[str]:
    """Name and version of each operator of a subgraph, in order."""
    from ai_edge_litert import schema_py_generated as schema

    names = names_of(schema.BuiltinOperator)
    titles: dict[int, str] = {}
    for index in range(graph.OperatorsLength()):
        code_index = graph.Operators(index).OpcodeIndex()
        if code_index not in titles:
            code = model.OperatorCodes(code_index)
            number = operator_number(code)
            name = text_of(code.CustomCode()) if number == schema.BuiltinOperator.CUSTOM else names[number]
            titles[code_index] = f"{name} v{code.Version()}"
        yield titles[code_index]


def _metadata(model: Any) -> Iterator[tuple[str, str]]:
    for index in range(model.MetadataLength()):
        item = model.Metadata(index)
        buffer = model.Buffers(item.Buffer())
        if buffer.DataLength():
            value = bytes(buffer.DataAsNumpy()[:_LONGEST])
            yield text_of(item.Name()), value.rstrip(b"\0").decode(errors="replace")


def _shape(tensor: Any) -> list[int | str]:
    """The dimensions; one that the file leaves open, for `resize_tensor_input`, is ``"?"``: TFLite does not name it."""
    if not tensor.ShapeLength():
        return []
    sizes = tensor.ShapeSignatureAsNumpy() if tensor.ShapeSignatureLength() else tensor.ShapeAsNumpy()
    return ["?" if dim < 0 else int(dim) for dim in sizes]
