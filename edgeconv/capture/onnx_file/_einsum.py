"""Einsum, written out as MatMul, Mul and ReduceSum: every runtime has these, and they have integer forms.

Specification: Einsum. The operands are multiplied from left to right:

1. A label that stands twice in an operand means its diagonal.
2. An axis of size 1 whose label has a larger size elsewhere broadcasts: it is removed.
3. A label that neither another operand nor the result has is summed at once.
4. Two operands are multiplied as matrices over the labels that both have and that are not needed later; if there are
   none, element by element.
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

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.steps import Steps, sizes_of

_DOTS = "..."


@dataclass(frozen=True)
class _Term:
    """A value and the label of each of its axes."""

    value: ir.Value
    labels: str


def einsum(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """The replacement of the node's result; all shapes are static."""
    operands = [value for value in node.inputs if value is not None]
    named, result = _labels(node, [len(sizes_of(value)) for value in operands])
    largest: dict[str, int] = {}
    for value, labels in zip(operands, named, strict=True):
        for label, size in zip(labels, sizes_of(value), strict=True):
            largest[label] = max(size, largest.get(label, 0))
    terms = [_plain(steps, _Term(value, labels), largest) for value, labels in zip(operands, named, strict=True)]
    whole = _summed(steps, terms[0], _named(result, terms[1:]))
    for at, term in enumerate(terms[1:], start=2):
        later = _named(result, terms[at:])
        whole = _product(steps, whole, _summed(steps, term, later | set(whole.labels)), later)
        whole = _summed(steps, whole, later)
    lacking = [label for label in result if label not in whole.labels]  # of size 1 in every operand
    if lacking:
        wide = steps.reshape(whole.value, [*(1 for _ in lacking), *sizes_of(whole.value)], "whole")
        whole = _Term(wide, "".join(lacking) + whole.labels)
    return {node.outputs[0]: steps.own(_ordered(steps, whole, result).value)}


def _labels(node: ir.Node, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of each operand's axes and of the result's; axes under an ellipsis get letters that are free.

    Raises:
        CaptureError: the equation does not fit the ranks.
    """
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    named = left.split(",")
    free = [letter for letter in string.ascii_letters if letter not in equation]
    extra = [rank - len(labels.replace(_DOTS, "")) for labels, rank in zip(named, ranks, strict=False)]
    widest = max((count for labels, count in zip(named, extra, strict=False) if _DOTS in labels), default=0)
    stated = all(count == 0 or (_DOTS in labels and count > 0) for labels, count in zip(named, extra, strict=False))
    if len(named) != len(ranks) or not stated or widest > len(free):
        what = f"Einsum {equation!r} does not fit operands of {', '.join(map(str, ranks))} axes"
        raise refused(node, what, "correct the equation")
    # An ellipsis of fewer axes stands for the last of them, as in broadcasting.
    dots = "".join(free[:widest])
    spelled = [
        labels.replace(_DOTS, dots[widest - count :] if count else "")
        for labels, count in zip(named, extra, strict=True)
    ]
    counts = Counter("".join(spelled))
    # Without "->" the result has the ellipsis, then the labels that stand once, in alphabetical order.
    once = "".join(sorted(label for label, count in counts.items() if count == 1 and label not in dots))
    return spelled, right.replace(_DOTS, dots) if arrow else dots + once


def _named(result: str, terms: Sequence[_Term]) -> set[str]:
    """The labels that are still needed: those of the result and of the operands that follow."""
    return set(result).union(*(term.labels for term in terms))


def _plain(steps: Steps, term: _Term, largest: Mapping[str, int]) -> _Term:
    """Rules 1 and 2."""
    while doubled := next((label for label, count in Counter(term.labels).items() if count > 1), None):
        others = term.labels.replace(doubled, "")
        term = _ordered(steps, term, others + doubled * term.labels.count(doubled))
        *remaining, size = sizes_of(term.value)[: len(others) + 1]
        times = len(term.labels) - len(others)
        flat = steps.reshape(term.value, [*remaining, size**times], "flat")
        # In the flattened equal axes the diagonal's elements are 1 + size + size² + … apart.
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
    """Rule 4. The result has the shared labels that are needed later (batch), then a's own, then b's own."""
    shared = [label for label in a.labels if label in b.labels]
    batch = "".join(label for label in shared if label in named)
    inner = "".join(label for label in shared if label not in named)
    left, right = ("".join(label for label in term.labels if label not in shared) for term in (a, b))
    sizes = dict(itertools.chain(*(zip(term.labels, sizes_of(term.value), strict=True) for term in (a, b))))
    lengths = {part: [sizes[label] for label in part] for part in (batch, inner, left, right)}
    shape = [*lengths[batch], *lengths[left], *lengths[right]]
    labels = batch + left + right
    if not inner:
        a_sizes = [*lengths[batch], *lengths[left], *(1 for _ in right)]
        b_sizes = [*lengths[batch], *(1 for _ in left), *lengths[right]]
        a_wide = steps.reshape(_ordered(steps, a, batch + left).value, a_sizes, "left")
        b_wide = steps.reshape(_ordered(steps, b, batch + right).value, b_sizes, "right")
        return _Term(steps.add("product", "Mul", [a_wide, b_wide], shape), labels)
    rows, depth, columns = (math.prod(lengths[part]) for part in (left, inner, right))
    many = [math.prod(lengths[batch])] if batch else []
    # Without a batch, MatMul by one matrix takes a left operand of any rank: its axes need not be flattened.
    above = [*many, rows] if batch or not left else lengths[left]
    first = steps.reshape(_ordered(steps, a, batch + left + inner).value, [*above, depth], "rows")
    second = steps.reshape(_ordered(steps, b, batch + inner + right).value, [*many, depth, columns], "columns")
    product = steps.add("product", "MatMul", [first, second], [*above, columns])
    return _Term(steps.reshape(product, shape, "product.apart"), labels)


def _ordered(steps: Steps, term: _Term, labels: str) -> _Term:
    """The term with its axes in this order; axes of equal labels keep theirs."""
    axes = {label: [axis for axis, other in enumerate(term.labels) if other == label] for label in term.labels}
    perm = [axes[label].pop(0) for label in labels]
    if perm == sorted(perm):
        return term
    return _Term(steps.transpose(term.value, perm, "ordered"), labels)
