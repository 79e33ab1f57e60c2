"""Forms of files that random graphs showed to be read or written wrongly, in every format and variant.

Members thought of: averages with dilations (of 1, too), of volumes, beside pads that count or not, sizes rounded up;
auto_pad beside output_padding; axes that Expand adds alone; scalars of integers; outputs that are left out twice; a Pad
that mirrors and states a value; axes that a value has not; inputs called like parameters; bounds of int32; the largest
in any order; local responses of even sizes, and of other ranks than images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from crossed import diagonal
from onnx import TensorProto, helper, numpy_helper
from right_from_file import assert_right_from_file, file_of, noise, outputs_of
from right_in_both import assert_right_in_both

import edgeconv
from edgeconv.errors import EdgeconvError

AVERAGES: list[dict[str, Any]] = [
    {"dilations": [1, 1]},
    {"dilations": [2, 1], "pads": [2, 0, 2, 0], "count_include_pad": 1},
    {"dilations": [2, 3], "pads": [1, 1, 2, 1]},
    {"dilations": [1, 2], "strides": [2, 3], "ceil_mode": 1, "count_include_pad": 1, "pads": [1, 1, 1, 1]},
    {"dilations": [2, 2], "auto_pad": "VALID", "strides": [1, 2]},
    {"ceil_mode": 1, "count_include_pad": 1, "auto_pad": "VALID", "strides": [2, 3]},
]


@pytest.mark.parametrize("attributes", AVERAGES)
def test_averages_with_any_attributes_are_right(tmp_path: Path, attributes: dict[str, Any]) -> None:
    node = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], **attributes)
    assert_right_from_file(file_of(tmp_path, [node], (1, 3, 11, 12), 19), (1, 3, 11, 12), tmp_path)


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("kernel", [[2, 2, 2], [3, 1, 1], [1, 3, 2]])
def test_averages_of_volumes(tmp_path: Path, kernel: list[int], counted: int) -> None:
    pads = [size // 2 for size in kernel]
    node = helper.make_node(
        "AveragePool", ["x"], ["y"], kernel_shape=kernel, pads=[*pads, 0, 0, 0], count_include_pad=counted
    )
    assert_right_from_file(file_of(tmp_path, [node], (2, 4, 6, 5, 6), 19), (2, 4, 6, 5, 6), tmp_path)


@pytest.mark.parametrize(
    ("shape", "size"),
    diagonal([((2, 5),), ((1, 5, 6),), ((1, 5, 3, 4),), ((1, 5, 2, 3, 4),), ((1, 5, 2, 1, 3, 4),)], [3, 10, 1, 4]),
)
def test_local_responses_of_any_size_and_rank(tmp_path: Path, shape: tuple[int, ...], size: int) -> None:
    """onnxruntime has odd sizes and four axes alone."""

    def computes(x: np.ndarray) -> list[np.ndarray]:
        spans = [(max(0, place - (size - 1) // 2), place + size // 2 + 1) for place in range(shape[1])]
        total = np.stack([np.square(x[:, start:end]).sum(1) for start, end in spans], 1)
        return [x / (1.5 + 0.5 / size * total) ** 0.6]

    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.5, beta=0.6, bias=1.5)
    assert_right_from_file(file_of(tmp_path, [node], shape, 18), shape, tmp_path, computes=computes)


@pytest.mark.parametrize("opset", [11, 18])
def test_the_largest_in_any_order_are_proven(tmp_path: Path, opset: int) -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "places"], axis=-1, sorted=0)
    path = file_of(
        tmp_path,
        [node, helper.make_node("Cast", ["places"], ["i"], to=TensorProto.FLOAT)],
        (2, 100),
        opset,
        k=np.array([40]),
    )
    result = edgeconv.export_onnx(path, tmp_path / "out", name="net", devices=("onnxruntime", "litert"))
    assert result.report is not None
    assert result.report.verdict == "pass", [row.reason for row in result.report.comparisons]


def test_bounds_of_int32_beside_an_open_batch(tmp_path: Path) -> None:
    bounds = {"s": [0, 10**6], "e": [10**6, -(10**6)], "a": [0, 2], "t": [1, -2]}
    constants = {name: np.array(numbers, np.int32) for name, numbers in bounds.items()}
    path = file_of(tmp_path, [helper.make_node("Slice", ["x", *constants], ["y"])], ("N", 3, 8), 12, **constants)
    assert_right_from_file(path, (1, 3, 8), tmp_path)


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("constant", [True, False])
def test_output_padding_beside_automatic_pads(tmp_path: Path, automatic: str, constant: bool) -> None:
    w, weights = noise(2, 3, 2, 4), {}
    nodes = [helper.make_node(
        "ConvTranspose", ["x", "w"], ["a"], strides=[3, 3], output_padding=[1, 2], auto_pad=automatic
    ), helper.make_node("Relu", ["a"], ["y"])]  # fmt: skip
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(w)))
    else:
        weights["w"] = w
    assert_right_from_file(file_of(tmp_path, nodes, (1, 2, 2, 3), 14, **weights), (1, 2, 2, 3), tmp_path)


@pytest.mark.parametrize("sizes", [[1, 1, 3], [1, 1, 1, 1]])
def test_axes_that_are_expanded_alone(tmp_path: Path, sizes: list[int]) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Expand", ["a", "s"], ["y"])]
    assert_right_from_file(file_of(tmp_path, nodes, (2, 3), 13, s=np.array(sizes)), (2, 3), tmp_path)


@pytest.mark.parametrize("operator", ["ReduceSum", "ReduceMax", "Softplus"])
def test_graphs_that_end_in_scalars_are_right(tmp_path: Path, operator: str) -> None:
    nodes = [helper.make_node(operator, ["x"], ["y"], keepdims=0)]
    if operator == "Softplus":
        nodes = [helper.make_node("ReduceMean", ["x"], ["a"], keepdims=0), helper.make_node(operator, ["a"], ["y"])]
    assert_right_from_file(file_of(tmp_path, nodes, (3, 4), 13), (3, 4), tmp_path)


def test_outputs_that_are_left_out_twice(tmp_path: Path) -> None:
    weights = {"w": noise(1, 8, 3), "r": noise(1, 8, 2), "v": noise(1, 12, 3), "s": noise(1, 12, 3)}
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["", "a"], hidden_size=2),
        helper.make_node("LSTM", ["x", "v", "s"], ["", "b"], hidden_size=3),
    ]
    path = file_of(tmp_path, nodes, (4, 1, 3), 14, **weights)
    x = noise(4, 1, 3)
    expected = onnxruntime.InferenceSession(path).run(None, {"x": x})
    for artifact in edgeconv.export_onnx(path, tmp_path / "out", name="net").artifacts:
        for ours, theirs in zip(outputs_of(artifact, x), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "edge", "constant"])
def test_a_pad_of_opset_10_that_states_a_value(tmp_path: Path, mode: str) -> None:
    node = helper.make_node("Pad", ["x"], ["y"], mode=mode, value=0.5, pads=[0, 0, 1, 2, 0, 0, 2, 1])
    assert_right_from_file(file_of(tmp_path, [node], (1, 2, 4, 5), 10), (1, 2, 4, 5), tmp_path)


def test_axes_that_a_value_has_not(tmp_path: Path) -> None:
    path = file_of(tmp_path, [helper.make_node("MeanVarianceNormalization", ["x"], ["y"])], (5, 4), 17)
    with pytest.raises(EdgeconvError, match="MeanVarianceNormalization"):
        edgeconv.export_onnx(path, tmp_path / "out", name="net")


_INDICES = np.zeros((2, 4, 6), np.int64)


@pytest.mark.parametrize("axis", [3, -4])
@pytest.mark.parametrize(
    ("operator", "stated", "constants"),
    [
        ("LpNormalization", ["axis"], {}),
        ("GatherElements", ["axis"], {"i": _INDICES}),
        ("ScatterElements", ["axis"], {"i": _INDICES, "u": np.ones((2, 4, 6), np.float32)}),
        ("ReverseSequence", ["time_axis"], {"lengths": np.array([4, 2])}),
        ("ReverseSequence", ["batch_axis"], {"lengths": np.array([4, 2])}),
        ("CumSum", [], {}),
        ("LayerNormalization", ["axis"], {"scale": np.ones(6, np.float32)}),
    ],
)
def test_an_axis_that_the_input_has_not_is_refused(
    tmp_path: Path, operator: str, stated: list[str], constants: dict[str, Any], axis: int
) -> None:
    """onnx's inference passes over these; they were taken as the axis that is left of a division by the rank."""
    constants = constants if stated else {"along": np.array(axis)}
    node = helper.make_node(operator, ["x", *constants], ["y"], **dict.fromkeys(stated, axis))
    path = file_of(tmp_path, [node], (2, 4, 6), 17, **constants)
    with pytest.raises(EdgeconvError, match=rf"{operator}.*axis"):
        edgeconv.export_onnx(path, tmp_path / "out", name="net")


