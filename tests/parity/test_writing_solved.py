"""Link 3: numbers that the writer alone has are what the graph demands of them, to the last unit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from test_writing import emitted, judged, quantized
from torch import nn

from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.parity.writing import _judge
from edgeconv.parity.writing._numbers import of_gates
from edgeconv.parity.writing._solved import is_quantized, is_rounded, solve
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize

NUMBERS = np.array([0.3, -0.7, 0.3, 0.0])


def test_numbers_are_solved_from_what_they_compute() -> None:
    data = np.random.default_rng(0).standard_normal((20, 4))
    held = NUMBERS.astype(np.float16).astype(np.float64)
    solved = solve(lambda changed: np.tanh(data @ changed["c"]), {"c": held}, np.tanh(data @ NUMBERS), 1e-12)
    assert [list(number.places) for number in solved] == [[1], [0, 2]]
    assert [number.exact for number in solved] == pytest.approx([-0.7, 0.3], abs=1e-12)
    assert all(number.doubt < 1e-10 for number in solved)


def test_equal_numbers_that_should_differ_are_solved_one_by_one() -> None:
    data = np.random.default_rng(0).standard_normal((20, 2))
    right = np.array([0.3, 0.30001])
    solved = solve(lambda changed: data @ changed["c"], {"c": np.full(2, 0.3)}, data @ right, 1e-12)
    assert [number.exact for number in solved] == pytest.approx(right, abs=1e-12)


def test_factors_of_which_the_product_alone_counts_are_left_open() -> None:
    data = np.arange(1.0, 9.0)
    held = {"a": np.array([2.001]), "b": np.array([3.0])}
    solved = solve(lambda changed: data * changed["a"] * changed["b"], held, 6 * data, 1e-12)
    assert [number.doubt for number in solved] == [np.inf, np.inf]


def test_nothing_is_solved_where_no_numbers_compute_it() -> None:
    data = np.arange(1.0, 9.0)
    assert not solve(lambda changed: data * changed["a"], {"a": np.array([2.0])}, data * data, 1e-12)


def test_a_float_is_the_nearest_one_to_what_is_known() -> None:
    exact, none = np.array([1 / 3]), np.zeros(1)
    for dtype in (np.float16, np.float32):
        nearest = exact.astype(dtype)
        other = np.nextafter(nearest, dtype(1))
        assert is_rounded(nearest, exact, none).all()
        assert not is_rounded(other, exact, none).any()
        assert is_rounded(other, exact, np.spacing(nearest).astype(np.float64)).all()
        assert is_rounded(other, exact, np.array([np.inf])).all()


def test_a_scale_is_the_largest_number_s_share_and_a_smaller_one_is_near() -> None:
    exact, none = np.array([1 / 3, 0.1]), np.zeros(2)
    scale = np.float32(exact[0] / 127)
    for of, holds in ((scale, True), (np.nextafter(scale, np.float32(1)), False)):
        steps = np.full(2, np.float64(of))
        assert list(is_quantized(np.array([127, 38]) * steps, steps, exact, none, 127)) == [holds, True]
    steps = np.full(2, np.float64(scale))
    assert list(is_quantized(np.array([127, 39]) * steps, steps, exact, none, 127)) == [True, False]


def test_a_number_between_two_integers_may_be_either_and_no_third() -> None:
    steps = np.full(3, np.float64(np.float32(1 / 6 / 255)))
    exact = np.array([1 / 6, 1 / 9, 1 / 12])  # 127.5 steps
    for middle, holds in ((126, False), (127, True), (128, True), (129, False)):
        held = np.array([255, 170, middle]) * steps
        assert list(is_quantized(held, steps, exact, np.zeros(3), 255)) == [True, True, holds]


class Bicubic(nn.Module):
    """Doubles an image by a matrix whose numbers the writer alone knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, scale_factor=2, mode="bicubic")


