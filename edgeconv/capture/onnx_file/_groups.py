"""Checks that weights, groups, biases and statistics fit the channels, which onnx's shape inference does not."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.traits import Trait, having

_PER_CHANNEL = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
}
"""Inputs that have one number per channel of the result."""


def check_groups(graph: ir.Graph) -> None:
    """Checks the weights of convolutions, and the biases and statistics of convolutions and normalizations.

    ONNX: Conv's W is (M, C / group, ...) with M a multiple of group; ConvTranspose's is (C, M / group, ...); B is (M,),
    and so are the parameters of normalizations, M being C there.

    Raises:
        CaptureError: they do not fit; names the node.
    """
    for node in graph:
        _check_per_channel(node)
        if node.op_type not in having(Trait.LAYER | Trait.WINDOWS) or len(node.inputs) < 2:
            continue
        x, weight = (value.shape if value is not None else None for value in node.inputs[:2])
        if x is None or weight is None or not (x.is_static() and weight.is_static()) or min(len(x), len(weight)) < 3:
            continue
        channels, group = x.numpy()[1], node.attributes.get_int("group", 1)
        first, second = weight.numpy()[:2]
        fits = first == channels if node.op_type == "ConvTranspose" else second * group == channels
        if not fits or first % group or channels % group:
            shape = list(weight.numpy())
            what = f"{node.op_type} of {channels} channels in {group} groups has a weight of the shape {shape}"
            raise refused(node, what, "correct the model")


def _check_per_channel(node: ir.Node) -> None:
    positions = _PER_CHANNEL.get(node.op_type, ())
    result = next((value.shape for value in node.outputs), None)
    if result is None or len(result) < 2 or not isinstance(result[1], int):
        return
    channels = result[1]
    for value in (node.inputs[at] for at in positions if at < len(node.inputs)):
        shape = None if value is None else value.shape
        if value is not None and shape is not None and shape.is_static() and shape != (channels,):
            what = f"{node.op_type} of {channels} channels takes {value.name!r} of the shape {list(shape.numpy())}"
            raise refused(node, what, "correct the model")
