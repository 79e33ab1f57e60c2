"""Quantization carried through operators that only move or pick elements, so that integers go on behind them."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.pairs import pair_before, repeat


class KeepStepsPass(EachNodePass):
    """Repeats the QuantizeLinear and DequantizeLinear of an operand behind operators that move or pick its elements.

    torch.ao does not quantize the result of a max pool, a reshape or a ReLU again; but runtimes compute what follows in
    integers only if it is quantized.

    1. Requires: MaxPool, GlobalMaxPool, Relu, or an operator that moves the elements of its only float operand (or a
       Pad with zeros); that operand is quantized with one scale, and the result is not quantized yet.
    2. Ensures: no such operator is left. Values keep their names.
    3. Exact: each element of the result is an element of the operand, or zero: a multiple of the scale already, which
       quantization does not change.
    """

    ensured = True

    def change_at(self, node: ir.Node) -> Change | None:
        """The repetition of the operand's pair behind an operator."""
        pair = pair_before(node)
        return None if pair is None else partial(repeat, node, *pair)
