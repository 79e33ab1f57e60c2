"""Gemm with a computed matrix, or a bias that is computed or differs from row to row: MatMul and Add, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators
from torch import nn

import edgeconv
from edgeconv.rewrite import optimize


@settings(deadline=None, max_examples=40)
@given(
    trans_a=st.booleans(), trans_b=st.booleans(), constant_b=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5]), beta=st.sampled_from([1.0, 0.0, -2.0]),
    bias=st.sampled_from([None, (), (5,), (1, 5), (4, 1), (4, 5)]), constant_bias=st.booleans(),
)  # fmt: skip
def test_a_gemm_that_is_no_layer_becomes_a_product_exactly(
    trans_a, trans_b, constant_b, alpha, beta, bias, constant_bias
):
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 4) if trans_a else (4, 6), "b": (5, 6) if trans_b else (6, 5)}
    shapes |= {} if bias is None else {"c": bias}
    held = {"b"} if constant_b else set()
    held |= {"c"} if constant_bias and bias is not None else set()
    attributes = {"transA": int(trans_a), "transB": int(trans_b), "alpha": alpha, "beta": beta}
    inputs = {name: shape for name, shape in shapes.items() if name not in held}
    constants = {name: rng.normal(size=shapes[name]) for name in held}
    model = graph([node("Gemm", list(shapes), "output", **attributes)], inputs, ["output"], constants)
    assert_rewritten_exactly(model)
    rows = bias is not None and len(bias) == 2 and bias[0] != 1
    is_layer = constant_b and (bias is None or (constant_bias and not rows))
    assert operators(model).count("Gemm") == int(is_layer)


def test_integers_with_factors_stay():
    nodes = [node("Gemm", ["a", "b"], "output", alpha=0.5)]
    model = optimize(graph(nodes, {"a": (2, 3), "b": (3, 2)}, ["output"], {}, onnx.TensorProto.INT32))
    assert operators(model) == ["Gemm"]


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.addmm(a[:, :5], a, b, beta=0.5, alpha=2)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_a_product_of_two_inputs_is_exported(variant: str, tmp_path: Path) -> None:
    args = (torch.randn(4, 6), torch.randn(6, 5))
    batches = [{"a": args[0].numpy(), "b": args[1].numpy()}] * 8
    calibration = edgeconv.Quantization(batches=lambda: batches)
    devices = ["onnxruntime", "litert"]
    result = edgeconv.export(
        Sum(), args, tmp_path, name="sum", variants=variant, quantization=calibration, devices=devices
    )
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons if row.verdict.value != "pass"] == []
