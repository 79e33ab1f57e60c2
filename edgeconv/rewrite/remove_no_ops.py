"""Nodes that return what they are given."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import exact, integers
from edgeconv.graph.edit import is_taken, tensor_of
from edgeconv.rewrite.algebra._affine import affine
from edgeconv.rewrite.algebra._graph import stand_in


class RemoveNoOpsPass(ir.passes.InPlacePass):
    """Removes nodes whose result is their first input, and biases that are zero.

    1. Requires: the table below says of the node that it changes nothing: by its kind (Identity), its mode (Dropout in
       inference), its attributes and constants (``x * 1``, Pad by nothing, Concat of one), or because a static or
       symbolic shape in equals the shape out for an operator that keeps the order of the elements (Reshape).
    2. Ensures: readers read the node's input, which keeps its name. A graph output keeps its own: its value takes it,
       with the former name in the value's metadata. A node between a graph input, a constant or another graph output
       and a graph output stays.
    3. Exact: no number changes, but for the sign of a zero (``-0 + 0``).
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Removes them in the graph's order."""
        modified = False
        for node in tuple(model.graph):
            modified = _drop_zero_bias(node) or modified
            changes_nothing = _NO_OPS.get(node.op_type)
            if changes_nothing is None or node.domain != "" or not changes_nothing(node):
                continue
            kept = _kept_input(node)
            if kept is not None and _side_outputs_are_unused(node):
                modified = stand_in(node.outputs[0], kept) or modified
        return ir.passes.PassResult(model, modified)


def _kept_input(node: ir.Node) -> ir.Value | None:
    """The input that is the result; the one that is not constant, of arithmetic with a constant."""
    if node.op_type in _ARITHMETIC:
        found = affine(node)
        return None if found is None else found.source
    if node.op_type in _UNBOUNDED:
        return next((value for value in node.inputs if exact(value) is None), None)
    return node.inputs[0]


def _side_outputs_are_unused(node: ir.Node) -> bool:
    return not any(map(is_taken, node.outputs[1:]))


def _drop_zero_bias(node: ir.Node) -> bool:
    """Takes an all-zero bias off a Conv or ConvTranspose; the exporter writes one where the module has none."""
    if node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) < 3:
        return False
    bias = exact(node.inputs[2])
    if bias is None or bias.any():
        return False
    node.resize_inputs(2)
    return True


def _always(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _is_inference(node: ir.Node) -> bool:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None:
        return True
    tensor = tensor_of(training)
    return tensor is not None and not tensor.numpy().any()


def _same_dtype(node: ir.Node) -> bool:
    before, after = node.inputs[0], node.outputs[0]
    return before is not None and before.dtype is not None and before.dtype == after.dtype


def _same_shape(node: ir.Node, kept: ir.Value | None = None) -> bool:
    """Equal shapes, dimension by dimension; equal symbols are equal sizes, unnamed ones are unknown."""
    before, after = (None if value is None else value.shape for value in (kept or node.inputs[0], node.outputs[0]))
    if before is None or after is None or len(before) != len(after):
        return False
    return all(_same_size(one, other) for one, other in zip(before, after, strict=True))


def _same_size(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    if isinstance(one, ir.SymbolicDim):
        return isinstance(other, ir.SymbolicDim) and one.value is not None and one.value == other.value
    return one == other


def _identity_permutation(node: ir.Node) -> bool:
    permutation = node.attributes.get_ints("perm", (1, 0))
    return list(permutation) == sorted(permutation)


def _pads_nothing(node: ir.Node) -> bool:
    return integers(node.inputs[1]) is not None and not any(integers(node.inputs[1]) or ())


def _takes_everything(node: ir.Node) -> bool:
    """A Slice forwards that leaves the shape alone."""
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else []
    return steps is not None and all(step == 1 for step in steps) and _same_shape(node)


def _repeats_once(node: ir.Node) -> bool:
    repeats = integers(node.inputs[1])
    return repeats is not None and all(count == 1 for count in repeats)


def _pools_single_elements(node: ir.Node) -> bool:
    """A 1x1 window that visits every element once."""
    ones = all(
        size == 1 for name in ("kernel_shape", "strides") for size in node.attributes.get_ints(name, (1,))
    ) and not any(node.attributes.get_ints("pads", ()))
    return ones and node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET" and _same_shape(node)


def _neutral(node: ir.Node) -> bool:
    """``x + 0``, ``x - 0``, ``x * 1``, ``x / 1`` that broadcasts x to nothing larger."""
    found = affine(node)
    return found is not None and bool((found.scale == 1.0).all() and not found.shift.any())


def _unbounded(node: ir.Node) -> bool:
    """A Clip without bounds, or with infinite ones."""
    bounds = zip(node.inputs[1:], (-np.inf, np.inf), strict=False)
    return all(bound is None or _is_full_of(bound, end) for bound, end in bounds)


_UNBOUNDED = {"Max": -np.inf, "Min": np.inf}


def _beyond_all(node: ir.Node) -> bool:
    """A Max or Min of one value with none, or only with constants that no number passes.

    XNNPACK (LiteRT 2.3) leaves out both of two such nodes in a row, and with them to write the result.
    """
    others = [value for value in node.inputs if exact(value) is not None]
    if len(others) != len(node.inputs) - 1 or not all(_is_full_of(one, _UNBOUNDED[node.op_type]) for one in others):
        return False
    kept = _kept_input(node)
    return len(node.inputs) == 1 or (kept is not None and _same_shape(node, kept))


def _is_full_of(value: ir.Value | None, number: float) -> bool:
    array = exact(value)
    return array is not None and bool((array == number).all())


def _resizes_nothing(node: ir.Node) -> bool:
    """Same size in and out, by a mode that hits every element's centre."""
    plain = node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"
    return plain and node.attributes.get_string("mode", "nearest") in ("nearest", "linear") and _same_shape(node)


def _reduces_nothing(node: ir.Node) -> bool:
    return node.attributes.get_int("keepdims", 1) == 1 and _same_shape(node)


_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})

_NO_OPS: dict[str, Callable[[ir.Node], bool]] = {
    "Add": _neutral,
    "AveragePool": _pools_single_elements,
    "Cast": _same_dtype,
    "CastLike": _same_dtype,
    "Clip": _unbounded,
    "Concat": _always,
    "Div": _neutral,
    "Dropout": _is_inference,
    "Expand": _same_shape,
    "Flatten": _same_shape,
    "GlobalAveragePool": _same_shape,
    "Identity": _always,
    "Max": _beyond_all,
    "MaxPool": _pools_single_elements,
    "Mean": _always,
    "Min": _beyond_all,
    "Mul": _neutral,
    "Pad": _pads_nothing,
    "ReduceMax": _reduces_nothing,
    "ReduceMean": _reduces_nothing,
    "ReduceMin": _reduces_nothing,
    "ReduceSum": _reduces_nothing,
    "Reshape": _same_shape,
    "Resize": _resizes_nothing,
    "Slice": _takes_everything,
    "Squeeze": _same_shape,
    "Sub": _neutral,
    "Sum": _always,
    "Tile": _repeats_once,
    "Transpose": _identity_permutation,
    "Unsqueeze": _same_shape,
}
