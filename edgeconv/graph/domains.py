"""Which integers an input may hold, told by the operators that read it: indices, divisors, lengths.

`READERS` has one rule per operand that not every integer suits, after the specification of its operator. Between the
input and such a reader may stand what moves or casts it, and arithmetic with constants; then the rule is that of the
reader, carried back (`_back`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import onnx_ir as ir

from edgeconv.core.domain import Distinct, Domain, Extent
from edgeconv.graph.constants import is_float, unrounded
from edgeconv.graph.edit import dims, input_of
from edgeconv.graph.traits import Trait, having

_DEPTH = 48  # operators behind each other, beyond which no reader is looked for
_NEAR = 2  # of a number that the input is compared with
_LARGE = 1000  # a factor that only a mask of zeros and ones is multiplied by
_Rule = Callable[[ir.Node], Domain | None]

INDICES = frozenset({"Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND", "OneHot"})
"""The operators that take -1 for the last place, as ONNX specifies them."""


def domains_of(model: ir.Model, negative: Collection[str] = INDICES) -> dict[str, Domain]:
    """The domain of each input of integers, by name; inputs that nothing bounds are left out.

    Args:
        model: every shape static.
        negative: the operators of `INDICES` whose negative indices the source of the graph takes, too: torch refuses
            those of ``gather`` and of embeddings.
    """
    search = _Search(frozenset(negative), {})
    domains = {}
    for value in model.graph.inputs:
        if value.dtype is not None and value.dtype.is_integer() and (domain := _all_of(search.read(value, _DEPTH))):
            domains[value.name or ""] = domain
    return domains


@dataclass(frozen=True)
class _Search:
    """The domains that readers give a value, each beside the Where that it came through: an element takes one way."""

    negative: frozenset[str]
    known: dict[ir.Value, list[tuple[ir.Node | None, Domain]]]

    def read(self, value: ir.Value, depth: int) -> list[tuple[ir.Node | None, Domain]]:
        if value not in self.known:
            found: list[tuple[ir.Node | None, Domain]] = []
            if depth:
                for use in value.uses():
                    found += self._used(value, use.node, use.idx, depth)
            self.known[value] = found
        return self.known[value]

    def _used(self, value: ir.Value, node: ir.Node, index: int, depth: int) -> Iterator[tuple[ir.Node | None, Domain]]:
        rule = READERS.get(node.op_type, {}).get(index)
        domain = rule(node) if rule is not None else None
        if domain is not None:
            if node.op_type in INDICES - self.negative:
                domain = replace(domain, low=np.maximum(domain.low, 0))
            yield None, domain
        back = _back(node, index)
        if back is None:
            return
        behind = [pair for result in node.outputs for pair in self.read(result, depth - 1)]
        if node.op_type == "Where":
            whole = _all_of(behind)
            behind = [] if whole is None else [(node, whole)]
        for way, domain in behind:
            before = back(domain)
            if before is not None:
                fits = dims(value) == dims(node.outputs[0]) and node.op_type not in having(Trait.MOVES)
                yield way, before if fits or node.op_type in _SAME_PLACES else before.uniform()


_SAME_PLACES = frozenset({"Cast", "Identity"})


def _all_of(found: list[tuple[ir.Node | None, Domain]]) -> Domain | None:
    """What all readers allow: of those behind one Where, any.

    Numbers around a comparison count only where no other reader says more.
    """
    ways: dict[ir.Node, Domain] = {}
    domains = []
    for way, domain in found:
        if way is None:
            domains.append(domain)
        else:
            ways[way] = ways[way].or_else(domain) if way in ways else domain
    domains += ways.values()
    domains.sort(key=lambda domain: -domain.extent)
    if any(domain.extent is Extent.WHOLE for domain in domains):
        domains = [domain for domain in domains if domain.extent is not Extent.TYPICAL]
    return reduce(Domain.within, domains) if domains else None


# -- from what is computed of an input back to the input ---------------------------------------------------------------


def _back(node: ir.Node, index: int) -> Callable[[Domain], Domain | None] | None:
    """Leads from a domain of a node's result to that of its operand; None where none is told."""
    op = node.op_type
    if op in having(Trait.MOVES):
        is_data = op.startswith(("Concat", "Sequence")) or index == 0
        return Domain.uniform if is_data else None
    if op in _SAME_PLACES or (op in {"CastLike", "ReverseSequence"} and index == 0) or (op == "Where" and index > 0):
        return _same
    if op == "Neg":
        return lambda domain: replace(domain, low=-np.asarray(domain.high), high=-np.asarray(domain.low))
    if op == "Abs":
        return lambda domain: replace(domain, low=-np.asarray(domain.high))
    if op in {"Add", "Sub", "Mul", "Div", "Max", "Min"} and len(node.inputs) == 2:
        other = _constant(input_of(node, 1 - index))
        if other is not None:
            return _with_constant(op, index, other)
        if op == "Add" and not is_float(node.outputs[0].dtype):
            return lambda domain: replace(domain, low=np.ceil(domain.low / 2), high=np.floor(domain.high / 2))
    return None


