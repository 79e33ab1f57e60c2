"""Peephole rewrites of the finished TFLite graph; each keeps the graph's outputs as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgeconv.emit.tflite._graph import Graph, Operator, Tensor

_ACTIVATIONS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}  # schema.ActivationFunctionType
_FUSE_INTO = {
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
    "ADD",
    "SUB",
    "MUL",
    "DIV",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
}


def drop_dead(graph: Graph) -> None:
    """Removes operators whose outputs nobody reads."""
    alive = set(graph.outputs)
    kept = []
    for operator in reversed(graph.operators):
        if any(output in alive for output in operator.outputs):
            alive.update(operator.inputs)
            kept.append(operator)
    graph.operators = kept[::-1]


def merge_reshapes(graph: Graph) -> None:
    """A RESHAPE reads past any RESHAPE before it, and one that changes nothing vanishes."""
    producers = graph.producers()
    for operator in list(graph.operators):
        if operator.code != "RESHAPE":
            continue
        while (before := producers.get(operator.inputs[0])) is not None and before.code == "RESHAPE":
            operator.inputs[0] = before.inputs[0]
        source, result = operator.inputs[0], operator.outputs[0]
        if source.shape == result.shape and result not in graph.outputs:
            graph.replace(result, source)
    drop_dead(graph)


def fuse_activations(graph: Graph) -> None:
    """RELU, RELU6 and RELU_N1_TO_1 become the fused activation of the operator that alone feeds them.

    The tensor that stays is the activation's; the one before it no longer exists in the file.
    """
    producers, consumers = graph.producers(), graph.consumers()
    for operator in list(graph.operators):
        if operator.code not in _ACTIVATIONS:
            continue
        source = operator.inputs[0]
        before = producers.get(source)
        if before is None or not _takes_activation(graph, before, source, consumers):
            continue
        before.options["fusedActivationFunction"] = _ACTIVATIONS[operator.code]
        before.outputs = operator.outputs
        producers[operator.outputs[0]] = before
        graph.operators.remove(operator)


def _takes_activation(
    graph: Graph, operator: Operator, source: Tensor, consumers: dict[Tensor, list[Operator]]
) -> bool:
    return (
        operator.code in _FUSE_INTO
        and not operator.options.get("fusedActivationFunction")
        and source.dtype == np.float32
        and len(consumers[source]) == 1
        and source not in graph.outputs
    )


def add_bias(graph: Graph) -> None:
    """A constant vector added to a fully connected layer without bias becomes its bias."""
    producers, consumers = graph.producers(), graph.consumers()
    for operator in list(graph.operators):
        if operator.code != "ADD" or operator.options.get("fusedActivationFunction"):
            continue
        for source, bias in (operator.inputs, operator.inputs[::-1]):
            before = producers.get(source)
            if before is None or before.code != "FULLY_CONNECTED" or bias.data is None:
                continue
            free = _takes_activation(graph, before, source, consumers) and not np.any(before.inputs[2].data)
            if (
                free
                and bias.data.size == source.shape[-1] == bias.shape[-1]
                and operator.outputs[0].shape == source.shape
            ):
                before.inputs[2] = graph.constant(bias.data.reshape(-1), bias.name)
                before.outputs = operator.outputs
                producers[operator.outputs[0]] = before
                graph.operators.remove(operator)
                break


SIMPLIFICATIONS: tuple[Callable[[Graph], None], ...] = (drop_dead, merge_reshapes, add_bias, fuse_activations)


def simplify(graph: Graph) -> None:
    """Runs the simplifications in their order."""
    for step in SIMPLIFICATIONS:
        step(graph)
