"""Causes in operators that the writer made by itself: the change of one of them with which the file is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from test_writing import emitted, judged
from test_writing import quantized as exported
from test_writing_narrowed import judged as judged_texts
from torch import Tensor, nn

from edgeconv.core import Emitted
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variant import Variant

GATED = """<ir_version: 9, opset_import: ["" : 18]> g (float[1, 6] x) => (float[1, 6] y)
  { a = LeakyRelu <alpha = 0.25> (x) y = HardSwish (a) }"""
Change = Callable[[Any], None]


class Composed(nn.Module):
    """Operators that TFLite has none for, halves of channels, five axes, an enlarged image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mish, self.norm = nn.Conv2d(4, 8, 1), nn.Mish(), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.mish(self.conv(x)).chunk(2, 1)
        grid = torch.sigmoid((a - torch.tanh(b)).reshape(1, 2, 2, 8, 8)) * 2 - 0.5
        joined = torch.cat([grid.permute(0, 3, 4, 1, 2).reshape(1, 64, 4), torch.tanh(grid).reshape(1, 64, 4)], 2)
        row = self.norm(joined).reshape(1, 8, 8, 8)
        return nn.functional.interpolate(row, scale_factor=2, mode="bicubic")


def operator(model: Any, name: str) -> Any:
    """The operator with a result of this name."""
    graph = model.subgraphs[0]
    return next(item for item in graph.operators if graph.tensors[item.outputs[0]].name.decode() == name)


def tensor(model: Any, name: str) -> int:
    """The number of the tensor of this name."""
    return next(at for at, item in enumerate(model.subgraphs[0].tensors) if item.name.decode() == name)


def computed_as(name: str, code: str, options: str = "") -> Change:
    def change(model: Any) -> None:
        added = schema.OperatorCodeT()
        added.builtinCode = getattr(schema.BuiltinOperator, code)
        added.deprecatedBuiltinCode, added.version = min(added.builtinCode, 127), 1
        model.operatorCodes.append(added)
        operator(model, name).opcodeIndex = len(model.operatorCodes) - 1
        if options:
            operator(model, name).builtinOptions = getattr(schema, f"{options}T")()
            operator(model, name).builtinOptionsType = getattr(schema.BuiltinOptions, options)

    return change


def reading(name: str, place: int, other: str) -> Change:
    def change(model: Any) -> None:
        inputs = [int(at) for at in operator(model, name).inputs]
        inputs[place] = tensor(model, other)
        operator(model, name).inputs = inputs

    return change


def exchanged_results(name: str) -> Change:
    def change(model: Any) -> None:
        node = operator(model, name)
        node.outputs = [int(at) for at in node.outputs][::-1]

    return change


def exchanged_operands(name: str) -> Change:
    def change(model: Any) -> None:
        node = operator(model, name)
        node.inputs = [int(at) for at in node.inputs][::-1]

    return change


def constant_of(name: str, place: int, move: Callable[[np.ndarray], np.ndarray], dtype: type) -> Change:
    def change(model: Any) -> None:
        item = model.subgraphs[0].tensors[int(operator(model, name).inputs[place])]
        array = np.array(model.buffers[item.buffer].data, np.uint8).view(dtype).reshape(item.shape)
        model.buffers[item.buffer].data = np.frombuffer(move(array).astype(dtype).tobytes(), np.uint8)

    return change


def clamped(name: str) -> Change:
    def change(model: Any) -> None:
        operator(model, name).builtinOptions.fusedActivationFunction = 1

    return change


def one_other(array: np.ndarray) -> np.ndarray:
    moved = array.copy()
    moved.reshape(-1)[np.argmax(np.abs(array))] *= 1.25
    return moved


@pytest.fixture(scope="module")
def written() -> tuple[Variant, dict[str, np.ndarray], Emitted]:
    torch.manual_seed(3)
    variant, inputs = exported(Composed().eval(), torch.randn(1, 4, 8, 8), "fp32")
    return variant, inputs, emitted(variant, "tflite")


