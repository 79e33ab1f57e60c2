"""Checks that flags of operators are 0 or 1: runtimes, and onnx's own inference, differ in what 2 means."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused

# Attributes of the standard operators that the specification calls a boolean, or gives these two values.
_FLAGS = frozenset(
    {"align_corners", "allowzero", "antialias", "ceil_mode", "count_include_pad", "detect_negative", "detect_positive"}
    | {"exclude_outside", "exclusive", "fmod", "input_forget", "inverse", "is_causal", "keepdims", "largest", "layout"}
    | {"linear_before_reset", "noop_with_empty_axes", "onesided", "reverse", "saturate", "select_last_index", "sorted"}
    | {"storage_order", "training_mode", "transA", "transB", "upper"}
)


def check_flags(graph: ir.Graph) -> None:
    """Checks every flag, in subgraphs too.

    Raises:
        CaptureError: one is neither 0 nor 1; names the node.
    """
    for node in graph.all_nodes():
        for name in _FLAGS & node.attributes.keys() if node.domain == "" else ():
            attribute = node.attributes[name]
            if attribute.type == ir.AttributeType.INT and attribute.as_int() not in (0, 1):
                what = f"{node.op_type} has {name} {attribute.as_int()}"
                raise refused(node, what, "state 0 or 1")
