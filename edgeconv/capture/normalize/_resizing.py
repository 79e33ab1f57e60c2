"""Resizes of modules that runtimes compute differently from torch.

torch multiplies a position by the inverse of the scale, runtimes divide it by the scale, both in float32. If the result
is on or next to the border between two elements, the nearest modes pick different ones: 14 columns to 2, 4 to 41, any
size by 2.1. Such a resize becomes one Gather per axis with torch's choice of elements; any other one stays a Resize.

A scale that is rounded to float32 may also give another size: 5 · 2.6 is 13 in torch (float64), and 12 in float32. The
next larger float32 number gives the right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.steps import Steps, sizes_of

# torch's nearest and nearest-exact, as the coordinates and the rounding of Resize; and the point of an output element
# that they map to the input: its start, its center.
_OFFSETS = {("asymmetric", "floor"): 0.0, ("half_pixel", "round_prefer_ceil"): 0.5}
MARGIN = 1e-3  # in input elements; rounding errors of float32 stay far below it for any image
_LARGEST_DENOMINATOR = 1000  # of a factor that a user writes: 1.5, 2/3, 0.125
_SMALL = 128  # height + width up to which torch's UpSampleKernel.cpp takes another kernel


def settle_resizes(graph: ir.Graph) -> None:
    """Changes in place the resizes that runtimes compute differently from torch."""
    for node in [node for node in graph if node.op_type == "Resize"]:
        if node.attributes.get_string("mode", "nearest") == "nearest":
            _settle_nearest(graph, node)
        if node.graph is not None and "axes" not in node.attributes:
            _settle_scales(graph, node)


def _settle_scales(graph: ir.Graph, node: ir.Node) -> None:
    """Makes a scale one float32 number larger where it gives too small a size."""
    scales = _scales(node)
    if scales is None:
        return
    fitting = scales.astype(np.float32)
    for axis, (size, result_size) in enumerate(zip(sizes_of(node.inputs[0]), sizes_of(node.outputs[0]), strict=True)):
        if not _has_size(size, fitting[axis], result_size):
            fitting[axis] = np.nextafter(fitting[axis], np.float32(np.inf))
    if (fitting != scales).any():
        node.replace_input_with(2, Steps(graph, node).constant(fitting, "scales"))


def _settle_nearest(graph: ir.Graph, node: ir.Node) -> None:
    modes = (
        node.attributes.get_string("coordinate_transformation_mode", "half_pixel"),
        node.attributes.get_string("nearest_mode", "round_prefer_floor"),
    )
    if modes not in _OFFSETS or "axes" in node.attributes:
        return
    offset, axes = _OFFSETS[modes], _resized(node)
    if not all(_is_certain(node, axis, offset) for axis in axes):
        gather_elements(graph, node, {axis: _torchs(node, axis, offset) for axis in axes})


def _resized(node: ir.Node) -> list[int]:
    """The axes that change their size, or have a scale other than 1 and may pick other elements all the same."""
    sizes = zip(sizes_of(node.inputs[0]), sizes_of(node.outputs[0]), strict=True)
    return [
        axis
        for axis, (size, result_size) in enumerate(sizes)
        if size != result_size or _scale(node, axis) not in (None, 1)
    ]


def _is_certain(node: ir.Node, axis: int, offset: float) -> bool:
    """Whether every runtime picks the same elements of an axis as torch."""
    size, result_size = sizes_of(node.inputs[0])[axis], sizes_of(node.outputs[0])[axis]
    # 1. The output size, and whether the axis is copied.
    stated_scale = _scale(node, axis)
    if stated_scale is not None and (
        size == result_size or not _has_size(size, np.float32(float(stated_scale)), result_size)
    ):
        return False  # runtimes take equal sizes for a copy
    # 2. The elements in exact arithmetic are torch's.
    scale = stated_scale or Fraction(result_size, size)
    places = (np.arange(result_size) + offset) / float(scale)
    if (np.clip(np.floor(places), 0, size - 1) != _torchs(node, axis, offset)).any():
        return False
    # 3. Rounding cannot pick others.
    if scale.denominator & (scale.denominator - 1) == 0:
        return True  # float32 holds the scale exactly, and a correctly rounded quotient crosses no border
    return bool(((np.abs(places - np.round(places)) > MARGIN) | (places == 0)).all())


def _has_size(size: int, scale: np.float32, result_size: int) -> bool:
    """Whether the output size follows from the rounded scale, in whatever precision."""
    return int(np.float32(size) * scale) == result_size == int(size * float(scale))


def _torchs(node: ir.Node, axis: int, offset: float) -> npt.NDArray[np.int64]:
    """The elements that torch picks along an axis, in float32.

    As ``nearest_neighbor_compute_source_index`` and ``nearest_neighbor_exact_compute_source_index`` in
    ATen/native/UpSample.h.
    """
    size, result_size = sizes_of(node.inputs[0])[axis], sizes_of(node.outputs[0])[axis]
    scale = _scale(node, axis)
    # `nearest_idx` in UpSample.h copies equal and doubled sizes; only the kernel for small images calls it.
    if not offset and _is_small(node) and result_size in (size, 2 * size):
        return np.repeat(np.arange(size, dtype=np.int64), result_size // size)
    inverse = np.float32(size) / np.float32(result_size) if scale is None else np.float32(1 / float(scale))
    if offset and not _is_small(node):
        return _by_centers(size, result_size, inverse)
    places = (np.arange(result_size, dtype=np.float32) + np.float32(offset)) * inverse
    return np.array(np.clip(np.floor(places), 0, size - 1), np.int64)


def _is_small(node: ir.Node) -> bool:
    """Whether torch runs its kernel for small images (UpSampleKernel.cpp); lines and volumes have no such kernel."""
    spatial = sizes_of(node.outputs[0])[2:]
    return len(spatial) == 2 and sum(spatial) <= _SMALL


def _by_centers(size: int, result_size: int, inverse: np.float32) -> npt.NDArray[np.int64]:
    """The elements that torch's general kernel for nearest-exact picks: it subtracts 0.5, and adds it again.

    Product and difference are rounded once, as a fused multiply-add in torch's builds for AVX2 and later: 70.5 · 2/141
    is then 1, where the kernel for small images picks the element before.
    """
    centers = np.arange(result_size, dtype=np.float64) + 0.5
    places = (centers * np.float64(inverse) - 0.5).astype(np.float32)
    return np.array(np.clip(np.floor(np.maximum(places, 0) + np.float32(0.5)), 0, size - 1), np.int64)


def _scale(node: ir.Node, axis: int) -> Fraction | None:
    """The scale factor that the forward was given; None if it was given a size.

    Resize holds it rounded to float32. The intended number is taken to be the fraction with a small denominator that
    rounds to the same float32, if there is one.
    """
    scales = _scales(node)
    if scales is None:
        return None
    stored = Fraction(float(scales[axis]))
    near = stored.limit_denominator(_LARGEST_DENOMINATOR)
    return near if np.float32(float(near)) == np.float32(scales[axis]) else stored


def _scales(node: ir.Node) -> npt.NDArray[np.float32] | None:
    scales = constant(input_of(node, 2))
    return None if scales is None or not scales.size else np.asarray(scales, np.float32)


def gather_elements(graph: ir.Graph, node: ir.Node, picks: Mapping[int, npt.NDArray[np.int64]]) -> None:
    """Replaces the node by one Gather per axis, with the elements that are picked along it."""
    for axis, indices in picks.items():
        take_elements(graph, node, axis, indices)
    value, result = node.inputs[0], node.outputs[0]
    if value is not None:
        ir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def take_elements(graph: ir.Graph, node: ir.Node, axis: int, indices: npt.NDArray[np.int64]) -> None:
    """Puts a Gather along one axis between the node and its input."""
    steps, sizes = Steps(graph, node), sizes_of(node.inputs[0])
    sizes[axis] = len(indices)
    places = steps.constant(indices, f"{axis}.indices")
    node.replace_input_with(0, steps.add(f"{axis}", "Gather", [node.inputs[0], places], sizes, {"axis": axis}))
