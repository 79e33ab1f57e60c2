"""What nobody reads goes."""

from __future__ import annotations

import numpy as np
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators

INPUT = {"input": (2, 4, 6, 6)}


def test_dead_values_and_unused_initializers_go():
    nodes = [
        node("Relu", ["input"], "output"),
        node("Neg", ["input"], "dead"),
        node("Add", ["dead", "unused"], "deader"),
    ]
    model = graph(nodes, INPUT, ["output"], {"unused": np.array(1.0)})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Relu"]
    assert not model.graph.initializers
