"""Convolutions and pools of files whose padding follows from the size: every stage behind capture has it in numbers."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crossed import slow_but
from onnx import TensorProto, helper, numpy_helper
from same_everywhere import assert_same_everywhere

import edgeconv

AUTOMATIC = ("SAME_UPPER", "SAME_LOWER", "VALID")
OPERATORS = ("Conv", "MaxPool", "AveragePool", "LpPool")


def written(path: Path, operator: str, size: tuple[int, int], **attributes: Any) -> Path:
    """A file of one such operator between two 1x1 convolutions."""
    rng = np.random.default_rng(0)
    shapes = {"first": (4, 3, 1, 1), "w": (4, 1, 3, 4), "last": (2, 4, 1, 1)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if operator == "Conv":
        windowed = helper.make_node("Conv", ["a", "w"], ["b"], group=4, **attributes)
    else:
        windowed = helper.make_node(operator, ["a"], ["b"], kernel_shape=[3, 4], **attributes)
        del weights["w"]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        windowed,
        helper.make_node("Conv", ["b", "last"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("automatic", AUTOMATIC)
@pytest.mark.parametrize("strides", [[1, 1], [2, 3]])
def test_the_graph_states_pads_in_numbers(tmp_path: Path, operator: str, automatic: str, strides: list[int]) -> None:
    path = written(tmp_path / "m.onnx", operator, (9, 11), auto_pad=automatic, strides=strides)
    graph = assert_same_everywhere(path, (1, 3, 9, 11)).graph
    (windowed,) = [node for node in graph if node.op_type == operator and node.outputs[0].name == "b"]
    assert "auto_pad" not in windowed.attributes
    assert (sum(windowed.attributes.get_ints("pads")) > 0) is (automatic != "VALID")


@pytest.mark.parametrize(
    ("operator", "automatic", "variant"),
    slow_but(
        [
            *[("Conv", "SAME_UPPER", "int8"), ("MaxPool", "SAME_LOWER", "int8"), ("LpPool", "SAME_LOWER", "int8")],
            *[("AveragePool", "SAME_UPPER", "int8"), ("AveragePool", "SAME_LOWER", "int16x8")],
            ("AveragePool", "VALID", "int8"),
        ],
        product(OPERATORS, AUTOMATIC, ["int8", "int16x8"]),
    ),
)
def test_integers_of_a_padding_that_follows_from_the_size(
    tmp_path: Path, operator: str, automatic: str, variant: str
) -> None:
    """The rounding of weights looks at a layer's windows, and found taps outside of the image."""
    path = written(tmp_path / "m.onnx", operator, (9, 11), auto_pad=automatic, strides=[2, 1])
    rng = np.random.default_rng(1)
    batches = [{"x": rng.standard_normal((1, 3, 9, 11)).astype(np.float32)} for _ in range(4)]
    result = edgeconv.export_onnx(
        path,
        tmp_path / "out",
        name="m",
        variants=variant,
        formats="tflite" if variant == "int16x8" else ("onnx", "tflite"),
        quantization=edgeconv.Quantization(batches=lambda: batches),
        devices=("litert",) if variant == "int16x8" else ("onnxruntime", "litert"),
        samples=[edgeconv.Sample("calibrated", batches[0])],
    )
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons if row.verdict != "pass"] == []