MODULES = {
    "matrix": (Bicubic, (1, 2, 6, 6)),
    "norm": (lambda: nn.Sequential(nn.Conv2d(3, 12, 1), nn.Flatten(2), nn.LayerNorm(16, eps=1e-6)), (1, 3, 4, 4)),
    "mean": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.AvgPool2d(2)), (1, 3, 12, 12)),
    "pool": (lambda: nn.Sequential(nn.ReLU(), nn.AvgPool2d(7, 1)), (1, 3, 12, 12)),
    # Two matrices, one of which the graph has in floats.
    "parts": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.AdaptiveAvgPool2d((4, 5))), (1, 3, 10, 14)),
}


def _shifted(model: schema.ModelT, at: int, *, scale: bool) -> bytes | None:
    """The file with one number of a tensor, or its scale, a unit in the last place larger."""
    tensor = model.subgraphs[0].tensors[at]
    parameters = tensor.quantization
    if scale:
        if parameters is None or parameters.scale is None or not len(parameters.scale):
            return None
        parameters.scale = np.array(parameters.scale, np.float32)
        parameters.scale[-1] = np.nextafter(parameters.scale[-1], np.float32(np.inf))
    else:
        buffer = model.buffers[tensor.buffer]
        dtype = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.FLOAT16: np.float16}.get(tensor.type)
        if buffer.data is None or dtype is None:
            return None
        array = np.array(buffer.data, np.uint8).view(dtype).copy()
        place = int(np.argmax(np.abs(array)))
        array[place] = np.nextafter(array[place], dtype(np.inf))
        buffer.data = array.view(np.uint8)
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("name", "variant", "scale"),
    [
        *(("matrix", "fp16", False), ("norm", "fp16", False), ("norm", "fp32", False), ("norm", "int8", False)),
        *(("mean", "int8", True), ("mean", "int16x8", True), ("pool", "int8", True), ("pool", "int16x8", True)),
        *(("parts", "int8", True), ("parts", "int16x8", True)),
    ],
)
def test_one_unit_of_any_number_of_a_file_is_told(name: str, variant: str, scale: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, shape = MODULES[name]
    module, data = build().eval(), torch.randn(shape)
    made, inputs = quantized(module, data, variant)
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason
    missed, count = [], 0
    for at in range(
        len(schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(contents.data), 0)).subgraphs[0].tensors)
    ):
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(contents.data), 0))
        wrong = _shifted(model, at, scale=scale)
        if wrong is not None:
            count += 1
            told = judged(made, inputs, contents, wrong, tmp_path / "net.tflite")
            missed += [model.subgraphs[0].tensors[at].name] * (told.verdict is Verdict.PASS)
    assert count
    assert not missed


def test_reciprocals_of_which_one_lies_between_two_integers_are_right(tmp_path: Path) -> None:
    data = torch.randn(1, 3, 14, 10)  # windows of 6, 9, 8 and 12
    made, inputs = quantized(nn.AdaptiveAvgPool2d((5, 6)), data, "int8")
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason


class Looked(nn.Module):
    """x / sqrt(mean(x^2) + eps) and a Mish, by hand: their integers are looked up in tables."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalized = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        return normalized * torch.tanh(nn.functional.softplus(normalized))


class LookedUpPart(nn.Module):
    """The sizes of boxes: a table of some channels of a tensor, and of its largest values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes = nn.functional.softplus(x.flatten(2)[:, 2:4])
        largest = nn.functional.max_pool2d(x, 2).flatten(2).repeat(1, 1, 4)
        return torch.cat([x.flatten(2)[:, :2], sizes, largest.sin()], 1)


class LookedUpRoot(nn.Module):
    """Roots of magnitudes of a GroupNorm, which ONNX computes in another shape: a table behind a rescaling ABS."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.group_norm(x, 1).abs().sqrt()


class Squares(nn.Module):
    """Squares of negative numbers beside a factor of 2, which is 2.0000001 as integers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clamp(-1, 0.7) * 2 - x
        return nn.functional.gelu((x @ x.transpose(2, 3)).pow(2) - 1, approximate="tanh")


