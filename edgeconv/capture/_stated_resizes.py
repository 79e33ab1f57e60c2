"""Resizes as files state them, in forms that every later stage knows.

1. ``tf_half_pixel_for_nn``, of opsets 11 and 12, is half a pixel after ``half_pixel``: rounded by another mode, that
   picks the same elements.
2. ``tf_crop_and_resize`` of a constant region is linear in its input: one product with a constant matrix per axis, and
   what is extrapolated is added. TFLite has no operator of its own for it.
3. What no specification knows is refused here, by name: runtimes and references each fail in their own way.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.capture._constants import constant_value
from edgeconv.capture._origin import origin_of, set_origin
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate_node

_FOR_NN, _CROP = "tf_half_pixel_for_nn", "tf_crop_and_resize"
_KNOWN = {
    "mode": ("nearest", "linear", "cubic"),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "coordinate_transformation_mode": (
        *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", _FOR_NN, _CROP),
    ),
}
# floor(x) is what half a pixel before x rounds up to; and ceil(x - 1/2) is what rounding x prefers below.
_ROUNDED = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}
_OPSET = 18
_Matrix = npt.NDArray[np.float64]


def settle_stated_resizes(graph: ir.Graph) -> None:
    """Changes the resizes of a graph in place by the rules above; all shapes must be static.

    Raises:
        CaptureError: a mode is not known, the scales are none, or a region has no form; names the node.
    """
    for node in [node for node in graph if node.op_type == "Resize"]:
        _check(node)
        transformation = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
        if transformation == _FOR_NN:
            _settle_for_nn(node)
        elif transformation == _CROP:
            _settle_crop(graph, node)


def _check(node: ir.Node) -> None:
    for name, known in _KNOWN.items():
        chosen = node.attributes.get_string(name, known[0])
        if chosen not in known:
            raise _refused(node, f"Resize has no {name} {chosen!r}", f"choose of {', '.join(known)}")
    scales = _operand(node, 2)
    if scales is not None and not (np.isfinite(scales) & (scales > 0)).all():
        raise _refused(node, f"Resize cannot scale by {scales.tolist()}", "give positive numbers")


def _settle_for_nn(node: ir.Node) -> None:
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    if node.attributes.get_string("mode", "nearest") != "nearest" or rounding not in _ROUNDED:
        raise _refused(
            node, f"Resize by {_FOR_NN} has no other form here", 'give it mode="nearest" and nearest_mode="floor"'
        )
    node.attributes["coordinate_transformation_mode"] = ir.AttrString("coordinate_transformation_mode", "half_pixel")
    node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", _ROUNDED[rounding])


def _settle_crop(graph: ir.Graph, node: ir.Node) -> None:
    source, result = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or result.shape is None:
        raise ValueError("a Resize without a shape")  # a bug of ours: shapes are checked before
    value, inside = source, np.ones([1] * len(source.shape), bool)
    for axis, matrix in _matrices(node):
        last = axis == len(source.shape) - 1
        name = f"\3{result.name}.axis_{axis}"
        weight = _constant(graph, f"{name}.weight", matrix.T if last else matrix)
        product = ir.node("MatMul", [value, weight] if last else [weight, value])
        sizes = list(value.shape or ())
        sizes[axis] = len(matrix)
        value = _placed(graph, node, product, name, ir.Shape(sizes))
        inside = inside & (matrix.sum(1) > 0.5).reshape([-1 if i == axis else 1 for i in range(len(sizes))])
    fill = node.attributes.get_float("extrapolation_value", 0.0)
    if fill and not inside.all():
        constant = _constant(graph, f"\3{result.name}.extrapolated", np.where(inside, 0.0, fill))
        value = _placed(graph, node, ir.node("Add", [value, constant]), f"\3{result.name}.filled", result.shape)
    if value is source and result.is_graph_output():
        value = _placed(graph, node, ir.node("Identity", [source]), f"\3{result.name}.same", result.shape)
    own, result.name = result.name, None
    if value is not source:
        value.name = own
    ir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _matrices(node: ir.Node) -> Iterator[tuple[int, _Matrix]]:
    """Each axis that changes, with what Resize makes of the unit vectors along it; zeros outside of the input."""
    source, result, roi = node.inputs[0], node.outputs[0], _operand(node, 1)
    if source is None or source.shape is None or result.shape is None:
        return
    rank = len(source.shape)
    axes = [axis % rank for axis in node.attributes.get_ints("axes", list(range(rank)))]
    if roi is None or roi.size != 2 * len(axes) or not np.isfinite(roi).all():
        what = f"Resize by {_CROP} states no region of {2 * len(axes)} finite constants"
        raise _refused(node, what, "give it the input roi")
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise _refused(node, f"Resize by {_CROP} keeps an aspect ratio", "state the sizes that are meant")
    scales = _operand(node, 2)
    for i, axis in enumerate(axes):
        size, wanted = int(str(source.shape[axis])), int(str(result.shape[axis]))
        scale = None if scales is None or not scales.size else scales[i]
        matrix = _along(node, size, wanted, scale, roi[[i, len(axes) + i]])
        if matrix.shape == (size, size) and (matrix == np.eye(size)).all():
            continue
        if axis < rank - 2:
            raise _refused(node, f"Resize by {_CROP} changes the axis {axis}", "crop and resize the last two only")
        yield axis, matrix


def _along(node: ir.Node, size: int, wanted: int, scale: float | None, roi: npt.NDArray[np.float32]) -> _Matrix:
    """What the node makes of unit vectors, one per row of the result's transpose, along one axis."""
    given = ir.val("x", ir.DataType.FLOAT), ir.val("roi", ir.DataType.FLOAT), ir.val("by", ir.DataType.FLOAT)
    lengths = ir.val("to", ir.DataType.INT64)
    attributes = [each for name, each in node.attributes.items() if name not in ("axes", "extrapolation_value")]
    alone = ir.Node("", "Resize", [*given, lengths], [*attributes, ir.AttrInt64s("axes", [1])])
    by = None if scale is None else np.array([scale], np.float32)
    to = np.array([wanted], np.int64) if scale is None else None
    (made,) = evaluate_node(alone, [np.eye(size), roi, by, to], opset=_OPSET)
    return np.asarray(made.T, np.float64)


def _operand(node: ir.Node, index: int) -> npt.NDArray[np.float32] | None:
    """A constant operand; None where it is left out, empty, or no constant."""
    array = constant_value(node.inputs[index]) if len(node.inputs) > index else None
    return None if array is None or not array.size else np.asarray(array, np.float32)


def _constant(graph: ir.Graph, name: str, array: _Matrix) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(array, np.float32), name=name))
    graph.register_initializer(value)
    return value


def _placed(graph: ir.Graph, before: ir.Node, node: ir.Node, name: str, shape: ir.Shape) -> ir.Value:
    output = node.outputs[0]
    output.name, output.type, output.shape = name, before.outputs[0].type, shape
    set_origin(node, origin_of(before))
    graph.insert_before(before, node)
    return output


def _refused(node: ir.Node, what: str, mend: str) -> CaptureError:
    return CaptureError(what, where=origin_of(node).module or node.op_type, mend=mend)
