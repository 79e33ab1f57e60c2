"""Which integers an input may hold, from the operators that read it: indices, divisors, lengths.

Parity inputs of integers are drawn from these. `READERS` has one rule for each operand that does not take every
integer, by the specification of its operator. Casts, moves and arithmetic with constants may be between the input and
such a reader; the reader's domain is then carried back through them (`_back`).
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

_DEPTH = 48  # operators in a row that are followed to a reader
_NEAR = 2  # distance of typical inputs from a number that they are compared with
_LARGE = 1000  # a factor as large as this (-1e4, -1e9) multiplies a mask of zeros and ones
_Rule = Callable[[ir.Node], Domain | None]

INDICES = frozenset({"Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND", "OneHot"})
"""Operators for which -1 is the last index, by ONNX's specification."""


def domains_of(model: ir.Model, negative: Collection[str] = INDICES) -> dict[str, Domain]:
    """The domain of each input of integers, by name; inputs without a bound are left out.

    Args:
        model: every shape static.
        negative: operators of `INDICES` whose negative indices the source of the graph accepts as well: torch refuses
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
    """The domains that readers require of a value.

    Each is paired with the Where that it was carried back through, or None: an element goes through a Where on one
    side only, so that of the domains behind one Where any is enough.
    """

    negative: frozenset[str]
    memo: dict[ir.Value, list[tuple[ir.Node | None, Domain]]]

    def read(self, value: ir.Value, depth: int) -> list[tuple[ir.Node | None, Domain]]:
        """The domains of all readers of a value, at most so many operators away."""
        if value not in self.memo:
            domains: list[tuple[ir.Node | None, Domain]] = []
            if depth:
                for use in value.uses():
                    domains += self._used(value, use.node, use.idx, depth)
            self.memo[value] = domains
        return self.memo[value]

    def _used(self, value: ir.Value, node: ir.Node, index: int, depth: int) -> Iterator[tuple[ir.Node | None, Domain]]:
        rule = READERS.get(node.op_type, {}).get(index)
        domain = rule(node) if rule is not None else None
        if domain is not None:
            # torch's gather and embeddings: "index out of range" for -1, which ONNX counts from the end.
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
                # Bounds per element hold only if each element of the value is at the same place of the result.
                fits = dims(value) == dims(node.outputs[0]) and node.op_type not in having(Trait.MOVES)
                yield way, before if fits or node.op_type in _SAME_PLACES else before.uniform()


_SAME_PLACES = frozenset({"Cast", "Identity"})


def _all_of(pairs: list[tuple[ir.Node | None, Domain]]) -> Domain | None:
    """The intersection of all domains, after the union of those behind one Where.

    Typical numbers around a comparison count only if no reader has a domain to be drawn from as a whole.
    """
    ways: dict[ir.Node, Domain] = {}
    domains = []
    for way, domain in pairs:
        if way is None:
            domains.append(domain)
        else:
            ways[way] = ways[way].or_else(domain) if way in ways else domain
    domains += ways.values()
    # Of domains that contradict each other `Domain.within` keeps the first: a table's rows before what is only allowed.
    domains.sort(key=lambda domain: -domain.extent)
    if any(domain.extent is Extent.WHOLE for domain in domains):
        domains = [domain for domain in domains if domain.extent is not Extent.TYPICAL]
    return reduce(Domain.within, domains) if domains else None


# -- from what is computed of an input back to the input ---------------------------------------------------------------


def _back(node: ir.Node, index: int) -> Callable[[Domain], Domain | None] | None:
    """A function from the domain of a node's result to that of its operand `index`; None if there is none."""
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
        # Of a sum of two inputs, each gets half of the bounds.
        if op == "Add" and not is_float(node.outputs[0].dtype):
            return lambda domain: replace(domain, low=np.ceil(domain.low / 2), high=np.floor(domain.high / 2))
    return None


def _same(domain: Domain) -> Domain:
    return domain


