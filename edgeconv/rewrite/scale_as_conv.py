"""A BatchNormalization that stands by itself as a depthwise Conv: exact, but only a quantized graph gains by it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.graph.affine_maps import Affine, batch_normalization
from edgeconv.graph.constants import add_constant
from edgeconv.graph.edit import rank
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import drop

_RANKS = (3, 4)  # of signals and images: TFLite has no convolution of volumes


def scale_as_conv(model: ir.Model) -> tuple[ir.Model, int]:
    """Writes every BatchNormalization of an image or a signal as a Conv of kernel 1 with a group per channel.

    1. Requires: it is in inference mode, with constant statistics, and its input has one or two spatial dimensions.
    2. Ensures: the Conv's result has its name; the weights are named after it.
    3. Exact: scale and shift are computed in float64 and rounded once.

    There is no BatchNormalization in integers. As a Conv it is a layer like others: a scale per channel, 32 bits of
    bias, an activation that runtimes fuse, and ranges that equalization can even out. In float it gains nothing on
    onnxruntime, which is why this is no line of the table.

    Args:
        model: not changed.

    Returns:
        A new model, and in how many places it differs.
    """
    model = model.clone()
    count = 0
    for node in list(model.graph):
        is_norm = node.op_type == "BatchNormalization" and node.domain == ""
        norm = batch_normalization(node) if is_norm else None  # read now: what it reads may just have been replaced
        if norm is not None and rank(norm.source) in _RANKS:
            _replace(model.graph, norm)
            count += 1
    return model, count


def _replace(graph: ir.Graph, norm: Affine) -> None:
    old, spatial = norm.result, (rank(norm.source) or 0) - 2
    dtype = norm.source.dtype or ir.DataType.FLOAT
    weight = norm.scale.reshape(-1, 1, *[1] * spatial)
    inputs: list[ir.Value | None] = [norm.source]
    for what, array in (("weight", weight), ("bias", norm.shift)):
        inputs.append(add_constant(graph, unique_name(graph, f"{old.name}.{what}"), np.asarray(array), dtype))
    attributes: dict[str, int | list[int]] = {"group": len(norm.scale), "kernel_shape": [1] * spatial}
    conv = ir.node("Conv", inputs, attributes, metadata_props=dict(norm.node.metadata_props))
    new = conv.outputs[0]
    new.shape, new.type, new.name = old.shape, old.type, old.name
    new.metadata_props.update(old.metadata_props)
    graph.insert_before(norm.node, conv)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    statistics = norm.node.inputs[1:]
    graph.remove(norm.node, safe=True)
    for value in statistics:
        if value is not None:
            drop(value)
