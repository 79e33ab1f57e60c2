"""Channels and what belongs to them (weights, groups, biases, statistics) must fit: onnx's inference does not look."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.errors import CaptureError
from edgeconv.graph.origin import place_of
from edgeconv.graph.traits import Trait, having

_PER_CHANNEL = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
}
"""Inputs of one number for each channel of the result."""


def check_groups(graph: ir.Graph) -> None:
    """Sees that every convolution's weights are for the channels that it has, and biases and statistics likewise.

    ONNX: Conv's W is (M, C / group, ...) with M a multiple of group; ConvTranspose's is (C, M / group, ...); B is (M,),
    and so are the parameters of normalizations, M being C there.

    Raises:
        CaptureError: one's are not.
    """
    for node in graph:
        _check_per_channel(node)
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


def _check_per_channel(node: ir.Node) -> None:
    places = _PER_CHANNEL.get(node.op_type, ())
    made = next((value.shape for value in node.outputs), None)
    if made is None or len(made) < 2 or not isinstance(made[1], int):
        return
    for value in (node.inputs[at] for at in places if at < len(node.inputs)):
        if value is not None and value.shape is not None and value.shape.is_static() and value.shape != (made[1],):
            what = f"{node.op_type} of {made[1]} channels takes {value.name!r} of the shape {list(value.shape.numpy())}"
            raise CaptureError(what, where=place_of(node), hint="correct the model")
