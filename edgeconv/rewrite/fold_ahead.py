"""Folds BatchNormalization, or arithmetic with constants, into the linear operators after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.graph.affine_maps import Affine, affine
from edgeconv.graph.constants import is_over_space
from edgeconv.graph.edit import graph_of, only_reader
from edgeconv.graph.replace import disown
from edgeconv.graph.windows import may_pad
from edgeconv.rewrite.algebra._linear import Linear, linear


class FoldAheadPass(ir.passes.InPlacePass):
    """Folds ``y = s * x + t`` per channel into every Conv, ConvTranspose, Gemm and MatMul that reads y.

    1. Requires: s and t are constant (BatchNormalization in inference mode; Add, Sub, Mul, Div with a constant), y is
       no graph output, and each of its readers is linear with constant weights, directly or behind operators that the
       map passes through: averaging over space, flattening. If t is not zero, an input that is constant per channel
       must give such an output at each reader. That excludes zero padding, as a padded zero does not get t.
    2. Ensures: the readers read x; values between them and x, which no longer equal their torch module's output, lose
       its name.
    3. Exact: ``W (s x + t) + b`` is ``(W s) x + (W t + b)``. An average over the spatial axes is linear with weights
       that sum to one, so s and t pass through it; flattening repeats them once for each spatial position.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds from the back, so that chains of affine nodes collapse in one go."""
        modified = False
        for node in reversed(tuple(model.graph)):
            outer = affine(node)
            readers = None if outer is None else _readers(outer)
            if outer is not None and readers is not None:
                _fold(outer, readers)
                modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Checks that no BatchNormalization is left for which (1) holds."""
        for node in model.graph:
            outer = affine(node) if node.op_type == "BatchNormalization" else None
            if outer is not None and _readers(outer) is not None:
                raise ir.passes.PostconditionError(f"{node.op_type} {node.outputs[0].name} could be folded")


@dataclass(frozen=True)
class _Reader:
    """A linear operator with the map in its weights, and the values between the map and the operator."""

    folded: Linear
    between: tuple[ir.Value, ...]


def _readers(outer: Affine) -> list[_Reader] | None:
    """All readers of the map's result, folded; None if one of them cannot take the map."""
    if outer.result.is_graph_output() or not outer.result.uses():
        return None
    readers = [_reader(outer, use.node) for use in outer.result.uses()]
    folded = [reader for reader in readers if reader is not None]
    return folded if len(folded) == len(readers) else None


def _reader(outer: Affine, node: ir.Node) -> _Reader | None:
    """A reader with the map in its weights, through averages and reshapes; None if it cannot take the map."""
    between: list[ir.Value] = []
    while node.op_type in _CARRIERS:
        carried = _CARRIERS[node.op_type](outer, node)
        following = only_reader(node.outputs[0])
        if carried is None or following is None:
            return None
        outer, node = carried, following
        between.append(node.inputs[0])  # type: ignore[arg-type]
    operator = linear(node)
    # An operator that reads the value twice, as x times x, is not linear in it.
    value = between[-1] if between else outer.result
    if operator is None or [use is value for use in node.inputs].count(True) != 1 or operator.source is not value:
        return None
    coefficients = outer.along(operator.axis_in, operator.channels_in)
    if coefficients is None or (coefficients[1].any() and not operator.uniform):
        return None
    folded = operator.of(*coefficients)
    return _Reader(folded, tuple(between)) if folded.fits() else None


def _fold(outer: Affine, readers: list[_Reader]) -> None:
    graph = graph_of(outer.node)
    for reader in readers:
        reader.folded.store()
        for value in reader.between:  # (2)
            disown(value, graph)
    ir.convenience.replace_all_uses_with(outer.result, outer.source)
    graph.remove(outer.node, safe=True)


def _averaged(outer: Affine, node: ir.Node) -> Affine | None:
    """The map behind an average over spatial axes (3); its channel axis must be 1, unless it is the same for all."""
    return outer if outer.axis in (None, 1) and _is_spatial_average(node) else None


def _is_spatial_average(node: ir.Node) -> bool:
    if node.op_type == "GlobalAveragePool":
        return True
    if node.op_type == "ReduceMean":
        return is_over_space(node)
    # If padding is counted, the weights of a window at the border do not sum to one.
    uncounted = node.attributes.get_int("count_include_pad", 0) == 0
    return (uncounted or not may_pad(node)) and node.attributes.get_int("ceil_mode", 0) == 0


def _flattened(outer: Affine, node: ir.Node) -> Affine | None:
    """The map behind [N, C, spatial…] -> [N, C * positions] (3)."""
    before, after = (None if value is None else value.shape for value in (node.inputs[0], node.outputs[0]))
    if outer.axis not in (None, 1) or before is None or after is None or len(before) < 2 or len(after) != 2:
        return None
    sizes = [size for size in before[1:] if isinstance(size, int)]
    if len(sizes) != len(before) - 1 or after[1] != int(np.prod(sizes)):
        return None
    if outer.axis is None:
        return outer
    # Row-major: each channel becomes `positions` neighboring features.
    positions = int(np.prod(sizes[1:], dtype=np.int64))
    scale, shift = np.repeat(outer.scale, positions), np.repeat(outer.shift, positions)
    return Affine(outer.node, outer.source, 1, scale, shift)


_CARRIERS: dict[str, Callable[[Affine, ir.Node], Affine | None]] = {
    "AveragePool": _averaged,
    "Flatten": _flattened,
    "GlobalAveragePool": _averaged,
    "ReduceMean": _averaged,
    "Reshape": _flattened,
    "Squeeze": _flattened,
}
