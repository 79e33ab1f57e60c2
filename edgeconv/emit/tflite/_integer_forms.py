"""Integer operators that are written as others, once their operands are integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._integer_rules import TABLE
from edgeconv.emit.tflite._quantization import Quantization, of_constant, of_type


def integer_form(graph: Graph, operator: Operator) -> list[Operator]:
    """The operators that compute an integer operator: itself, where nothing is against it."""
    form = _FORMS.get(operator.code)
    return [operator] if form is None else form(graph, operator)


def _sum(graph: Graph, operator: Operator) -> list[Operator]:
    """A sum as the mean times the count, the mean in steps that become the sum's: nothing is rounded twice.

    LiteRT 2.3's own SUM of int8 is wrong on its reference kernels.
    """
    source, result = operator.inputs[0], operator.outputs[0]
    known = _of(result)
    count = max(1, int(np.prod(source.shape)) // max(1, int(np.prod(result.shape))))
    steps = of_type(known.dtype, known.scale[0] / count, known.zero_point)
    mean = Tensor(f"{result.name}/mean", result.shape, np.dtype(known.dtype), quantization=steps)
    times = np.array([count], np.float32)
    by = of_constant(times, known.dtype)
    factor = graph.constant(by.quantise(times), f"{result.name}/count", by)
    return [
        Operator("MEAN", operator.inputs, [mean], operator.options),
        Operator("MUL", [mean, factor], [result]),
    ]


def _table(graph: Graph, operator: Operator) -> list[Operator]:
    """Any function of one number: each integer's image is looked up."""
    source, result = operator.inputs[0], operator.outputs[0]
    known, made = _of(source), _of(result)
    lowest, highest = known.limits
    integers = np.arange(lowest, highest + 1)
    images = operator.options["function"](((integers - known.zero_point[0]) * known.scale[0]).astype(np.float32))
    images = np.nan_to_num(images, nan=0.0, posinf=made.interval[1], neginf=made.interval[0])
    table = graph.constant(made.quantise(images), f"{result.name}/table", made)
    wide, index = (Tensor(f"{result.name}/{name}", source.shape, np.dtype(np.int32)) for name in ("wide", "index"))
    shift = graph.constant(np.array([-lowest], np.int32), "integers")
    return [
        Operator("CAST", [source], [wide]),
        Operator("ADD", [wide, shift], [index]),
        Operator("GATHER", [table, index], [result], {"axis": 0, "batchDims": 0}),
    ]


def _of(tensor: Tensor) -> Quantization:
    assert tensor.quantization is not None  # the operator is integer
    return tensor.quantization


_FORMS: Mapping[str, Callable[[Graph, Operator], list[Operator]]] = {"SUM": _sum, TABLE: _table}
