"""Results that a model trained for integers leaves unrounded in front of its next layer, at their operands' scales."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.core.values import listed
from edgeconv.graph.pairs import PICKS, pair_before, repeat
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._graph import name_of

_WITHIN = having(Trait.AVERAGES) | {"Clip", "LeakyRelu", "Resize"}
"""Operators whose results lie within the range of their operand, or nearly so: the operand's scale holds them."""
_CLAMPS = frozenset({"Clip", "Relu"})
_NAMED = 3  # places in the note


def round_between(model: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Rounds averages, resizes and clamps of rounded values that nobody rounds, to the steps of what they read.

    torch.ao observes modules with weights alone: a pool in front of a Linear stays of real numbers in the module that
    was trained, so that the Linear could not be of integers. torch's own ``convert`` computes such operators on
    integers of one scale (the quantized kernels of ``adaptive_avg_pool2d``, ``leaky_relu``, ``interpolate``), as
    TFLite's AVERAGE_POOL_2D and RESIZE_BILINEAR ask for; here they are rounded alike. What no such
    layer reads, an output for one, stays as it is.

    Args:
        model: quantized already; not changed.

    Returns:
        A new model, or the same one where there is none, and a note that names the places where numbers change.
    """
    if not any(_is_meant(node) for node in model.graph):
        return model, ()
    model, names = model.clone(), list[str]()
    for node in tuple(model.graph):
        if _is_meant(node):
            names += [] if _moves(node) else [name_of(node)]
        elif node.op_type not in PICKS | having(Trait.MOVES):
            continue
        pair = pair_before(node, PICKS | _WITHIN | having(Trait.MOVES))
        if pair is not None:
            repeat(node, *pair)
    if not names:
        return model, ()
    return model, (
        f"int8: {listed(names, _NAMED)}: rounded to the scale of what it reads, as torch's convert does; a module of "
        "fake quantizations rounds it nowhere and differs by up to half a step there",
    )


def _is_meant(node: ir.Node) -> bool:
    """Whether a result is to be rounded: integers read it, and it can have its operand's scale."""
    if node.op_type not in _WITHIN or _is_rounded(node.outputs[0]):
        return False
    return pair_before(node, _WITHIN) is not None and _is_for_integers(node.outputs[0])


def _moves(node: ir.Node) -> bool:
    """Whether all its results are numbers of the operand as they are, so that their rounding changes nothing."""
    if node.op_type == "Resize":
        return node.attributes.get_string("mode", "nearest") == "nearest"
    return node.op_type in PICKS | having(Trait.MOVES)


def _is_rounded(value: ir.Value) -> bool:
    """Whether a value is rounded where it is read, behind a clamp that leaves fewer integers for one."""
    readers = [use.node for use in value.uses()]
    return bool(readers) and all(
        reader.op_type == "QuantizeLinear" or (reader.op_type in _CLAMPS and _is_rounded(reader.outputs[0]))
        for reader in readers
    )


def _is_for_integers(value: ir.Value) -> bool:
    """Whether layers, or operators whose own result is rounded, read a value, or what others move of it."""
    onward = PICKS | _WITHIN | having(Trait.MOVES)
    readers = [use.node for use in value.uses()]
    return (
        bool(readers)
        and not value.is_graph_output()
        and all(
            reader.op_type in having(Trait.LAYER)
            or _is_rounded(reader.outputs[0])
            or (reader.op_type in onward and _is_for_integers(reader.outputs[0]))
            for reader in readers
        )
    )
