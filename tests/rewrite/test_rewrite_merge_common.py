"""Constants and nodes that are there twice; names survive."""

from __future__ import annotations

import numpy as np
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators

INPUT = {"input": (2, 4, 6, 6)}


def test_equal_nodes_and_constants_are_merged():
    nodes = [
        node("Clip", ["input", "low1", "high1"], "first"),
        node("Clip", ["input", "low2", "high2"], "second"),
        node("Add", ["first", "second"], "output"),
    ]
    constants = {"low1": np.array(0.0), "low2": np.array(0.0), "high1": np.array(6.0), "high2": np.array(6.0)}
    model = graph(nodes, INPUT, ["output"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Clip", "Add"]
    assert set(model.graph.initializers) == {"low1", "high1"}


def test_twins_that_are_graph_outputs_keep_their_names():
    nodes = [node("Relu", ["input"], "first"), node("Relu", ["input"], "second"), node("Neg", ["first"], "third")]
    model = graph(nodes, INPUT, ["second", "third"], {})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Relu", "Neg"]
    assert model.graph.outputs[0].metadata_props["edgeconv.module"] == "first"
    both = graph(nodes[:2], INPUT, ["first", "second"], {})
    assert_rewritten_exactly(both)
    assert operators(both) == ["Relu", "Identity"]
