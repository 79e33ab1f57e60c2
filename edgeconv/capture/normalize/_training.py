"""Operators of files that stand in training mode, and results that only training has.

1. BatchNormalization by the statistics of the batch is written out: mean and variance over all axes but the channels,
   and the moving averages where somebody takes them.
2. Dropout out of training is its input, and its mask true everywhere. In training it draws random numbers: no two runs
   of it agree, so there is nothing that a file could be proven to compute.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeconv.errors import CaptureError
from edgeconv.graph.edit import constant, is_taken
from edgeconv.graph.origin import place_of
from edgeconv.graph.steps import Steps, sizes_of


def check_dropouts(graph: ir.Graph) -> None:
    """Refuses a graph whose Dropout drops anything.

    Raises:
        CaptureError: it does, or may: its mode or its ratio is no constant. Names the node.
    """
    for node in graph:
        if node.op_type == "Dropout" and node.domain == "" and not _keeps_all(node):
            raise CaptureError(
                "Dropout is in training mode and draws random numbers",
                where=place_of(node),
                hint="export the model for inference (training_mode false), or take the Dropout out",
            )


def settle_training(graph: ir.Graph) -> None:
    """Replaces in place by the rules above; all shapes must be static, and `check_dropouts` must have passed.

    Raises:
        CaptureError: a BatchNormalization out of training gives statistics, which only training has.
    """
    for node in list(graph):
        if node.domain != "":
            continue
        if node.op_type == "Dropout":
            _settle_dropout(graph, node)
        elif node.op_type == "BatchNormalization":
            _settle_batch_norm(graph, node)


def _keeps_all(node: ir.Node) -> bool:
    """Whether a Dropout is out of training, or drops nothing in it."""
    mode, ratio = (node.inputs[index] if index < len(node.inputs) else None for index in (2, 1))
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
    taken = [value for value in node.outputs[1:] if is_taken(value)]
    if not node.attributes.get_int("training_mode", 0):
        if taken:
            raise CaptureError(
                f"BatchNormalization gives {taken[0].name!r}, a statistic that only its training mode has",
                where=place_of(node),
                hint="leave out all of its outputs but the first, or set training_mode",
            )
        return
    x, scale, shift, *running = node.inputs
    if x is None:
        return
    sizes, steps = sizes_of(x), Steps(graph, node)
    by_channel = [sizes[1], *(1 for _ in sizes[2:])]
    axes = [axis for axis in range(len(sizes)) if axis != 1]
    mean = steps.mean(x, axes, "mean")
    centred = steps.add("centred", "Sub", [x, mean], sizes)
    variance = steps.mean(steps.add("squares", "Mul", [centred, centred], sizes), axes, "variance")
    epsilon = steps.constant(np.array(node.attributes.get_float("epsilon", 1e-5), np.float32), "epsilon")
    guarded = steps.add("guarded", "Add", [variance, epsilon], sizes_of(variance))
    deviation = steps.add("deviation", "Sqrt", [guarded], sizes_of(variance))
    y = steps.add("normalised", "Div", [centred, deviation], sizes)
    y = steps.add("scaled", "Mul", [y, steps.reshape(scale, by_channel, "scale")], sizes)
    y = steps.add("shifted", "Add", [y, steps.reshape(shift, by_channel, "bias")], sizes)
    results = {node.outputs[0]: y}
    statistics = (("mean.flat", mean), ("variance.flat", variance))
    for result, before, (name, now) in zip(node.outputs[1:], running, statistics, strict=False):
        if result in taken:
            results[result] = _moved(steps, node, before, steps.reshape(now, sizes[1:2], name), name)
    steps.replace(results)


def _moved(steps: Steps, node: ir.Node, before: ir.Value | None, now: ir.Value, name: str) -> ir.Value:
    """The moving average: ``momentum`` of what it was, the rest of what is now."""
    momentum = np.float32(node.attributes.get_float("momentum", 0.9))
    parts = []
    for value, share in ((before, momentum), (now, 1 - momentum)):
        part = f"{name}.{'kept' if value is before else 'new'}"
        factor = steps.constant(np.array(share, np.float32), f"{part}.share")
        parts.append(steps.add(part, "Mul", [value, factor], sizes_of(now), dtype=now.dtype))
    return steps.add(f"{name}.moved", "Add", parts, sizes_of(now))
