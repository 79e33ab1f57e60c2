"""The optimizer's rules for `edgeconv.capture.normalize.remove_no_ops`: arithmetic that changes no number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize.remove_no_ops import FORMS, Rule, first_input, same_shape
from edgeconv.graph.affine_maps import affine
from edgeconv.graph.constants import exact, integers
from edgeconv.graph.edit import input_of
from edgeconv.graph.windows import may_pad


def _always(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _pads_nothing(node: ir.Node) -> bool:
    return integers(node.inputs[1]) is not None and not any(integers(node.inputs[1]) or ())


def _takes_everything(node: ir.Node) -> bool:
    """A Slice with steps of 1 that keeps the shape."""
    steps = [] if input_of(node, 4) is None else integers(input_of(node, 4))
    return steps is not None and all(step == 1 for step in steps) and same_shape(node)


def _repeats_once(node: ir.Node) -> bool:
    repeats = integers(node.inputs[1])
    return repeats is not None and all(count == 1 for count in repeats)


def _pools_single_elements(node: ir.Node) -> bool:
    """A 1x1 window that visits every element once."""
    ones = all(size == 1 for name in ("kernel_shape", "strides") for size in node.attributes.get_ints(name, (1,)))
    return ones and not may_pad(node) and same_shape(node)


def _neutral(node: ir.Node) -> ir.Value | None:
    """``x + 0``, ``x - 0``, ``x * 1`` or ``x / 1`` that does not broadcast x to a larger shape."""
    reading = affine(node)
    is_neutral = reading is not None and bool((reading.scale == 1.0).all() and not reading.shift.any())
    return reading.source if reading is not None and is_neutral else None


def _unbounded(node: ir.Node) -> bool:
    """A Clip without bounds, or with infinite ones."""
    bounds = zip(node.inputs[1:], (-np.inf, np.inf), strict=False)
    return all(bound is None or _is_full_of(bound, end) for bound, end in bounds)


_UNBOUNDED = {"Max": -np.inf, "Min": np.inf}


def _beyond_all(node: ir.Node) -> ir.Value | None:
    """A Max or Min of a single value, or with infinite constants that change nothing.

    XNNPACK (LiteRT 2.3) elides both of two such nodes in a row, and then writes no result at all.
    """
    computed = [value for value in node.inputs if exact(value) is None]
    others = [value for value in node.inputs if exact(value) is not None]
    if len(computed) != 1 or not all(_is_full_of(value, _UNBOUNDED[node.op_type]) for value in others):
        return None
    return computed[0] if not others or (computed[0] is not None and same_shape(node, computed[0])) else None


def _is_full_of(value: ir.Value | None, number: float) -> bool:
    array = exact(value)
    return array is not None and bool((array == number).all())


def _resizes_nothing(node: ir.Node) -> bool:
    """A Resize to the same size in a mode that reads every element at its center."""
    plain = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
    return plain and node.attributes.get_string("mode", "nearest") in ("nearest", "linear") and same_shape(node)


def _reduces_nothing(node: ir.Node) -> bool:
    return node.attributes.get_int("keepdims", 1) == 1 and same_shape(node)


NO_OPS: Mapping[str, Rule] = {
    **FORMS,
    "Add": _neutral,
    "AveragePool": first_input(_pools_single_elements),
    "Clip": first_input(_unbounded),
    "Concat": first_input(_always),
    "Div": _neutral,
    "GlobalAveragePool": first_input(same_shape),
    "Max": _beyond_all,
    "MaxPool": first_input(_pools_single_elements),
    "Mean": first_input(_always),
    "Min": _beyond_all,
    "Mul": _neutral,
    "Pad": first_input(_pads_nothing),
    "ReduceMax": first_input(_reduces_nothing),
    "ReduceMean": first_input(_reduces_nothing),
    "ReduceMin": first_input(_reduces_nothing),
    "ReduceSum": first_input(_reduces_nothing),
    "Resize": first_input(_resizes_nothing),
    "Slice": first_input(_takes_everything),
    "Squeeze": first_input(same_shape),
    "Sub": _neutral,
    "Sum": first_input(_always),
    "Tile": first_input(_repeats_once),
    "Unsqueeze": first_input(same_shape),
}