def _same(domain: Domain) -> Domain:
    return domain


def _with_constant(op: str, index: int, other: tuple[float, float]) -> Callable[[Domain], Domain | None] | None:
    """Back through arithmetic with a constant, whose least and largest number are given."""
    least, most = other

    def shifted(domain: Domain) -> Domain:
        return replace(domain, low=domain.low - least, high=domain.high - most, nonzero=False)

    def reflected(domain: Domain) -> Domain:
        low, high = most - np.asarray(domain.high), least - np.asarray(domain.low)
        return replace(domain, low=low, high=high, nonzero=False)

    def divided(domain: Domain) -> Domain:
        return replace(domain, low=np.ceil(domain.low / least), high=np.floor(domain.high / most))

    def multiplied(domain: Domain) -> Domain:
        return replace(domain, low=domain.low * least, high=domain.high * least, nonzero=False)

    def cut(domain: Domain) -> Domain:
        """Beyond the constant the other number is taken; nothing says how far beyond is worth drawing."""
        if op == "Max" and np.all(least >= np.asarray(domain.low)):
            return replace(domain, low=-np.inf, extent=Extent.LIMIT)
        if op == "Min" and np.all(most <= np.asarray(domain.high)):
            return replace(domain, high=np.inf, extent=Extent.LIMIT)
        return domain

    if op in {"Max", "Min"}:
        return cut
    if op == "Add":
        return shifted
    if op == "Sub":
        least, most = (-most, -least) if index == 0 else (least, most)
        return shifted if index == 0 else reflected
    if least <= 0:
        return None
    return divided if op == "Mul" else multiplied if index == 0 else None


def _constant(value: ir.Value | None) -> tuple[float, float] | None:
    """The least and largest number of a constant."""
    array = unrounded(value)
    if array is None or not array.size or array.dtype.kind not in "fiu":
        return None
    return float(array.min()), float(array.max())


# -- what readers take -------------------------------------------------------------------------------------------------


def _whole(low: float, high: float) -> Domain:
    return Domain(low, high, Extent.WHOLE)


def _places(size: int) -> Domain | None:
    """The indices of an axis; None of an axis without any."""
    return _whole(-size, size - 1) if size else None


def _axis_of(operand: int, attribute: str = "axis", default: int = 0) -> _Rule:
    """Indices along the axis of an operand that an attribute names."""

    def rule(node: ir.Node) -> Domain | None:
        sizes = dims(input_of(node, operand))
        return _places(sizes[node.attributes.get_int(attribute, default)]) if sizes else None

    return rule


def _scattered(node: ir.Node) -> Domain | None:
    """Along an axis; what is written must not meet, as ONNX leaves open which value stays."""
    domain, sizes = _axis_of(0)(node), dims(input_of(node, 0))
    if domain is None or sizes is None or node.attributes.get_string("reduction", "none") != "none":
        return domain
    return replace(domain, distinct=Distinct.ALONG_AXIS, axis=node.attributes.get_int("axis", 0) % len(sizes))


def _rows(node: ir.Node) -> Domain | None:
    """Coordinates: each place of a row is an index along an axis of its own."""
    sizes, indices = dims(input_of(node, 0)), dims(input_of(node, 1))
    first = node.attributes.get_int("batch_dims", 0)
    if sizes is None or not indices or not indices[-1] or not math.prod(sizes):
        return None
    along = np.array(sizes[first : first + indices[-1]], np.float64)
    domain = Domain(-along, along - 1, Extent.WHOLE)
    meets = node.op_type == "ScatterND" and node.attributes.get_string("reduction", "none") == "none"
    return replace(domain, distinct=Distinct.ROWS) if meets else domain


def _classes(node: ir.Node) -> Domain | None:
    depth = _constant(input_of(node, 1))
    return _places(int(depth[0])) if depth else None


def _unpooled(node: ir.Node) -> Domain | None:
    """Places in the whole result."""
    sizes = dims(node.outputs[0])
    return replace(_whole(0, math.prod(sizes) - 1), distinct=Distinct.ALL) if sizes and math.prod(sizes) else None


