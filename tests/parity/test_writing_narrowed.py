"""What values in float64 do not tell of a file, and what the operands of link 3 have to reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.core.verdicts import LinkResult
from edgeconv.errors import EmitError
from edgeconv.parity.writing import Graph, OnnxFile, writing
from edgeconv.parity.writing._constants import Matching, match

RNG = np.random.default_rng(0)
TOP = """<ir_version: 9, opset_import: ["" : 18]> g (float[1, 6] x) => (float[1, 3] y, int64[1, 3] i)
  <int64[1] k = {3}> { a = LeakyRelu <alpha = 0.25> (x) y, i = TopK <axis = 1> (a, k) }"""
COMPARED = """<ir_version: 9, opset_import: ["" : 18]> g (float[1, 6] x) => (float[1, 6] y)
  <float[1] b = {0.125}> { c = Greater (x, b) n = Neg (x) y = Where (c, x, n) }"""
SAMPLED = """<ir_version: 9, opset_import: ["" : 18]>
  g (float[1, 2, 6, 6] x, float[1, 3, 3, 2] p) => (float[1, 2, 3, 3] y)
  { a = LeakyRelu <alpha = 0.25> (x) y = GridSample <mode = "nearest"> (a, p) }"""
POOLED = """<ir_version: 9, opset_import: ["" : 18]> g (float[1, 2, 6, 6] x) => (float[1, 2, 3, 3] y)
  { a = LeakyRelu <alpha = 0.25> (x) y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a) }"""
ENLARGED = """<ir_version: 9, opset_import: ["" : 18]> g (float[1, 1, 10, 10] x) => (float[1, 1, 20, 20] y)
  <float[4] s = {1, 1, 2, 2}> { y = Resize <mode = "cubic"> (x, , s) }"""
ROUNDED = """<ir_version: 9, opset_import: ["" : 18]> g (float[1, 2, 6, 6] x) => (float[1, 2, 5, 5] y)
  <float s = {0.0625}, uint8 z = {120}>
  { a = LeakyRelu <alpha = 0.25> (x) q = QuantizeLinear (a, s, z) d = DequantizeLinear (q, s, z)
    n = MaxPool <kernel_shape = [2, 2]> (d) y = Neg (n) }"""
STEPS = """<ir_version: 9, opset_import: ["" : 18]> g (float[3, 1, 2] x) => (float[1, 1, 2] y)
  <float[1, 8, 2] w = {WEIGHTS}, float[1, 8, 2] r = {WEIGHTS}, float[1, 16] b = {WEIGHTS}>
  { , , y = LSTM <hidden_size = 2> (x, w, r, b) }""".replace(
    "WEIGHTS", ", ".join(f"{number:.3f}" for number in RNG.normal(size=16))
)


def judged(text: str, changed: str, folder: Path, *, halves: bool = False) -> LinkResult:
    """Link 3 of a graph, and of the file that another text gives."""
    graph, path = Graph(ir.from_onnx_text(text)), folder / "net.onnx"
    ir.save(ir.from_onnx_text(changed), path)
    inputs = {
        value.name or "": RNG.uniform(-1, 1, value.shape.numpy()).astype(np.float32)
        for value in graph.model.graph.inputs
        if value.shape is not None
    }
    return writing(graph, OnnxFile(path, graph, halves=halves), inputs, "one")


def test_a_graph_with_a_result_left_out_is_judged(tmp_path: Path) -> None:
    assert judged(STEPS, STEPS, tmp_path).verdict.value == "pass"
    link = judged(STEPS, STEPS.replace("(x, w, r, b)", "(x, w, r)"), tmp_path)
    assert (link.verdict.value, link.where) == ("fail", "y")


def with_cast(kind: int) -> str:
    """The values of TOP rounded to another type and back."""
    there = f"(x) h = Cast <to = {kind}> (a) f = Cast <to = 1> (h)"
    return TOP.replace("(x)", there).replace("(a, k)", "(f, k)")


@pytest.mark.parametrize(("kind", "name"), [(10, "float16"), (16, "bfloat16")])
def test_floats_that_a_file_narrows_are_named(kind: int, name: str, tmp_path: Path) -> None:
    link = judged(TOP, with_cast(kind), tmp_path)
    assert (link.verdict.value, link.where) == ("fail", "a")
    assert f"a is rounded to {name}" in link.reason
    assert judged(with_cast(kind), with_cast(kind), tmp_path).verdict.value == "pass"
    of_halves = judged(TOP, with_cast(kind), tmp_path, halves=True).verdict.value
    assert of_halves == ("pass" if name == "float16" else "fail")  # its casts to float16 are the writer's


MORE = {
    "other steps": ("Neg (n)", "Neg (e)", "r = QuantizeLinear (n, t, z) e = DequantizeLinear (r, t, z)"),
    "between two that move": ("(d) y", "(e) y", "r = QuantizeLinear (d, t, z) e = DequantizeLinear (r, t, z)"),
    "before the graph's": ("(a, s, z)", "(e, s, z)", "r = QuantizeLinear (a, t, z) e = DequantizeLinear (r, t, z)"),
    "by the range": ("Neg (n)", "Neg (e)", "r, u, v = DynamicQuantizeLinear (n) e = DequantizeLinear (r, u, v)"),
}


@pytest.mark.parametrize("name", MORE)
def test_a_rounding_that_the_graph_does_not_do_is_named(name: str, tmp_path: Path) -> None:
    """On real numbers it does nothing but saturate."""
    right, wrong, nodes = MORE[name]
    place = {"between two that move": "n = MaxPool", "before the graph's": "q = Quantize"}.get(name, "y = Neg")
    coarser = ROUNDED.replace("<float s", "<float t = {0.125}, float s") if ", t, " in nodes else ROUNDED
    link = judged(ROUNDED, coarser.replace(right, wrong).replace(place, f"{nodes} {place}"), tmp_path)
    assert link.verdict.value == "fail"
    assert "is rounded to the integers r, which the graph does not do" in link.reason


def test_numbers_that_are_rounded_to_the_steps_that_they_have_are_the_same(tmp_path: Path) -> None:
    """As the writer does with the padding of an AveragePool."""
    pool, amounts = "n = MaxPool <kernel_shape = [2, 2]>", "int64[8] p = {0, 0, 1, 1, 0, 0, 0, 0}"
    right = ROUNDED.replace("5, 5] y", "6, 6] y").replace("<float s", f"<{amounts}, float t = {{0.125}}, float s")
    right = right.replace(f"{pool} (d)", f"f = Pad (d, p) k = Mul (f, t) {pool} (k)")
    again = "f = Pad (d, p) r = QuantizeLinear (f, s, z) e = DequantizeLinear (r, s, z) k = Mul (e, t)"
    file = right.replace("f = Pad (d, p) k = Mul (f, t)", again)
    assert judged(right, file, tmp_path).verdict.value == "pass"
    link = judged(right, file.replace("(f, s, z)", "(f, t, z)"), tmp_path)
    assert link.verdict.value == "fail"
    assert "is rounded to the integers r" in link.reason


@pytest.mark.parametrize("what", ["scale", "zero point"])
def test_a_channel_that_is_read_as_other_numbers_than_it_was_written_as_is_named(what: str, tmp_path: Path) -> None:
    """The writer reads by channels what it wrote with one scale, before a layer in float."""
    channels = ROUNDED.replace("<float s", "<float[2] cs = {0.0625, 0.0625}, uint8[2] cz = {120, 120}, float s")
    channels = channels.replace("DequantizeLinear (q, s, z)", "DequantizeLinear <axis = 1> (q, cs, cz)")
    assert judged(ROUNDED, channels, tmp_path).verdict.value == "pass"
    right, wrong = {"scale": ("0.0625, 0.0625", "0.0625, 0.063"), "zero point": ("120, 120", "120, 121")}[what]
    link = judged(ROUNDED, channels.replace(right, wrong), tmp_path)
    assert link.verdict.value == "fail"
    assert f"q is written with the {what}" in link.reason


def test_a_scale_that_is_no_positive_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmitError, match="q has a scale that is no positive number"):
        judged(ROUNDED, ROUNDED.replace("0.0625", "0.0"), tmp_path)


def test_an_order_that_is_left_to_the_runtime_is_named(tmp_path: Path) -> None:
    link = judged(TOP, TOP.replace("<axis = 1>", "<axis = 1, sorted = 0>"), tmp_path)
    assert (link.verdict.value, link.where) == ("fail", "y")
    assert "sorted" in link.reason


def test_a_clamp_of_an_image_that_is_sampled_is_reached(tmp_path: Path) -> None:
    """Larger places would all lie beyond the image's border."""
    clamped = SAMPLED.replace("float[1, 2, 3, 3] y)", "float[1, 2, 3, 3] y) <float l = {-50.0}, float u = {50.0}>")
    clamped = clamped.replace("(x) y", "(x) c = Clip (a, l, u) y").replace("(a, p)", "(c, p)")
    assert judged(SAMPLED, SAMPLED, tmp_path).verdict.value == "pass"
    link = judged(SAMPLED, clamped, tmp_path)
    assert (link.verdict.value, link.where) == ("fail", "y")


def test_scales_that_decide_on_a_size_are_no_crash(tmp_path: Path) -> None:
    link = judged(ENLARGED, ENLARGED.replace("1, 2, 2}", "1, 2.001, 2}"), tmp_path)
    assert link.verdict.value == "fail"


def test_a_number_is_not_read_as_another_constant_that_is_zero() -> None:
    """The half of a GELU that the file has as one operator, beside a constant of integers far coarser than it."""

    def matched(stored: float) -> Matching:
        file = {"start": np.array(stored)}
        return match({"gelu.half": np.array(0.5, np.float32)}, file, lambda _: np.array(1.0), lambda _: (-128.0, 127.0))

    assert matched(0.0).rounded == {}
    assert matched(1.0).partners == {"start": "gelu.half"}  # which the nearest integer may stand for
