"""ONNX: Attention.

Scores are products of queries and keys times a scale, which may be a factor of either or of both (its root); softcap,
mask and softmax follow, and weights times values. A key that a query must not read has no weight: kernels add the least
finite number to its score (`mask_filter_value` of onnxruntime/core/providers/cpu/llm/attention_helper.h), or leave it
out, of which the exponential is 0 alike. Of files of halves, what is between these steps is a half, too. The bound is
of kernels that take the largest score of a row first, not of those that correct sums which they have begun already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgeconv.parity.bounds import _formulas as formulas
from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded, chosen, exact, joined, widest
from edgeconv.parity.bounds._site import Rule, Site


def _attention(site: Site) -> tuple[Bounded | None, ...]:
    groups = site.attribute("kv_num_heads", 1)
    query = _heads(site.x(), site.attribute("q_num_heads", 1))
    key, value = (_heads(site.x(index), groups) for index in (1, 2))
    if site.optional(4) is not None:
        key, value = (joined([site.x(4 + at), item], 2) for at, item in enumerate((key, value)))
    shared = query.value.shape[1] // key.value.shape[1]
    repeated, values = (item.move(lambda array: np.repeat(array, shared, 1)) for item in (key, value))
    scores = _scores(query, repeated, site.number("scale", 0.0) or query.value.shape[-1] ** -0.5)
    cap = site.number("softcap", 0.0)
    capped = ((scores / cap).function("tanh") * cap).stored_inside() if cap else scores
    is_read, term = _mask(site, capped)
    masked = capped if term is None else (capped + term).stored_inside()
    weights = formulas.softmax_of(masked, is_read, -1).stored_inside()
    y = weights @ values
    if site[0].ndim == 3:
        shape = site[0].shape[:2]
        y = y.move(lambda array: np.swapaxes(array, 1, 2).reshape(*shape, -1))
    hidden = exact(scores, np.full(scores.value.shape, -np.inf))
    shown = (scores, capped, chosen(is_read, masked, hidden), weights)[site.attribute("qk_matmul_output_mode", 0)]
    # What is remembered only moves.
    return y, key, value, shown


def _heads(x: Bounded, count: int) -> Bounded:
    """(N, sequence, heads · size) as (N, heads, sequence, size)."""
    if x.value.ndim == 4:
        return x
    batch, length = x.value.shape[:2]
    return x.move(lambda array: np.swapaxes(array.reshape(batch, length, count, -1), 1, 2))


def _scores(query: Bounded, key: Bounded, scale: float) -> Bounded:
    turned = key.move(lambda array: np.swapaxes(array, -1, -2))
    root = math.sqrt(scale)
    forms = [(query @ turned) * scale, (query * scale).stored_inside() @ turned]
    return widest(*forms, (query * root).stored_inside() @ (turned * root).stored_inside()).stored_inside()


def _mask(site: Site, scores: Bounded) -> tuple[Array, Bounded | None]:
    """Which keys a query reads (bool, of the shape of the scores), and what is added to their scores."""
    batch, _, queries, keys = scores.value.shape
    past, valid = site.optional(4), site.optional(6)
    places, rows = np.arange(keys), np.broadcast_to(np.arange(queries), (batch, 1, queries))[..., None]
    if past is not None:
        rows = rows + past.shape[2]
    elif valid is not None:
        rows = rows + (valid - queries).reshape(-1, 1, 1, 1)
    is_read = np.ones((), np.bool_)
    if valid is not None:
        is_read = is_read & (places < valid.reshape(-1, 1, 1, 1))
    if site.attribute("is_causal", 0):
        is_read = is_read & (places <= rows)
    left, right = site.attribute("left_window_size", -1), site.attribute("right_window_size", -1)
    is_read = is_read & (places >= rows - left) if left >= 0 else is_read
    is_read = is_read & (places <= rows + right) if right >= 0 else is_read
    stated = site.optional(3)
    if stated is None:
        return np.broadcast_to(is_read, scores.value.shape), None
    missing = [(0, 0)] * (stated.ndim - 1) + [(0, keys - stated.shape[-1])]  # a shorter mask leaves the last keys out
    if stated.dtype.kind == "b":
        return np.broadcast_to(is_read & np.pad(stated, missing), scores.value.shape), None
    term = site.x(3).move(lambda array: np.pad(array, missing))
    is_read = is_read & np.pad(~np.isneginf(stated), missing)
    finite = chosen(np.isneginf(term.value), exact(term, np.zeros(term.value.shape)), term)
    return np.broadcast_to(is_read, scores.value.shape), finite


RULES: Mapping[str, Rule] = {"Attention": _attention}