def _with_constant(op: str, index: int, other: tuple[float, float]) -> Callable[[Domain], Domain | None] | None:
    """The same for arithmetic with a constant operand, of which `other` is the least and the largest number."""
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
        """Max and Min replace numbers beyond the constant: that side has no bound, and need not be drawn from."""
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
    # A factor or divisor that is 0 gives no bound, and a negative one would turn the bounds round: not followed.
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
    """Indices of an axis of an operand, which an attribute names."""

    def rule(node: ir.Node) -> Domain | None:
        sizes = dims(input_of(node, operand))
        return _places(sizes[node.attributes.get_int(attribute, default)]) if sizes else None

    return rule


def _scattered(node: ir.Node) -> Domain | None:
    """Indices of an axis, all different along it: of two updates with one index ONNX leaves open which one stays."""
    domain, sizes = _axis_of(0)(node), dims(input_of(node, 0))
    if domain is None or sizes is None or node.attributes.get_string("reduction", "none") != "none":
        return domain
    return replace(domain, distinct=Distinct.ALONG_AXIS, axis=node.attributes.get_int("axis", 0) % len(sizes))


def _rows(node: ir.Node) -> Domain | None:
    """GatherND, ScatterND: each position of a row (the last axis of the indices) is an index of another axis."""
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
    """Lengths of sequences along an axis of an operand, which an attribute names."""

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
    """An input that is compared with a list (of classes): its range; with a single number: the numbers around it."""

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
    """The operand of 1 - x is a mask."""
    return _whole(0, 1) if is_float(node.outputs[0].dtype) and _constant(input_of(node, 0)) == (1, 1) else None


def _mask(operand: int) -> _Rule:
    """The operand of a product with a number that stands for infinity is a mask."""

    def rule(node: ir.Node) -> Domain | None:
        factor = _constant(input_of(node, operand)) if is_float(node.outputs[0].dtype) else None
        return _whole(0, 1) if factor is not None and max(map(abs, factor)) >= _LARGE else None

    return rule


_COMPARES: Mapping[int, _Rule] = {0: _compared(1), 1: _compared(0)}
_SMALL: Mapping[int, _Rule] = {0: _between(-2, 2)}
_GROWS: Mapping[int, _Rule] = {0: _between(-8, 8)}

READERS: Mapping[str, Mapping[int, _Rule]] = {
    # nonpad_kv_seqlen (opset 24): at most the length of the keys, the last axis of K but one.
    "Attention": {6: _lengths(1, "", -2)},
    # In C, which the kernels are written in, a shift by the width or more is undefined; a byte has 8 bits.
    "BitShift": {1: _between(0, 7)},
    "Cast": {0: _narrowed},
    "Cosh": _GROWS,
    "CumProd": {0: _between(-2, 2), 1: _rank},
    "CumSum": {1: _rank},
    "Div": {1: _divisor},
    "Equal": _COMPARES,
    "Exp": _GROWS,
    # Recurrent layers: sequence_lens, at most the length of X, whose axis 0 is time (layout 0).
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
    # 4³ = 64 fits into the narrowest integers; a negative power of an integer is none.
    "Pow": {0: _between(-4, 4), 1: _between(0, 3)},
    "RNN": {4: _lengths(0, "", 0)},
    "Reciprocal": {0: _divisor},
    "ReduceProd": _SMALL,
    "ReverseSequence": {1: _lengths(0, "time_axis", 0)},
    # position_ids: rows of cos_cache, which is operand 1.
    "RotaryEmbedding": {3: _axis_of(1, "", 0)},
    "Scatter": {1: _scattered},
    "ScatterElements": {1: _scattered},
    "ScatterND": {1: _rows},
    "Sinh": _GROWS,
    "Sqrt": {0: _between(0, np.inf)},
    "Sub": {1: _complement},
    "Trilu": {1: _diagonals},
}  # fmt: skip
"""By operator and operand: the integers that it may hold; all other operands take any integer.

Operands that were cast to float count, too: an exponential must stay finite, a divisor must not be 0.
"""