def _lengths(operand: int, attribute: str, default: int) -> _Rule:
    """Lengths of sequences, which lie along the axis of an operand that an attribute names."""

    def rule(node: ir.Node) -> Domain | None:
        sizes = dims(input_of(node, operand))
        return _whole(1, sizes[node.attributes.get_int(attribute, default)]) if sizes else None

    return rule


def _rank(node: ir.Node) -> Domain | None:
    return _places(len(dims(input_of(node, 0)) or ()))


def _diagonals(node: ir.Node) -> Domain | None:
    sizes = dims(input_of(node, 0))
    return _whole(-sizes[-2], sizes[-1]) if sizes and len(sizes) > 1 else None


def _divisor(node: ir.Node) -> Domain:
    return Domain(nonzero=True)


def _between(low: float, high: float) -> _Rule:
    return lambda node: Domain(low, high)


def _compared(operand: int) -> _Rule:
    """All numbers of a list that the input is compared with, as of classes; those around a single one."""

    def rule(node: ir.Node) -> Domain | None:
        array = unrounded(input_of(node, operand))
        if array is None or not array.size or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            return None
        least, most = float(array.min()), float(array.max())
        if array.size > 1:
            return _whole(np.floor(least), np.ceil(most))
        return Domain(np.floor(least) - _NEAR, np.ceil(most) + _NEAR, Extent.TYPICAL)

    return rule


def _narrowed(node: ir.Node) -> Domain | None:
    """Integers that a narrower type holds."""
    dtype = node.outputs[0].dtype
    return Domain(float(dtype.min), float(dtype.max)) if dtype is not None and dtype.is_integer() else None


def _complement(node: ir.Node) -> Domain | None:
    """One minus it: of a mask."""
    return _whole(0, 1) if is_float(node.outputs[0].dtype) and _constant(input_of(node, 0)) == (1, 1) else None


def _mask(operand: int) -> _Rule:
    """Times a number as large as those that stand for infinity."""

    def rule(node: ir.Node) -> Domain | None:
        factor = _constant(input_of(node, operand)) if is_float(node.outputs[0].dtype) else None
        return _whole(0, 1) if factor is not None and max(map(abs, factor)) >= _LARGE else None

    return rule


_COMPARES: Mapping[int, _Rule] = {0: _compared(1), 1: _compared(0)}
_SMALL: Mapping[int, _Rule] = {0: _between(-2, 2)}
_GROWS: Mapping[int, _Rule] = {0: _between(-8, 8)}

READERS: Mapping[str, Mapping[int, _Rule]] = {
    "Attention": {6: _lengths(1, "", -2)},
    "BitShift": {1: _between(0, 7)},
    "Cast": {0: _narrowed},
    "Cosh": _GROWS,
    "CumProd": {0: _between(-2, 2), 1: _rank},
    "CumSum": {1: _rank},
    "Div": {1: _divisor},
    "Equal": _COMPARES,
    "Exp": _GROWS,
    "GRU": {4: _lengths(0, "", 0)},
    "Gather": {1: _axis_of(0)},
    "GatherElements": {1: _axis_of(0)},
    "GatherND": {1: _rows},
    "Greater": _COMPARES,
    "GreaterOrEqual": _COMPARES,
    "LSTM": {4: _lengths(0, "", 0)},
    "Less": _COMPARES,
    "LessOrEqual": _COMPARES,
    "Log": {0: _between(1, np.inf)},
    "MaxUnpool": {1: _unpooled},
    "Mod": {1: _divisor},
    "Mul": {0: _mask(1), 1: _mask(0)},
    "OneHot": {0: _classes},
    "Pow": {0: _between(-4, 4), 1: _between(0, 3)},
    "RNN": {4: _lengths(0, "", 0)},
    "Reciprocal": {0: _divisor},
    "ReduceProd": _SMALL,
    "ReverseSequence": {1: _lengths(0, "time_axis", 0)},
    "RotaryEmbedding": {3: _axis_of(1, "", 0)},
    "Scatter": {1: _scattered},
    "ScatterElements": {1: _scattered},
    "ScatterND": {1: _rows},
    "Sinh": _GROWS,
    "Sqrt": {0: _between(0, np.inf)},
    "Sub": {1: _complement},
    "Trilu": {1: _diagonals},
}  # fmt: skip
"""What an operand of integers may hold, by operator and the operand's place; all others take any integer.

Floats that were cast from integers count: an exponential stays finite, a divisor is not 0.
"""
