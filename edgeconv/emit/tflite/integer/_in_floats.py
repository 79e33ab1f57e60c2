"""Functions of one int8 number, computed on the real numbers that the integers stand for.

Of operators that read nothing but each other's result, from 8 bits to 8 bits, XNNPACK makes one table when the file is
loaded, floats in between or not (xnn_subgraph_fuse_unary_quantized_into_lut in subgraph.c): DEQUANTIZE, a few operators
and QUANTIZE take as long as a copy. int8 between two 1x1 convolutions of 56x56x64, kernels of integers or a GATHER, and
so, in ms (LiteRT 2.3, one thread, AMD EPYC with VNNI; without a function 0.05, and 0.1 are the two layers and a copy):
Gelu 0.14 and 0.11, Exp 0.14 and 0.11, Abs 1.02 and 0.11, Softplus 0.55 and 0.11, Sqrt 0.56 and 0.11, Sin 0.56 and 0.11.
Kernels of integers for them lie outside of the delegate, and cut the graph in two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from edgeconv.core import Array
from edgeconv.core.affine import limits_of
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._quantization import Quantization
from edgeconv.emit.tflite.integer._rules import TABLE

_OFF = 2.0**-7  # of a step of the result: nearer than that both round to one integer, but for what is a tie
_LEAST = 2.0**-100  # in place of numbers that a function has no result for: its images lie beyond any range


class _Step(NamedTuple):
    code: str
    number: float | None = None


_NUMPY: Mapping[str, Callable[..., Array]] = {
    "ABS": np.abs,
    "ADD": np.add,
    "COS": np.cos,
    "EXP": np.exp,
    "LOG": np.log,
    "MAXIMUM": np.maximum,
    "RSQRT": lambda x: np.reciprocal(np.sqrt(x)),
    "SIN": np.sin,
    "SQRT": np.sqrt,
}
_LOG = (_Step("MAXIMUM", _LEAST), _Step("LOG"))
_CHAINS: Mapping[str, tuple[_Step, ...]] = {
    "ABS": (_Step("ABS"),),
    "EXP": (_Step("EXP"),),
    "LOG": _LOG,
    "RSQRT": (_Step("MAXIMUM", _LEAST), _Step("RSQRT")),
    "Cos": (_Step("COS"),),
    "Log": _LOG,
    "Sin": (_Step("SIN"),),
    "Softplus": (_Step("EXP"), _Step("ADD", 1.0), _Step("LOG")),
    "Sqrt": (_Step("MAXIMUM", 0.0), _Step("SQRT")),
}
"""By the operator of TFLite, or by ONNX's of a look-up: operators that every runtime has."""
_GELU = "GELU"


def in_floats(graph: Graph, operator: Operator) -> list[Operator]:
    """The operator between a DEQUANTIZE and a QUANTIZE; none where it has no such form, or that gives other integers.

    Args:
        graph: for constants.
        operator: of int8.
    """
    source, result = operator.inputs[0], operator.outputs[0]
    steps = _CHAINS.get(str(operator.options["operator"]) if operator.code == TABLE else operator.code)
    codes: list[tuple[str, float | None, dict[str, Any]]]
    if steps is not None and _gives(steps, operator):
        codes = [(step.code, step.number, {}) for step in steps]
    elif operator.code == _GELU:  # finite everywhere
        codes = [(_GELU, None, operator.options)]
    else:
        return []
    names = [f"{result.name}/real", *(f"{result.name}/{code.lower()}" for code, _, _ in codes)]
    tensors = [Tensor(name, source.shape, np.dtype(np.float32)) for name in names]
    operators = [Operator("DEQUANTIZE", [source], tensors[:1])]
    for (code, number, options), read, computed in zip(codes, tensors, tensors[1:], strict=False):
        shape = (1,) if source.shape else ()
        constants = (
            [] if number is None else [graph.constant(np.full(shape, number, np.float32), f"{computed.name}/by")]
        )
        operators.append(Operator(code, [read, *constants], [computed], options))
    return [*operators, Operator("QUANTIZE", tensors[-1:], [result])]


def images_of(operator: Operator) -> Array:
    """Of each integer that a look-up reads, from the least on, the real number that it becomes, as far as steps go."""
    least, greatest = parameters_of(operator.outputs[0]).interval
    images = operator.options["function"](_numbers(operator))
    return np.asarray(np.clip(np.nan_to_num(images, nan=0.0, posinf=greatest, neginf=least), least, greatest))


def _gives(steps: tuple[_Step, ...], operator: Operator) -> bool:
    """Whether the steps are finite for all integers, and give those of the look-up."""
    values = _numbers(operator)
    with np.errstate(all="ignore"):
        for step in steps:
            number = () if step.number is None else (np.float32(step.number),)
            values = _NUMPY[step.code](values, *number)
    if not np.isfinite(values).all():
        return False
    parameters = parameters_of(operator.outputs[0])
    off = np.abs(np.clip(values, *parameters.interval) - images_of(operator)) if operator.code == TABLE else np.zeros(1)
    return bool(off.max() <= _OFF * parameters.scale[0])


def _numbers(operator: Operator) -> Array:
    parameters = parameters_of(operator.inputs[0])
    lowest, highest = limits_of(parameters.dtype)
    return np.asarray(parameters.dequantized(np.arange(lowest, highest + 1)), np.float32)


def parameters_of(tensor: Tensor) -> Quantization:
    """Of a tensor of an integer operator."""
    assert tensor.quantization is not None  # the operator is integer
    return tensor.quantization
