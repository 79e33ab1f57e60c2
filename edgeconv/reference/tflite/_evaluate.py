"""Evaluates the operators of a graph in order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeconv.core.values import close_to
from edgeconv.errors import EmitError
from edgeconv.reference._extent import MOST_ELEMENTS
from edgeconv.reference.tflite._call import Call
from edgeconv.reference.tflite._graph import Array, Operator, Tensor, TfliteGraph
from edgeconv.reference.tflite._operators import OPERATORS

# What numpy raises for operands that do not fit.
_FOREIGN = (ArithmeticError, IndexError, MemoryError, TypeError, ValueError)


def evaluate(graph: TfliteGraph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Evaluates every tensor of a graph, operator by operator.

    Floating-point tensors of every width are float64 from the first to the last operator; a constant enters as the
    number that the file stores. Quantized tensors are the integers that TFLite's reference kernels compute: bit for bit
    where kernels compute in integers, within 1 where they go through a table or a formula in float32. A float operator
    with quantized weights (hybrid) uses the dequantized weights.

    Args:
        graph: of `read`.
        inputs: by name, in the file's layout. Real numbers for floating-point tensors, integers for all others.

    Returns:
        By name, the value of each tensor that is an input, a constant or a result: float64 for floating-point tensors,
        the tensor's own dtype for the others (int8 for int4).

    Raises:
        EmitError: an input is missing, unknown, or of another type or shape than the graph's; an operator is unknown,
            or its operands admit no result, or one of more than `MOST_ELEMENTS` elements, counted with all before it.
            Names the operator's first output.
    """
    names = [graph.tensors[index].name for index in graph.inputs]
    _check_names(names, inputs)
    values = graph.stored
    for index in graph.inputs:
        values[index] = _input(graph.tensors[index], inputs[graph.tensors[index].name])
    elements = sum(value.size for value in values.values())
    for operator in graph.operators:
        for index, value in zip(operator.outputs, evaluate_operator(graph, operator, values), strict=False):
            values[index] = value
            elements += value.size
            if elements > MOST_ELEMENTS:
                what = f"with this result there are more than {MOST_ELEMENTS:,} elements, more than are computed"
                raise EmitError(what, where=graph.tensors[index].name, hint="evaluate the operators one by one")
    return {graph.tensors[index].name: value for index, value in values.items()}


def _check_names(names: list[str], inputs: Mapping[str, Array]) -> None:
    for name in names:
        if name not in inputs:
            raise EmitError(f"no value for the input {name!r}", hint="pass one array for each input of the graph")
    for name in inputs:
        if name not in names:
            like = close_to(name, names)
            advice = f"did you mean {like[0]!r}?" if like else f"the graph has {', '.join(map(repr, names))}"
            raise EmitError(f"{name!r} is no input of the graph", hint=advice)


def _input(tensor: Tensor, value: Array) -> Array:
    value = np.asarray(value)
    if value.shape != tensor.shape:
        what = f"the input has shape {list(value.shape)}, and the file states {list(tensor.shape)}"
        raise EmitError(what, where=tensor.name, hint="pass it in the file's layout")
    expected = tensor.held_as
    fits = value.dtype.kind == "f" if tensor.floating else value.dtype == expected
    if not fits:
        what = f"the input is {value.dtype}, and the file states {tensor.dtype}"
        raise EmitError(what, where=tensor.name, hint=f"pass an array of {expected}")
    return value.astype(expected)


def evaluate_operator(graph: TfliteGraph, operator: Operator, values: Mapping[int, Array]) -> tuple[Array, ...]:
    """Evaluates one operator, on the operands that a runtime had, for instance.

    Args:
        graph: of the operator.
        operator: one of `graph.operators`.
        values: of its inputs, by the index of the tensor, in the dtypes that `evaluate` gives.

    Returns:
        Its results in their order, in the dtypes that `evaluate` gives.

    Raises:
        EmitError: as `evaluate`.
    """
    call = Call.of(graph.tensors, operator, values)
    if operator.custom or operator.name not in OPERATORS:
        raise call.refuse("is not computed by the reference")
    for tensor, value in zip(call.sources, call.values, strict=True):
        if tensor is not None and value is None:
            raise call.refuse(f"reads {tensor.name!r}, which nothing has computed yet")
    try:
        with np.errstate(all="ignore"):
            result = OPERATORS[operator.name](call)
    except _FOREIGN as error:
        raise call.refuse(f"has operands that do not fit: {error}") from error
    results = result if isinstance(result, tuple) else (result,)
    if len(results) < len(call.results):
        raise call.refuse(f"gives {len(results)} results, and the file states {len(call.results)}")
    # A kernel may give more results than the file takes; those that it takes are of the stated kind.
    for tensor, value in zip(call.results, results, strict=False):
        if (value.dtype.kind == "f") != tensor.floating:
            raise call.refuse(f"gives {value.dtype}, and the file states {tensor.dtype} for {tensor.name!r}")
    return tuple(np.asarray(value, tensor.held_as) for value, tensor in zip(results, call.results, strict=False))
