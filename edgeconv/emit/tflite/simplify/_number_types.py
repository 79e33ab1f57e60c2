"""Integers that an operator's kernels do not take, or take for quantized ones, are computed as int32.

Measured on LiteRT 2.3 (all its kernels) and tflite-runtime 2.14.0: without a scale, ADD, SUB and the comparisons of
8-bit integers end the process, and SUB of int16; MUL, DIV and SUM of them are wrong. The lower bits of a sum, a
difference or a product are those of its operands, so that what is cut off afterwards is what the narrow arithmetic of
torch and onnxruntime leaves.
"""

from __future__ import annotations

import numpy as np

from edgeconv.emit.tflite._graph import COMPARISONS, Graph, Operator, Tensor

_NARROW = frozenset(("int8", "uint8", "int16"))
_WIDE = np.dtype(np.int32)

AS_INT32: dict[str, frozenset[str]] = {
    **dict.fromkeys(("ADD", "SUB", "MUL", "POW", "FLOOR_MOD", "CUMSUM", "NEG", "SUM", "DIV"), _NARROW),
    **dict.fromkeys(COMPARISONS, _NARROW),
    "ARG_MAX": frozenset(("int16",)),
    "ARG_MIN": frozenset(("int16",)),
    "SCATTER_ND": frozenset(("int16",)),
    "DEPTH_TO_SPACE": frozenset(("int16", "bool")),
    "REVERSE_SEQUENCE": frozenset(("int8", "bool")),
    "PAD": frozenset(("bool",)),
    "PADV2": frozenset(("bool",)),
}
"""By operator, the element types for which it is computed in int32 instead."""

# The operands that are numbers; the others are sizes and places.
_POSITIONS = {"PAD": (0,), "PADV2": (0, 2), "SCATTER_ND": (1,)}
_UNARY = frozenset(("ARG_MAX", "ARG_MIN", "CUMSUM", "NEG", "SUM", "DEPTH_TO_SPACE", "REVERSE_SEQUENCE"))


_INT32 = 2  # schema.TensorType.INT32


def narrow_places(graph: Graph) -> None:
    """ARG_MAX and ARG_MIN that only casts read give int32 themselves: the microcontrollers' kernels know no int64."""
    consumers, producers = graph.consumers(), graph.producers()
    for operator in list(graph.operators):
        if operator.code not in {"ARG_MAX", "ARG_MIN"} or operator.outputs[0].dtype != np.int64:
            continue
        shapes = [operator.outputs[0]]  # the places, as they are and reshaped
        while [reader.code for reader in consumers.get(shapes[-1], ())] == ["RESHAPE"]:
            shapes.append(consumers[shapes[-1]][0].outputs[0])
        casts = consumers.get(shapes[-1], [])
        if any(shape in graph.outputs for shape in shapes) or {reader.code for reader in casts} != {"CAST"}:
            continue
        for shape in shapes:
            shape.dtype = _WIDE
        operator.options["outputType"] = _INT32
        for cast in [cast for cast in casts if cast.outputs[0].dtype == _WIDE]:
            if cast.outputs[0] not in graph.outputs:
                graph.replace(cast.outputs[0], shapes[-1])
                graph.operators.remove(cast)
            elif len(casts) == 1:
                producers[shapes[-1]].outputs = cast.outputs
                graph.operators.remove(cast)


def widen_integers(graph: Graph) -> None:
    """Puts casts around the operators of `AS_INT32`."""
    operators: list[Operator] = []
    for operator in graph.operators:
        operators += _widened(graph, operator)
    graph.operators = operators


def _widened(graph: Graph, operator: Operator) -> list[Operator]:
    positions = _POSITIONS.get(operator.code, (0,) if operator.code in _UNARY else (0, 1))
    kinds = AS_INT32.get(operator.code, frozenset())
    data = [operator.inputs[position] for position in positions if position < len(operator.inputs)]
    if not any(tensor.dtype.name in kinds and tensor.quantization is None for tensor in data):
        return [operator]
    before: dict[Tensor, Operator] = {}  # one CAST for a tensor that is read twice (x * x)
    narrow = data[0].dtype
    for position in positions:
        tensor = operator.inputs[position]
        if tensor.data is not None:
            operator.inputs[position] = graph.constant(tensor.data.astype(_WIDE), tensor.name)
            continue
        if tensor not in before:
            before[tensor] = Operator("CAST", [tensor], [Tensor(f"{tensor.name}/int32", tensor.shape, _WIDE)])
        operator.inputs[position] = before[tensor].outputs[0]
    (result,) = operator.outputs
    if result.dtype != narrow:  # truths of a comparison, or indices: these stay what they are
        return [*before.values(), operator]
    wide = Tensor(f"{result.name}/int32", result.shape, _WIDE)
    operator.outputs = [wide]
    return [*before.values(), operator, Operator("CAST", [wide], [result])]
