"""Einsum: written out as products of matrices, of elements, and sums, which every runtime and integers have.

Specification: Einsum. The operands are taken from left to right:

1. An axis that is named twice in an operand is its diagonal.
2. An axis of size 1 where others have more is left out: it broadcasts.
3. What no other operand and no result names is summed at once.
4. Two operands are multiplied as matrices over the axes that both have and nothing names any more; where there is none,
   element by element.
"""

from __future__ import annotations

import itertools
import math
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeconv.errors import CaptureError
from edgeconv.graph.origin import place_of
from edgeconv.graph.steps import Steps, sizes_of

_DOTS = "..."


@dataclass(frozen=True)
class _Term:
    """A value and the label of each of its axes."""

    value: ir.Value
    labels: str


def einsum(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """The value that replaces the node's; all shapes are static."""
    operands = [value for value in node.inputs if value is not None]
    named, result = _labels(node, [len(sizes_of(value)) for value in operands])
    pairs = [
        pair
        for value, labels in zip(operands, named, strict=True)
        for pair in zip(labels, sizes_of(value), strict=True)
    ]
    largest = {label: max(size for other, size in pairs if other == label) for label, _ in pairs}
    terms = [_plain(steps, _Term(value, labels), largest) for value, labels in zip(operands, named, strict=True)]
    whole = _summed(steps, terms[0], _named(result, terms[1:]))
    for at, term in enumerate(terms[1:], start=2):
        later = _named(result, terms[at:])
        whole = _product(steps, whole, _summed(steps, term, later | set(whole.labels)), later)
        whole = _summed(steps, whole, later)
    lacking = [label for label in result if label not in whole.labels]  # of size 1 wherever they are named
    whole = (
        _Term(
            steps.reshape(whole.value, [*(1 for _ in lacking), *sizes_of(whole.value)], "whole"),
            "".join(lacking) + whole.labels,
        )
        if lacking
        else whole
    )
    return {node.outputs[0]: _identity(steps, _ordered(steps, whole, result).value)}


def _labels(node: ir.Node, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of each operand's axes, and of the result's; those that dots stand for get letters of their own."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    named = left.split(",")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    extra = [rank - len(labels.replace(_DOTS, "")) for labels, rank in zip(named, ranks, strict=False)]
    widest = max((count for labels, count in zip(named, extra, strict=False) if _DOTS in labels), default=0)
    stated = all(count == 0 or (_DOTS in labels and count > 0) for labels, count in zip(named, extra, strict=False))
    if len(named) != len(ranks) or not stated or widest > len(free):
        what = f"Einsum {equation!r} does not fit operands of {', '.join(map(str, ranks))} axes"
        raise CaptureError(what, where=place_of(node), hint="correct the equation")
    dots = "".join(free[:widest])
    spelt = [
        labels.replace(_DOTS, dots[widest - count :] if count else "")
        for labels, count in zip(named, extra, strict=True)
    ]
    counts = Counter("".join(spelt))
    once = "".join(sorted(label for label, count in counts.items() if count == 1 and label not in dots))
    return spelt, right.replace(_DOTS, dots) if arrow else dots + once


def _named(result: str, terms: Sequence[_Term]) -> set[str]:
    return set(result).union(*(term.labels for term in terms))


def _plain(steps: Steps, term: _Term, largest: Mapping[str, int]) -> _Term:
    """Rules 1 and 2."""
    while doubled := next((label for label, count in Counter(term.labels).items() if count > 1), None):
        others = term.labels.replace(doubled, "")
        term = _ordered(steps, term, others + doubled * term.labels.count(doubled))
        *remaining, size = sizes_of(term.value)[: len(others) + 1]
        times = len(term.labels) - len(others)
        flat = steps.reshape(term.value, [*remaining, size**times], "flat")
        places = np.arange(size) * sum(size**power for power in range(times))
        term = _Term(steps.gather(flat, places.tolist(), len(remaining), "diagonal"), others + doubled)
    sizes = sizes_of(term.value)
    remaining = [at for at, label in enumerate(term.labels) if sizes[at] == largest[label]]
    if len(remaining) == len(sizes):
        return term
    return _Term(
        steps.reshape(term.value, [sizes[at] for at in remaining], "narrow"),
        "".join(term.labels[at] for at in remaining),
    )


def _summed(steps: Steps, term: _Term, named: set[str]) -> _Term:
    """Rule 3."""
    axes = [at for at, label in enumerate(term.labels) if label not in named]
    if not axes:
        return term
    over = steps.constant(np.array(axes, np.int64), "axes")
    remaining = [at for at in range(len(term.labels)) if at not in axes]
    sizes = [sizes_of(term.value)[at] for at in remaining]
    total = steps.add("sum", "ReduceSum", [term.value, over], sizes, {"keepdims": 0})
    return _Term(total, "".join(term.labels[at] for at in remaining))


def _product(steps: Steps, a: _Term, b: _Term, named: set[str]) -> _Term:
    """Rule 4: the shared axes that are named later come first, then those of each alone."""
    shared = [label for label in a.labels if label in b.labels]
    batch, inner = ("".join(name for name in shared if (name in named) is is_named) for is_named in (True, False))
    left, right = ("".join(name for name in term.labels if name not in shared) for term in (a, b))
    sizes = dict(itertools.chain(*(zip(term.labels, sizes_of(term.value), strict=True) for term in (a, b))))
    lengths = {part: [sizes[label] for label in part] for part in (batch, inner, left, right)}
    shape = [*lengths[batch], *lengths[left], *lengths[right]]
    labels = batch + left + right
    if not inner:
        wide = steps.reshape(
            _ordered(steps, a, batch + left).value, [*lengths[batch], *lengths[left], *(1 for _ in right)], "left"
        )
        other = steps.reshape(
            _ordered(steps, b, batch + right).value, [*lengths[batch], *(1 for _ in left), *lengths[right]], "right"
        )
        return _Term(steps.add("product", "Mul", [wide, other], shape), labels)
    rows, depth, columns = (math.prod(lengths[part]) for part in (left, inner, right))
    many = [math.prod(lengths[batch])] if batch else []
    above = [*many, rows] if batch or not left else lengths[left]  # a matrix on the right takes any number of rows
    first = steps.reshape(_ordered(steps, a, batch + left + inner).value, [*above, depth], "rows")
    second = steps.reshape(_ordered(steps, b, batch + inner + right).value, [*many, depth, columns], "columns")
    product = steps.add("product", "MatMul", [first, second], [*above, columns])
    return _Term(steps.reshape(product, shape, "product.apart"), labels)


def _ordered(steps: Steps, term: _Term, labels: str) -> _Term:
    """The axes in this order; of equal labels the first come first."""
    left = list(enumerate(term.labels))
    perm = [left.pop(next(at for at, (_, label) in enumerate(left) if label == next_label))[0] for next_label in labels]
    if perm == sorted(perm):
        return term
    return _Term(steps.transpose(term.value, perm, "ordered"), labels)


def _identity(steps: Steps, value: ir.Value) -> ir.Value:
    """A value of the node's own, where nothing was to be done."""
    producer = value.producer()
    return (
        value
        if producer is not None and steps.is_own(value)
        else steps.add("same", "Identity", [value], sizes_of(value))
    )
