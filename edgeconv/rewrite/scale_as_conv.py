"""A BatchNormalization that no layer could absorb, as a depthwise Conv: exact, but of use in quantized graphs only."""

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
    """Replaces every BatchNormalization of an image or a signal by a Conv of kernel 1 with a group per channel.

    1. Requires: it is in inference mode, with constant statistics, and its input has one or two spatial dimensions.
    2. Ensures: the Conv's result has its name; the weights are named after it.
    3. Exact: scale and shift are computed in float64 and rounded once.

    No runtime has a BatchNormalization of integers. A Conv has: with a scale per channel, a bias of 32 bits, an
    activation that runtimes fuse, and ranges that equalization can balance. In float it is no faster on onnxruntime,
    which is why this is not in the table.

    Args:
        model: not changed.

    Returns:
        A new model, and the number of replacements.
    """
    model = model.clone()
    count = 0
    for node in list(model.graph):
        is_norm = node.op_type == "BatchNormalization" and node.domain == ""
        # Read node by node: its input may be the result of one that was just replaced.
        norm = batch_normalization(node) if is_norm else None
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
