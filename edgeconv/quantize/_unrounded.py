"""Results that a model trained for integers leaves unrounded in front of its next layer, at their operands' scales."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.core.values import listed
from edgeconv.graph.constants import exact
from edgeconv.graph.edit import KEEP_FLOAT, ROUNDED_BETWEEN, input_of
from edgeconv.graph.pairs import PICKS, pair_before, repeat
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._graph import name_of
from edgeconv.quantize._patterns import matching, unknown
from edgeconv.quantize._reach import next_step, pair_behind, steps_moved

_WITHIN = having(Trait.AVERAGES) | {"Clip", "LeakyRelu", "Resize"}
"""Operators whose results lie within the range of their operand, or nearly so: the operand's scale holds them."""
_CLAMPS = having(Trait.CLAMPS)
_PAIR = having(Trait.SCALED)
_NAMED = 3  # places in the note
_PLACE = "keep_float"
_ASKED = "keep_float names it"


def round_between(model: ir.Model, *, always: bool = False) -> tuple[ir.Model, tuple[str, ...]]:
    """Rounds averages, resizes and clamps of rounded values that nobody rounds, so that integers can read them.

    torch.ao observes modules with weights alone: a pool in front of a Linear stays of real numbers in the module that
    was trained, so that the Linear could not be of integers. torch's own ``convert`` computes such operators on
    integers of one scale (the quantized kernels of ``adaptive_avg_pool2d``, ``leaky_relu``, ``interpolate``), as
    TFLite's AVERAGE_POOL_2D and RESIZE_BILINEAR ask for; here they are rounded alike, to the steps of what they read.
    What no such layer reads, an output for one, stays as it is. Beyond what torch does:

    1. What is joined, moved and then rounded is rounded to those steps at once, which changes no number.
    2. Where half a step of the operand moves what is rounded next, be it by less than a step of its own, the result
       stays float, and with it the layer that reads it: steps that one layer is off add up through those behind it.

    Args:
        model: quantized already; not changed. Where it says `ROUNDED_BETWEEN` all are rounded, as in its module.
        always: all are rounded, whatever it costs: files of integers alone.

    Returns:
        A new model, or the same one where there is none, and notes that name the places where numbers change, and
        those that stay float.
    """
    if not any(_is_meant(node) for node in model.graph):
        return model, ()
    converted = ROUNDED_BETWEEN in model.metadata_props
    model, rounded, floats = model.clone(), list[str](), dict[str, float]()
    for node in tuple(model.graph):
        if not _is_meant(node) and node.op_type not in PICKS | having(Trait.MOVES):
            continue
        pair = pair_before(node, PICKS | _WITHIN | having(Trait.MOVES))
        if pair is None:
            continue
        if _is_meant(node) and not _moves(node):
            behind = None if converted else pair_behind(node.outputs[0])
            free = always or converted or behind is not None
            moved = 0.0 if free else steps_moved(node.outputs[0], _step(pair), _WITHIN)
            if moved > 0:
                floats[name_of(node)] = moved
                node.metadata_props[KEEP_FLOAT] = "the module rounds it nowhere"
                continue
            rounded += [name_of(node)] if behind is None else []
            pair = behind or pair
        repeat(node, *pair)
    return model, _notes(rounded, floats)


def float_between(model: ir.Model, patterns: Sequence[str]) -> ir.Model:
    """Has operators of a graph that is quantized already computed in floats, between the roundings that it has.

    A layer of integers adds a bias of 32 bits, in units of the input's step times the weight's. A module trained with
    fake quantization adds one of floats, and rounds up to two in a thousand results otherwise. What only moves or picks
    elements stays of integers.

    Args:
        model: quantized already; not changed.
        patterns: of operators, as `matching` reads them.

    Returns:
        A new model, whose files have the module's numbers there but for float32's own rounding.

    Raises:
        QuantizeError: a pattern means no operator.
    """
    model = model.clone()
    computing = (node for node in model.graph if node.op_type not in _PAIR | PICKS | having(Trait.MOVES))
    nodes = {name_of(node): node for node in computing}
    for name in matching(model.graph, patterns, _PLACE):
        if name in nodes:
            nodes[name].metadata_props[KEEP_FLOAT] = _ASKED
        elif name not in map(name_of, model.graph):
            raise unknown(model.graph, name, _PLACE)
    return model


def _notes(rounded: list[str], floats: dict[str, float]) -> tuple[str, ...]:
    notes = []
    if rounded:
        notes.append(
            f"int8: {listed(rounded, _NAMED)}: rounded to the scale of what it reads, as torch's convert does; a "
            "module of fake quantizations rounds it nowhere and differs by up to half a step there"
        )
    if floats:
        worst = max(floats.values())
        notes.append(
            f"int8: {listed(list(floats), _NAMED)}: stays float, with the layer that reads it: the module rounds it "
            f"nowhere, and to round it would move what comes next by up to {worst:.2g} steps; observe it in the "
            "training, or set keep_roundings = true, for files of integers alone"
        )
    return tuple(notes)


def _step(pair: tuple[ir.Node, ir.Node]) -> float:
    scale = exact(input_of(pair[0], 1))
    return math.inf if scale is None else float(scale.reshape(()))


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
    """Whether operators whose own result is rounded read a value, or what others move of it, and layers of integers."""
    onward = PICKS | _WITHIN | having(Trait.MOVES)
    readers = [use.node for use in value.uses()]
    return (
        bool(readers)
        and not value.is_graph_output()
        and all(
            _is_layer_of_integers(reader)
            or _is_rounded(reader.outputs[0])
            or (reader.op_type in onward and _is_for_integers(reader.outputs[0]))
            for reader in readers
        )
    )


def _is_layer_of_integers(node: ir.Node) -> bool:
    """Whether a layer's weight is rounded, and its result: it is computed in floats otherwise."""
    is_layer, weight = node.op_type in having(Trait.LAYER), exact(input_of(node, 1))
    return is_layer and weight is None and next_step(node.outputs[0]) is not None
