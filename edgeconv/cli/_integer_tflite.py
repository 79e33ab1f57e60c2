"""What keeps a .tflite file from computing in integers alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgeconv.cli._damaged import NO_TFLITE, damaged
from edgeconv.cli._inspect_tflite import _checked, _limited, _names, _operators, _text

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
    from ai_edge_litert import schema_py_generated as schema

    with damaged(NO_TFLITE):
        model = schema.Model.GetRootAs(data, 0)
        return [line for index in range(_limited(model.SubgraphsLength())) for line in _parts(model, index)]


def _parts(model: Any, index: int) -> Iterator[str]:
    from ai_edge_litert import schema_py_generated as schema

    graph = model.Subgraphs(_checked(index, model.SubgraphsLength()))
    types = _names(schema.TensorType)
    tensors = [graph.Tensors(at) for at in range(_limited(graph.TensorsLength()))]
    floats = {at for at, tensor in enumerate(tensors) if types[tensor.Type()] in _FLOATS}
    inputs = {int(graph.Inputs(at)) for at in range(_limited(graph.InputsLength()))}
    outputs = {int(graph.Outputs(at)) for at in range(_limited(graph.OutputsLength()))}
    named = set()
    for operator in _read(model, graph):
        touched = [at for at in (*operator.inputs, *operator.outputs) if at in floats]
        named.update(touched)
        code = operator.code.split(" ")[0]
        at_border = (code == "QUANTIZE" and set(touched) <= inputs) or (
            code == "DEQUANTIZE" and set(touched) <= outputs
        )
        if touched and not at_border:
            listed = ", ".join(repr(_text(tensors[at].Name())) for at in touched)
            yield f"{code} of {_text(tensors[operator.outputs[0]].Name())!r}: float {listed}"
    for at in sorted(floats - named):
        yield f"tensor {_text(tensors[at].Name())!r}: {types[tensors[at].Type()].lower()}"


def _read(model: Any, graph: Any) -> Iterator[_Operator]:
    count = graph.TensorsLength()
    for at, code in enumerate(_operators(model, graph)):
        operator = graph.Operators(at)
        given = [int(operator.Inputs(i)) for i in range(_limited(operator.InputsLength()))]
        made = [int(operator.Outputs(i)) for i in range(_limited(operator.OutputsLength()))]
        # -1 stands for an input that is left out
        inputs = tuple(_checked(tensor, count) for tensor in given if tensor != -1)
        yield _Operator(code, inputs, tuple(_checked(tensor, count) for tensor in made))
