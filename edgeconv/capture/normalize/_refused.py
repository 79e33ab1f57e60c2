"""The error about a node that has no form of its own in what is exported."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.errors import CaptureError
from edgeconv.graph.origin import place_of


def refused(node: ir.Node, what: str, hint: str) -> CaptureError:
    """An error that names the node, what is wrong with it, and what its owner can do."""
    return CaptureError(what, where=place_of(node), hint=hint)
