"""Multiplication with and addition of constants into the linear operator before them."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.traits import Trait, having
from edgeconv.rewrite.algebra._behind import fold_behind


class FoldScaleShiftPass(EachNodePass):
    """Folds ``c * y``, ``y / c``, ``y + c``, ``y - c`` and ``c - y`` into the operator that makes y.

    1. Requires: c is constant, one number or one per output channel; y comes from a Conv, ConvTranspose, Gemm or
       MatMul with constant weights, or a Concat of such results, and nobody else reads it. A MatMul of rank 2 that
       gets a bias becomes a Gemm; one of higher rank has nowhere to put a bias and keeps its Add.
    2. Ensures: the operator's result has the arithmetic node's name, shape and metadata.
    3. Exact: ``s * (W x + b) + t`` is ``(s W) x + (s b + t)`` per output channel.
    """

    def change_at(self, node: ir.Node) -> Change | None:
        """The fold of arithmetic with a constant."""
        fold = fold_behind(node) if node.op_type in having(Trait.AFFINE) else None
        return None if fold is None else fold.apply
