"""Link 3 of integers that the writer alone has: HardSwish as two products and a sum, each with a range of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from crossed import diagonal
from flatbuffers import Builder
from test_writing import emitted, judged, quantized
from torch import Tensor, nn

from edgeconv import export_onnx
from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variants import Quantization, Variant, variants_of
from edgeconv.parity.writing._ends import shift
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize


class Swished(nn.Module):
    """HardSwish of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.hardswish(self.conv(x))


def _made(factor: float, variant: str) -> tuple[Variant, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    module, data = Swished().eval(), torch.randn(1, 3, 12, 12)
    inputs = {"x": data.numpy()}
    model = optimize(capture(module, (data,), input_names=["x"], output_names=["y"]))
    batches = Quantization(batches=lambda: [{"x": factor * inputs["x"]}])
    (made,) = variants_of(model, (variant,), batches, Silent())
    return made, inputs


@pytest.mark.parametrize(("factor", "variant"), diagonal([0.3, 0.6, 1.0, 2.0], ["int8", "int16x8"]))
def test_the_end_of_a_range_of_the_writer_s_own_is_rounded_as_its_scale_is(
    factor: float, variant: str, tmp_path: Path
) -> None:
    """Calibrated on smaller numbers than the sample's, the gate saturates at the rounded end of a range of its own."""
    made, inputs = _made(factor, variant)
    quantizers = [node for node in made.model.graph if node.outputs[0].name in ("y.quantized", "y")]
    shared = quantizers[0].inputs[1]
    assert shared is not None
    assert shared.const_value is not None
    # Wide enough for the result, which saturates no more. In 16 bits the convolution may have the same one.
    scale = ir.Value(name="y.wider", type=shared.type, shape=shared.shape)
    scale.const_value = ir.tensor(shared.const_value.numpy() * np.float32(2.7), name="y.wider")
    made.model.graph.register_initializer(scale)
    for node in quantizers:
        node.replace_input_with(1, scale)
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason


class Raised(nn.Module):
    """A cubic resize, of two products, which makes more of what a threshold lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        nn.init.uniform_(self.conv.weight, 0.1, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.interpolate(nn.functional.threshold(self.conv(x), 0.1, 0.05), scale_factor=2)
        return nn.functional.interpolate(y, size=(7, 9), mode="bicubic", align_corners=True)


def test_integers_of_the_writer_s_own_hold_what_follows_from_inputs_and_no_more(tmp_path: Path) -> None:
    """What the threshold makes has the steps of the resize's result, more than it needs; the first product does not."""
    torch.manual_seed(0)
    board = (torch.arange(5)[:, None] + torch.arange(4)).remainder(2).float()
    made, inputs = quantized(Raised().eval(), board.expand(1, 3, 5, 4).contiguous(), "int16x8")
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason
    wrong = judged(made, inputs, contents, _scaled(contents.data, "/matrix", 1.01), tmp_path / "net.tflite")
    assert wrong.verdict is Verdict.FAIL
    assert wrong.where.startswith("y")


def test_a_number_of_the_writer_s_own_is_moved_both_ways_as_a_clamp_hides_one() -> None:
    number, step = np.array([0.5]), np.array([0.25])
    for clamped in (np.minimum, np.maximum):
        moved = shift(partial(clamped, 0.5), number, number, step)
        assert moved == pytest.approx(0.25, rel=1e-5)


def _scaled(data: bytes, ending: str, factor: float) -> bytes:
    """The file with another scale of one tensor."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(data), 0))
    (tensor,) = [item for item in model.subgraphs[0].tensors if item.name.decode().endswith(ending)]
    tensor.quantization.scale = [np.float32(tensor.quantization.scale[0] * factor)]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("factor", "ending", "variant"), diagonal([1 - 1e-6, 1 + 1e-6, 1.002], ["/three", "/sixth"], ["int8", "int16x8"])
)
def test_a_factor_of_the_writer_s_own_that_is_a_millionth_off_is_told(
    factor: float, ending: str, variant: str, tmp_path: Path
) -> None:
    made, inputs = _made(0.6, variant)
    contents = emitted(made, "tflite")
    told = judged(made, inputs, contents, _scaled(contents.data, ending, factor), tmp_path / "net.tflite")
    assert told.verdict is Verdict.FAIL
    assert "y" in told.reason


@pytest.mark.parametrize(
    ("variant", "ending", "factor"),
    # Of 16 bits both hold ReLU6(x + 3) up to 6 whatever x is, which here stays below.
    [("int8", "/gate", 0.99), ("int8", "/part", 0.99), ("int16x8", "/gate", 0.5), ("int16x8", "/part", 0.5)],
)
def test_a_range_of_the_writer_s_own_that_ends_too_early_is_told(
    variant: str, ending: str, factor: float, tmp_path: Path
) -> None:
    made, inputs = _made(1.0, variant)
    contents = emitted(made, "tflite")
    told = judged(made, inputs, contents, _scaled(contents.data, ending, factor), tmp_path / "net.tflite")
    assert told.verdict is Verdict.FAIL


def test_integers_that_are_outputs_by_a_computed_scale_are_not_made_real(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 13]> g (float[2, 6] x, float s, uint8 z) => (uint8[2, 6] y)'
    onnx.save(onnx.parser.parse_model(f"{text} {{ y = QuantizeLinear(x, s, z) }}"), tmp_path / "m.onnx")
    result = export_onnx(tmp_path / "m.onnx", tmp_path / "out", name="m", formats="onnx", devices="onnxruntime")
    assert result.report is not None
    assert not [row.reason for row in result.report.comparisons if row.verdict is Verdict.FAIL]


@pytest.mark.parametrize("variant", ["int8", "int16x8"])
def test_a_maximum_of_what_is_never_negative_may_be_padded_with_zeros(variant: str, tmp_path: Path) -> None:
    """Integers of 16 bits stand for negative numbers, too, which no ReLU gives."""
    torch.manual_seed(0)
    module, data = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)).eval(), torch.randn(1, 3, 18, 18)
    made, inputs = quantized(module, data, variant)
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason


def _failures(text: str, folder: Path) -> list[str]:
    """Why rows fail of the files that are made of a graph."""
    onnx.save(onnx.parser.parse_model(text), folder / "m.onnx")
    devices = ("onnxruntime", "litert")
    result = export_onnx(folder / "m.onnx", folder / "out", name="m", variants="int8", devices=devices)
    assert result.report is not None
    return [f"{row.artifact}: {row.reason}" for row in result.report.comparisons if row.verdict is Verdict.FAIL]


AVERAGES = {
    "pool": "p = AveragePool<kernel_shape = [3, 3], strides = [3, 3]>(b)",
    "smaller": 'p = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(b, , third)',
    "larger": 'p = Resize<mode = "linear", coordinate_transformation_mode = "half_pixel">(b, , twice)',
    "larger, corners kept": 'p = Resize<mode = "linear", coordinate_transformation_mode = "align_corners">(b, , twice)',
}


@pytest.mark.parametrize("average", AVERAGES)
def test_what_is_averaged_in_floats_is_not_cut_off_at_the_range_of_its_average(average: str, tmp_path: Path) -> None:
    """Numbers of a normal distribution, whose averages are quantized up to 1.28."""
    size = 18 if average.startswith("larger") else 3
    text = f"""<ir_version: 9, opset_import: ["": 17]> g (float[1, 3, 9, 9] x) => (float[1, 3, {size}, {size}] y)
        <float s = {{0.01}}, int8 z = {{0}}, float[4] third = {{1, 1, 0.33333334, 0.33333334}},
         float[4] twice = {{1, 1, 2, 2}}> {{
            a = Sin(x)
            m = Mul(a, a)
            b = Sub(x, m)
            {AVERAGES[average]}
            q = QuantizeLinear(p, s, z)
            d = DequantizeLinear(q, s, z)
            y = Relu(d)
        }}"""
    assert not _failures(text, tmp_path)


def test_a_scale_of_stored_integers_that_is_one_in_float32_may_be_left_out(tmp_path: Path) -> None:
    """32767 steps of a float32 are 1.9e-9 below 1; DequantizeLinear, which computes in float32, makes 1 of them."""
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[1, 4, 6] x) => (float[1, 4, 6] y)
        <float s = {0.000030518509447574615}, int16[6] w = {32767, 32767, 32767, 32767, 32767, 32767},
         float t = {0.0002}, int16 z = {0}> {
            g = DequantizeLinear(w, s, z)
            a = QuantizeLinear(x, t, z)
            b = DequantizeLinear(a, t, z)
            c = Add(b, g)
            e = QuantizeLinear(c, t, z)
            f = DequantizeLinear(e, t, z)
            n = LayerNormalization<axis = -1, epsilon = 0.00001>(f, g)
            q = QuantizeLinear(n, t, z)
            y = DequantizeLinear(q, t, z)
        }"""
    assert not _failures(text, tmp_path)


@pytest.mark.parametrize("at", [0, 20, -1])
def test_one_of_equal_weights_of_an_average_that_is_cut_off_is_told(at: int, tmp_path: Path) -> None:
    """A pad before it has integers of the writer's own, at whose ends some elements say nothing; the others do."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AvgPool2d(3, 2, 1), nn.Conv2d(6, 4, 1)).eval()
    made, inputs = quantized(module, torch.randn(1, 3, 12, 12), "int8")
    contents, path = emitted(made, "tflite"), tmp_path / "m.tflite"
    assert judged(made, inputs, contents, contents.data, path).verdict is Verdict.PASS
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(contents.data, 0))
    buffers = [np.array(model.buffers[tensor.buffer].data) for tensor in model.subgraphs[0].tensors]
    (equal,) = (index for index, data in enumerate(buffers) if data.size == 54 and np.all(data == 127))
    buffers[equal][at] -= 1
    model.buffers[model.subgraphs[0].tensors[equal].buffer].data = buffers[equal]
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    link = judged(made, inputs, contents, bytes(builder.Output()), path)
    assert link.verdict is Verdict.FAIL
    assert "demands 0.111111111 at" in link.reason
