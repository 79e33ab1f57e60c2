"""Operands of other shapes than the specification asks for, where onnx's inference says nothing.

Thought of: kernels of other axes, `kernel_shape` that contradicts them, products and their terms, slopes, scales and
shifts, indices and updates, regions, scales and sizes, recurrent weights, angles and positions; of one axis more, one
less, one element more, none.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from right_from_file import file_of, noise

from edgeconv.capture import open_onnx
from edgeconv.errors import CaptureError

IMAGE, MATRIX = (1, 4, 6, 5), (3, 4)
# What is computed: operator, shape of x, attributes, and operands of which all fit.
FITTING: dict[str, tuple[tuple[int, ...], dict[str, Any], dict[str, np.ndarray]]] = {
    "Conv": (IMAGE, {"kernel_shape": [3, 2]}, {"w": noise(2, 4, 3, 2), "b": noise(2)}),
    "ConvTranspose": (IMAGE, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"w": noise(4, 2, 3, 2), "b": noise(2)}),
    "Gemm": (MATRIX, {"transB": 1}, {"w": noise(2, 4), "c": noise(2)}),
    "PRelu": (IMAGE, {}, {"slope": noise(4, 1, 1)}),
    "LayerNormalization": (IMAGE, {"axis": 2}, {"scale": noise(6, 5), "shift": noise(6, 5)}),
    "RMSNormalization": (IMAGE, {"axis": 3}, {"scale": noise(5)}),
    "GroupNormalization": (IMAGE, {"num_groups": 2}, {"scale": noise(4), "shift": noise(4)}),
    "GatherElements": (MATRIX, {"axis": 1}, {"indices": np.array([[0, 1, 2, 3, 3]] * 3)}),
    "ScatterElements": (MATRIX, {"axis": 0}, {"indices": np.array([[2, 1, 0]]), "updates": noise(1, 3)}),
    "ScatterND": (IMAGE, {}, {"indices": np.array([[0, 1], [0, 3]]), "updates": noise(2, 6, 5)}),
    "Slice": (
        IMAGE,
        {},
        {"from": np.array([0, 1]), "to": np.array([3, 4]), "axes": np.array([1, 3]), "steps": np.array([1, 2])},
    ),
    "Reshape": (IMAGE, {}, {"sizes": np.array([4, 30])}),
    "Expand": (MATRIX, {}, {"sizes": np.array([2, 3, 4])}),
    "Tile": (MATRIX, {}, {"repeats": np.array([2, 3])}),
    "Squeeze": ((1, 3, 1), {}, {"axes": np.array([0])}),
    "Unsqueeze": (MATRIX, {}, {"axes": np.array([0, 2])}),
    "ReduceSum": (IMAGE, {}, {"axes": np.array([1, 3])}),
    "Pad": (MATRIX, {}, {"pads": np.array([0, 1, 1, 0])}),
    "GRU": ((5, 2, 3), {"hidden_size": 4}, {"w": noise(1, 12, 3), "r": noise(1, 12, 4)}),
    "LSTM": ((5, 2, 3), {"hidden_size": 4}, {"w": noise(1, 16, 3), "r": noise(1, 16, 4)}),
    "RNN": ((5, 2, 3), {"hidden_size": 4}, {"w": noise(1, 4, 3), "r": noise(1, 4, 4)}),
    "RotaryEmbedding": (
        (1, 2, 3, 4),
        {},
        {"cosines": noise(9, 2), "sines": noise(9, 2), "places": np.array([[0, 8, 3]])},
    ),
}
MUTANTS = {
    "one axis more": lambda array: array[..., None],
    "an axis before": lambda array: array[None],
    "flat": lambda array: array.reshape(-1) if array.ndim > 1 else array[None],
    "one element more": lambda array: np.concatenate([array, array[:1]]),
    "no element": lambda array: array[:0],
}


def _graph(folder: Path, operator: str, operands: dict[str, np.ndarray]) -> object:
    shape, attributes, _ = FITTING[operator]
    nodes = [helper.make_node(operator, ["x", *operands], ["y"], name="node", **attributes)]
    path = file_of(folder, nodes, shape, 23, **operands)
    return open_onnx(path).graph({"x": shape})


@pytest.mark.parametrize("operator", FITTING)
def test_operands_that_fit(tmp_path: Path, operator: str) -> None:
    _graph(tmp_path, operator, FITTING[operator][2])


LISTS = ("Expand", "Pad", "ReduceSum", "Reshape", "Squeeze", "Tile", "Unsqueeze")
"""Of numbers, of which another count may be another operation."""


CASES = [
    (operator, operand, mutant)
    for operator, (_, _, operands) in FITTING.items()
    for operand in operands
    for mutant in MUTANTS
    if operator not in LISTS or "element" not in mutant
]


@pytest.mark.parametrize(("operator", "operand", "mutant"), CASES)
def test_operands_of_other_shapes_are_refused_in_words_of_ours(
    tmp_path: Path, operator: str, operand: str, mutant: str
) -> None:
    """Each was refused by numpy, in the words of whichever stage met it first, or broadcasts and is right."""
    operands = dict(FITTING[operator][2])
    operands[operand] = MUTANTS[mutant](operands[operand])
    if _broadcasts(operator, operand, operands[operand]):
        _graph(tmp_path, operator, operands)
        return
    with pytest.raises(CaptureError) as caught:
        _graph(tmp_path, operator, operands)
    assert not isinstance(caught.value.__cause__, IndexError | ValueError | TypeError)


def _broadcasts(operator: str, operand: str, array: np.ndarray) -> bool:
    """Whether the specification takes the mutant as well."""
    if operator in ("PRelu", "LayerNormalization", "RMSNormalization") or operand == "c":
        whole = (3, 2) if operand == "c" else FITTING[operator][0]
        pairs = zip(reversed(array.shape), reversed(whole), strict=False)
        return array.ndim <= len(whole) and all(size in (1, due) for size, due in pairs)
    if operator == "GatherElements":  # no place is a result of no elements
        return array.shape == (0, 5)
    return operator == "RotaryEmbedding" and len(array) == 10


@pytest.mark.parametrize(
    ("place", "numbers", "fits"),
    [
        ("scales", np.float32([1, 1, 2, 2]), True),
        ("scales", np.float32([[1, 1, 2, 2]]), False),
        ("scales", np.float32([[1], [1], [2], [2]]), False),
        ("scales", np.float32([1, 2, 2]), False),
        ("sizes", np.array([1, 4, 12, 10]), True),
        ("sizes", np.array([[1, 4, 12, 10]]), False),
        ("sizes", np.array([12, 10]), False),
        ("roi", np.float32([0, 0, 0, 0, 1, 1, 1, 1]), True),
        ("roi", np.float32([[0, 0, 0, 0], [1, 1, 1, 1]]), False),
        ("roi", np.float32([0, 0, 1, 1]), False),
    ],
)
def test_numbers_of_a_resize_are_a_vector_each(tmp_path: Path, place: str, numbers: np.ndarray, fits: bool) -> None:
    """Scales in a row of a matrix ended in a traceback."""
    operands = {"sizes": np.array([1, 4, 12, 10])} if place == "roi" else {}
    operands[place] = numbers
    mode = "tf_crop_and_resize" if place == "roi" else "asymmetric"
    inputs = ["x", *(name if name in operands else "" for name in ("roi", "scales", "sizes"))]
    node = helper.make_node("Resize", inputs, ["y"], mode="nearest", coordinate_transformation_mode=mode)
    path = file_of(tmp_path, [node], IMAGE, 19, **operands)
    with nullcontext() if fits else pytest.raises(CaptureError, match="Resize"):
        open_onnx(path).graph({"x": IMAGE})


def test_a_kernel_shape_that_contradicts_the_kernel(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="node", kernel_shape=[2, 2])
    with pytest.raises(CaptureError, match=r"node: Conv cannot compute with operands of the shapes .*\[2, 4, 3, 3\]"):
        open_onnx(file_of(tmp_path, [node], IMAGE, 18, w=noise(2, 4, 3, 3))).graph({"x": IMAGE})


def test_positions_beyond_the_angles(tmp_path: Path) -> None:
    operands = {**FITTING["RotaryEmbedding"][2], "places": np.array([[0, 9, 3]])}
    with pytest.raises(CaptureError, match="takes the positions 0 to 9 of 9"):
        _graph(tmp_path, "RotaryEmbedding", operands)
