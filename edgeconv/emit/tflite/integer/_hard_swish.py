"""Integer HARD_SWISH as sums and products, which delegates take."""

from __future__ import annotations

import math

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._quantization import Quantization, of_constant, of_interval, of_type


def write_hard_swish(graph: Graph) -> None:
    """Writes each HARD_SWISH of a finished integer graph in other operators, where these are no coarser."""
    operators: list[Operator] = []
    for operator in graph.operators:
        integer = operator.code == "HARD_SWISH" and operator.inputs[0].quantization is not None
        operators += _form(graph, operator, operators) if integer else [operator]
    graph.operators = operators


def _form(graph: Graph, operator: Operator, before: list[Operator]) -> list[Operator]:
    """x / 6 times ReLU6(x + 3); the integers of x / 6 are those of x.

    XNNPACK has no HARD_SWISH of int8 and takes these: 0.10 ms beside 0.71 ms (56x56x64, LiteRT 2.3, one thread, AVX-512
    VNNI). It stays where the gate, of 8 bits itself, would move the result by about a step: where x and the result are
    narrow.
    """
    source, result = operator.inputs[0], operator.outputs[0]
    parameters = _of(source)
    sixteen, highest = parameters.dtype == "int16", parameters.interval[1] + 3
    if not sixteen and highest <= 0:
        return [operator]
    gates = of_interval(0.0, 6.0 if sixteen else min(6.0, highest), parameters.dtype)
    if not sixteen and _off_by(gates, parameters) > _MOST_OFF * _of(result).scale[0]:
        return [operator]
    maker = None if sixteen else _only_maker(graph, source, before)
    if maker is not None:
        return _by_roots(graph, operator, maker, gates)
    three, sixth = (_number(graph, number, result, name) for number, name in ((3.0, "three"), (1 / 6, "sixth")))
    gate = _like(source, f"{result.name}/gate", gates)
    part = _like(source, f"{result.name}/part", _times(parameters, 1 / 6))
    # potScaleInt16 is true by default, for scales that are powers of 2 (AddOptions of the schema; kernels/add.cc).
    options = {"fusedActivationFunction": _RELU6, "potScaleInt16": False} if sixteen else {}
    return [
        Operator("ADD", [source, three], [gate], options),
        Operator("MUL", [source, sixth], [part]),
        Operator("MUL", [part, gate], [result]),
    ]


def _by_roots(graph: Graph, operator: Operator, maker: Operator, gates: Quantization) -> list[Operator]:
    """r * (r + 3 / sqrt(6)) of r = x / sqrt(6), which the layer before makes in place of x: the same integers.

    It saves the product that makes x / 6: of 14x14x672 0.024 ms of 0.066 (LiteRT 2.3, one thread, AVX-512 VNNI).
    """
    source, result = operator.inputs[0], operator.outputs[0]
    root = 1 / math.sqrt(6)
    for index in (1, 2):
        constant = maker.inputs[index]
        assert constant.data is not None  # `_only_maker` looked
        maker.inputs[index] = graph.constant(constant.data, constant.name, _times(_of(constant), root))
    source.quantization = _times(_of(source), root)
    three = _number(graph, 3 * root, result, "three")
    gate = _like(source, f"{result.name}/gate", _times(gates, root))
    return [Operator("ADD", [source, three], [gate]), Operator("MUL", [source, gate], [result])]


def _only_maker(graph: Graph, source: Tensor, before: list[Operator]) -> Operator | None:
    """The layer with int8 weights whose result nothing else reads, nor clamps."""
    maker = next((operator for operator in before if source in operator.outputs), None)
    if maker is None or maker.code not in _LAYERS or maker.options.get("fusedActivationFunction", 0):
        return None
    alone = sum(source in operator.inputs for operator in graph.operators) == 1 and source not in graph.outputs
    constants = maker.inputs[1:]
    known = len(constants) == 2 and all(tensor.data is not None and tensor.quantization for tensor in constants)
    return maker if alone and known else None


_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")  # data, weights, bias
_MOST_OFF = 0.95  # of a step: numbers that are nearer than one round to neighbours at most
_RELU6 = 3  # ActivationFunctionType of the schema


def _off_by(gates: Quantization, parameters: Quantization) -> float:
    """By how much rounding the gate ReLU6(x + 3) moves HardSwish(x), at most, for all integers of x."""
    x = parameters.dequantized(np.arange(-128, 128))
    rounded = gates.dequantized(gates.quantized(x + 3))
    return float(np.abs(x / 6 * (rounded - np.clip(x + 3, 0, 6))).max())


def _times(parameters: Quantization, factor: float) -> Quantization:
    scales = np.array(parameters.scale) * factor
    return of_type(parameters.dtype, scales, parameters.zero_point, parameters.axis)


def _number(graph: Graph, number: float, result: Tensor, name: str) -> Tensor:
    """A constant of one number; of rank 1, as delegates want it, but a scalar it must not give an axis."""
    array = np.full((1,) if result.shape else (), number, np.float32)
    parameters = of_constant(array, _of(result).dtype)
    return graph.constant(parameters.quantized(array), f"{result.name}/{name}", parameters)


def _like(tensor: Tensor, name: str, parameters: Quantization) -> Tensor:
    return Tensor(name, tensor.shape, np.dtype(parameters.dtype), quantization=parameters)


def _of(tensor: Tensor) -> Quantization:
    assert tensor.quantization is not None  # the operator is integer
    return tensor.quantization
