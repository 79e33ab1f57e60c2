"""Attention, and the rotary embedding of positions.

Specification: Attention (opsets 23 to 25: masks, causality, windows, caches, grouped heads, soft cap),
RotaryEmbedding. Attention that is written with MatMul and Softmax needs neither.
"""

from __future__ import annotations

import torch

from edgeconv.reference._call import Call, Operator, Result, Tensor


def _heads(x: Tensor, count: int) -> Tensor:
    """(N, sequence, heads · size) as (N, heads, sequence, size); a tensor of rank 4 has that shape already."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _attention(call: Call) -> Result:
    groups = call.attribute("kv_num_heads", 1)
    query, key, value = (
        _heads(call[0], call.attribute("q_num_heads", 1)),
        _heads(call[1], groups),
        _heads(call[2], groups),
    )
    past_key, past_value = call.optional(4), call.optional(5)
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    # Grouped heads: so many query heads in a row read the same head of keys and values.
    shared = query.shape[1] // key.shape[1]
    scale = call.attribute("scale", 0.0) or query.shape[-1] ** -0.5
    raw = query @ key.repeat_interleave(shared, 1).transpose(-2, -1) * scale
    cap = call.attribute("softcap", 0.0)
    capped = cap * torch.tanh(raw / cap) if cap else raw
    masked = capped + _mask(call, raw)
    # A query whose keys are all masked gives zeros; softmax of -inf only would be NaN.
    weights = torch.softmax(masked, -1).masked_fill(torch.isneginf(masked).all(-1, keepdim=True), 0.0)
    y = weights @ value.repeat_interleave(shared, 1)
    if call[0].ndim == 3:
        y = y.transpose(1, 2).reshape(*call[0].shape[:2], -1)
    return y, key, value, (raw, capped, masked, weights)[call.attribute("qk_matmul_output_mode", 0)]


def _mask(call: Call, scores: Tensor) -> Tensor:
    """The term that is added to the scores: -inf for keys that a query must not attend to, the float mask elsewhere."""
    batch, _, queries, keys = scores.shape
    past, valid = call.optional(4), call.optional(6)
    allowed = torch.ones((), dtype=torch.bool)
    places = torch.arange(keys)
    # The place of each query among the keys: behind those of the cache, or at the end of the keys that count
    # (nonpad_kv_seqlen, where the cache is outside of the node).
    rows = torch.arange(queries).expand(batch, 1, queries)[..., None]
    if past is not None:
        rows = rows + past.shape[2]
    elif valid is not None:
        rows = rows + (valid - queries).reshape(-1, 1, 1, 1)
    if valid is not None:
        allowed = allowed & (places < valid.reshape(-1, 1, 1, 1))
    if call.attribute("is_causal", 0):
        allowed = allowed & (places <= rows)
    left, right = call.attribute("left_window_size", -1), call.attribute("right_window_size", -1)
    if left >= 0:
        allowed = allowed & (places >= rows - left)
    if right >= 0:
        allowed = allowed & (places <= rows + right)
    stated, bias = call.optional(3), torch.zeros((), dtype=torch.float64)
    if stated is not None:
        missing = (0, keys - stated.shape[-1])  # a shorter mask excludes the last keys
        if stated.dtype == torch.bool:
            allowed = allowed & torch.nn.functional.pad(stated, missing, value=False)
        else:
            bias = torch.nn.functional.pad(stated, missing, value=float("-inf"))
    return torch.where(allowed, bias, torch.tensor(float("-inf"), dtype=torch.float64))


def _rotary(call: Call) -> Tensor:
    """RotaryEmbedding: rotates pairs of numbers (from the halves of a head, or neighbors) by a position's angle."""
    x, cosine, sine, positions = call[0], call[1], call[2], call.optional(3)
    # Without positions the caches are [N, sequence, size / 2] already; with them, [longest, size / 2].
    if positions is not None:
        cosine, sine = cosine[positions], sine[positions]
    heads = _heads(x, call.attribute("num_heads", 1))
    size = call.attribute("rotary_embedding_dim", 0) or heads.shape[-1]
    cosine, sine = cosine[:, None, :, : size // 2], sine[:, None, :, : size // 2]
    rotary, unrotated = heads[..., :size], heads[..., size:]
    interleaved = bool(call.attribute("interleaved", 0))
    first, second = (rotary[..., 0::2], rotary[..., 1::2]) if interleaved else rotary.tensor_split(2, -1)
    parts = [first * cosine - second * sine, first * sine + second * cosine]
    rotated = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    y = torch.cat([rotated, unrotated], -1)
    return y if x.ndim == 4 else y.transpose(1, 2).reshape(x.shape)


OPERATORS: dict[str, Operator] = {
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
}
