"""Validates stored constants: positive finite scales, finite weights, indices in range, reshapes that keep the count.

The specification does not say what invalid ones mean, and runtimes differ: with a scale of 0 one refuses the file, one
crashes, one gives zeros.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.core.affine import are_scales
from edgeconv.errors import CaptureError
from edgeconv.graph.constants import is_float
from edgeconv.graph.edit import constant, dims
from edgeconv.graph.origin import place_of
from edgeconv.graph.traits import Trait, having

_ARITHMETIC = having(Trait.AFFINE)  # an infinite operand may be intended here: a mask that is added, a bound
_ALONG_AN_AXIS = frozenset({"Gather", "GatherElements", "ScatterElements"})
_ALONG_SEVERAL = frozenset({"GatherND", "ScatterND"})  # an index is a row of numbers, one for each axis


def check_numbers(graph: ir.Graph) -> None:
    """Refuses a graph that stores invalid numbers.

    Raises:
        CaptureError: a scale is not positive and normal, or they are too many or too few; a weight is NaN or infinite;
            an index is out of range; a reshape would have to make or lose elements; Mod of floats does not state
            ``fmod``. Names the node and the constant.
    """
    for node in graph:
        if node.op_type in _ALONG_AN_AXIS | _ALONG_SEVERAL:
            _check_indices(node)
        elif node.op_type in having(Trait.REARRANGES):
            _check_count(node)
        elif node.op_type == "Mod":
            _check_remainder(node)
        if node.op_type in having(Trait.SCALED):
            _check_scale(node)
        elif node.op_type in having(Trait.WEIGHTED) | _ARITHMETIC:
            _check_weights(node)


def check_scales(graph: ir.Graph) -> None:
    """The part of `check_numbers` about scales and zero points: for before constants are folded, and they with them.

    Raises:
        CaptureError: see there.
    """
    for node in graph:
        if node.op_type in having(Trait.SCALED):
            _check_scale(node)


def _check_remainder(node: ir.Node) -> None:
    """Mod of floats requires ``fmod=1`` (specification of Mod; onnxruntime refuses anything else)."""
    operand = node.inputs[0]
    if operand is not None and is_float(operand.dtype) and not node.attributes.get_int("fmod", 0):
        what = "Mod of floats is defined with fmod=1 only, and it states none"
        raise refused(node, what, "set fmod to 1, or compute x - y * Floor(x / y)")


def _check_indices(node: ir.Node) -> None:
    """Checks that stored indices of an axis of n elements are from -n to n - 1 (specification: Gather, GatherND, …)."""
    source, indices = node.inputs[0], constant(node.inputs[1])
    if source is None or source.shape is None or indices is None or not indices.size:
        return
    if node.op_type in _ALONG_SEVERAL:  # the last axis of the indices has one entry per axis that is indexed
        first = node.attributes.get_int("batch_dims", 0)
        by_axis = dict(enumerate(np.moveaxis(np.atleast_1d(indices), -1, 0), first))
    else:
        by_axis = {node.attributes.get_int("axis", 0): indices}
    for axis, numbers in by_axis.items():
        size = source.shape[axis] if -len(source.shape) <= axis < len(source.shape) else None
        if isinstance(size, int) and not (-size <= numbers.min() and numbers.max() < size):
            what = f"{node.op_type} takes the indices {numbers.min()} to {numbers.max()} of an axis of {size} elements"
            raise refused(node, what, "correct the indices")


def _check_count(node: ir.Node) -> None:
    """Checks that a Reshape or the like keeps the number of elements."""
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if before is not None and after is not None and math.prod(before) != math.prod(after):
        what = f"{node.op_type} cannot make the shape {list(after)} of {list(before)}"
        raise refused(node, what, "correct the shapes")


def _check_scale(node: ir.Node) -> None:
    _check_shapes(node)
    scales = constant(node.inputs[1])
    if scales is None:
        return
    numbers = scales.astype(np.float64)
    wrong = numbers[~are_scales(numbers)]
    if wrong.size:
        what = "its scale" if numbers.size == 1 else f"{wrong.size} of its {numbers.size} scales"
        first = "" if wrong.size == 1 else "the first of them "
        what = f"{what} cannot be one: {first}{'is ' if first else ''}{wrong.flat[0]:g}"
        raise refused(node, what, "quantize the model again: scales are positive, at least 1.2e-38, and finite")


def _check_shapes(node: ir.Node) -> None:
    """Checks the shapes of scales and zero points: one for all, one per element of the axis, or per block of it.

    Specification: QuantizeLinear, of which ``block_size`` is new in opset 21.
    """
    source, scales, *zeros = (value.shape if value is not None else None for value in node.inputs)
    if scales is None or not scales.is_static():
        return
    where = place_of(node)
    count = math.prod(scales.numpy())
    if source is not None and source.is_static() and (len(scales) > 1 or count > 1):
        axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
        sizes = list(source.numpy())
        has_axis = -len(sizes) <= axis < len(sizes)
        if has_axis and block > 0:
            sizes[axis] = -(-sizes[axis] // block)
        fitting = sizes if block > 0 else sizes[axis:][:1]
        if not has_axis or list(scales.numpy()) != fitting:
            stated = f"{count} scales" if len(scales) == 1 else f"scales of the shape {list(scales)}"
            what = f"it has {stated} for the axis {axis} of a tensor of shape {list(source)}"
            raise CaptureError(what, where=where, hint="give one scale, or one per element of that axis")
    for zero in zeros:
        if zero is None or not zero.is_static():
            continue
        if math.prod(zero.numpy()) != count:
            what = f"it has {count} scales and {math.prod(zero.numpy())} zero points"
            raise CaptureError(what, where=where, hint="give as many of each")
        if list(zero.numpy()) != list(scales.numpy()) and max(len(zero), len(scales)) > 1:
            what = f"its scales have the shape {list(scales.numpy())} and its zero points {list(zero.numpy())}"
            raise CaptureError(what, where=where, hint="give them the same shape")


def _check_weights(node: ir.Node) -> None:
    for value in node.inputs:
        array = constant(value)
        if value is None or array is None or array.dtype.kind != "f":
            continue
        unsound = np.isnan(array) if node.op_type in _ARITHMETIC else ~np.isfinite(array)
        if unsound.any():
            kind = "NaN" if np.isnan(array).any() else "Inf"
            what = f"its weight {value.name!r} holds {kind} in {int(unsound.sum())} of {array.size} places"
            raise refused(node, what, "export the model from a checkpoint of before it diverged")
