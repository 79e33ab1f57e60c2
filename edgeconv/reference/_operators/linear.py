"""Matrix products.

Specification: MatMul (numpy's rules), Gemm, Einsum, Det.
"""

from __future__ import annotations

import torch

from edgeconv.reference._call import Call, Operator, Tensor, each, pair


def _gemm(call: Call) -> Tensor:
    a = call[0].mT if call.attribute("transA", 0) else call[0]
    b = call[1].mT if call.attribute("transB", 0) else call[1]
    alpha, beta, c = call.attribute("alpha", 1.0), call.attribute("beta", 1.0), call.optional(2)
    product = torch.mm(a, b) if alpha == 1 else alpha * torch.mm(a, b)  # of matrices alone, as specified
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.text("equation", "").replace(" ", ""), *call.tensors())


OPERATORS: dict[str, Operator] = {
    "Det": each(torch.det),
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": pair(torch.matmul),
}
