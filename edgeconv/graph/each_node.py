"""The base class of passes that visit every node and change those that fit, as most rewrites do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import onnx_ir as ir

from edgeconv.graph.origin import place_of

Change = Callable[[], object]


class EachNodePass(ir.passes.InPlacePass):
    """Changes every node for which the requirements of a pass hold, in the graph's order.

    A node sees the changes made before it, so that chains collapse in one run. A pass implements `change_at`; if it
    guarantees that no fitting node is left, it sets `ensured`, and that is checked.
    """

    ensured = False

    @abstractmethod
    def change_at(self, node: ir.Node) -> Change | None:
        """The change at a node, not made yet; None where the requirements do not hold."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Makes the change of each node that no earlier change has removed."""
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
                raise ir.passes.PostconditionError(f"the {node.op_type} of {place_of(node)} could be rewritten")
