"""Layers that are left in float, what stays float with them, and which roundings that takes away."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import onnx_ir as ir

from edgeconv.errors import QuantizeError
from edgeconv.quantize._graph import ADDED, is_activation, name_of, named, nodes_around
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._structure import Structure, structure_of


def keep_in_float(model: ir.Model, plan: Plan, layers: Iterable[str], reason: str) -> Plan:
    """The plan with some layers left in float, and what reads them and float alone: operators without weights.

    Otherwise they would quantize a result that was just computed in float. A layer that equalization added between
    another and its SiLU goes with that one.
    """
    structure, chosen = structure_of(model, plan.kept_float), frozenset(layers)
    for name in chosen.difference(choosable_layers(structure)):
        raise QuantizeError(f"there is no quantized layer {name!r}", where="keep in float", hint="see the plan")
    behind = layers_behind(model, plan, structure)
    kept = [name_of(node) for node in model.graph if (needed := behind.get(name_of(node))) and needed <= chosen]
    kept_float = {**plan.kept_float, **dict.fromkeys(kept, reason)}
    weights = {name: item for name, item in plan.weights.items() if name not in kept_float}
    return dataclasses.replace(plan, weights=weights, kept_float=kept_float)


def choosable_layers(structure: Structure) -> tuple[str, ...]:
    """The layers that can be left in float, in graph order: without those that equalization added."""
    return tuple(name for name, layer in structure.layers.items() if not layer.node.meta.get(ADDED))


def layers_behind(model: ir.Model, plan: Plan, structure: Structure) -> dict[str, frozenset[str]]:
    """Of each operator, by name, the layers that all have to be in float for it to be: of a layer itself alone.

    None of what the plan has in float already. Left out is what stays in integers whatever layers do: what reads an
    input of the graph, or nothing but operators that were float before, as integers behind a LayerNormalization.
    """
    behind: dict[str, frozenset[str]] = {name: frozenset() for name in plan.kept_float}
    layers = frozenset(choosable_layers(structure))
    for node in model.graph:
        name = name_of(node)
        makers = [value.producer() for value in node.inputs if value is not None and is_activation(value)]
        if name in behind:
            continue
        if name in layers:
            behind[name] = frozenset([name])
        elif makers and all(maker is not None and name_of(maker) in behind for maker in makers):
            needed = frozenset[str]().union(*(behind[name_of(maker)] for maker in makers if maker is not None))
            if needed:
                behind[name] = needed
    return behind


class Rounded(NamedTuple):
    """What goes unrounded where a set of layers is in float, and not where one of them is missing.

    Attributes:
        needed: these layers.
        layers: whose weights are rounded until then.
        values: the names of the values that are.
    """

    needed: frozenset[str]
    layers: frozenset[str]
    values: frozenset[str]


def rounded_with(model: ir.Model, plan: Plan, structure: Structure) -> list[Rounded]:
    """All that layers round, by the layers that it takes; without what is rounded whatever they do.

    A value is rounded as long as one operator that makes or reads it computes with integers: behind a layer in float
    that another in integers reads, it is.
    """
    behind = layers_behind(model, plan, structure)
    weights = {name: behind[name] for name in structure.layers if name in behind}
    values = dict[str, frozenset[str]]()
    for value in structure.activations:
        names = [name_of(structure.spelled.get(node, node)) for node in nodes_around(value)]
        if named(value) in plan.tensors and all(name in behind for name in names):
            values[named(value)] = frozenset[str]().union(*(behind[name] for name in names))
    return [
        Rounded(
            needed,
            frozenset(name for name, layers in weights.items() if layers == needed),
            frozenset(name for name, layers in values.items() if layers == needed),
        )
        for needed in dict.fromkeys([*weights.values(), *values.values()])
    ]
