"""Where a kernel writes other parameters than a tensor has, or reads others: integers are requantized.

Tensor parameters never change; a QUANTIZE is inserted instead, so that a file saturates and rounds where the quantized
graph does.
"""

from __future__ import annotations

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._quantization import Quantization
from edgeconv.emit.tflite.integer._rules import (
    ROUNDED_TWICE,
    RULES,
    Interval,
    Kind,
    bounds_of,
    computed,
    data_of,
    is_integer,
    picks,
    prescribed,
    results_of,
)
from edgeconv.emit.tflite.lower._windows import SAME, VALID


def settle(graph: Graph, *, exact: bool = False) -> None:
    """Makes parameters alike where an operator wants them so; exact: a mean that would be rounded twice stays float."""
    settled: list[Operator] = []
    for operator in graph.operators:
        kind = RULES[operator.code].kind if is_integer(operator) else Kind.FREE
        if kind is Kind.SAME:
            if _averages_by_weights(graph, operator):
                settled.append(operator)
            elif exact and not picks(operator) and not _is_alike(operator):
                operator.keeps_float = ROUNDED_TWICE
                settled.append(operator)
            else:
                settled += _alike(operator)
        elif kind is Kind.FIXED:
            settled += _prescribed(operator)
        else:
            settled.append(operator)
    graph.operators = settled


def _is_alike(operator: Operator) -> bool:
    return len({tensor.quantization for tensor in (*computed(operator), *results_of(operator))}) == 1


def _alike(operator: Operator) -> list[Operator]:
    """An operator whose operands and results have the same parameters: its operand's, if that is possible.

    Where operands differ, or some are constants, it is the result's: what is picked of rounded numbers is the rounding
    of what is picked.
    """
    data, results = computed(operator), results_of(operator)
    shared = len({tensor.quantization for tensor in data}) == 1 and len(data) == len(data_of(operator))
    target = (data if shared else results)[0].quantization
    assert target is not None  # is_integer looked
    before = [_before(operator, tensor, target) for tensor in dict.fromkeys(data) if tensor.quantization != target]
    behind = [_behind(operator, tensor, target) for tensor in results if tensor.quantization != target]
    return [*before, operator, *behind]


def _averages_by_weights(graph: Graph, operator: Operator) -> bool:
    """Makes an average a depthwise convolution by equal weights, or of a whole image a MEAN, both of which round once.

    Not where the windows reach into the padding, which an average does not count. In the steps of its operand an
    average of int8 could stay, but XNNPACK takes none: of 56x56x64 a pool of 2x2 took 0.13 ms and takes 0.03 ms, one of
    3x3 with stride 2 0.25 and 0.07 ms (LiteRT 2.3, one thread, AVX-512 VNNI). More than 25 taps it convolves slowly.
    """
    source, result, options = operator.inputs[0], operator.outputs[0], operator.options
    if operator.code != "AVERAGE_POOL_2D":
        return False
    size, stride = (options["filterHeight"], options["filterWidth"]), (options["strideH"], options["strideW"])
    # An average of other steps than its operand's needs a kernel that rescales, which AVERAGE_POOL_2D does not.
    alike = source.quantization == result.quantization
    is_int8 = result.quantization is not None and result.quantization.dtype == "int8"
    if is_int8 and size == source.shape[1:3] and result.shape[1:3] == (1, 1) and options["padding"] == VALID:
        operator.code, operator.options = "MEAN", {"keepDims": True}
        operator.inputs = [source, graph.constant(np.array([1, 2], np.int32), f"{result.name}/axes")]
        return True
    if alike and not (is_int8 and size[0] * size[1] <= _MOST_TAPS):
        return False
    reach = [(n - 1) * step + width for n, step, width in zip(result.shape[1:3], stride, size, strict=True)]
    if options["padding"] == SAME and any(a > b for a, b in zip(reach, source.shape[1:3], strict=True)):
        return False
    # Equal weights and a bias of zeros, in floats: they are quantized as any layer's are.
    channels = source.shape[3]
    weights = np.full((1, *size, channels), 1 / (size[0] * size[1]), np.float32)
    constants = [graph.constant(array, f"{result.name}/share") for array in (weights, np.zeros(channels, np.float32))]
    carried = {name: options[name] for name in ("strideH", "strideW", "fusedActivationFunction") if name in options}
    operator.code, operator.inputs = "DEPTHWISE_CONV_2D", [source, *constants]
    operator.options = carried | {"padding": VALID, "depthMultiplier": 1}
    return True


_MOST_TAPS = 25  # of XNNPACK's largest depthwise kernel


def _prescribed(operator: Operator) -> list[Operator]:
    (result,), (source,) = results_of(operator), computed(operator)
    assert source.quantization is not None  # is_integer looked
    target = prescribed(operator, source.quantization.dtype)
    if target is None or result.quantization == target:
        return [operator]
    return [operator, _behind(operator, result, target)]


def _before(operator: Operator, tensor: Tensor, target: Quantization) -> Operator:
    """Gives the operator what it reads in other steps."""
    copy = Tensor(f"{tensor.name}/requantized", tensor.shape, tensor.dtype, quantization=target)
    operator.inputs = [copy if operand is tensor else operand for operand in operator.inputs]
    return Operator("QUANTIZE", [tensor], [copy])


def _behind(operator: Operator, tensor: Tensor, target: Quantization) -> Operator:
    """Lets the operator write what the tensor is then made of."""
    copy = Tensor(f"{tensor.name}/unscaled", tensor.shape, tensor.dtype, quantization=target)
    operator.outputs = [copy if output is tensor else output for output in operator.outputs]
    return Operator("QUANTIZE", [copy], [tensor])


def drop_clamps(graph: Graph) -> None:
    """A clamp goes where saturation does the same: its operand has its result's parameters, and no number beyond."""
    producers, consumers = graph.producers(), graph.consumers()
    for operator in list(graph.operators):
        source, result = operator.inputs[0], operator.outputs[0]
        bounds, producer = bounds_of(operator), producers.get(source)
        if bounds is None or producer is None or source.quantization is None or not is_integer(producer):
            continue
        alone = len(consumers[source]) == 1 and source not in graph.outputs and not operator.keeps_float
        if alone and source.quantization == result.quantization and _within(source.quantization, bounds):
            producer.outputs = [result if output is source else output for output in producer.outputs]
            producers[result] = producer
            graph.operators.remove(operator)


def _within(quantization: Quantization, bounds: Interval) -> bool:
    """Whether all integers stand for numbers within the bounds, but for half a step."""
    (low, high), slack = quantization.interval, quantization.scale[0] / 2
    return bounds[0] <= low + slack and high - slack <= bounds[1]
