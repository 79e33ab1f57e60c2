"""The walk over the layers of a file: what may be right by a reading that cannot be judged is not called wrong."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from edgeconv.core import Array
from edgeconv.core.verdicts import LayerUse, Verdict
from edgeconv.errors import ParityError
from edgeconv.parity.bounds import Arithmetic, Bound
from edgeconv.parity.bounds._later import Later
from edgeconv.parity.running import Judged, Layer, running_link
from edgeconv.parity.running._layers import judged_layers
from edgeconv.parity.running._onnx import OnnxFile
from edgeconv.parity.running._step import Operand, Step

_X = np.array([1.0, 2.0])


def _doubled(operands: Sequence[Operand]) -> Sequence[Bound]:
    (operand,) = operands
    if isinstance(operand, Bound):
        raise ParityError("no error is carried")
    assert operand is not None
    return [Bound(2 * operand, np.zeros(2), np.zeros(2))]


def _as_told(key: Hashable, told: Array) -> Operand:
    return told


def _about(key: Hashable, told: Array) -> Operand:
    return Bound(told, np.full(2, 0.5), np.full(2, 0.5))


def _judged(result: Array) -> tuple[list[float], list[str]]:
    steps = [Step("Identity", ("input",), ("x",), lambda operands: [Bound(_X, np.zeros(2), np.zeros(2))])]
    steps.append(Step("Double", ("x",), ("y",), _doubled))
    judged = judged_layers(steps, {"input": _X}, {"x": _X, "y": result}, [_as_told, _about], str)
    return [layer.used for layer in judged.layers if layer.name == "y"], list(judged.unjudged)


def test_a_value_that_a_wider_reading_cannot_judge_has_no_verdict() -> None:
    assert _judged(2 * _X + 0.5) == ([], ["y"])


def test_a_value_that_is_right_as_told_needs_no_wider_reading() -> None:
    assert _judged(2 * _X) == ([0.0], [])


def test_what_two_operators_read_is_bounded_once_and_freed_behind_them() -> None:
    counted: list[int] = []
    x = np.linspace(1.0, 2.0, 1 << 17)

    def errors(block: Array) -> tuple[Array, Array]:
        counted.append(block.size)
        return np.full(block.shape, 0.25), np.full(block.shape, 0.25)

    def doubled(operands: Sequence[Operand]) -> Sequence[Bound]:
        (operand,) = operands
        assert isinstance(operand, Bound)
        return [Bound(2 * operand.exact, 2 * operand.worst, 2 * operand.likely)]

    steps = [Step("Source", ("input",), ("x",), lambda operands: [Bound.later(x, Later(errors, (x,)))])]
    steps += [Step("Double", ("x",), (name,), doubled) for name in ("y", "z")]
    judged = judged_layers(steps, {"input": x}, {"y": 2 * x, "z": 2 * x + 0.25}, [_as_told], str)
    assert [layer.used for layer in judged.layers] == [0.0, 0.5]
    assert sum(counted) < x.size + 1000  # and a few elements, which tell that there is an error


def test_a_layer_tells_how_much_of_either_bound_its_worst_element_uses() -> None:
    bound = Bound(_X, np.array([1.0, 0.5]), np.array([0.25, 0.125]))
    steps = [Step("Conv", ("input",), ("y",), lambda operands: [bound])]
    (layer,) = judged_layers(steps, {"input": _X}, {"y": _X + np.array([0.25, 0.25])}, [_as_told], str).layers
    assert (layer.used, layer.likely, layer.error, layer.bound) == (0.5, 2.0, 0.25, 0.5)


def test_the_link_keeps_each_layer_once_in_the_files_order_as_its_worst_sample_has_it() -> None:
    stem = [Layer("stem", ("Conv", "Relu"), used, 1e-6 * used, 1e-6, 3 * used, 1.0, 1e-12) for used in (0.25, 0.5)]
    head = Layer("head", ("Gemm",), 0.125, 1e-7, 8e-7, 0.25, 1.0, 0.0)
    link = running_link({"a": Judged((stem[0], head), {}), "b": Judged((stem[1], head), {})})
    assert link.verdict is Verdict.PASS
    assert [layer.name for layer in link.layers] == ["stem", "head"]
    assert replace(link.layers[0], sqnr_db=0.0) == LayerUse("stem", "Conv, Relu", 0.5, 1.5, 5e-7, 0.0)
    assert link.layers[0].sqnr_db == pytest.approx(120.0)
    assert link.layers[1].sqnr_db == np.inf


def test_normalization_may_begin_with_what_is_added(tmp_path: Path) -> None:
    """onnxruntime's blocked layout has BatchNormalization as a convolution, which a sum behind it is fused into."""
    graph = onnx.parser.parse_graph(
        "g (float[1,4,9,9] x, float[1,4,9,9] z, float[4] s, float[4] b, float[4] m, float[4] v) => (float[1,4,9,9] y)"
        "{ n = BatchNormalization <epsilon = 0.0> (x, s, b, m, v) y = Add (n, z) }"
    )
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)]).SerializeToString()
    generator = np.random.default_rng(0)
    x = generator.standard_normal((1, 4, 9, 9)).astype(np.float32)
    z = generator.uniform(1000, 1500, x.shape).astype(np.float32)
    shift, one, zero = (np.full(4, number, np.float32) for number in (0.3, 1.0, 0.0))
    y = (z + np.float32(0.3)) + x
    file = OnnxFile(tmp_path / "net.onnx", data, Arithmetic(runtime="onnxruntime"))
    (layer,) = file.judge([x, z, one, shift, zero, one], [y], {}).layers
    assert 0.1 < layer.used <= 1


