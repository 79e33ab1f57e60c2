"""Integer operators that are written as others, once their operands are integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.core.affine import limits_of
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._quantization import Quantization, of_constant, of_interval, of_type
from edgeconv.emit.tflite.integer._blocks import grouped
from edgeconv.emit.tflite.integer._in_floats import images_of, in_floats, parameters_of
from edgeconv.emit.tflite.integer._interleaved import interleaved
from edgeconv.emit.tflite.integer._moves import reshape, transpose
from edgeconv.emit.tflite.integer._rules import TABLE, bounds_of


def integer_form(graph: Graph, operator: Operator, *, only_integers: bool = True) -> list[Operator]:
    """The operators that compute an integer operator: itself, where nothing is against it.

    Args:
        graph: for constants.
        operator: of integers.
        only_integers: whether nothing may be a float in between: the file may be meant for a processor without any.
    """
    sixteen = operator.inputs[0].quantization is not None and operator.inputs[0].quantization.dtype == "int16"
    if not sixteen and not only_integers and (chain := in_floats(graph, operator)):
        return chain
    form = (_FORMS_OF_INT16 if sixteen else _FORMS).get(operator.code)
    return [operator] if form is None else form(graph, operator)


def _sum(graph: Graph, operator: Operator) -> list[Operator]:
    """A sum as the mean times the count, the mean in steps that become the sum's: nothing is rounded twice.

    LiteRT 2.3's own SUM of int8 is wrong on its reference kernels.
    """
    source, result = operator.inputs[0], operator.outputs[0]
    parameters = parameters_of(result)
    count = max(1, int(np.prod(source.shape)) // max(1, int(np.prod(result.shape))))
    steps = of_type(parameters.dtype, parameters.scale[0] / count, parameters.zero_point)
    mean = Tensor(f"{result.name}/mean", result.shape, np.dtype(parameters.dtype), quantization=steps)
    times = np.full(_single(result), count, np.float32)
    by = of_constant(times, parameters.dtype)
    factor = graph.constant(by.quantized(times), f"{result.name}/count", by)
    return [
        Operator("MEAN", operator.inputs, [mean], operator.options),
        Operator("MUL", [mean, factor], [result]),
    ]


def _table(graph: Graph, operator: Operator) -> list[Operator]:
    """Any function of one number: each integer's image is looked up."""
    source, result = operator.inputs[0], operator.outputs[0]
    lowest, _ = limits_of(parameters_of(source).dtype)
    table = graph.constant(
        parameters_of(result).quantized(images_of(operator)), f"{result.name}/table", parameters_of(result)
    )
    wide, index = (Tensor(f"{result.name}/{name}", source.shape, np.dtype(np.int32)) for name in ("wide", "index"))
    # A table counts from 0, and int8 from -128. Places of 8 bits are none (kernels/gather.cc).
    shift = graph.constant(np.full(_single(source), -lowest, np.int32), "integers")
    return [
        Operator("CAST", [source], [wide]),
        Operator("ADD", [wide, shift], [index]),
        Operator("GATHER", [table, index], [result], {"axis": 0, "batchDims": 0}),
    ]


