"""ReLU6 as ReLU, on demand: that and no other clamp."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.rewrite.relu6 import relu6_as_relu


def _clamps(*bounds: tuple[float, float]) -> ir.Model:
    """Clips one after another, named ``clip0``, …; the last makes the output."""
    x = value = ir.val("x", dtype=ir.DataType.FLOAT, shape=[1, 4])
    nodes, initializers = [], []
    for index, pair in enumerate(bounds):
        given = [
            ir.val(name := f"{index}.{at}", const_value=ir.tensor(np.array(bound, np.float32), name=name))
            for at, bound in zip(("min", "max"), pair, strict=True)
        ]
        initializers += given
        nodes.append(ir.node("Clip", [value, *given]))
        value = nodes[-1].outputs[0]
        value.name, value.dtype, value.shape = f"clip{index}", ir.DataType.FLOAT, ir.Shape([1, 4])
    graph = ir.Graph([x], [value], nodes=nodes, initializers=initializers, opset_imports={"": 18})
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-6.0, 6.0), (0.0, 5.999), (1.0, 6.0)])
def test_other_clamps_stay(bounds: tuple[float, float]) -> None:
    changed, count = relu6_as_relu(_clamps(bounds, (0.0, 1.0)))
    assert count == 0
    assert [node.op_type for node in changed.graph] == ["Clip", "Clip"]


def test_relu6_inside_becomes_relu_and_keeps_its_name() -> None:
    model = _clamps((0.0, 6.0), (-1.0, 3.0))
    changed, count = relu6_as_relu(model)
    assert count == 1
    assert [(node.op_type, node.outputs[0].name) for node in changed.graph] == [("Relu", "clip0"), ("Clip", "clip1")]
    assert [node.op_type for node in model.graph] == ["Clip", "Clip"]  # the float graph is not touched


def test_the_range_of_an_output_stays() -> None:
    changed, count = relu6_as_relu(_clamps((0.0, 6.0), (0.0, 6.0)))
    assert count == 1
    assert [node.op_type for node in changed.graph] == ["Relu", "Clip"]
