"""What most rewrites have in common: they go over the nodes of a graph and change those that fit."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgeconv.graph.replace import where

Change = Callable[[], object]


class EachNodePass(ir.passes.InPlacePass):
    """Changes every node for which a rewrite's requirements hold.

    In the graph's order: chains collapse in one go, and a node finds the change before it done. What a rewrite gives is
    `change_at`; one that is done when no node fits any more sets `ensured`, and then that is checked.
    """

    ensured = False

    def change_at(self, node: ir.Node) -> Change | None:
        """What is to be done at a node; None where the requirements do not hold."""
        raise NotImplementedError

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Does what is to be done at each node that no change before has removed."""
        modified = False
        for node in tuple(model.graph):
            change = self.change_at(node) if node.graph is not None else None
            if change is not None:
                change()
                modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Checks that no node fits any more."""
        for node in model.graph if self.ensured else ():
            if self.change_at(node) is not None:
                raise ir.passes.PostconditionError(f"the {node.op_type} of {where(node)} could be rewritten")
