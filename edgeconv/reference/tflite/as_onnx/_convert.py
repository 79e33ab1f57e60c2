"""Writes the graph of a `.tflite` file in ONNX, operator by operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgeconv.errors import EmitError
from edgeconv.reference.tflite._evaluate import evaluate_operator
from edgeconv.reference.tflite._graph import Operator, TfliteGraph
from edgeconv.reference.tflite.as_onnx import _elementwise, _indexing, _recurrent, _shape, _sums
from edgeconv.reference.tflite.as_onnx._site import Builder, Rule, Site

RULES: dict[str, Rule] = {
    **_elementwise.RULES,
    **_shape.RULES,
    **_indexing.RULES,
    **_sums.RULES,
    **_recurrent.RULES,
}
_WHY: Mapping[str, str] = {
    "BITCAST": "nothing in ONNX reads bits as another type",
    "STABLEHLO_COMPOSITE": "what it stands for is another graph of the file, and the first alone is read",
    "WHERE": "how many elements it finds is known when it runs, and all shapes are stated",
}
"""By operator without a rule: the reason."""


def to_onnx(file: TfliteGraph) -> ir.Model:
    """A file's graph in ONNX, opset 20 or 21, with the file's names and layout; integers as QuantizeLinear pairs.

    Integers that depend on constants and shapes only are constants. States begin at 0 and are no outputs: the graph
    computes the first run.

    Raises:
        EmitError: operators have no form here, and are named; or one has options or operands that ONNX has not, or
            reads what nothing computes.
    """
    unknown = {operator.name: operator for operator in file.operators if operator.name not in RULES}
    if unknown:
        reasons = dict.fromkeys(filter(None, (_why(operator) for _, operator in sorted(unknown.items()))))
        why = f": {'; '.join(reasons)}" if reasons else ""
        hint = "nothing else shows what such a file computes than running it"
        raise EmitError(f"{', '.join(sorted(unknown))} cannot be written in ONNX{why}", hint=hint)
    halves = [
        tensor.name
        for operator in file.operators
        for tensor in (file.tensors[index] for index in operator.outputs)
        if tensor.floating and tensor.dtype != "float32"
    ]
    if halves:
        raise EmitError("it computes in half precision", where=halves[0], hint="give the float32 file")
    model = _built(file).model()
    RemoveUnusedNodesPass()(model)
    return model


def operators_alone(file: TfliteGraph) -> Iterator[tuple[Operator, ir.Model]]:
    """Each operator as a graph of its own, as `to_onnx` writes it: its inputs are the file's tensors, by their names.

    Operators whose results are constants in ONNX are left out.

    Raises:
        EmitError: as `to_onnx`.
    """
    constants = _built(file).constants
    tensors = tuple(
        replace(tensor, data=constants[index]) if index in constants and not tensor.variable else tensor
        for index, tensor in enumerate(file.tensors)
    )
    for operator in file.operators:
        if not any(index in constants for index in operator.outputs):
            inputs = (index for index in operator.inputs if index >= 0 and index not in constants)
            alone = TfliteGraph(tensors, (operator,), tuple(dict.fromkeys(inputs)), operator.outputs)
            yield operator, _built(alone).model()


def _built(file: TfliteGraph) -> Builder:
    builder = Builder(file)
    for operator in file.operators:
        if not _settled(builder, operator):
            RULES[operator.name](Site.of(builder, operator))
    return builder


def _why(operator: Operator) -> str:
    return "TFLite itself has no operator of that name" if operator.custom else _WHY.get(operator.name, "")


def _settled(builder: Builder, operator: Operator) -> bool:
    """Whether an operator's results are integers (shapes, axes) that depend on constants only; computes them then."""
    tensors, constants = builder.file.tensors, builder.constants
    sources = [index for index in operator.inputs if index >= 0]
    results = [tensors[index] for index in operator.outputs]
    plain = all(tensor.quantization is None and not tensor.floating for tensor in results)
    if not plain or any(index not in constants or tensors[index].variable for index in sources):
        return False
    values = {index: np.asarray(constants[index], tensors[index].held_as) for index in sources}
    constants.update(zip(operator.outputs, evaluate_operator(builder.file, operator, values), strict=True))
    return True
