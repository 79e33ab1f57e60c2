"""Link 3 of GELUs that are written out: constants between pairs, and constants that were typed with few digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from crossed import slow_but
from onnx import TensorProto, helper, numpy_helper
from test_writing import emitted, judged
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import capture, open_onnx
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variants import Quantization, Variant, variants_of
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize

X = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)


def _quantized(number: float) -> tuple[np.uint8, np.float32]:
    """As onnxruntime's quantizer writes one number: the scale's whole reach."""
    return np.uint8(255), np.float32(np.float32(number) / 255)


def _file(path: Path, steps: list[tuple[str, str, str]], numbers: dict[str, float]) -> Path:
    """A QDQ file of these nodes: every value has a pair, constants too."""
    nodes, stored = [], []

    def pair(name: str, scale: float) -> None:
        stored.append(numpy_helper.from_array(np.float32(scale), f"{name}.scale"))
        stored.append(numpy_helper.from_array(np.uint8(128), f"{name}.zero"))
        parameters = [f"{name}.scale", f"{name}.zero"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *parameters], [f"{name}.dq"]))

    for name, number in numbers.items():
        integer, scale = _quantized(number)
        stored.append(numpy_helper.from_array(integer, f"{name}.q"))
        stored.append(numpy_helper.from_array(scale, f"{name}.scale"))
        stored.append(numpy_helper.from_array(np.uint8(0), f"{name}.zero"))
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}.{part}" for part in ("q", "scale", "zero")], [name])
        )
    pair("x", 0.03)
    for at, (operator, left, right) in enumerate(steps):
        operands = [f"{name}.dq" if name == "x" or name.startswith("v") else name for name in (left, right) if name]
        nodes.append(helper.make_node(operator, operands, [f"v{at}"]))
        pair(f"v{at}", 0.03)
    last = f"v{len(steps) - 1}.dq"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    borders = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "gelu", borders[:1], borders[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


ERF = [("Div", "x", "root"), ("Erf", "v0", ""), ("Add", "v1", "one"), ("Mul", "x", "v2"), ("Mul", "v3", "half")]
TANH = [
    *(("Pow", "x", "three"), ("Mul", "v0", "cubic"), ("Add", "x", "v1"), ("Mul", "v2", "slope"), ("Tanh", "v3", "")),
    *(("Add", "v4", "one"), ("Mul", "x", "v5"), ("Mul", "v6", "half")),
]
FORMS: dict[str, tuple[list[tuple[str, str, str]], dict[str, float]]] = {
    "erf": (ERF, {"root": 2**0.5, "one": 1.0, "half": 0.5}),
    "tanh": (TANH, {"three": 3.0, "cubic": 0.044715, "slope": (2 / np.pi) ** 0.5, "one": 1.0, "half": 0.5}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_gelu_between_pairs_passes_its_proof(form: str, tmp_path: Path) -> None:
    """255 times the float32 that is nearest to 3 / 255 is 3.00000004: no power of a negative number."""
    theirs = _file(tmp_path / "theirs.onnx", *FORMS[form])
    result = edgeconv.export_onnx(theirs, tmp_path / "out", name="net", devices=("onnxruntime", "litert"))
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons if row.verdict.value != "pass"] == []
    assert "GELU" in {operator.name for operator in _operators(tmp_path / "out" / "net.int8.tflite")}


def _operators(path: Path) -> tuple[edgeconv.reference.tflite.Operator, ...]:
    return edgeconv.reference.tflite.read(path).operators


@pytest.mark.parametrize(
    ("form", "name", "units"), [("erf", "root", 4), ("erf", "half", 4), ("tanh", "slope", 5), ("tanh", "half", 5)]
)
def test_a_constant_that_is_not_the_function_s_is_told(form: str, name: str, units: int, tmp_path: Path) -> None:
    """Its scale is off by a few units in the last place, of which no integer tells."""
    made = _variant(_file(tmp_path / "theirs.onnx", *FORMS[form]))
    contents = emitted(made, "tflite")
    wrong = replace(made, model=made.model.clone())
    scale = next(value for key, value in wrong.model.graph.initializers.items() if key.startswith(f"{name}.scale"))
    assert scale.const_value is not None
    scale.const_value = ir.tensor(scale.const_value.numpy() * np.float32(1 + units * 2.0**-23), name=scale.name)
    inputs = {"x": X}
    assert judged(made, inputs, contents, contents.data, tmp_path / "net.tflite").verdict is Verdict.PASS
    assert judged(wrong, inputs, contents, contents.data, tmp_path / "net.tflite").verdict is Verdict.FAIL


def _variant(path: Path) -> Variant:
    file = open_onnx(path)
    model = optimize(file.graph({tensor.name: tensor.shape for tensor in file.inputs}))
    (made,) = variants_of(model, ("int8",), Quantization(), Silent())
    return made


TYPED: dict[str, Callable[[Tensor], Tensor]] = {
    "seven digits": lambda x: x * 0.5 * (1 + torch.erf(x * 0.7071068)),
    "six digits": lambda x: x * 0.5 * (1 + torch.erf(x * 0.707107)),
    "root": lambda x: 0.5 * x * (1 + torch.erf(x / 1.414214)),
    "slope": lambda x: 0.5 * x * (1 + torch.tanh(0.797885 * (x + 0.044715 * x**3))),
}


class Typed(nn.Module):
    """A function whose constants have fewer digits than a float32."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv2d(4, 4, 1), form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.conv(x))


@pytest.mark.parametrize(
    ("name", "format_"),
    slow_but([*product(TYPED, ["onnx"]), ("root", "tflite"), ("slope", "tflite")], product(TYPED, ["onnx", "tflite"])),
)
def test_constants_of_few_digits_are_kept(name: str, format_: str, tmp_path: Path) -> None:
    """They are another function, by 2e-7 of itself."""
    torch.manual_seed(0)
    module = Typed(TYPED[name]).eval()
    model = optimize(capture(module, (torch.from_numpy(X),), input_names=["x"], output_names=["y"]))
    (made,) = variants_of(model, ("fp32",), Quantization(), Silent())
    contents = emitted(made, format_)
    right = judged(made, {"x": X}, contents, contents.data, tmp_path / f"net.{format_}")
    assert right.verdict is Verdict.PASS, right.reason
