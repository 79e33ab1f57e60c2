"""Reshape, Flatten, Squeeze and Unsqueeze in a row become one Reshape, in both formats and with an open batch.

Thought of: rows that end in the shape they began with, empty tensors, several readers of which one reads numbers, a
value between that is an output or the shape of another Reshape, integers, sizes that only the run knows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, graph, node, operators
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Verdict
from edgeconv.rewrite import optimize
from edgeconv.rewrite.open_batch import free_batch

INPUT = (2, 3, 1, 4)


@st.composite
def changes(draw: st.DrawFn) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """Two to five changes of shape in a row behind ``x``; the last result is ``y``."""
    nodes, constants, sizes = [], {}, INPUT
    count = draw(st.integers(2, 5))
    for number in range(count):
        source, result = f"v{number}" if number else "x", "y" if number == count - 1 else f"v{number + 1}"
        kind = draw(st.sampled_from(["Reshape", "Flatten", "Squeeze", "Unsqueeze"]))
        ones = [axis for axis, size in enumerate(sizes) if size == 1]
        operand, attributes = f"c{number}", {}
        if kind == "Flatten":
            axis = draw(st.integers(0, len(sizes)))
            attributes, after = {"axis": axis}, (int(np.prod(sizes[:axis])), int(np.prod(sizes[axis:])))
        elif kind == "Squeeze":
            axes = draw(st.lists(st.sampled_from(ones), unique=True)) if ones else []
            if not axes:  # without axes all of size 1 go
                axes = ones
            else:
                constants[operand] = np.array(axes)
            after = tuple(size for axis, size in enumerate(sizes) if axis not in axes)
        elif kind == "Unsqueeze":
            axis = draw(st.integers(0, len(sizes)))
            constants[operand], after = np.array([axis]), (*sizes[:axis], 1, *sizes[axis:])
        else:
            after = draw(st.sampled_from([(24,), (6, 4), (2, 12), (2, 3, 4), (1, 2, 3, 4), (4, 1, 6), (1, 24, 1)]))
            constants[operand] = np.array(after)
        nodes.append(node(kind, [source, *([operand] if operand in constants else [])], result, **attributes))
        sizes = after
    return nodes, constants


@settings(deadline=None, max_examples=150)
@given(row=changes())
def test_a_row_of_changes_becomes_one_reshape_at_most(row):
    nodes, constants = row
    model = graph([*nodes, node("Relu", ["y"], "z")], {"x": INPUT}, ["z"], constants)
    assert_rewritten_exactly(model)
    assert operators(model)[-1] == "Relu"
    assert len(operators(model)) <= 2


def test_a_row_that_ends_where_it_began_disappears():
    nodes = [node("Squeeze", ["x", "axes"], "v"), node("Flatten", ["v"], "w"), node("Reshape", ["w", "shape"], "y")]
    constants = {"axes": np.array([2]), "shape": np.array(INPUT)}
    model = graph([*nodes, node("Relu", ["y"], "z")], {"x": INPUT}, ["z"], constants)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Relu"]


def test_all_readers_that_change_the_shape_read_what_is_before():
    nodes = [node("Flatten", ["x"], "v"), node("Unsqueeze", ["v", "axis"], "y"), node("Reshape", ["v", "shape"], "z")]
    model = graph(nodes, {"x": INPUT}, ["y", "z"], {"axis": np.array([0]), "shape": np.array([24])})
    assert_rewritten_exactly(model)
    assert operators(model) == ["Reshape", "Reshape"]
    assert {item.inputs[0].name for item in model.graph} == {"x"}


@pytest.mark.parametrize("outputs", [["y", "r"], ["y", "v"]], ids=["read as numbers too", "an output too"])
def test_a_value_between_that_is_used_stays(outputs):
    nodes = [node("Flatten", ["x"], "v"), node("Unsqueeze", ["v", "axis"], "y"), node("Relu", ["v"], "r")]
    model = graph(nodes if "r" in outputs else nodes[:2], {"x": INPUT}, outputs, {"axis": np.array([0])})
    assert_rewritten_exactly(model)
    assert operators(model)[:2] == ["Flatten", "Unsqueeze"]


def test_an_empty_tensor_is_left_alone():
    nodes = [node("Flatten", ["x"], "v"), node("Unsqueeze", ["v", "axis"], "y")]
    model = graph(nodes, {"x": (2, 0, 4)}, ["y"], {"axis": np.array([0])})
    optimize(model)
    assert operators(model) == ["Flatten", "Unsqueeze"]


def test_what_is_the_shape_of_another_stays():
    nodes = [
        node("Squeeze", ["s", "last"], "v"),
        node("Reshape", ["x", "v"], "y"),
        node("Unsqueeze", ["v", "first"], "u"),
    ]
    constants = {"last": np.array([1]), "first": np.array([0])}
    model = graph(nodes, {"x": INPUT, "s": (2, 1)}, ["y", "u"], constants, onnx.TensorProto.INT64)
    optimize(model)
    assert operators(model) == ["Squeeze", "Reshape", "Unsqueeze"]


class _Head(nn.Module):
    """A pool, a view and axes of size 1 in a row, as classifiers and attention are written."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.conv(x).relu().amax((2, 3), keepdim=True)
        rows = pooled.squeeze(-1).squeeze(-1).unsqueeze(1).view(-1, 2, 4).flatten(1)
        return self.linear(rows.unsqueeze(0).reshape(-1, 1, 8).squeeze(1)).view(-1, 1, 5).unsqueeze(-1)


def _in_a_row(model: ir.Model) -> int:
    kinds = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
    return sum(
        item.op_type in kinds and (before := item.inputs[0].producer()) is not None and before.op_type in kinds
        for item in model.graph
    )


def test_a_batch_goes_through_what_was_merged():
    torch.manual_seed(0)
    module, models = _Head().eval(), []
    for batch in (2, 3):
        models.append(
            optimize(capture(module, (torch.zeros(batch, 3, 6, 6),), input_names=("x",), output_names=("y",)))
        )
    assert not _in_a_row(models[0])
    free_batch(models[0], inputs=("x",), beside=models[1])
    (output,) = models[0].graph.outputs
    assert str(output.shape[0]) == "batch"


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "open"])
def test_both_formats_compute_what_the_module_does(dynamic: bool, tmp_path: Path):
    torch.manual_seed(0)
    result = edgeconv.export(
        _Head().eval(),
        (torch.randn(2, 3, 6, 6),),
        tmp_path,
        name="head",
        dynamic_batch=dynamic,
        devices=("onnxruntime", "litert"),
    )
    assert result.report is not None
    assert {row.verdict for row in result.report.comparisons} == {Verdict.PASS}
    assert all(link.verdict is Verdict.PASS for row in result.report.comparisons for link in row.links)
    assert not _in_a_row(ir.load(tmp_path / "head.fp32.onnx"))
