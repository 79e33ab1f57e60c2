"""Gathers and scatters.

Specification: Gather*, Scatter*, Compress, NonZero, OneHot, ReverseSequence. Negative indices count from the
end.
"""

from __future__ import annotations

import torch

from edgeconv.reference._call import Call, Operator, Tensor, each


def _counted(indices: Tensor, size: int) -> Tensor:
    """Indices, counted from the front."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def _gather(call: Call) -> Tensor:
    x, axis = call[0], call.axis(call[0].ndim)
    indices = _counted(call[1], x.shape[axis])
    picked = x.index_select(axis, indices.reshape(-1))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(call: Call) -> Tensor:
    axis = call.axis(call[0].ndim)
    return torch.gather(call[0], axis, _counted(call[1], call[0].shape[axis]))


def _gather_nd(call: Call) -> Tensor:
    """GatherND: a row of the indices (their last axis) has one index for each axis behind the batch axes."""
    x, indices, batch = call[0], call[1], call.attribute("batch_dims", 0)
    depth, lead = indices.shape[-1], x.shape[:batch]
    # All batch axes as one, so that a single index per sample stands beside those of the row.
    rows = x.reshape(-1, *x.shape[batch:]) if batch else x[None]
    places = indices.reshape(rows.shape[0], -1, depth)
    at = [_counted(places[..., i], x.shape[batch + i]) for i in range(depth)]
    picked = rows[(torch.arange(rows.shape[0])[:, None], *at)]
    return picked.reshape([*lead, *indices.shape[batch:-1], *x.shape[batch + depth :]])


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(call: Call) -> Tensor:
    x, axis, reduction = call[0], call.axis(call[0].ndim), call.text("reduction", "none")
    indices = _counted(call[1], x.shape[axis])
    if reduction == "none":
        return x.scatter(axis, indices, call[2])
    return x.scatter_reduce(axis, indices, call[2], _REDUCTIONS[reduction])


def _scatter_nd(call: Call) -> Tensor:
    """ScatterND: a row of the indices (their last axis) addresses a row of the data, which gets a row of updates."""
    x, indices, updates, reduction = call[0], call[1], call[2], call.text("reduction", "none")
    depth = indices.shape[-1]
    rows = x.reshape(int(torch.tensor(x.shape[:depth]).prod()), -1)
    # The places in the row-major order of the addressed axes (Horner's rule).
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i in range(depth):
        flat = flat * x.shape[i] + _counted(indices[..., i], x.shape[i])
    places = flat.reshape(-1, 1).expand(-1, rows.shape[1])
    new = updates.reshape(places.shape)
    if reduction == "none":
        return rows.scatter(0, places, new).reshape(x.shape)
    return rows.scatter_reduce(0, places, new, _REDUCTIONS[reduction]).reshape(x.shape)


def _compress(call: Call) -> Tensor:
    places = call[1].nonzero().reshape(-1)
    if not call.has("axis"):
        return call[0].reshape(-1)[places]
    return call[0].index_select(call.axis(call[0].ndim), places)


def _one_hot(call: Call) -> Tensor:
    """OneHot: an index out of range gives a row without a hot element."""
    depth, (off, on) = int(call[1].reshape(-1)[0]), call[2]
    axis = call.attribute("axis", -1)
    axis = axis + call[0].ndim + 1 if axis < 0 else axis
    places = _counted(call[0], depth).unsqueeze(axis)
    column = torch.arange(depth).reshape([-1 if i == axis else 1 for i in range(places.ndim)])
    return torch.where(places == column, on, off)


def _reverse_sequence(call: Call) -> Tensor:
    x, batch, time = call[0], call.attribute("batch_axis", 1), call.attribute("time_axis", 0)
    lengths = call[1].reshape([-1 if i == batch else 1 for i in range(x.ndim)])
    steps = torch.arange(x.shape[time]).reshape([-1 if i == time else 1 for i in range(x.ndim)])
    return x.gather(time, torch.where(steps < lengths, lengths - 1 - steps, steps).expand(x.shape))


OPERATORS: dict[str, Operator] = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": each(lambda x: x.nonzero().T),
    "OneHot": _one_hot,
    "ReverseSequence": _reverse_sequence,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
}
