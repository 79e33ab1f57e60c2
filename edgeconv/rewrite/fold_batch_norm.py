"""BatchNormalization into the linear operator before it."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.rewrite._affine import Affine, affine
from edgeconv.rewrite._graph import only_consumer, take_over, where
from edgeconv.rewrite._linear import Linear, linear_behind


class FoldBatchNormPass(ir.passes.InPlacePass):
    """Folds BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul whose result it normalises.

    1. Requires: inference mode, constant statistics, constant weights and bias, and an intermediate value that nobody
       else reads and that is no graph output. A BatchNormalization for which that does not hold is left alone.
    2. Ensures: no BatchNormalization is left for which (1) holds. The operator's result has the name, shape and
       metadata of the BatchNormalization's.
    3. Exact: ``gamma * (W x + b - mean) / sqrt(var + eps) + beta`` is ``(s W) x + (s b + t)`` with
       ``s = gamma / sqrt(var + eps)`` and ``t = beta - s * mean`` per output channel, whatever the padding, because
       both act on the same element of the output.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds every one that can be folded."""
        modified = False
        for node in tuple(model.graph):
            folded = fold_behind(node) if node.op_type == "BatchNormalization" else None
            if folded is not None:
                folded.store()
                take_over(node.outputs[0], folded.result)  # (2)
                modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """Checks (2)."""
        for node in model.graph:
            if node.op_type == "BatchNormalization" and fold_behind(node) is not None:
                raise ir.passes.PostconditionError(f"the BatchNormalization of {where(node)} could be folded")


def fold_behind(node: ir.Node) -> Linear | None:
    """The linear operator before an affine node with the node's map in its weights; None when it cannot be had.

    Nothing is changed: the caller stores the result and lets it take over the node's output.
    """
    outer = affine(node)
    if outer is None or only_consumer(outer.source) is not node:  # (1)
        return None
    inner = linear_behind(outer.source)
    return None if inner is None else absorbed(inner, outer)


def absorbed(inner: Linear, outer: Affine) -> Linear | None:
    """``inner`` with ``outer`` applied to its result (3); None when they do not share the channel axis."""
    coefficients = outer.along(inner.axis_out, inner.channels_out)
    if coefficients is None:
        return None
    folded = inner.then(*coefficients)
    return folded if folded.fits() else None
