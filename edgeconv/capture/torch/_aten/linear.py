"""Matrix products: MatMul, or Gemm where the input has rank 2 and the weight lies as torch keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, sizes_of


def linear(b: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    if len(sizes_of(weight)) != 2:
        raise Unsupported("a weight that is no matrix")
    if len(sizes_of(x)) == 2 and b.dtype.is_floating_point():
        return b.add("Gemm", x, weight, bias, shape=b.shape, alpha=1.0, beta=1.0, transA=0, transB=1)
    maker = weight.producer()
    if maker is not None and maker.op_type == "DequantizeLinear":  # its integers stand beside one bias, as Gemm has it
        rows = math.prod(sizes_of(x)[:-1])
        flat = b.reshape(x, (rows, sizes_of(x)[-1]))
        product = b.add("Gemm", flat, weight, bias, shape=(rows, b.shape[-1]), alpha=1.0, beta=1.0, transA=0, transB=1)
        return b.reshape(product, b.shape)
    turned = b.transpose(weight, (1, 0))
    y = matmul(b, x, turned)
    return y if bias is None else b.add("Add", y, bias)


def matmul(b: Builder, x: ir.Value, other: ir.Value) -> ir.Value:
    """ONNX's MatMul has the rules of numpy, which torch's has too.

    A vector becomes a matrix first: onnxruntime 1.32 fuses a Transpose before the product of a matrix and a vector
    and then computes it as if there were none.
    """
    left, right = sizes_of(x), sizes_of(other)
    if len(left) > 1 and len(right) > 1:
        return b.matmul(x, other)
    x = x if len(left) > 1 else b.reshape(x, (1, *left))
    other = other if len(right) > 1 else b.reshape(other, (*right, 1))
    return b.reshape(b.matmul(x, other), b.shape)


def bmm(b: Builder, x: ir.Value, mat2: ir.Value) -> ir.Value:
    return b.matmul(x, mat2)


def mv(b: Builder, x: ir.Value, vec: ir.Value) -> ir.Value:
    return matmul(b, x, vec)


def dot(b: Builder, x: ir.Value, tensor: ir.Value) -> ir.Value:
    return matmul(b, x, tensor)


def addmm(b: Builder, x: ir.Value, mat1: ir.Value, mat2: ir.Value, beta: float, alpha: float) -> ir.Value:
    if not b.dtype.is_floating_point():
        return baddbmm(b, x, mat1, mat2, beta, alpha)
    return b.add("Gemm", mat1, mat2, x, shape=b.shape, alpha=float(alpha), beta=float(beta), transA=0, transB=0)


def baddbmm(b: Builder, x: ir.Value, batch1: ir.Value, batch2: ir.Value, beta: float, alpha: float) -> ir.Value:
    product = b.matmul(batch1, batch2)
    if alpha != 1:
        product = b.add("Mul", product, b.scalar(alpha))
    if beta == 0:
        return product
    return b.add("Add", product, x if beta == 1 else b.add("Mul", x, b.scalar(beta)))


TABLE: Mapping[str, Entry] = {
    "aten.linear.default": linear,
    "aten.matmul.default": matmul,
    "aten.mm.default": bmm,
    "aten.bmm.default": bmm,
    "aten.mv.default": mv,
    "aten.dot.default": dot,
    "aten.addmm.default": addmm,
    "aten.baddbmm.default": baddbmm,
}
