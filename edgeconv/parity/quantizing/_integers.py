"""Each integer of a constant is the nearest to the number of the float graph that it stands for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import constant
from edgeconv.graph.integer_rules import LAYERS
from edgeconv.parity.quantizing import _pairs
from edgeconv.parity.quantizing._alongside import Operand, numbers_of, source_of
from edgeconv.parity.quantizing._origin import Numbers, TensorNumbers
from edgeconv.parity.quantizing._place import Place, furthest

_HALF = 0.5 + 2.0**-20  # steps: float64 is 2**-30 off of 2**22 steps, and more of a bias of 2**30
_FLOAT64 = 2.0**-50  # relative: of a quotient
_ENDS = {"int8": (-128, 127), "int16": (-32768, 32767), "int32": (-(2**31), 2**31 - 1)}
_WEIGHT_ENDS = (-127, 127)


def output_axis(node: ir.Node, rank: int) -> int:
    """Along which axis of a layer's weight the output channels lie (of one group, in a ConvTranspose)."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, rank - 1)


@dataclass(frozen=True)
class Stored:
    """A constant of integers: what it stands for, and how.

    Attributes:
        operand: who reads it.
        real: the float graph's numbers, float64.
        integers: of the same shape.
        scale: float64, that broadcasts.
        zero: alike.
    """

    operand: Operand
    real: Array
    integers: Array
    scale: Array
    zero: Array

    @cached_property
    def steps(self) -> Array:
        """The real numbers, in steps from zero."""
        with np.errstate(over="ignore"):
            return self.real / self.scale

    @property
    def distance(self) -> Array:
        """How far each integer is from its number, in steps; from the end of its type where that is beyond it."""
        low, high = _WEIGHT_ENDS if self.is_weight else _ENDS[self.integers.dtype.name]
        due = np.clip(self.steps + self.zero, low, high)
        return np.asarray(np.abs(due - self.integers))

    @property
    def slack(self) -> Array:
        """Half a step, and what float64 may be off of these numbers."""
        if self.is_weight:
            return np.asarray(_HALF)
        return _HALF + _FLOAT64 * np.abs(np.where(np.isfinite(self.steps), self.steps, 0.0))

    @property
    def is_weight(self) -> bool:
        return is_weight(self.operand)


def is_weight(operand: Operand) -> bool:
    """Whether it is the weight of a layer."""
    return operand.before is not None and operand.before.op_type in LAYERS and operand.index == 1


def stored(operand: Operand) -> Stored | Place:
    """The integers of a constant; a `Place` where they cannot stand for it."""
    node, real = operand.stored, constant(operand.value)
    assert node is not None
    assert real is not None
    integers = constant(node.inputs[0])
    assert integers is not None  # `source_of` looked
    scale, zero = numbers_of(node)
    if integers.shape != real.shape or integers.dtype.name not in _ENDS:
        return Place(operand.name, f"{named(operand)} is {integers.dtype.name}{list(integers.shape)}")
    if not (np.isfinite(scale) & (scale > 0)).all():
        return Place(operand.name, f"{named(operand)} has a scale that is no positive number")
    axis, rank = node.attributes.get_int("axis", 1), real.ndim
    if scale.size > 1 and (axis >= rank or scale.size != real.shape[axis]):
        return Place(operand.name, f"{named(operand)} has {scale.size} scales along axis {axis} of {list(real.shape)}")
    shape = [-1 if index == axis else 1 for index in range(rank)] if scale.size > 1 else []
    numbers = (array.astype(np.float64).reshape(shape) for array in (scale, zero))
    return Stored(operand, real.astype(np.float64), integers, *numbers)


def named(operand: Operand) -> str:
    """A constant, in words."""
    if is_weight(operand):
        return f"the weight of {operand.name}"
    integers = None if operand.stored is None else constant(operand.stored.inputs[0])
    is_bias = operand.before is not None and operand.before.op_type in LAYERS and operand.index == 2
    if is_bias or (integers is not None and integers.dtype == np.int32):
        return f"the bias of {operand.name}"
    return f"the constant {operand.value.name} of {operand.name}"


