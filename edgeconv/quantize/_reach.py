"""How far a rounding reaches: what half a step of one value moves in the steps that are rounded next."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core.affine import scaled, spread
from edgeconv.graph.constants import exact
from edgeconv.graph.edit import constant, input_of, only_reader, producer_of
from edgeconv.graph.pairs import PICKS
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._structure import weight_axis

_SIGMAS = 4.0
"""Of an error of many independent roundings: one in 16,000 is beyond."""
_SIGMA = 12.0**-0.5  # of a rounding, in steps
_JOINS = frozenset({"Clip", "Concat", "Relu"})
"""Operators behind which rounding stands as well as before them; a Clip makes fewer integers than the type has."""
_ONWARD = PICKS | having(Trait.MOVES) | {"Clip", "LeakyRelu"}
_THROUGH = _ONWARD | {"Add", "Sub"}  # a Linear of three axes adds its bias


def steps_moved(value: ir.Value, step: float, within: Set[str]) -> float:
    """The most that rounding a value moves what is rounded next, in steps of that.

    A layer adds up its taps' errors, which are as good as independent: four standard deviations, and no more than all
    at their largest. Other operators hand on half a step. What is rounded nowhere has no steps to move by.

    Args:
        value: of a graph with QuantizeLinear and DequantizeLinear.
        step: that it is to be rounded to.
        within: operators beside those that move and pick whose results reach no further than their operand.
    """
    most = 0.0
    for use in value.uses():
        reader, result = use.node, use.node.outputs[0]
        finest, weight = next_step(result), real_weight(reader) if use.idx == 0 else None
        if reader.op_type in within | PICKS | having(Trait.MOVES):
            moved = max(steps_moved(each, step, within) for each in reader.outputs)
        elif reader.op_type == "QuantizeLinear":
            moved = 0.5 * step / _scale(reader)
        elif finest is None:
            moved = 0.0
        elif weight is None:
            moved = 0.5 * step / finest
        else:
            likely = _SIGMAS * _SIGMA * np.sqrt(np.square(weight).sum(axis=1))
            largest = 0.5 * np.abs(weight).sum(axis=1)
            moved = float(np.minimum(likely, largest).max()) * step / finest
        most = max(most, moved)
    return most


def pair_behind(value: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """The QuantizeLinear and the DequantizeLinear behind the moves and joins that alone read a value.

    To round before is to round there: these operators compute nothing but minima and maxima, and rounding keeps order:
    round(min(x, c)) = round(min(round(x), c)). None where it is not so, or where the scale is not one for the whole
    tensor.
    """
    reader = only_reader(value)
    while reader is not None and (reader.op_type in _JOINS or reader.op_type in having(Trait.MOVES)):
        reader = only_reader(reader.outputs[0]) if len(reader.outputs) == 1 else None
    if reader is None or reader.op_type != "QuantizeLinear" or not _is_of_tensor(reader):
        return None
    back = only_reader(reader.outputs[0])
    return (reader, back) if back is not None and back.op_type == "DequantizeLinear" else None


def next_step(value: ir.Value) -> float | None:
    """The finest step that a value is rounded to, perhaps behind a clamp or an addition; None where it is not."""
    steps = list[float]()
    for use in value.uses():
        if use.node.op_type == "QuantizeLinear":
            steps.append(_scale(use.node))
        elif use.node.op_type in _THROUGH:
            steps += filter(None, map(next_step, use.node.outputs))
    return min(steps, default=None)


def _scale(quantize: ir.Node) -> float:
    scale = exact(input_of(quantize, 1))
    return np.inf if scale is None else float(scale.min())


def _is_of_tensor(quantize: ir.Node) -> bool:
    scale = exact(input_of(quantize, 1))
    return scale is not None and scale.size == 1


def real_weight(node: ir.Node) -> npt.NDArray[np.float64] | None:
    """A layer's weight as the numbers that its integers stand for, (channels, taps); None of what has none."""
    made = producer.inputs if (producer := _dequantize(node)) is not None else ()
    integers = constant(made[0]) if made else None
    axis = None if integers is None else weight_axis(node, integers.ndim)
    scale = exact(made[1]) if made else None
    if producer is None or integers is None or axis is None or scale is None:
        return None
    along = producer.attributes.get_int("axis", 1) % integers.ndim
    zero = constant(made[2]) if len(made) > 2 else None
    zeros = None if zero is None else spread(zero.reshape(-1), along, integers.ndim)
    real = scaled(integers.astype(np.float64), spread(scale.reshape(-1), along, integers.ndim), zeros)
    return np.moveaxis(real, axis, 0).reshape(real.shape[axis], -1)


def _dequantize(node: ir.Node) -> ir.Node | None:
    producer = producer_of(input_of(node, 1))
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None
