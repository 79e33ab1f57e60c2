"""Rewrites the resizes of files into forms that every later stage knows.

1. ``tf_half_pixel_for_nn`` (opsets 11 and 12) is half a pixel after ``half_pixel``: ``half_pixel`` with another
   rounding picks the same elements.
2. ``tf_crop_and_resize`` with a constant region is linear in its input: a product with one constant matrix per axis,
   and a constant for what is extrapolated. TFLite has no operator for it.
3. A nearest Resize picks the elements that onnxruntime picks, by one Gather per axis, unless every arithmetic picks the
   same. Before opset 11 that is the element before a position if the image grows, and after it if it shrinks.
4. Lengths of axes are sizes, as onnxruntime has them, where ONNX's formulas have size times scale, unrounded.
5. The output size is the one that onnxruntime computes of a scale: 13 · 17/13 is 17 in float32, and 16 in any other
   precision. The next larger float32 scale gives 17 everywhere.
6. Modes that the specification does not have are refused: runtimes would each fail in their own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.capture.normalize._resizing import MARGIN, gather_elements, take_elements
from edgeconv.capture.normalize._runtime_places import (
    BEFORE_11,
    STATED,
    Axis,
    axes_of,
    operand,
    picks,
    places,
    rounding,
    size_of,
)
from edgeconv.graph.constants import resized_axes
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.steps import Steps, sizes_of
from edgeconv.reference import evaluate_node

_FOR_NN, _CROP = "tf_half_pixel_for_nn", "tf_crop_and_resize"
_KNOWN = {
    "mode": ("nearest", "linear", "cubic"),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", BEFORE_11),
    "coordinate_transformation_mode": (
        *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", _FOR_NN, _CROP),
    ),
}
# Rule 1: of x' = x - 1/2, floor(x) is x' rounded to nearest, ties up; and rounding x, ties down, is ceil(x').
_ROUNDED = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}
_MOST_PARTS = 1024  # denominators up to this of a scale: float32 holds it, and its products with positions, exactly
_OPSET = 18  # the first with axes and keep_aspect_ratio_policy
_Matrix = npt.NDArray[np.float64]


def settle_stated_resizes(graph: ir.Graph) -> None:
    """Changes the resizes of a graph in place by the rules above; all shapes must be static.

    Raises:
        CaptureError: a mode is not known, scales are not positive, or a region has no form; names the node.
    """
    for node in [node for node in graph if node.op_type == "Resize"]:
        check_resize(node)
        is_copy = _keeps_its_size(node)
        _settle_lengths(graph, node)
        transformation = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
        if transformation == _CROP:
            _settle_crop(graph, node)
        elif is_copy:
            _settle_copy(graph, node)
        elif node.attributes.get_string("mode", "nearest") == "nearest":
            _settle_nearest(graph, node)
        elif transformation == _FOR_NN:
            raise refused(node, f"Resize by {_FOR_NN} has no other form here", 'give it mode="nearest"')
        # `_settle_lengths` may have reduced the one axis that changed; onnxruntime would then copy the others.
        elif _keeps_its_size(node) and not all(axis.is_copied for axis in axes_of(node)):
            what = "Resize by scales that keep a size, with another axis to a single element, has no other form here"
            raise refused(node, what, "state sizes instead of scales")


def _keeps_its_size(node: ir.Node) -> bool:
    return sizes_of(node.inputs[0]) == sizes_of(node.outputs[0])


def _settle_copy(graph: ir.Graph, node: ir.Node) -> None:
    """Replaces the node by an Identity: onnxruntime copies an input that keeps its size, whatever scales and modes."""
    steps, result = Steps(graph, node), node.outputs[0]
    steps.replace({result: steps.add("same", "Identity", [node.inputs[0]], sizes_of(result))})


def _settle_lengths(graph: ir.Graph, node: ir.Node) -> None:
    """Rule 4.

    With aligned corners the positions follow from the sizes alone, so that scales become sizes. ``pytorch_half_pixel``
    takes the first element of an axis that becomes one element: a Gather of it.
    """
    transformation = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    antialias = node.attributes.get_int("antialias", 0) != 0
    if transformation == "align_corners" and antialias and any(_rounds(axis) for axis in axes_of(node)):
        # onnxruntime takes the positions by the sizes and the kernels' widths by the scales.
        what = (
            "Resize with antialias between aligned corners, by scales that give no whole sizes, has no other form here"
        )
        raise refused(node, what, "state sizes instead of scales")
    if transformation == "align_corners" and not antialias:
        sizes = [sizes_of(node.outputs[0])[axis] for axis in resized_axes(node, len(sizes_of(node.outputs[0])))]
        node.attributes.pop("keep_aspect_ratio_policy", None)
        _restate(graph, node, 2, None)
        _restate(graph, node, 3, np.array(sizes, np.int64))
    if transformation == "pytorch_half_pixel" and any(axis.out == 1 < axis.size for axis in axes_of(node)):
        _state_ratio(graph, node)
    if transformation == "pytorch_half_pixel" and operand(node, 2) is not None:
        for axis in [axis for axis in axes_of(node) if axis.out == 1 and axis.size > 1]:
            take_elements(graph, node, axis.axis, np.zeros(1, np.int64))
            scales = np.array(operand(node, 2), np.float32)
            scales[resized_axes(node, len(sizes_of(node.outputs[0]))).index(axis.axis)] = 1
            node.meta.pop(STATED, None)
            _restate(graph, node, 2, scales)


def _rounds(axis: Axis) -> bool:
    """Whether the scale that the file states gives no whole number of elements."""
    return axis.stated is not None and float(axis.stated) * axis.size != axis.out


def _state_ratio(graph: ir.Graph, node: ir.Node) -> None:
    """Replaces ``keep_aspect_ratio_policy`` and sizes by scales.

    Raises:
        CaptureError: the scales would give other sizes.
    """
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch" or operand(node, 3) is None:
        return
    axes = axes_of(node)
    scales = np.array([axis.scale(np.float32) for axis in axes], np.float32)
    if any(int(np.float32(axis.size) * scale) != axis.out for axis, scale in zip(axes, scales, strict=True)):
        what = f"Resize by the policy {policy!r} to a single element has no other form here"
        raise refused(node, what, "state scales, or leave the policy out")
    node.attributes.pop("keep_aspect_ratio_policy", None)
    _restate(graph, node, 2, scales)
    _restate(graph, node, 3, None)


def _restate(graph: ir.Graph, node: ir.Node, index: int, array: npt.NDArray[Any] | None) -> None:
    """Replaces an operand of the node by a constant, or removes it."""
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    operand_name = ("roi", "scales", "sizes")[index - 1]
    node.replace_input_with(index, None if array is None else Steps(graph, node).constant(array, operand_name))


def _settle_nearest(graph: ir.Graph, node: ir.Node) -> None:
    """Rules 1 and 3."""
    axes = [axis for axis in axes_of(node) if not axis.is_copied]
    if not _keeps_its_size(node) and all(_is_certain(node, axis) for axis in axes) and _settle_rounding(node, axes):
        return
    gather_elements(graph, node, {axis.axis: picks(node, axis) for axis in axes})


def _is_certain(node: ir.Node, axis: Axis) -> bool:
    """Whether all runtimes pick the same elements of an axis.

    Either no position is near a border between elements, or float32 holds those positions, and the scale, exactly.
    """
    rounded, exact = places(node, axis), places(node, axis, np.float64)
    rule = rounding(node, axis)
    if (np.clip(rule(rounded), 0, axis.size - 1) != np.clip(rule(exact), 0, axis.size - 1)).any():
        return False
    near = [rule(exact - MARGIN), rule(exact + MARGIN)]
    border = np.clip(near[0], 0, axis.size - 1) != np.clip(near[1], 0, axis.size - 1)
    is_held = Fraction(float(axis.scale(np.float64))).denominator <= _MOST_PARTS
    return bool(not border.any() or (is_held and (rounded == exact)[border].all()))


def _settle_rounding(node: ir.Node, axes: list[Axis]) -> bool:
    """Sets a rounding and a transformation that the present opset has; False if the axes would need different ones."""
    mode = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    if mode == BEFORE_11:
        shrinks = {bool(axis.scale(np.float32) < 1) for axis in axes}
        if len(shrinks) != 1:
            return False
        mode = "ceil" if shrinks.pop() else "floor"
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == _FOR_NN:
        if mode not in _ROUNDED:
            return False
        mode = _ROUNDED[mode]
        name = "coordinate_transformation_mode"
        node.attributes[name] = ir.AttrString(name, "half_pixel")
    node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", mode)
    return True


def may_round(node: ir.Node) -> bool:
    """Whether a node is a Resize whose size is not inferred yet."""
    shape = node.outputs[0].shape if node.outputs else None
    return node.op_type == "Resize" and (shape is None or not shape.is_static())


def settle_first_size(nodes: list[ir.Node]) -> bool:
    """Rule 5: corrects the scales of the first Resize whose inferred size is not onnxruntime's.

    Returns:
        Whether there was one. Sizes behind it have to be inferred again.
    """
    for node in nodes:
        source, result = node.inputs[0], node.outputs[0]
        stated = constant(input_of(node, 2))
        if stated is None or source is None or source.shape is None or not source.shape.is_static():
            continue
        if node.graph is None or result.shape is None or not result.shape.is_static():
            continue
        before, after = sizes_of(source), sizes_of(result)
        axes, scales = resized_axes(node, len(before)), np.asarray(stated, np.float32)
        fitting = scales.copy()
        for i, axis in enumerate(axes[: fitting.size]):
            # onnx's inference multiplies in double: one less than float32 is the case that has been met.
            if size_of(before[axis], fitting[i]) == after[axis] + 1:
                fitting[i] = np.nextafter(fitting[i], np.float32(np.inf))
        if (fitting > scales).any():
            node.meta.setdefault(STATED, scales)
            node.replace_input_with(2, Steps(node.graph, node).constant(fitting, "scales"))
            return True
    return False


def check_resize(node: ir.Node) -> None:
    """Rule 6: checks modes, scales and the element type.

    Raises:
        CaptureError: a mode is not in the specification, or no runtime computes it for integers; or a scale is not
            positive and finite. Names the node.
    """
    for name, choices in _KNOWN.items():
        chosen = node.attributes.get_string(name, choices[0])
        if chosen not in choices:
            raise refused(node, f"Resize has no {name} {chosen!r}", f"choose of {', '.join(choices)}")
    scales = operand(node, 2)
    if scales is not None and not (np.isfinite(scales) & (scales > 0)).all():
        raise refused(node, f"Resize cannot scale by {scales.tolist()}", "give positive numbers")
    source = node.inputs[0]
    is_integer = source is not None and source.dtype is not None and not source.dtype.is_floating_point()
    if is_integer and node.attributes.get_string("mode", "nearest") == "cubic":
        raise refused(node, "no runtime resizes integers by mode 'cubic'", "cast them to float32 before, and back")


def _settle_crop(graph: ir.Graph, node: ir.Node) -> None:
    """Rule 2."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None:
        raise ValueError("a Resize without a shape")  # a bug of ours: shapes are checked before
    steps, value, inside = Steps(graph, node), source, np.ones([1] * len(source.shape), bool)
    for axis, matrix in _matrices(node):
        is_last = axis == len(source.shape) - 1
        weight = steps.constant(
            np.asarray(matrix.T if is_last else matrix, np.float32, order="C"), f"axis_{axis}.weight"
        )
        factors = [value, weight] if is_last else [weight, value]
        sizes = sizes_of(value)
        sizes[axis] = len(matrix)
        value = steps.add(f"axis_{axis}", "MatMul", factors, sizes, dtype=result.dtype)
        # The weights of a position inside the input sum to 1; those of one outside are all 0.
        inside = inside & (matrix.sum(1) > 0.5).reshape([-1 if i == axis else 1 for i in range(len(sizes))])
    fill = node.attributes.get_float("extrapolation_value", 0.0)
    if fill and not inside.all():
        extrapolated = steps.constant(np.where(inside, 0.0, fill).astype(np.float32), "extrapolated")
        value = steps.add("filled", "Add", [value, extrapolated], sizes_of(result))
    if value is source and not result.is_graph_output():
        ir.convenience.replace_all_uses_with(result, source)
        graph.remove(node, safe=True)
    else:
        steps.replace({result: steps.add("same", "Identity", [source], sizes_of(result)) if value is source else value})