def weight_faults(item: Stored, numbers: Numbers) -> Iterator[Place]:
    """A weight's scales are the plan's, along its output channels; each integer is the nearest to its number.

    Where pairs may not overflow none does, and both of a pair that would are as much smaller.
    """
    operand = item.operand
    assert operand.before is not None
    assert operand.stored is not None
    where, axis = operand.name, output_axis(operand.before, item.real.ndim)
    plan = numbers.weights.get(where)
    scale, zero = numbers_of(operand.stored)
    stated = None if plan is None else np.array(plan.scales, np.float32)
    if plan is None or stated is None or not np.array_equal(scale.reshape(-1), stated):
        yield Place(where, f"the weight of {where} has other scales than the plan")
        return
    if plan.axis not in (None, axis) or (scale.size > 1 and operand.stored.attributes.get_int("axis", 1) != axis):
        yield Place(where, f"the scales of the weight of {where} do not lie along its output channels, axis {axis}")
        return
    if zero.any() or item.integers.dtype != np.int8:
        yield Place(where, f"the weight of {where} is not symmetric in 8 bits: its zero point is not 0")
        return
    distance, bound = item.distance, np.broadcast_to(item.slack, item.real.shape)
    rows = _pairs.in_rows(operand.before, axis, item.integers) if numbers.pair_safe else None
    if rows is not None and (over := _pairs.overflowing(rows)):
        yield Place(where, f"{over} pairs of the weight of {where} overflow 16 bits, and the plan is pair-safe")
        return
    if rows is not None and (distance > bound).any():
        # What was cut off is as much of both, and no more than has to be.
        distance, bound, steps = (
            np.asarray(_pairs.in_rows(operand.before, axis, array)) for array in (distance, bound, item.steps)
        )
        distance = np.where(_pairs.cut_evenly(steps, rows), 0.0, distance)
        yield from _beyond(where, f"the weight of {where}, by channel and term,", distance, bound)
        return
    yield from _beyond(where, f"the weight of {where}", distance, bound)


def _beyond(where: str, what: str, distance: Array, bound: Array) -> Iterator[Place]:
    place = furthest(where, what, distance, bound, "the float graph's number")
    if place is not None:
        yield place


def bias_faults(item: Stored) -> Iterator[Place]:
    """A bias has the product of its operands' scales, in float32, and each integer is the nearest to its number."""
    operand, where = item.operand, item.operand.name
    due = _sums_scale(operand)
    assert operand.stored is not None
    scale, zero = numbers_of(operand.stored)
    if due is None:
        yield Place(where, f"the bias of {where} is of integers, and its layer is not")
        return
    # A ConvTranspose of groups has one scale for the same channel of each.
    if scale.size not in (1, item.real.size) or not np.array_equal(scale.reshape(-1), np.resize(due, scale.size)):
        yield Place(where, f"the scales of the bias of {where} are not those of its layer's operands, multiplied")
    elif zero.any():
        yield Place(where, f"the bias of {where} has a zero point other than 0")
    else:
        yield from _beyond(where, f"the bias of {where}", item.distance, item.slack)


def _sums_scale(operand: Operand) -> Array | None:
    """The scales of what a layer adds up, float32; None where one of its operands is no integers."""
    node = operand.node
    if node is not None and node.op_type not in LAYERS:  # the Add behind a MatMul
        value = node.inputs[1 - operand.index]
        node = None if value is None else value.producer()
    if node is None or node.op_type not in LAYERS or node.inputs[0] is None or node.inputs[1] is None:
        return None
    pairs, weight = source_of(node.inputs[0])[1], source_of(node.inputs[1])[2]
    if not pairs or weight is None:
        return None
    return np.asarray(numbers_of(weight)[0].reshape(-1) * numbers_of(pairs[-1].dequantize)[0].reshape(()))


def operand_faults(item: Stored, due: TensorNumbers | None) -> Iterator[Place]:
    """Any other constant has the parameters that are due, and each integer is the nearest to its number."""
    operand, where = item.operand, item.operand.name
    assert operand.stored is not None
    if due is None or not has_numbers(operand.stored, due):
        yield Place(where, f"{named(operand)} has another scale or zero point than the plan")
    else:
        yield from _beyond(where, named(operand), item.distance, item.slack)


def has_numbers(node: ir.Node, due: TensorNumbers) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear has these parameters, bit for bit."""
    scale, zero = numbers_of(node)
    if scale.size != 1 or zero.size != 1 or zero.dtype.name != due.dtype:
        return False
    return bool(scale.reshape(()) == np.float32(due.scale)) and int(zero.reshape(())) == due.zero_point
