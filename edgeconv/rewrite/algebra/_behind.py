"""Folds an affine map (scale and shift per channel) into the linear operators that compute its input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from edgeconv.graph.affine_maps import Affine, affine
from edgeconv.graph.edit import dims, graph_of, only_reader
from edgeconv.graph.replace import disown, take_over
from edgeconv.rewrite.algebra._linear import Linear, linear_behind


@dataclass(frozen=True)
class Fold:
    """A possible fold; nothing is changed before `apply`.

    Attributes:
        outer: the map, whose node is removed.
        operators: the linear operators, with the map in their weights.
        between: operands of a Concat between them: their values change, so they no longer are their module's output.
    """

    outer: Affine
    operators: tuple[Linear, ...]
    between: tuple[ir.Value, ...] = ()

    def apply(self) -> None:
        """Stores the weights, and replaces the map's result by its input."""
        for operator in self.operators:
            operator.store()
        for value in self.between:
            disown(value, graph_of(self.outer.node))
        take_over(self.outer.result, self.outer.source)


def fold_behind(node: ir.Node) -> Fold | None:
    """The fold of an affine node into the operators before it; None where that is not possible.

    ``s * (W x + b) + t`` is ``(s W) x + (s b + t)``. A Concat of several such results takes the map part by part.
    """
    outer = affine(node)
    if outer is None or only_reader(outer.source) is not node:
        return None
    return _fold(outer, outer)


def _fold(outer: Affine, part: Affine) -> Fold | None:
    """Folds ``part``, which is ``outer`` or the piece of it that acts on one operand of a Concat."""
    inner = linear_behind(part.source)
    if inner is None:
        return _fold_parts(outer, part)
    coefficients = part.along(inner.axis_out, inner.channels_out)
    if coefficients is None:
        return None
    folded = inner.then(*coefficients)
    return Fold(outer, (folded,)) if folded.fits() else None


def _fold_parts(outer: Affine, part: Affine) -> Fold | None:
    """Folds into all operands of the Concat that makes ``part.source``."""
    node = part.source.producer()
    if node is None or node.op_type != "Concat" or node.domain != "":
        return None
    operands = [value for value in node.inputs if value is not None]
    # All operands or none: a map that stays behind the Concat would act twice on the others.
    pieces = _pieces(part, node, operands)
    folds = [_fold(outer, piece) for piece in pieces if only_reader(piece.source) is node]
    parts = [fold for fold in folds if fold is not None]
    if not parts or len(parts) != len(operands):
        return None
    operators = tuple(operator for fold in parts for operator in fold.operators)
    between = tuple(value for fold in parts for value in fold.between)
    return Fold(outer, operators, (*operands, *between))


def _pieces(part: Affine, node: ir.Node, operands: list[ir.Value]) -> list[Affine]:
    """The part of the map that acts on each operand of the Concat; none where a size is unknown."""
    shapes = [dims(value) for value in operands]
    if part.axis is None:
        return [replace(part, source=value) for value in operands]
    axis = node.attributes.get_int("axis", 0)
    pieces, start = [], 0
    for value, shape in zip(operands, shapes, strict=True):
        if shape is None:
            return []
        if axis % len(shape) != part.axis:  # joined along another axis: the whole map acts on each operand
            pieces.append(replace(part, source=value))
            continue
        channels = slice(start, start + shape[part.axis])
        start = channels.stop
        pieces.append(replace(part, source=value, scale=part.scale[channels], shift=part.shift[channels]))
    return pieces
