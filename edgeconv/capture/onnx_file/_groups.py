"""Channels, weights and groups of a convolution must fit: onnx's inference does not look at them."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.capture.normalize._origin import place_of
from edgeconv.errors import CaptureError
from edgeconv.graph.traits import Trait, having


def check_groups(graph: ir.Graph) -> None:
    """Sees that every convolution's weights are for the channels that it has.

    ONNX: Conv's W is (M, C / group, ...) with M a multiple of group; ConvTranspose's is (C, M / group, ...).

    Raises:
        CaptureError: one's are not.
    """
    for node in graph:
        if node.op_type not in having(Trait.LAYER | Trait.WINDOWS) or len(node.inputs) < 2:
            continue
        x, weight = (value.shape if value is not None else None for value in node.inputs[:2])
        if x is None or weight is None or not (x.is_static() and weight.is_static()) or min(len(x), len(weight)) < 3:
            continue
        channels, group, (first, second) = x.numpy()[1], node.attributes.get_int("group", 1), weight.numpy()[:2]
        fits = first == channels if node.op_type == "ConvTranspose" else second * group == channels
        if not fits or first % group or channels % group:
            shape = list(weight.numpy())
            what = f"{node.op_type} of {channels} channels in {group} groups has a weight of the shape {shape}"
            raise CaptureError(what, where=place_of(node), hint="correct the model")