def _depth_to_space(graph: Graph, operator: Operator) -> list[Operator]:
    """The block's rows change places with the columns; TFLite has no kernel of int16 that does both at once."""
    source, result = operator.inputs[0], operator.outputs[0]
    batch, height, width, channels = source.shape
    block = operator.options["blockSize"]
    split = _like(source, f"{result.name}/split", (batch * height, width, block, channels // block))
    moved = _like(source, f"{result.name}/moved", (batch * height, block, width, channels // block))
    return [
        reshape(graph, source, split),
        transpose(graph, split, moved, (0, 2, 1, 3)),
        reshape(graph, moved, result),
    ]


def _depthwise(graph: Graph, operator: Operator) -> list[Operator]:
    return interleaved(graph, operator) or grouped(graph, operator)


def _hard_swish(graph: Graph, operator: Operator) -> list[Operator]:
    """ReLU6(x + 3) / 6 times x; the integers of the gate, divided by 6, are those before.

    XNNPACK has no HARD_SWISH of int8, takes these, and makes one table of them: whatever reads nothing but x, numbers
    and what the operator before it made (xnn_subgraph_fuse_unary_quantized_into_lut in subgraph.c). 0.020 ms beside
    0.71 ms, and 0.098 ms where x is divided instead, of which a chain has no use (56x56x64, LiteRT 2.3, one thread,
    AVX-512 VNNI). It stays where the gate, of 8 bits itself, would move the result by about a step: where x and the
    result are narrow.
    """
    source, result = operator.inputs[0], operator.outputs[0]
    parameters = parameters_of(source)
    sixteen, highest = parameters.dtype == "int16", parameters.interval[1] + 3
    if not sixteen and highest <= 0:
        return [operator]
    gates = of_interval(0.0, 6.0 if sixteen else min(6.0, highest), parameters.dtype)
    if not sixteen and _off_by(gates, parameters) > _MOST_OFF * parameters_of(result).scale[0]:
        return [operator]
    three, sixth = (_number(graph, number, result, name) for number, name in ((3.0, "three"), (1 / 6, "sixth")))
    gate = _like(source, f"{result.name}/gate", source.shape, gates)
    sixths = of_type(parameters.dtype, gates.scale[0] / 6, gates.zero_point)
    part = _like(source, f"{result.name}/part", source.shape, sixths)
    # potScaleInt16 is true by default, for scales that are powers of 2 (AddOptions of the schema; kernels/add.cc).
    options = {"fusedActivationFunction": _RELU6, "potScaleInt16": False} if sixteen else {}
    return [
        Operator("ADD", [source, three], [gate], options),
        Operator("MUL", [gate, sixth], [part]),
        Operator("MUL", [source, part], [result]),
    ]


_MOST_OFF = 0.95  # of a step: numbers that are nearer than one round to neighbors at most


def _off_by(gates: Quantization, parameters: Quantization) -> float:
    """By how much rounding the gate ReLU6(x + 3) moves HardSwish(x), at most, for all integers of x."""
    x = parameters.dequantized(np.arange(-128, 128))
    rounded = gates.dequantized(gates.quantized(x + 3))
    return float(np.abs(x / 6 * (rounded - np.clip(x + 3, 0, 6))).max())


def _prelu(graph: Graph, operator: Operator) -> list[Operator]:
    """The greater (lesser) of x and the slopes times x, where no slope is above 1 (below it).

    What is greater is so after rounding too: nothing is rounded twice. XNNPACK has no PRELU of int8: 1.5 ms beside 0.06
    ms of these (56x56x64, LiteRT 2.3, one thread, AVX-512 VNNI). LEAKY_RELU for a single slope would take 0.01 ms, but
    its slope is a float32 number, and that of the integers seldom is.
    """
    source, result, slopes = operator.inputs[0], operator.outputs[0], operator.inputs[1]
    if parameters_of(source).dtype == "int16":
        return _prelu_by_parts(graph, operator)
    assert slopes.data is not None  # of `is_integer`'s constants
    numbers = parameters_of(slopes).dequantized(slopes.data)
    up_to_one = numbers.max() <= 1 + _ROUNDED
    if not up_to_one and numbers.min() < 1 - _ROUNDED:
        return [operator]
    is_rounded_beyond_one = numbers.max() > 1 if up_to_one else numbers.min() < 1
    if is_rounded_beyond_one:
        slopes = _of_next_scale(graph, slopes, 0.0 if up_to_one else np.inf)
    level, sloped = (_like(result, f"{result.name}/{name}", result.shape) for name in ("level", "sloped"))
    same = parameters_of(source) == parameters_of(result)
    return [
        *([] if same else [Operator("QUANTIZE", [source], [level])]),
        Operator("MUL", [source, slopes], [sloped]),
        Operator("MAXIMUM" if up_to_one else "MINIMUM", [source if same else level, sloped], [result]),
    ]


_ROUNDED = 2.0**-20  # a slope of 1 is 255 times a rounded scale


def _of_next_scale(graph: Graph, slopes: Tensor, towards: float) -> Tensor:
    """The same integers with the neighboring float32 as scale: a slope of 1 that rounding took beyond it is not now.

    What is greater of x and 1.00000004 x is no PReLU of a positive x.
    """
    assert slopes.data is not None  # they are constants
    steps = parameters_of(slopes)
    scale = float(np.nextafter(np.float32(steps.scale[0]), np.float32(towards)))
    return graph.constant(slopes.data, slopes.name, of_type(steps.dtype, scale, steps.zero_point))


def _clamp(graph: Graph, operator: Operator) -> list[Operator]:
    """Other steps, if need be, and the greater or lesser of that and each bound that the steps do not end at.

    Rounding keeps the order, so that nothing is rounded twice. XNNPACK has no clamp of int8 by itself, as one behind a
    CONCATENATION is: 0.68 ms beside 0.01 of a QUANTIZE (28x28x128, LiteRT 2.3, one thread, AVX-512 VNNI).
    """
    source, result, bounds = operator.inputs[0], operator.outputs[0], bounds_of(operator)
    assert bounds is not None  # of clamps alone
    steps = parameters_of(result)
    chain: list[tuple[str, list[Tensor]]] = []
    for code, bound, end in zip(("MAXIMUM", "MINIMUM"), bounds, limits_of(steps.dtype), strict=True):
        limit = steps.quantized(np.full(_single(result), bound))
        if (limit != end).all():
            chain.append((code, [graph.constant(limit, f"{result.name}/bound", steps)]))
    if not chain or parameters_of(source) != steps:
        chain.insert(0, ("QUANTIZE", []))
    between = [_like(result, f"{result.name}/{code.lower()}", result.shape) for code, _ in chain[:-1]]
    tensors = [source, *between, result]
    return [
        Operator(code, [tensor, *constants], [following])
        for (code, constants), tensor, following in zip(chain, tensors, tensors[1:], strict=False)
    ]


def _prelu_by_parts(graph: Graph, operator: Operator) -> list[Operator]:
    """ReLU(x) and the slope times min(x, 0); the scales of int16 are symmetric, so zero is the integer 0."""
    source, result = operator.inputs[0], operator.outputs[0]
    zero = graph.constant(np.zeros(_single(result), np.int16), f"{result.name}/zero", parameters_of(source))
    above, below = (_like(source, f"{result.name}/{name}", source.shape) for name in ("above", "below"))
    sloped = _like(result, f"{result.name}/sloped", source.shape)
    return [
        Operator("MAXIMUM", [source, zero], [above]),
        Operator("MINIMUM", [source, zero], [below]),
        Operator("MUL", [below, operator.inputs[1]], [sloped]),
        Operator("ADD", [above, sloped], [result], {"potScaleInt16": False}),
    ]


def _number(graph: Graph, number: float, result: Tensor, name: str) -> Tensor:
    array = np.full(_single(result), number, np.float32)
    parameters = of_constant(array, parameters_of(result).dtype)
    return graph.constant(parameters.quantized(array), f"{result.name}/{name}", parameters)


def _single(tensor: Tensor) -> tuple[int, ...]:
    """The shape of one number for a tensor: delegates want rank 1, but a scalar it must not give an axis."""
    return (1,) if tensor.shape else ()


def _like(tensor: Tensor, name: str, shape: tuple[int, ...], parameters: Quantization | None = None) -> Tensor:
    """A tensor of integers with other parameters, or with the same."""
    parameters = parameters or parameters_of(tensor)
    return Tensor(name, shape, np.dtype(parameters.dtype), quantization=parameters)


_RELU6 = 3  # ActivationFunctionType of the schema

_OF_BOTH = {"HARD_SWISH": _hard_swish, "PRELU": _prelu, "SUM": _sum}
_FORMS: Mapping[str, Callable[[Graph, Operator], list[Operator]]] = {
    **_OF_BOTH,
    TABLE: _table,
    "DEPTHWISE_CONV_2D": _depthwise,
    **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1"), _clamp),
}
_FORMS_OF_INT16 = {**_OF_BOTH, "DEPTH_TO_SPACE": _depth_to_space}
"""Without kernels of int16; on int8 they are slow, or wrong."""
