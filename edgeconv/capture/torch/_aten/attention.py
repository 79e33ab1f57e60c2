"""Attention: the scaled dot product, written out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, sizes_of


def scaled_dot_product_attention(
    b: Builder, query: ir.Value, key: ir.Value, value: ir.Value, attn_mask: ir.Value | None, dropout_p: float,
    is_causal: bool, scale: float | None, enable_gqa: bool,
) -> ir.Value:  # fmt: skip
    """softmax(scale · query · keyᵀ + mask) · value over the last two axes, for any rank from 2.

    The scale is multiplied once and with the query, which is smaller than the scores.
    """
    if dropout_p != 0:
        raise Unsupported("dropout")
    if enable_gqa and sizes_of(query)[-3] != sizes_of(key)[-3]:
        raise Unsupported("fewer heads of keys than of queries")
    rank = len(sizes_of(key))
    factor = 1 / math.sqrt(sizes_of(query)[-1]) if scale is None else scale
    keys = b.transpose(key, [*range(rank - 2), rank - 1, rank - 2])
    scores = b.matmul(b.add("Mul", query, b.scalar(factor)), keys)
    if is_causal:
        rows, columns = sizes_of(scores)[-2:]
        # The diagonal starts at the upper left corner even if the matrix is not square, as in torch (is_causal).
        mask = np.triu(np.full((rows, columns), -np.inf), k=1).astype(b.dtype.numpy())
        scores = b.add("Add", scores, b.constant(mask))
    elif attn_mask is not None:
        scores = b.add("Add", scores, _additive(b, attn_mask))
    return b.matmul(b.add("Softmax", scores, axis=-1), value)


def _additive(b: Builder, mask: ir.Value) -> ir.Value:
    """The mask as a term of the scores: 0 where a boolean one is true, -inf elsewhere.

    Raises:
        Unsupported: a boolean mask may exclude a whole row, whose softmax would be NaN.
    """
    if mask.dtype is not ir.DataType.BOOL:
        return b.cast(mask, b.dtype)
    constant = b.constant_of(mask)
    if constant is None or not bool(constant.any(dim=-1).all()):
        raise Unsupported("a boolean mask that may exclude everything")
    return b.exactly(torch.zeros(constant.shape, dtype=torch.float64).masked_fill(~constant, -math.inf), b.dtype)


TABLE: Mapping[str, Entry] = {
    "aten.scaled_dot_product_attention.default": scaled_dot_product_attention,
}
