"""BatchNormalization into the linear operators before it."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.rewrite.algebra._behind import fold_behind


class FoldBatchNormPass(EachNodePass):
    """Folds BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul whose result it normalizes.

    1. Requires: inference mode, constant statistics, constant weights and bias, and an intermediate value that nobody
       else reads and that is no graph output. A Concat of such results will do. A BatchNormalization for which that
       does not hold is left alone.
    2. Ensures: no BatchNormalization is left for which (1) holds. The operator's result has the name, shape and
       metadata of the BatchNormalization's; operands of a Concat lose their module's name.
    3. Exact: ``gamma * (W x + b - mean) / sqrt(var + eps) + beta`` is ``(s W) x + (s b + t)`` with
       ``s = gamma / sqrt(var + eps)`` and ``t = beta - s * mean`` per output channel, whatever the padding, because
       both act on the same element of the output.
    """

    ensured = True

    def change_at(self, node: ir.Node) -> Change | None:
        """The fold of a BatchNormalization."""
        fold = fold_behind(node) if node.op_type == "BatchNormalization" else None
        return None if fold is None else fold.apply
