"""Removal of values that nothing reads."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common


class RemoveUnusedPass(ir.passes.InPlacePass):
    """Removes nodes and initializers that no graph output depends on.

    1. Requires: nothing.
    2. Ensures: every node and initializer left is needed by a graph output; inputs and outputs of the graph stay.
    3. Exact: no value that is left changes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Removes them, last node first."""
        return common.RemoveUnusedNodesPass()(model)
