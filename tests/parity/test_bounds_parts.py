"""Large weights go part by part: as a whole they would give the same bounds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.parity.bounds import Bound, _sums, of_node

GENERATOR = np.random.default_rng(5)


def numbers(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape).astype(np.float32)


X, WEIGHT = numbers(3, 40), numbers(40, 17)
TOLD = Bound(X.astype(np.float64), np.full(X.shape, 1e-3), np.full(X.shape, 1e-4))


@pytest.mark.parametrize("x", [X, TOLD], ids=["exact", "with errors"])
@pytest.mark.parametrize(
    "bias", [numbers(17), numbers(1, 17), numbers(3, 1), numbers(1)], ids=lambda array: str(array.shape)
)
@pytest.mark.parametrize("transposed", [0, 1])
def test_a_product_of_matrices_is_bounded_alike_in_parts(
    x: np.ndarray | Bound, bias: np.ndarray, transposed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    operands = [x, WEIGHT.T.copy() if transposed else WEIGHT, bias]
    values = [ir.Value(name=f"x{at}", type=ir.TensorType(ir.DataType.FLOAT)) for at in range(3)]
    node = ir.node("Gemm", values, {"transB": transposed})
    (whole,) = of_node(node, operands, opset=18)
    monkeypatch.setattr(_sums, "_MOST_AT_ONCE", 100)
    (parts,) = of_node(node, operands, opset=18)
    for name in ("exact", "worst", "likely"):  # differences of sums, in another order: of some 30 in magnitude
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-13, atol=1e-13, err_msg=name)
    assert (whole.likely < whole.worst).all()
