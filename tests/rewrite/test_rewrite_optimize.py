"""The table of rewrites and its runner."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from rewrite_graphs import assert_rewritten_exactly, batch_norm, graph, node, operators, statistics

from edgeconv.errors import RewriteError
from edgeconv.rewrite import REWRITES, optimize


def conv_bn_relu() -> ir.Model:
    rng = np.random.default_rng(1)
    constants = {"weight": rng.normal(size=(4, 4, 3, 3)), **statistics(rng, 4)}
    nodes = [node("Conv", ["input", "weight"], "conv"), batch_norm("conv", "bn"), node("Relu", ["bn"], "output")]
    return graph(nodes, {"input": (1, 4, 6, 6)}, ["output"], constants)


def test_a_rewrite_can_be_left_out():
    model = conv_bn_relu()
    assert_rewritten_exactly(model, skip=["fold-batch-norm"])
    assert operators(model) == ["Conv", "BatchNormalization", "Relu"]


@pytest.mark.parametrize("name", [rewrite.name for rewrite in REWRITES])
def test_the_others_work_without_it(name):
    """Weights from Constant nodes, a zero bias made by Expand, a chunk, padding, and a BatchNormalization each way."""
    rng = np.random.default_rng(2)
    constants = {**statistics(rng, 4), **statistics(rng, 2, "pre"), "half": np.array(2, np.int64)}
    constants |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "w2": rng.normal(size=(3, 2, 1, 1))}
    constants |= {"zero": np.array([0.0]), "four": np.array([4], np.int64)}
    weight = onnx.numpy_helper.from_array(rng.normal(size=(4, 4, 3, 3)), "weight")
    nodes = [
        node("Constant", [], "weight", value=weight),
        node("Expand", ["zero", "four"], "bias"),
        node("Pad", ["input", "pads"], "pad"),
        node("Conv", ["pad", "weight", "bias"], "conv"),
        batch_norm("conv", "bn"),
        node("Dropout", ["bn"], "dropout"),
        node("Split", ["dropout"], ["left", "right"], axis=1, num_outputs=2),
        node("Add", ["left", "right"], "sum"),
        node("Relu", ["sum"], "relu"),
        batch_norm("relu", "normal", "pre"),
        node("Conv", ["normal", "w2"], "output"),
    ]
    model = graph(nodes, {"input": (1, 4, 6, 6)}, ["output"], constants)
    assert_rewritten_exactly(model, skip=[name])


def test_an_unknown_rewrite_is_refused_with_the_nearest_name():
    with pytest.raises(RewriteError, match=r"'fold_batchnorm'.*did you mean 'fold-batch-norm'"):
        optimize(conv_bn_relu(), skip=["fold_batchnorm"])


def test_every_rewrite_states_its_contract():
    names = [rewrite.name for rewrite in REWRITES]
    assert len(set(names)) == len(names)
    for rewrite in REWRITES:
        contract = type(rewrite.make()).__doc__ or ""
        assert all(rule in contract for rule in ("1. Requires", "2. Ensures", "3. Exact")), rewrite.name


def test_nothing_of_the_float64_weights_is_left_behind():
    model = optimize(conv_bn_relu())
    assert not [value for value in model.graph.initializers.values() if value.meta]


def test_a_broken_contract_is_a_rewrite_error(monkeypatch):
    """The real pass with its work taken away: its own check must notice the BatchNormalization that it left."""
    passes = {rewrite.name: type(rewrite.make()) for rewrite in REWRITES}
    idle = lambda self, model: ir.passes.PassResult(model, False)  # noqa: E731
    monkeypatch.setattr(passes["fold-batch-norm"], "call", idle)
    with pytest.raises(RewriteError, match="fold-batch-norm: the BatchNormalization of node_bn could be rewritten"):
        optimize(conv_bn_relu())
