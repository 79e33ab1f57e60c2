"""Faults in how the operators of `.tflite` files are wired: order, operands, layers left out, axes, slices."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from planted import drawn
from tflite_edit import TfliteEdit

_WINDOWS = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D")


def _concat(edit: TfliteEdit, rng: random.Random) -> str:
    places = [operator for operator in edit.operators("CONCATENATION") if len(set(operator.inputs)) > 1]
    operator = drawn(rng, [operator for operator in places if edit.dtype(operator.outputs[0]) != np.int32])
    inputs = list(operator.inputs)
    first, second = rng.sample(range(len(inputs)), 2)
    inputs[first], inputs[second] = inputs[second], inputs[first]
    operator.inputs = inputs
    return edit.name(operator)


def _two_operands(edit: TfliteEdit, *names: str) -> list[Any]:
    found = []
    for operator in edit.operators(*names):
        inputs = list(operator.inputs)
        if len(set(inputs)) == 2 and all(edit.stored(index) is None for index in inputs):
            found.append(operator)
    return found


def _operand_dropped(edit: TfliteEdit, rng: random.Random) -> str:
    places = []
    for operator in _two_operands(edit, "ADD", "MUL", "SUB"):
        same = [int(index) for index in operator.inputs if edit.shape(index) == edit.shape(operator.outputs[0])]
        places += [(operator, index) for index in same]
    operator, kept = drawn(rng, places)
    edit.rewire(operator, kept)
    return edit.name(operator)


def _operand_doubled(edit: TfliteEdit, rng: random.Random) -> str:
    operator = drawn(rng, _two_operands(edit, "ADD", "MUL"))
    first, second = operator.inputs
    larger = first if math.prod(edit.shape(first)) >= math.prod(edit.shape(second)) else second
    operator.inputs = [larger, larger]
    return edit.name(operator)


def _operands_exchanged(edit: TfliteEdit, rng: random.Random) -> str:
    operator = drawn(rng, edit.operators("SUB", "DIV"))
    operator.inputs = list(operator.inputs)[::-1]
    return edit.name(operator)


def _another_arithmetic(edit: TfliteEdit, rng: random.Random) -> str:
    kinds = {"ADD": schema.AddOptionsT, "MUL": schema.MulOptionsT, "SUB": schema.SubOptionsT}
    operator = drawn(rng, _two_operands(edit, *kinds))
    name = drawn(rng, [kind for kind in kinds if kind != edit.code(operator)])
    options = kinds[name]()
    options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    edit.set_code(operator, name)
    operator.builtinOptions = options
    operator.builtinOptionsType = getattr(schema.BuiltinOptions, kinds[name].__name__[:-1])
    return edit.name(operator)


def _skipped(edit: TfliteEdit, rng: random.Random) -> str:
    operator = drawn(rng, edit.operators(*_WINDOWS, "FULLY_CONNECTED"))
    edit.rewire(operator, int(operator.inputs[0]))
    return edit.name(operator)


def _results_exchanged(edit: TfliteEdit, rng: random.Random) -> str:
    """Two results of SPLIT, or two outputs of the graph with the same shape and type."""
    lists = [operator.outputs for operator in edit.operators("SPLIT")] + [edit.graph.outputs]
    same = []
    for outputs in lists:
        alike = {(edit.shape(index), edit.tensor(index).type) for index in outputs}
        if len(outputs) > 1 and len(alike) == 1:
            same.append(outputs)
    outputs = drawn(rng, same)
    first, second = (int(index) for index in rng.sample(list(outputs), 2))
    exchanged = {first: second, second: first}
    name = edit.tensor_name(first)
    if outputs is edit.graph.outputs:
        tensors = edit.tensor(first), edit.tensor(second)
        tensors[0].name, tensors[1].name = tensors[1].name, tensors[0].name
        edit.graph.outputs = [exchanged.get(int(index), int(index)) for index in outputs]
        for signature in edit.model.signatureDefs or ():
            for entry in signature.outputs:
                entry.tensorIndex = exchanged.get(entry.tensorIndex, entry.tensorIndex)
        return name
    for operator in edit.operators("SPLIT"):
        if operator.outputs is outputs:
            operator.outputs = [exchanged.get(int(index), int(index)) for index in outputs]
    return name


def _images(edit: TfliteEdit) -> list[tuple[Any, tuple[int, ...]]]:
    names = (*_WINDOWS, "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "MEAN", "CONCATENATION")
    shapes = [(operator, edit.shape(operator.inputs[0])) for operator in edit.operators(*names)]
    return [(operator, shape) for operator, shape in shapes if len(shape) == 4 and min(shape[1:]) > 1]


def _sides_exchanged(edit: TfliteEdit, rng: random.Random) -> str:
    operator, shape = drawn(rng, [(operator, shape) for operator, shape in _images(edit) if shape[1] == shape[2]])
    order = edit.add_constant(np.array([0, 2, 1, 3], np.int32))
    turned = edit.insert(operator, "TRANSPOSE", [int(operator.inputs[0]), order], shape, schema.TransposeOptionsT())
    operator.inputs = [turned, *operator.inputs[1:]]
    return edit.name(operator)


def _layout_misread(edit: TfliteEdit, rng: random.Random) -> str:
    """The elements of (N, H, W, C) are taken for those of (N, C, H, W)."""
    operator, (batch, height, width, channels) = drawn(rng, _images(edit))
    shape = [batch, channels, height, width]
    options = schema.ReshapeOptionsT()
    options.newShape = np.array(shape, np.int32)
    stated = edit.add_constant(np.array(shape, np.int32))
    misread = edit.insert(operator, "RESHAPE", [int(operator.inputs[0]), stated], shape, options)
    order = edit.add_constant(np.array([0, 2, 3, 1], np.int32))
    turned = edit.insert(operator, "TRANSPOSE", [misread, order], (batch, height, width, channels))
    operator.inputs = [turned, *operator.inputs[1:]]
    return edit.name(operator)


def _permutation(edit: TfliteEdit, rng: random.Random) -> str:
    places = []
    for operator in edit.operators("TRANSPOSE"):
        order, shape = edit.stored(operator.inputs[1]), edit.shape(operator.inputs[0])
        if order is None:
            continue
        perm = [int(axis) for axis in order.values]
        pairs = [(a, b) for a in range(len(perm)) for b in range(a) if shape[perm[a]] == shape[perm[b]] > 1]
        places += [(operator, perm, pair) for pair in pairs]
    operator, perm, (first, second) = drawn(rng, places)
    perm[first], perm[second] = perm[second], perm[first]
    operator.inputs = [operator.inputs[0], edit.add_constant(np.array(perm, np.int32))]
    return edit.name(operator)


def _slice(edit: TfliteEdit, rng: random.Random) -> str:
    places = []
    for operator in edit.operators("SLICE", "STRIDED_SLICE"):
        begins, ends = edit.stored(operator.inputs[1]), edit.stored(operator.inputs[2])
        if begins is None or ends is None:
            continue
        sliced = edit.code(operator) == "STRIDED_SLICE"
        shapes = edit.shape(operator.inputs[0]), edit.shape(operator.outputs[0])
        for axis in range(min(len(shapes[0]), begins.values.size)):
            begin = int(begins.values[axis])
            last = int(ends.values[axis]) if sliced else begin + int(ends.values[axis])
            by = 1 if last < shapes[0][axis] else -1
            if shapes[0][axis] > 1 and begin + by >= 0 and 0 < last + by <= shapes[0][axis] and last - begin > 0:
                places.append((operator, begins, ends, axis, by, sliced))
    operator, begins, ends, axis, by, sliced = drawn(rng, places)
    moved = begins.values.copy()
    moved[axis] += by
    inputs = list(operator.inputs)
    inputs[1] = edit.add_constant(moved)
    if sliced:
        last = ends.values.copy()
        last[axis] += by
        inputs[2] = edit.add_constant(last)
    operator.inputs = inputs
    return edit.name(operator)


WIRING_FAULTS: dict[str, Callable[[TfliteEdit, random.Random], str]] = {
    "concat-order": _concat,
    "operand-dropped": _operand_dropped,
    "operand-doubled": _operand_doubled,
    "operands-exchanged": _operands_exchanged,
    "another-arithmetic": _another_arithmetic,
    "layer-skipped": _skipped,
    "outputs-exchanged": _results_exchanged,
    "sides-exchanged": _sides_exchanged,
    "layout-misread": _layout_misread,
    "permutation": _permutation,
    "slice-shifted": _slice,
}