@pytest.mark.parametrize(
    ("operator", "flag"),
    [("ReduceMean", "keepdims"), ("ArgMax", "select_last_index"), ("ArgMax", "keepdims"), ("Trilu", "upper")],
)
@pytest.mark.parametrize("number", [2, -1, 32768])
def test_a_flag_that_is_neither_0_nor_1_is_refused(tmp_path: Path, operator: str, flag: str, number: int) -> None:
    """onnx's inference, onnxruntime and we took them for different ones of the two."""
    node = helper.make_node(operator, ["x"], ["y"], **{flag: number})
    with pytest.raises(EdgeconvError, match=f"node y: {operator} has {flag} {number}; state 0 or 1"):
        edgeconv.export_onnx(file_of(tmp_path, [node], (2, 4, 6), 17), tmp_path / "out", name="net")


@pytest.mark.parametrize(
    ("operator", "operands", "name"),
    [
        ("Clip", {"b": np.ones((1, 4, 1), np.float32)}, "min"),
        ("Pad", {"pads": np.zeros(6, np.int64), "fill": np.ones(2, np.float32)}, "constant_value"),
        ("TopK", {"k": np.array([1, 2])}, "k"),
        ("Trilu", {"k": np.array([0, 1])}, "k"),
        ("CumSum", {"axis": np.zeros(0, np.int64)}, "axis"),
    ],
)
def test_an_operand_of_several_numbers_where_one_is_due_is_refused(
    tmp_path: Path, operator: str, operands: dict[str, Any], name: str
) -> None:
    """A clamp per channel was reshaped to one number, and an axis of none was indexed: numpy's words."""
    node = helper.make_node(operator, ["x", *operands], ["y", "places"] if operator == "TopK" else ["y"])
    with pytest.raises(EdgeconvError, match=rf"node y: {operator} takes one number as its {name}, and has a tensor"):
        edgeconv.export_onnx(file_of(tmp_path, [node], (2, 4, 6), 17, **operands), tmp_path / "out", name="net")


def test_what_is_said_of_an_axis_is_ours(tmp_path: Path) -> None:
    """onnx's strict inference spoke instead, of operators that the file does not have."""
    node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=[0, 7])
    with pytest.raises(EdgeconvError, match="MeanVarianceNormalization is along axis 7 of a value of 3 axes"):
        edgeconv.export_onnx(file_of(tmp_path, [node], (2, 4, 6), 17), tmp_path / "out", name="net")


class _Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight + self.weight


@pytest.mark.parametrize("names", [{"input_names": "weight"}, {"output_names": "weight"}])
def test_a_parameter_makes_way_for_an_input_or_output(tmp_path: Path, names: dict[str, str]) -> None:
    assert_right_in_both(_Scaled(), (torch.randn(1, 2),), tmp_path, **names)
