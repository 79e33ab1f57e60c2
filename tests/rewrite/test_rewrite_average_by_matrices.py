"""Adaptive average pools of sizes that do not divide, as torch.onnx writes them, become two matrix products."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from rewrite_graphs import assert_rewritten_exactly, evaluate, graph, node, operators
from torch import nn

from edgeconv.rewrite import optimize


def official(size, output_size):
    """The graph that the official exporter makes of the pool, with shapes inferred."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    module = nn.AdaptiveAvgPool2d(output_size).eval()
    program = torch.onnx.export(module, (x,), dynamo=True, optimize=False, verbose=False, input_names=["input"])
    proto = program.model_proto
    del proto.graph.value_info[:], proto.functions[:]
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto, data_prop=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("size", "output_size"), [((7, 10), (4, 4)), ((7, 10), (3, 3)), ((7, 12), (3, 5)), ((7, 9), (2, 3))]
)
def test_averages_of_uneven_windows_are_two_products(size, output_size):
    model = optimize(official(size, output_size))
    assert operators(model) == ["MatMul", "MatMul"]
    x = np.random.default_rng(1).normal(size=(2, 3, *size))
    made = evaluate(model, {"input": x})[model.graph.outputs[0].name]
    expected = nn.functional.adaptive_avg_pool2d(torch.from_numpy(x), output_size).numpy()
    np.testing.assert_allclose(made, expected, rtol=1e-12, atol=1e-12)


def gathered(last, index, constants=None):
    """A gather of elements of the plane, and something behind it."""
    nodes = [
        node("Transpose", ["input"], "turned", perm=[2, 3, 0, 1]),
        node("GatherND", ["turned", "index"], "elements"),
        node("Transpose", ["elements"], "back", perm=[2, 3, 0, 1]),
        last,
    ]
    return graph(nodes, {"input": (2, 3, 4, 5)}, ["output"], {"index": np.array(index), **(constants or {})})


DIAGONAL = [[[0, 0], [1, 1]], [[2, 2], [3, 3]]]
GRID = [[[0, 1], [0, 3]], [[2, 1], [2, 3]]]


def test_a_grid_of_elements():
    model = gathered(node("Relu", ["back"], "output"), GRID)
    assert_rewritten_exactly(model)
    assert operators(model) == ["MatMul", "MatMul", "Relu"]


def test_elements_that_are_no_grid_stay():
    model = optimize(gathered(node("Relu", ["back"], "output"), DIAGONAL))
    assert "GatherND" in operators(model)


def test_elements_that_are_read_elsewhere_stay():
    model = optimize(gathered(node("Exp", ["elements"], "output"), GRID))
    assert "GatherND" in operators(model)
