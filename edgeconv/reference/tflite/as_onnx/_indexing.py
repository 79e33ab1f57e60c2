"""Gathers, scatters and sorts, in the file's layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.reference.tflite.as_onnx._site import Rule, Site, element_type

_WHOLE = np.iinfo(np.int64).max


def _wide(site: Site, at: int) -> ir.Value:
    """Indices as ONNX takes them: int64."""
    if site.call.source(at).dtype == "int64":
        return site[at]
    return site.node("Cast", [site[at]], to=int(ir.DataType.INT64))


def _gather(site: Site) -> None:
    """GATHER. With ``batch_dims``, GatherND, which indexes the axis right behind these: others are moved there."""
    rank, ranks = len(site.shape(0)), len(site.shape(1))
    axis, shared = site.call.axis(site.call.integer("axis"), rank), site.call.integer("batch_dims")
    shared += ranks if shared < 0 else 0
    if not shared:
        site.give(site.node("Gather", [site[0], site[1]], axis=axis))
        return
    between = range(shared, axis)
    order = [*range(shared), axis, *between, *range(axis + 1, rank)]
    indices = site.node("Unsqueeze", [_wide(site, 1), site.sizes([-1])])
    chosen = site.node("GatherND", [site.transposed(site[0], order), indices], batch_dims=shared)
    # Now: the shared axes, those of the indices, those that lay between, the others.
    places = [*range(shared), *(at - shared + ranks for at in between), *range(shared, ranks)]
    site.give(site.transposed(chosen, [*places, *range(len(places), len(site.result))]))


def _gather_nd(site: Site) -> None:
    site.give(site.node("GatherND", [site[0], _wide(site, 1)]))


def _scatter_nd(site: Site) -> None:
    """SCATTER_ND: into zeros; updates with the same index are added."""
    parameters = site.call.result.quantization
    if parameters is not None and any(parameters.zero_points):
        raise site.call.refuse("fills in integers that are not the number 0, which is not written in ONNX")
    begin = site.zeros(site.ints(2), site.call.result)
    site.give(site.node("ScatterND", [begin, _wide(site, 0), site[1]], reduction="add"))


def _one_hot(site: Site) -> None:
    """ONE_HOT, as a comparison: a negative index gives no hot element, while ONNX's OneHot counts it from the end."""
    (depth,) = site.ints(1)
    rank = len(site.shape(0))
    axis = site.call.integer("axis")
    axis = rank if axis == -1 else site.call.axis(axis, rank + 1)
    indices = site.node("Unsqueeze", [_wide(site, 0), site.sizes([axis])])
    places = np.arange(depth).reshape([-1 if at == axis else 1 for at in range(rank + 1)])
    hot = site.node("Equal", [indices, site.sizes(places.tolist())])
    site.give(site.node("Where", [hot, *(site.node("Reshape", [site[at], site.sizes([1])]) for at in (2, 3))]))


def _arg(kind: str) -> Rule:
    def rule(site: Site) -> None:
        axis = site.call.axis(site.ints(1)[0], len(site.shape(0)))
        index = site.node(kind, [site[0]], axis=axis, keepdims=0)
        site.give(site.node("Cast", [index], to=int(element_type(site.call.result))))

    return rule


def _top_k(site: Site) -> None:
    """The largest of the last axis and their indices; of equal ones the first, in both languages."""
    names = [f"{tensor.name}/TopK" for tensor in site.call.results]
    count = site.sizes(site.ints(1))
    largest, places = site.builder.nodes("TopK", [site[0], count], names, axis=-1, largest=1, sorted=1)
    site.give(largest)
    site.give(site.node("Cast", [places], to=int(element_type(site.call.results[1]))), 1)


def _cumulative_sum(site: Site) -> None:
    axis = site.call.axis(site.ints(1)[0], len(site.shape(0)))
    ways = {name: int(site.call.flag(name)) for name in ("exclusive", "reverse")}
    site.give(site.node("CumSum", [site[0], site.sizes(axis)], **ways))


def _reversed(site: Site) -> None:
    axes = site.ints(1)
    numbers = ([-1] * len(axes), [-_WHOLE] * len(axes), axes, [-1] * len(axes))
    site.give(site.node("Slice", [site[0], *map(site.sizes, numbers)]))


def _reversed_sequence(site: Site) -> None:
    """ONNX takes the batch and the sequence as the first two axes."""
    rank = len(site.shape(0))
    sequence, batch = (site.call.axis(site.call.integer(name), rank) for name in ("seq_dim", "batch_dim"))
    order = [batch, sequence, *(axis for axis in range(rank) if axis not in (batch, sequence))]
    operands = [site.transposed(site[0], order), _wide(site, 1)]
    value = site.node("ReverseSequence", operands, batch_axis=0, time_axis=1)
    site.give(site.transposed(value, [order.index(axis) for axis in range(rank)]))


def _embedding(site: Site) -> None:
    site.give(site.node("Gather", [site[1], site[0]], axis=0))


def _updated(site: Site) -> None:
    """DYNAMIC_UPDATE_SLICE: a start that would put the slice outside of the data is clamped."""
    whole, sizes = site.shape(0), site.shape(1)
    if any(size > most for size, most in zip(sizes, whole, strict=True)):
        raise site.call.refuse(f"puts {list(sizes)} into {list(whole)}")
    latest = site.sizes([most - size for size, most in zip(sizes, whole, strict=True)])
    start = site.node("Min", [site.node("Max", [_wide(site, 2), site.sizes(0)]), latest])
    grid = np.stack(np.meshgrid(*map(np.arange, sizes), indexing="ij"), axis=-1)
    places = site.node("Add", [site.sizes(grid.tolist()), start])
    site.give(site.node("ScatterND", [site[0], places, site[1]]))


RULES: Mapping[str, Callable[[Site], None]] = {
    "ARG_MAX": _arg("ArgMax"),
    "ARG_MIN": _arg("ArgMin"),
    "CUMSUM": _cumulative_sum,
    "DYNAMIC_UPDATE_SLICE": _updated,
    "EMBEDDING_LOOKUP": _embedding,
    "GATHER": _gather,
    "GATHER_ND": _gather_nd,
    "ONE_HOT": _one_hot,
    "REVERSE_SEQUENCE": _reversed_sequence,
    "REVERSE_V2": _reversed,
    "SCATTER_ND": _scatter_nd,
    "TOPK_V2": _top_k,
}
