"""From where on functions and gates ignore what they read, and what SiLUs and the like leave of a layer's range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import permutations

import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of, only_reader, producer_of
from edgeconv.graph.gelus import gelus, spelled_out
from edgeconv.graph.traits import Trait, having
from edgeconv.quantize._graph import ADDED, named

Bounds = tuple[float, float]
ALL: Bounds = (-math.inf, math.inf)

COUNTS = 2.0**-12  # of a softmax's or sigmoid's result: a sixteenth of a step of int8
_LAYERS = having(Trait.LAYER)
_GATED = math.log(COUNTS)  # x·sigmoid(x) and x·tanh(softplus(x)) are -0.002 there, a GELU is nearer to 0 below -3.3
LIMITS: Mapping[str, Bounds] = {
    "Celu": (math.log(COUNTS), math.inf),
    "Elu": (math.log(COUNTS), math.inf),
    "Erf": (-4.0, 4.0),
    "Gelu": (-4.0, math.inf),
    "HardSwish": (-3.0, math.inf),
    "Mish": (_GATED, math.inf),
    "Relu": (0.0, math.inf),
    "Selu": (math.log(COUNTS), math.inf),
    "Sigmoid": (math.log(COUNTS), -math.log(COUNTS)),
    "Softplus": (math.log(COUNTS), math.inf),
    "Swish": (_GATED, math.inf),
    "Tanh": (math.log(COUNTS) / 2, -math.log(COUNTS) / 2),
}
"""Beyond which an operator's results do not change, or not by what counts."""

_GATES = frozenset({"Gelu", "HardSwish", "Mish", "Swish"})
"""Operators that multiply their operand by what shuts where it is low."""


def shut_below(graph: ir.Graph, gated: Mapping[ir.Node, tuple[ir.Value, float]]) -> Iterator[tuple[str, Bounds]]:
    """What layers make and only gates read, as SiLU does: below their lower end all numbers are next to zero.

    Cut there, the integers are for the numbers that show: normalized layers reach far below as often as above.
    """
    for node in graph:
        value = node.outputs[0]
        if node.op_type not in _LAYERS or value.is_graph_output():
            continue
        readers = {use.node for use in value.uses()}
        muls = [reader for reader in readers if reader in gated and gated[reader][0] is value]
        gates = {source for mul in muls for source in _sources(mul, value)}
        lows = [gated[mul][1] for mul in muls]
        lows += [LIMITS[reader.op_type][0] for reader in readers if reader.op_type in _GATES]
        if lows and all(reader in gates or reader in muls or reader.op_type in _GATES for reader in readers):
            yield named(value), (min(lows), math.inf)
        # A factor in front of a Sigmoid, as equalization has it, must not make its steps coarse.
        products = [source.outputs[0] for source in gates if source.meta.get(ADDED)]
        yield from ((named(product), LIMITS["Sigmoid"]) for product in products if only_reader(product) is not None)


def _sources(mul: ir.Node, value: ir.Value) -> Iterator[ir.Node]:
    """The reader of the value that the other factor of a gate begins with."""
    for operand in mul.inputs:
        node = producer_of(operand) if operand is not value else None
        while node is not None and value not in node.inputs:
            node = _maker(node)
        if node is not None:
            yield node


def gated_by(graph: ir.Graph) -> dict[ir.Node, tuple[ir.Value, float]]:
    """Nodes that multiply a value by what shuts where it is low, the value, and from where on they give nothing."""
    gates: dict[ir.Node, tuple[ir.Value, float]] = {}
    for node in graph:
        for x, gate in permutations(node.inputs) if node.op_type == "Mul" else ():
            maker = producer_of(gate)
            before = _maker(maker) if maker is not None else None
            # Mish is x·tanh(softplus(x)): the gate opens where the softplus inside does.
            if maker is not None and maker.op_type == "Tanh" and before is not None:
                maker = before if before.op_type == "Softplus" else None
            # An equalized SiLU is x·sigmoid(x·c): where c is least it shuts last.
            if maker is not None and maker.op_type == "Sigmoid" and before is not None and before.meta.get(ADDED):
                stored = constant(input_of(before, 1)) if before.inputs[0] is x else None
                if x is not None and stored is not None and (stored > 0).all():
                    gates[node] = x, _GATED / float(stored.min())
            if x is None or maker is None or maker.inputs[0] is not x:
                continue
            if maker.op_type in ("Sigmoid", "Softplus"):
                gates[node] = x, _GATED
            elif maker.op_type == "HardSigmoid":
                gates[node] = x, limits(maker)[0]
    # The last Mul of a GELU that is spelled out with Erf or Tanh.
    spelled = gelus(graph)[0]
    for node, last in spelled_out(graph).items():
        if (x := spelled[last].x) in node.inputs:
            gates[node] = x, LIMITS["Gelu"][0]
    return gates


def _maker(node: ir.Node) -> ir.Node | None:
    """The node that computes a node's first operand."""
    value = node.inputs[0]
    return producer_of(value)


def limits(node: ir.Node) -> Bounds:
    """Beyond which an operator's results do not change, or not by what counts."""
    if node.op_type == "Celu":
        return node.attributes.get_float("alpha", 1.0) * math.log(COUNTS), math.inf
    if node.op_type != "HardSigmoid":
        return LIMITS[node.op_type]
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return (-beta / alpha, (1 - beta) / alpha) if alpha > 0 else ALL
