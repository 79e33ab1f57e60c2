"""Results that lie on the steps of a scale already, said to do so."""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from edgeconv.graph.pairs import pair_before, repeat
from edgeconv.rewrite.each_node import Change, EachNodePass


class KeepStepsPass(EachNodePass):
    """Puts the QuantizeLinear and DequantizeLinear of an operand behind operators that only move or pick its elements.

    torch.ao rounds no result of a max pool, a reshape or a ReLU by itself; runtimes compute what follows in integers
    only where the graph says that it is on steps.

    1. Requires: MaxPool, GlobalMaxPool, Relu, or an operator that moves the elements of its one operand of floats (a
       Pad with zeros); that operand is a rounded value of one scale, and the result is not rounded yet.
    2. Ensures: no such operator is left. Values keep their names.
    3. Exact: each element of the result is one of the operand's, or zero, and these are on the steps: rounding them
       again changes nothing.
    """

    ensured = True

    def change_at(self, node: ir.Node) -> Change | None:
        """The pair of the operand, repeated behind an operator."""
        pair = pair_before(node)
        return None if pair is None else partial(repeat, node, *pair)