def changed(data: bytes, change: Change) -> bytes:
    """A file's bytes with a change of its objects."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    change(model)
    builder = Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("change", "where", "cause"),
    [
        (computed_as("mish/logistic", "TANH"), "mish", "TANH mish/logistic stands in the place of LOGISTIC"),
        (computed_as("norm/mean_1", "REDUCE_PROD"), "norm", "REDUCE_PROD norm/mean_1 stands in the place of MEAN"),
        (computed_as("norm/sqrt", "SQUARE"), "norm", "SQUARE norm/sqrt stands in the place of SQRT"),
        (reading("norm/square", 0, "cat"), "norm", "takes the mean of the squares"),
        (reading("mish/sub_1", 1, "mish/sub"), "mish", "SUB mish/sub_1 reads mish/sub in place of mish/mul"),
        (reading("mish", 1, "mish/sub_1"), "mish", "DIV mish/div is left out: mish/sub_1 is read in its place"),
        (exchanged_operands("mish/sub_1"), "mish", "operands 0 and 1 of SUB mish/sub_1 are in each other's place"),
        (exchanged_results("chunk.0"), "chunk.1", "results 0 and 1 of Split chunk.0 are exchanged"),
        (clamped("mish/sub"), "", ""),
        (constant_of("sub_1", 1, np.negative, np.float32), "sub_1", "sub_1.b is -0.5 instead of 0.5"),
        (constant_of("norm/add", 1, one_other, np.float32), "norm", "the eps of LayerNormalization norm"),
        (constant_of("norm/div", 0, one_other, np.float32), "norm", "of DIV norm/div is scaled by 1.25"),
        (constant_of("y/batch_matmul", 0, lambda a: a[:, ::-1], np.float32), "y", "y/matrix of BATCH_MATMUL y/batch"),
        (constant_of("y/batch_matmul", 0, one_other, np.float32), "y", "y/matrix of BATCH_MATMUL y/batch_matmul"),
        (
            constant_of("tanh_1/axes_01234", 1, lambda a: a[[0, 3, 4, 2, 1]], np.int32),
            "norm",
            "TRANSPOSE tanh_1/axes_01234 is [",
        ),
    ],
)
def test_the_change_that_mends_a_file_is_its_cause(
    change: Change, where: str, cause: str, written: tuple[Variant, dict[str, np.ndarray], Emitted], tmp_path: Path
) -> None:
    variant, inputs, contents = written
    link = judged(variant, inputs, contents, changed(contents.data, change), tmp_path / "net.tflite")
    if not cause:  # a sigmoid is never above 1: nothing changes
        assert link.verdict is Verdict.PASS, link.reason
        return
    assert (link.verdict, link.where) == (Verdict.FAIL, where), link.reason
    assert cause in link.reason.partition("cause: ")[2], link.reason


def test_another_comparison_is_no_other_number(tmp_path: Path) -> None:
    """Of numbers above zero, not to be 0.25 is to be larger than 0."""
    torch.manual_seed(3)

    class Larger(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(torch.sigmoid(x) > 0.25, x, -x)

    variant, inputs = exported(Larger(), torch.randn(1, 12), "fp32")
    contents = emitted(variant, "tflite")
    data = changed(contents.data, computed_as("gt", "NOT_EQUAL", "NotEqualOptions"))
    link = judged(variant, inputs, contents, data, tmp_path / "net.tflite")
    assert "NOT_EQUAL gt stands in the place of GREATER" in link.reason.partition("cause: ")[2], link.reason


def test_a_right_file_holds(written: tuple[Variant, dict[str, np.ndarray], Emitted], tmp_path: Path) -> None:
    variant, inputs, contents = written
    link = judged(variant, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert link.verdict is Verdict.PASS, link.reason


def test_a_scale_of_the_writers_own_is_the_cause_itself(tmp_path: Path) -> None:
    torch.manual_seed(3)
    variant, inputs = exported(Composed().eval(), torch.randn(1, 4, 8, 8), "int8")
    contents = emitted(variant, "tflite")

    def change(model: Any) -> None:
        scales = model.subgraphs[0].tensors[tensor(model, "sub")].quantization
        scales.scale = [2 * scales.scale[0]]

    link = judged(variant, inputs, contents, changed(contents.data, change), tmp_path / "net.tflite")
    assert "cause: tensor sub: its scale is" in link.reason, link.reason
    assert link.reason.count("tensor sub: its scale is") == 1


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        ("s = HardSigmoid <alpha = 0.16666667> (a) y = Add (a, s)", "Add y stands in the place of Mul"),
        ("s = HardSigmoid <alpha = 0.16666667> (x) y = Mul (a, s)", "HardSigmoid s reads x in place of a"),
        ("n = Neg (a) s = HardSigmoid <alpha = 0.16666667> (n) y = Mul (a, s)", "HardSigmoid s reads n in place of a"),
    ],
)
def test_nodes_of_the_writers_own_in_an_onnx_file_have_causes(file: str, cause: str, tmp_path: Path) -> None:
    link = judged_texts(GATED, GATED.replace("y = HardSwish (a)", file), tmp_path)
    assert cause in link.reason.partition("cause: ")[2], link.reason


def test_an_operator_that_would_do_nothing_is_no_cause(tmp_path: Path) -> None:
    """The largest of x and a number below all of x is x, as x times 1 is: the number is wrong, and not the operator."""
    torch.manual_seed(3)

    class Spread(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (1 + x.square().sum(1, keepdim=True)).expand(1, 6) - 0.5

    variant, inputs = exported(Spread(), torch.randn(1, 6), "fp32")
    contents = emitted(variant, "tflite")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(contents.data))
    graph = model.subgraphs[0]
    spread = next(item for item in graph.operators if graph.tensors[item.outputs[0]].name.decode() == "expand")
    change = constant_of(
        "expand", [int(at) for at in spread.inputs].index(tensor(model, "expand/ones")), one_other, np.float32
    )
    link = judged(variant, inputs, contents, changed(contents.data, change), tmp_path / "net.tflite")
    assert "expand/ones of MUL expand is 1.25 instead of 1" in link.reason, link.reason
