"""What keeps a .tflite file from computing in integers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgeconv.flow.inspection.tflite import titles_of
from edgeconv.reference.tflite import names_of, open_tflite, text_of

_FLOATS = {"FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16", "COMPLEX64", "COMPLEX128"}


@dataclass(frozen=True)
class _Operator:
    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def float_parts_of_tflite(data: bytes) -> list[str]:
    """One line per operator or tensor that is not integer.

    Allowed are QUANTIZE of the file's inputs, DEQUANTIZE to its outputs, and QUANTIZE from integers to integers, which
    only gives them another scale.

    Raises:
        EmitError: damaged.
    """
    model = open_tflite(data)
    return [line for index in range(model.SubgraphsLength()) for line in _parts(model, index)]


def _parts(model: Any, index: int) -> Iterator[str]:
    from ai_edge_litert import schema_py_generated as schema

    graph = model.Subgraphs(index)
    types = names_of(schema.TensorType)
    tensors = [graph.Tensors(at) for at in range(graph.TensorsLength())]
    floats = {at for at, tensor in enumerate(tensors) if types[tensor.Type()] in _FLOATS}
    inputs = {int(graph.Inputs(at)) for at in range(graph.InputsLength())}
    outputs = {int(graph.Outputs(at)) for at in range(graph.OutputsLength())}
    named = set()
    for operator in _read(model, graph):
        touched = [at for at in (*operator.inputs, *operator.outputs) if at in floats]
        named.update(touched)
        code = operator.code.split(" ")[0]
        at_border = (code == "QUANTIZE" and set(touched) <= inputs) or (
            code == "DEQUANTIZE" and set(touched) <= outputs
        )
        if touched and not at_border:
            listed = ", ".join(repr(text_of(tensors[at].Name())) for at in touched)
            result = ", ".join(repr(text_of(tensors[at].Name())) for at in operator.outputs[:1]) or "nothing"
            yield f"{code} of {result}: float {listed}"
    for at in sorted(floats - named):
        yield f"tensor {text_of(tensors[at].Name())!r}: {types[tensors[at].Type()].lower()}"


def _read(model: Any, graph: Any) -> Iterator[_Operator]:
    for at, code in enumerate(titles_of(model, graph)):
        operator = graph.Operators(at)
        inputs = [int(operator.Inputs(i)) for i in range(operator.InputsLength())]
        outputs = [int(operator.Outputs(i)) for i in range(operator.OutputsLength())]
        # -1 stands for an input that is left out
        yield _Operator(code, tuple(tensor for tensor in inputs if tensor != -1), tuple(outputs))