def test_a_network_of_thousands_of_layers_has_its_layers_told(tmp_path: Path) -> None:
    names = ["x", *(f"value_{index}" for index in range(3000)), "y"]
    nodes = [onnx.helper.make_node("Neg", [source], [result]) for source, result in pairwise(names)]
    borders = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "deep", borders[:1], borders[1:])
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]).SerializeToString()
    groups = OnnxFile(tmp_path / "deep.onnx", data, Arithmetic()).groups
    assert sorted(name for group in groups for name in group) == sorted(names[1:-1])


_SAMPLING = """g (float[1,2,6,6] x, float[1,4,4,2] grid, int64[3,1] places, float[3,8] updates)
  => (float[1,8,4] y, float[1] d) {
  c = Relu (x)
  s = GridSample <mode = "linear", padding_mode = "border"> (c, grid)
  shape = Constant <value = int64[3] {1, 8, 4}> ()
  q = Reshape (s, shape)
  a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, q, q)
  rows = Constant <value = int64[2] {4, 8}> ()
  r = Reshape (a, rows)
  u = ScatterND <reduction = "add"> (r, places, updates)
  y = Reshape (u, shape)
  first = Constant <value = int64[3] {2, 4, 4}> ()
  halves = Reshape (y, first)
  zero = Constant <value = int64[1] {0}> ()
  m = Gather (halves, zero)
  d = Det (m)
}"""


def test_layers_that_sample_attend_and_scatter_are_judged(tmp_path: Path) -> None:
    graph = onnx.parser.parse_graph(_SAMPLING)
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)]).SerializeToString()
    file = OnnxFile(tmp_path / "net.onnx", data, Arithmetic(runtime="onnxruntime"))
    rng = np.random.default_rng(0)
    shapes = ((1, 2, 6, 6), (1, 4, 4, 2), (3, 8))
    x, grid, updates = (rng.uniform(-1.2, 1.2, shape).astype(np.float32) for shape in shapes)
    inputs = [x, grid, np.array([[0], [3], [0]]), updates]
    names = [name for group in file.groups for name in group]
    session = onnxruntime.InferenceSession(file.probe(names), providers=["CPUExecutionProvider"])
    fed = dict(zip(("x", "grid", "places", "updates"), inputs, strict=True))
    returned = dict(zip([item.name for item in session.get_outputs()], session.run(None, fed), strict=True))
    outputs = [returned.pop("y"), returned.pop("d")]
    judged = file.judge(inputs, outputs, returned)
    assert not judged.unjudged
    assert {layer.name for layer in judged.layers} >= {"s", "a", "u", "d"}
    assert max(layer.used for layer in judged.layers) <= 1
    for name in ("s", "a", "u"):
        wrong = {**returned, name: returned[name] * np.float32(1 + 1e-4)}
        assert max(layer.used for layer in file.judge(inputs, outputs, wrong).layers) > 1
