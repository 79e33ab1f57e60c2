"""BatchNormalization and Dropout of files: training mode, and outputs that only training mode has.

1. BatchNormalization in training mode is written out: mean and variance over all axes except the channels, and the
   moving averages if they are used.
2. Dropout outside of training mode is its input, and its mask is true everywhere. In training mode it draws random
   numbers and is refused: no two runs agree, so nothing could be proven.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._fixable import hint_to_fix
from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.edit import constant, input_of, is_taken
from edgeconv.graph.steps import Steps, sizes_of


def check_dropouts(graph: ir.Graph) -> None:
    """Refuses a Dropout that may drop elements.

    Raises:
        CaptureError: one does, or its mode or ratio is no constant; names the node.
    """
    for node in graph:
        if node.op_type == "Dropout" and node.domain == "" and not _keeps_all(node):
            what = "Dropout is in training mode and draws random numbers"
            otherwise = "export the model for inference (training_mode false), or take the Dropout out"
            raise refused(node, what, hint_to_fix([input_of(node, 2)], flag="false") or otherwise)


def settle_training(graph: ir.Graph) -> None:
    """Applies the rules above in place; all shapes must be static, and `check_dropouts` must have passed.

    Raises:
        CaptureError: statistics of a BatchNormalization outside of training mode are used, which it does not give.
    """
    for node in list(graph):
        if node.domain != "":
            continue
        if node.op_type == "Dropout":
            _settle_dropout(graph, node)
        elif node.op_type == "BatchNormalization":
            _settle_batch_norm(graph, node)


def _keeps_all(node: ir.Node) -> bool:
    """Whether a Dropout is outside of training mode, or has the ratio 0."""
    mode, ratio = (input_of(node, index) for index in (2, 1))
    if mode is None:
        return True
    trains = constant(mode)
    if trains is not None and not trains.any():
        return True
    share = constant(ratio)
    return share is not None and not share.any()


def _settle_dropout(graph: ir.Graph, node: ir.Node) -> None:
    source, masks = node.inputs[0], [value for value in node.outputs[1:] if is_taken(value)]
    if source is None:
        return
    steps = Steps(graph, node)
    results = {value: steps.constant(np.ones(sizes_of(source), np.bool_), "mask") for value in masks}
    if node.outputs[0].is_graph_output():
        results[node.outputs[0]] = steps.add("kept", "Identity", [source], sizes_of(source))
    else:
        ir.convenience.replace_all_uses_with(node.outputs[0], source)
    steps.replace(results)


def _settle_batch_norm(graph: ir.Graph, node: ir.Node) -> None:
    used_statistics = [value for value in node.outputs[1:] if is_taken(value)]
    if not node.attributes.get_int("training_mode", 0):
        if used_statistics:
            what = f"BatchNormalization gives {used_statistics[0].name!r}, a statistic that only its training mode has"
            raise refused(node, what, "leave out all of its outputs but the first, or set training_mode")
        return
    x, scale, shift, *running = node.inputs
    if x is None:
        return
    sizes, steps = sizes_of(x), Steps(graph, node)
    # 1. y, by the mean and the biased variance of this batch (specification: BatchNormalization, training_mode).
    by_channel = [sizes[1], *(1 for _ in sizes[2:])]
    axes = [axis for axis in range(len(sizes)) if axis != 1]
    mean = steps.mean(x, axes, "mean")
    centered = steps.add("centred", "Sub", [x, mean], sizes)
    variance = steps.mean(steps.add("squares", "Mul", [centered, centered], sizes), axes, "variance")
    epsilon = steps.constant(np.array(node.attributes.get_float("epsilon", 1e-5), np.float32), "epsilon")
    guarded = steps.add("guarded", "Add", [variance, epsilon], sizes_of(variance))
    deviation = steps.add("deviation", "Sqrt", [guarded], sizes_of(variance))
    y = steps.add("normalised", "Div", [centered, deviation], sizes)
    y = steps.add("scaled", "Mul", [y, steps.reshape(scale, by_channel, "scale")], sizes)
    y = steps.add("shifted", "Add", [y, steps.reshape(shift, by_channel, "bias")], sizes)
    # 2. The running statistics, where somebody reads them.
    results = {node.outputs[0]: y}
    statistics = (("mean.flat", mean), ("variance.flat", variance))
    for result, before, (name, current) in zip(node.outputs[1:], running, statistics, strict=False):
        if result in used_statistics:
            flat = steps.reshape(current, sizes[1:2], name)
            results[result] = _moving_average(steps, node, before, flat, name)
    steps.replace(results)


def _moving_average(steps: Steps, node: ir.Node, before: ir.Value | None, now: ir.Value, name: str) -> ir.Value:
    """momentum · before + (1 - momentum) · now (specification: BatchNormalization)."""
    momentum = np.float32(node.attributes.get_float("momentum", 0.9))
    parts = []
    for value, share in ((before, momentum), (now, 1 - momentum)):
        part = f"{name}.{'kept' if value is before else 'new'}"
        factor = steps.constant(np.array(share, np.float32), f"{part}.share")
        parts.append(steps.add(part, "Mul", [value, factor], sizes_of(now), dtype=now.dtype))
    return steps.add(f"{name}.moved", "Add", parts, sizes_of(now))
