"""Einsum, as the matrix product that it is; and distances, which are sums over an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.capture.torch._aten.reduction import vector_norm
from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, sizes_of


def einsum(b: Builder, equation: str, tensors: Sequence[ir.Value], path: Sequence[int] | None) -> ir.Value:
    """``torch.einsum`` as ReduceSum, Transpose and MatMul, contracting the tensors from left to right.

    `path`, the order of contraction, only changes the cost.
    """
    # 1. A label that is repeated within a tensor means its diagonal; an axis of size 1 broadcasts.
    named, result = _labels(equation, [len(sizes_of(tensor)) for tensor in tensors])
    largest: dict[str, int] = {}
    for tensor, term in zip(tensors, named, strict=True):
        for label, size in zip(term, sizes_of(tensor), strict=True):
            largest[label] = max(size, largest.get(label, 0))
    plain = [_plain(b, tensor, term, largest) for tensor, term in zip(tensors, named, strict=True)]
    # 2. What a single tensor alone has is summed at once; what others share stays.
    terms = [term for _, term in plain]
    summed = [
        _sum_out(b, value, term, keep=set(result).union(*(terms[:at] + terms[at + 1 :])))
        for at, (value, term) in enumerate(plain)
    ]
    # 3. Each product keeps the labels of the result and those that a later tensor still has.
    value, labels = summed[0]
    for place, factor in enumerate(summed[1:], 1):
        later = "".join(terms[place + 1 :])
        inner = "".join(label for label in dict.fromkeys(labels + factor[1]) if label in later and label not in result)
        value, labels = _product(b, (value, labels), factor, result + inner)
    return b.transpose(value, [labels.index(label) for label in result])


def _labels(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The labels of every tensor and of the result, one letter per axis.

    The axes of an ellipsis get capital Greek letters, which no equation of torch's can contain.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise Unsupported(f"the equation {equation!r}")
    widths = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    hidden = [width for term, width in zip(terms, widths, strict=True) if "..." in term]
    dots = "".join(chr(ord("Α") + index) for index in range(max(hidden, default=0)))
    if not arrow:  # torch's rule: the labels that appear once, in alphabetical order, after the ellipsis
        letters = "".join(terms).replace("...", "")
        right = ("..." if hidden else "") + "".join(
            sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        )
    # An ellipsis of fewer axes stands for the last of them, as in broadcasting.
    spelled = [term.replace("...", dots[len(dots) - width :]) for term, width in zip(terms, widths, strict=True)]
    return spelled, right.replace("...", dots)


def _plain(b: Builder, value: ir.Value, term: str, largest: Mapping[str, int]) -> tuple[ir.Value, str]:
    """The tensor with one axis per label, and without axes of size 1 whose label has a larger size elsewhere."""
    while doubled := next((label for label in term if term.count(label) > 1), None):
        others, size = term.replace(doubled, ""), largest[doubled]
        times = len(term) - len(others)
        equal = [axis for axis, label in enumerate(term) if label == doubled]
        value = b.transpose(value, [axis for axis in range(len(term)) if axis not in equal] + equal)
        sizes = sizes_of(value)[: len(others)]
        # In the flattened equal axes the diagonal's elements are 1 + size + size² + … apart.
        places = b.ints(*(place * sum(size**power for power in range(times)) for place in range(size)))
        flat = b.reshape(value, (*sizes, size**times))
        value, term = b.add("Gather", flat, places, shape=(*sizes, size), axis=len(sizes)), others + doubled
    remaining = [axis for axis, size in enumerate(sizes_of(value)) if size == largest[term[axis]]]
    narrow = b.reshape(value, [sizes_of(value)[axis] for axis in remaining])
    return narrow, "".join(term[axis] for axis in remaining)


def _sum_out(b: Builder, value: ir.Value, term: str, *, keep: set[str]) -> tuple[ir.Value, str]:
    """Sums over the axes whose labels are not to be kept; returns the sum and its labels."""
    axes = [axis for axis, label in enumerate(term) if label not in keep]
    labels = "".join(label for label in term if label in keep)
    return (b.reduce("ReduceSum", value, axes, keepdims=False) if axes else value), labels


def _product(
    b: Builder, first: tuple[ir.Value, str], second: tuple[ir.Value, str], result: str
) -> tuple[ir.Value, str]:
    """The product of two labeled tensors, of which labels in both but not in `result` are summed.

    It is a batched matrix product of shapes (shared, rows, summed) and (shared, summed, columns), where each of the
    four stands for several axes that are flattened into one.
    """
    (x, left), (y, right) = first, second
    size: dict[str, int] = {}
    for value, term in (first, second):
        size.update(zip(term, sizes_of(value), strict=True))
    shared = [label for label in result if label in left and label in right]
    summed = [label for label in left if label in right and label not in result]
    rows = [label for label in left if label not in right]
    columns = [label for label in right if label not in left]

    def extent(labels: Sequence[str]) -> int:
        return math.prod(size[label] for label in labels)

    lead = tuple(size[label] for label in shared)
    if not summed and not (rows and columns):  # no sum: a product with broadcasting, element by element
        order = [*shared, *rows, *columns]
        wide = []
        for value, term in (first, second):
            ordered = b.transpose(value, [term.index(label) for label in order if label in term])
            wide.append(b.reshape(ordered, [size[label] if label in term else 1 for label in order]))
        return b.add("Mul", *wide), "".join(order)
    x = b.transpose(x, [left.index(label) for label in (*shared, *rows, *summed)])
    y = b.transpose(y, [right.index(label) for label in (*shared, *summed, *columns)])
    x = b.reshape(x, (*lead, extent(rows), extent(summed)))
    y = b.reshape(y, (*lead, extent(summed), extent(columns)))
    labels = [*shared, *rows, *columns]
    return b.reshape(b.matmul(x, y), [size[label] for label in labels]), "".join(labels)


def cdist(b: Builder, x1: ir.Value, x2: ir.Value, p: float, compute_mode: object) -> ir.Value:
    """Distances of any order between all rows of x1 (…, P, M) and of x2 (…, R, M): (…, P, R), from differences.

    torch's form for many rows, |a|² + |b|² - 2ab, loses digits where rows are near each other.
    """
    first, second = sizes_of(x1), sizes_of(x2)
    rows = b.reshape(x1, (*first[:-1], 1, first[-1]))
    columns = b.reshape(x2, (*second[:-2], 1, *second[-2:]))
    return vector_norm(b, b.add("Sub", rows, columns), p, [-1], False, None)


def pdist(b: Builder, x: ir.Value, p: float) -> ir.Value:
    """Distances of any order between the pairs of rows of x (N, M): (N(N-1)/2), the upper triangle row by row."""
    first, second = np.triu_indices(sizes_of(x)[0], 1)
    if not first.size:
        raise Unsupported("the distances of a single row")
    rows = [b.add("Gather", x, b.ints(*side), shape=(len(side), sizes_of(x)[1]), axis=0) for side in (first, second)]
    return vector_norm(b, b.add("Sub", *rows), p, [-1], False, None)


def cosine_similarity(b: Builder, x1: ir.Value, x2: ir.Value, dim: int, eps: float) -> ir.Value:
    """x1 · x2 / (max(|x1|, eps) · max(|x2|, eps)) over one axis."""
    x1, x2 = b.cast(x1, b.dtype), b.cast(x2, b.dtype)
    if len(sizes_of(x1)) != len(sizes_of(x2)):
        raise Unsupported("tensors of different ranks")
    dots = b.reduce("ReduceSum", b.add("Mul", x1, x2), [dim], keepdims=False)
    lengths = [b.add("Max", b.reduce("ReduceL2", x, [dim], keepdims=False), b.scalar(eps)) for x in (x1, x2)]
    # Each length is bounded by eps, not their product.
    return b.add("Div", dots, b.add("Mul", *lengths))


TABLE: Mapping[str, Entry] = {
    "aten.einsum.default": einsum,
    "aten.cdist.default": cdist,
    "aten._cdist_forward.default": cdist,
    "aten.pdist.default": pdist,
    "aten._pdist_forward.default": pdist,
    "aten.cosine_similarity.default": cosine_similarity,
}
