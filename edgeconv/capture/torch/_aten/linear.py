"""Matrix products: Gemm for a rank-2 input and torch's weight layout (O, I), MatMul otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, renamed, sizes_of


def linear(b: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    """x (…, I) · weightᵀ + bias, weight (O, I): Gemm of a float matrix; else MatMul by the transposed weight, and Add.

    A weight that is a vector is refused.
    """
    if len(sizes_of(weight)) != 2:
        raise Unsupported("a weight that is no matrix")
    producer = weight.producer()
    # The weight of a module that was trained for int8: integer weight and bias stay in one node, which is Gemm.
    is_quantized = producer is not None and producer.op_type == "DequantizeLinear"
    if is_quantized or (len(sizes_of(x)) == 2 and b.dtype.is_floating_point()):
        *rows, inputs = sizes_of(x)
        flat = b.reshape(x, (math.prod(rows), inputs))
        shape = (math.prod(rows), b.shape[-1])
        product = b.add("Gemm", flat, weight, bias, shape=shape, alpha=1.0, beta=1.0, transA=0, transB=1)
        return b.reshape(product, b.shape)
    y = matmul(b, x, b.transpose(weight, (1, 0)))
    return y if bias is None else b.add("Add", y, bias)


def matmul(b: Builder, x: ir.Value, other: ir.Value) -> ir.Value:
    """The product of matrices by numpy's rules of broadcasting, which torch has too: MatMul.

    A vector becomes a matrix first: onnxruntime 1.32 fuses a Transpose before the product of a matrix and a vector
    and then computes it as if there were none.
    """
    left, right = sizes_of(x), sizes_of(other)
    if len(left) > 1 and len(right) > 1:
        return b.matmul(x, other)
    x = x if len(left) > 1 else b.reshape(x, (1, *left))
    other = other if len(right) > 1 else b.reshape(other, (*right, 1))
    return b.reshape(b.matmul(x, other), b.shape)


def addmm(b: Builder, x: ir.Value, mat1: ir.Value, mat2: ir.Value, beta: float, alpha: float) -> ir.Value:
    """beta · x + alpha · mat1 · mat2, of matrices: Gemm; of integers as `baddbmm`."""
    if not b.dtype.is_floating_point():
        return baddbmm(b, x, mat1, mat2, beta, alpha)
    return b.add("Gemm", mat1, mat2, x, shape=b.shape, alpha=float(alpha), beta=float(beta), transA=0, transB=0)


def baddbmm(b: Builder, x: ir.Value, batch1: ir.Value, batch2: ir.Value, beta: float, alpha: float) -> ir.Value:
    """beta · x + alpha · batch1 · batch2, of batches of matrices: MatMul, Mul and Add, without factors of 1."""
    product = _times(b, b.matmul(batch1, batch2), alpha)
    return product if beta == 0 else b.add("Add", product, _times(b, x, beta))


def addr(b: Builder, x: ir.Value, vec1: ir.Value, vec2: ir.Value, beta: float, alpha: float) -> ir.Value:
    """beta · x + alpha · vec1 · vec2ᵀ, the outer product of two vectors as a Mul; without factors of 1."""
    column = b.reshape(b.cast(vec1, b.dtype), (*sizes_of(vec1), 1))
    product = _times(b, b.add("Mul", column, b.cast(vec2, b.dtype)), alpha)
    return product if beta == 0 else b.add("Add", product, _times(b, b.cast(x, b.dtype), beta), shape=b.shape)


def _times(b: Builder, x: ir.Value, factor: float) -> ir.Value:
    return x if factor == 1 else b.add("Mul", x, b.scalar(factor))


TABLE: Mapping[str, Entry] = {
    "aten.linear.default": linear,
    "aten.matmul.default": matmul,
    "aten.mm.default": renamed(matmul, mat2="other"),
    "aten.bmm.default": renamed(matmul, mat2="other"),
    "aten.mv.default": renamed(matmul, vec="other"),
    "aten.dot.default": renamed(matmul, tensor="other"),
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": baddbmm,
    "aten.addr.default": addr,
}