class LookedUpPartOfEnlarged(nn.Module):
    """A table of some channels of a map whose edge is cut off with the other channels, in one SLICE."""

    def __init__(self) -> None:
        super().__init__()
        self.enlarges = nn.ConvTranspose2d(8, 8, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        enlarged = self.enlarges(x)
        return torch.cat([enlarged[:, :4].tanh(), nn.functional.softplus(enlarged[:, 4:])], 1)


@pytest.mark.parametrize("head", [Looked(), LookedUpPart(), LookedUpRoot(), Squares(), LookedUpPartOfEnlarged()])
def test_small_operands_lie_on_the_integers_that_tables_know(head: nn.Module, tmp_path: Path) -> None:
    """Between them there is no entry: right files were called wrong."""
    torch.manual_seed(0)
    module, data = nn.Sequential(nn.Conv2d(3, 8, 1), head).eval(), torch.randn(1, 3, 8, 8)
    graph = optimize(capture(module, (data,), input_names=["x"], output_names=["y"]))
    (made,) = variants_of(graph, ("int8",), Quantization(batches=lambda: [{"x": data.numpy()}]), Silent())
    contents = emitted(made, "tflite")
    result = judged(made, {"x": data.numpy()}, contents, contents.data, tmp_path / "net.tflite")
    assert result.verdict is Verdict.PASS, result.reason


class ZeroBesideBound(nn.Module):
    """A sign, which the writer compares with its own 0, and a bound that is 0 as float16."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(nn.functional.lp_pool2d(x, 2.0, 2).amax((2, 3)), dim=-1)


def test_a_bound_that_is_zero_in_half_precision_is_no_other_zero_of_the_file(tmp_path: Path) -> None:
    """It was demanded to be 0, as the file has a 0 elsewhere: a right file was called wrong."""
    torch.manual_seed(0)
    module, data = nn.Sequential(nn.Conv2d(3, 8, 1), ZeroBesideBound()).eval(), torch.randn(2, 3, 8, 8)
    graph = optimize(capture(module, (data,), input_names=["x"], output_names=["y"]))
    (half,) = variants_of(graph, ("fp16",), Quantization(), Silent())
    contents = emitted(half, "tflite")
    result = judged(half, {"x": data.numpy()}, contents, contents.data, tmp_path / "net.tflite")
    assert result.verdict is Verdict.PASS, result.reason


class Factor(nn.Module):
    """A number of 8 or 16 bits without a sign, which the file has with a zero point."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y * 0.3 + y.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("variant", ["int8", "int16x8"])
@pytest.mark.parametrize(
    ("build", "name"),
    [(Factor, b"mul.b"), (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.PReLU(6), nn.Conv2d(6, 4, 1)), b"1.slope")],
)
def test_one_unit_of_the_scale_of_a_constant_in_other_integers_is_told(
    build: Callable[[], nn.Module], name: bytes, variant: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    made, inputs = quantized(build().eval(), torch.randn(1, 3, 8, 8), variant)
    contents = emitted(made, "tflite")
    assert judged(made, inputs, contents, contents.data, tmp_path / "net.tflite").verdict is Verdict.PASS
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(contents.data), 0))
    at = next(at for at, tensor in enumerate(model.subgraphs[0].tensors) if tensor.name == name)
    wrong = _shifted(model, at, scale=True)
    assert wrong is not None
    link = judged(made, inputs, contents, wrong, tmp_path / "net.tflite")
    assert link.verdict is Verdict.FAIL
    assert f"constant {name.decode()}: its scale is" in link.reason


EPS = 1e-3


def _between_two_floats(count: int) -> np.ndarray:
    """Factors of a normalization that are rounded to one float32 with the eps that is stated, and to the next with the
    nearest float32 to that eps."""
    factors = np.random.default_rng(0).uniform(0.5, 1.5, 1_000_000).astype(np.float32)
    exact, rounded = ((factors / np.sqrt(1 + eps)).astype(np.float32) for eps in (EPS, np.float64(np.float32(EPS))))
    return factors[exact != rounded][:count]