def _matrices(node: ir.Node) -> Iterator[tuple[int, _Matrix]]:
    """The matrix (out, size) of each axis that changes; rows of positions outside of the input are 0.

    Raises:
        CaptureError: the region is not constant and finite, an aspect ratio is kept, or another axis than the last two
            changes.
    """
    source, result, roi = node.inputs[0], node.outputs[0], operand(node, 1)
    if source is None or source.shape is None or result.shape is None:
        return
    rank = len(source.shape)
    axes = resized_axes(node, rank)
    if roi is None or roi.size != 2 * len(axes) or not np.isfinite(roi).all():
        what = f"Resize by {_CROP} states no region of {2 * len(axes)} finite constants"
        raise refused(node, what, "give it the input roi")
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise refused(node, f"Resize by {_CROP} keeps an aspect ratio", "state the sizes that are meant")
    scales = operand(node, 2)
    for i, axis in enumerate(axes):
        size, result_size = int(str(source.shape[axis])), int(str(result.shape[axis]))
        scale = None if scales is None or not scales.size else scales[i]
        matrix = _along(node, size, result_size, scale, roi[[i, len(axes) + i]])
        if matrix.shape == (size, size) and (matrix == np.eye(size)).all():
            continue
        if axis < rank - 2:
            raise refused(node, f"Resize by {_CROP} changes the axis {axis}", "crop and resize the last two only")
        yield axis, matrix


def _along(node: ir.Node, size: int, result_size: int, scale: float | None, roi: npt.NDArray[np.float32]) -> _Matrix:
    """The matrix (out, size) of Resize along one axis: its results on the unit vectors, by the reference."""
    operands = ir.val("x", ir.DataType.FLOAT), ir.val("roi", ir.DataType.FLOAT), ir.val("by", ir.DataType.FLOAT)
    lengths = ir.val("to", ir.DataType.INT64)
    attributes = [
        attribute for name, attribute in node.attributes.items() if name not in ("axes", "extrapolation_value")
    ]
    alone = ir.Node("", "Resize", [*operands, lengths], [*attributes, ir.AttrInt64s("axes", [1])])
    by = None if scale is None else np.array([scale], np.float32)
    to = np.array([result_size], np.int64) if scale is None else None
    (matrix,) = evaluate_node(alone, [np.eye(size), roi, by, to], opset=_OPSET)
    return np.asarray(matrix.T, np.float64)