class Unfolded(nn.Module):
    """A normalization between two activations, which no layer takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16, eps=EPS), nn.Conv2d(16, 4, 1)
        self.norm.weight.data = torch.from_numpy(_between_two_floats(16))
        self.norm.bias.data.uniform_(-0.5, 0.5)
        self.norm.running_mean.uniform_(-0.5, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x).relu()).tanh())


@pytest.mark.parametrize("direction", [0, 1, -1])
def test_a_number_made_of_an_eps_is_rounded_once_and_the_eps_is_not(direction: int, tmp_path: Path) -> None:
    """An `.onnx` file has the eps in float32, and a product of it in a `.tflite` file was called wrong by a unit."""
    torch.manual_seed(0)
    data = torch.randn(1, 3, 8, 8)
    graph = optimize(capture(Unfolded().eval(), (data,), input_names=["x"], output_names=["y"]))
    (made,) = variants_of(graph, ("fp32",), Quantization(), Silent())
    contents = emitted(made, "tflite")
    scale = (_between_two_floats(16) / np.sqrt(1 + EPS)).astype(np.float32)
    assert contents.data.count(scale.tobytes()) == 1
    other = scale.copy()
    if direction:  # either neighbor of the first number: with the rounded eps one of them would be right
        other[0] = np.nextafter(other[0], np.float32(direction * np.inf))
    wrong = contents.data.replace(scale.tobytes(), other.tobytes())
    link = judged(made, {"x": data.numpy()}, contents, wrong, tmp_path / "net.tflite")
    assert link.verdict is (Verdict.FAIL if direction else Verdict.PASS), link.reason


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_biases_of_gates_need_no_solution_and_one_unit_of_them_is_told(
    kind: type[nn.LSTM | nn.GRU], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number that is solved for costs an evaluation of all steps: 23 s for 256 in 32 steps."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = kind(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.head(self.layer(x)[0])
            return result

    torch.manual_seed(0)
    made, inputs = quantized(Recurrent().eval(), torch.randn(1, 3, 3), "fp16")
    contents = emitted(made, "tflite")
    solving: list[int] = []
    monkeypatch.setattr(_judge, "solve", lambda *arguments: solving.append(1) or solve(*arguments))
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert (right.verdict, solving) == (Verdict.PASS, []), right.reason
    tensors = schema.ModelT.InitFromPackedBuf(contents.data, 0).subgraphs[0].tensors
    at = next(at for at, tensor in enumerate(tensors) if tensor.name.endswith(b"/input.bias"))
    wrong = _shifted(schema.ModelT.InitFromPackedBuf(contents.data, 0), at, scale=False)
    assert wrong is not None
    told = judged(made, inputs, contents, wrong, tmp_path / "net.tflite")
    assert told.verdict is Verdict.FAIL
    assert "input.bias: 1 of" in told.reason


def test_biases_of_gates_are_sums_of_two_or_either_each_gate_once() -> None:
    both = np.random.default_rng(0).standard_normal((1, 2, 3, 5))
    stated = both.astype(np.float32).reshape(1, 30)
    first, second = stated.astype(np.float64).reshape(2, 3, 5)
    gates = np.concatenate([second[2], (first + second)[0], first[1]])
    halves = gates.astype(np.float16)
    np.testing.assert_array_equal(of_gates(halves, stated), halves)
    np.testing.assert_array_equal(of_gates(gates[5:10].astype(np.float32), stated), gates[5:10].astype(np.float32))
    assert of_gates(np.concatenate([gates[:5], gates[:5]]).astype(np.float32), stated) is None
    off = halves.copy()
    off[7] = np.nextafter(off[7], np.float16(9))
    np.testing.assert_array_equal(of_gates(off, stated), halves)
