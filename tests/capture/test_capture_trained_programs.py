"""Programs and modules of integers: of torch's export quantization (pt2e), of FX, and converted; both files agree.

Members: programs that torchao 0.18 wrote (`trained_programs`: quantizers of XNNPACK, int8 per channel from -127 to 127,
and of x86, uint8), read without torchao; graphs of torch's own operators with scales as numbers and as tensors,
integers as constants and weights that are still rounded, int32 biases, shared rounded values; recorded fake
quantization; modules that ``convert``, ``convert_fx`` and ``convert_to_reference_fx`` made, by part and by operator.
Observers beside fake quantization. Refused: scales that are computed, per token, by blocks, observing ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn
from torch.ao import quantization as tq
from torch.ao.nn import quantized
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization.quantize_fx import convert_fx, convert_to_reference_fx, prepare_qat_fx
from torch.nn import functional
from trained import CONFIGS, computed, trained

import edgeconv
from edgeconv.capture.torch._converted import as_floats

pytestmark = pytest.mark.filterwarnings("ignore")

_Q = torch.ops.quantized_decomposed
# torch.export.save of torch 2.13.0, of what prepare_qat_pt2e of torchao 0.18.0, six batches of noise and convert_pt2e
# made of convolutions with BatchNorm and clamps, a depthwise one, a sum, a join, a pool and a Linear. Quantizers:
# XNNPACKQuantizer of executorch with get_symmetric_quantization_config(is_per_channel=True, is_qat=True), and
# X86InductorQuantizer of torchao with get_default_x86_inductor_quantization_config(is_qat=True).
_PROGRAMS = Path(__file__).parent / "trained_programs"
_IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def _assert_within_a_step(
    module: Any, x: Tensor, expected: Tensor, step: float, folder: Path, *, exact: bool = True
) -> edgeconv.ExportResult:
    """Operator by operator the `.onnx` file gives the module's numbers; runtimes' kernels are within a step."""
    result = edgeconv.export(module, (x,), folder, name="net", variants="int8")
    numbers = expected.detach().numpy()
    assert len(result.artifacts) == 2
    by_graph = np.abs(computed(result.artifacts[0], x, by_graph=True) - numbers) / step
    assert by_graph.max() < (0.01 if exact else 1.01)
    for artifact in result.artifacts:
        assert (np.abs(computed(artifact, x) - numbers) / step).max() < 1.01, artifact.path
    return result


def _step_of(numbers: Tensor) -> float:
    return float(np.diff(np.unique(numbers.detach().numpy())).min())


def _float_notes(result: edgeconv.ExportResult) -> list[str]:
    return [note for note in result.notes if "stays float" in note]


def test_a_program_that_torchao_converted_for_xnnpack(tmp_path: Path) -> None:
    program = torch.export.load(_PROGRAMS / "xnnpack_converted.pt2")
    expected = program.module()(_IMAGES)
    result = _assert_within_a_step(program, _IMAGES, expected, _step_of(expected), tmp_path)
    assert not _float_notes(result)


def test_a_program_that_torchao_converted_for_x86(tmp_path: Path) -> None:
    """It rounds no output: the last layer is of floats, of which all operands are integers."""
    program = torch.export.load(_PROGRAMS / "x86_converted.pt2")
    _assert_within_a_step(program, _IMAGES, program.module()(_IMAGES), 1e-4, tmp_path)


class _Plain(nn.Module):
    """A layer between rounded values, as programs of export quantization are."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("integers", torch.randint(-127, 128, (4, 3, 3, 3), generator=generator, dtype=torch.int8))
        self.register_buffer("scales", torch.rand(4, generator=generator) * 0.01 + 0.001)
        self.register_buffer("zeros", torch.zeros(4, dtype=torch.int64))
        self.register_buffer("bias", torch.randint(-900, 900, (4,), generator=generator, dtype=torch.int32))
        self.register_buffer("one", torch.tensor(0.03))
        self.register_buffer("none", torch.tensor(-7))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _by_numbers(x: Tensor, scale: float, zero: int, low: int, high: int, dtype: torch.dtype) -> Tensor:
    integers = _Q.quantize_per_tensor(x, scale, zero, low, high, dtype)
    result: Tensor = _Q.dequantize_per_tensor(integers, scale, zero, low, high, dtype)
    return result


def _signed(x: Tensor, scale: float, zero: int = -7) -> Tensor:
    return _by_numbers(x, scale, zero, -128, 127, torch.int8)


def _by_tensors(self: Any, x: Tensor) -> Tensor:
    parameters = (self.one, self.none, -128, 127, torch.int8)
    result: Tensor = _Q.dequantize_per_tensor.tensor(_Q.quantize_per_tensor.tensor(x, *parameters), *parameters)
    return result


def _weight(self: Any) -> Tensor:
    result: Tensor = _Q.dequantize_per_channel(self.integers, self.scales, self.zeros, 0, -127, 127, torch.int8)
    return result


def _unfolded(self: Any) -> Tensor:
    parameters = (self.scales, self.zeros, 0, -127, 127, torch.int8)
    result: Tensor = _Q.dequantize_per_channel(
        _Q.quantize_per_channel(self.integers * 0.0039, *parameters), *parameters
    )
    return result


def _bias(self: Any) -> Tensor:
    scales = self.scales * 0.03
    result: Tensor = _Q.dequantize_per_channel(self.bias, scales, self.zeros, 0, -(2**31), 2**31 - 1, torch.int32)
    return result


BODIES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "numbers": lambda self, x: _signed(functional.conv2d(_signed(x, 0.03), _weight(self)), 0.06),
    "tensors": lambda self, x: _signed(functional.conv2d(_by_tensors(self, x), _weight(self)), 0.06),
    "uint8": lambda self, x: _by_numbers(
        functional.conv2d(_by_numbers(x, 0.03, 120, 0, 255, torch.uint8), _weight(self)), 0.06, 128, 0, 255, torch.uint8
    ),
    "few integers": lambda self, x: _by_numbers(
        functional.conv2d(_signed(x, 0.03), _weight(self)), 0.06, 0, -127, 100, torch.int8
    ),
    "unfolded weight": lambda self, x: _signed(functional.conv2d(_signed(x, 0.03), _unfolded(self)), 0.06),
    "int32 bias": lambda self, x: _signed(functional.conv2d(_signed(x, 0.03), _weight(self), _bias(self)), 0.06),
    "rectified": lambda self, x: _signed(functional.conv2d(_signed(x, 0.03), _weight(self)).relu(), 0.03, -128),
    "shared": lambda self, x: _signed(
        (y := _signed(functional.conv2d(_signed(x, 0.03), _weight(self)), 0.06)) + _signed(y.relu(), 0.06), 0.1
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_programs_of_torchs_own_operators(name: str, tmp_path: Path) -> None:
    module = _Plain(BODIES[name])
    expected = module(_IMAGES)
    result = _assert_within_a_step(module, _IMAGES, expected, _step_of(expected), tmp_path)
    assert not _float_notes(result)


def test_weights_alone_that_are_stored_as_integers_are_weights(tmp_path: Path) -> None:
    module = _Plain(lambda self, x: functional.conv2d(x, _weight(self)))
    for artifact in edgeconv.export(module, (_IMAGES,), tmp_path, name="net").artifacts:
        np.testing.assert_allclose(computed(artifact, _IMAGES), module(_IMAGES).numpy(), atol=1e-5)


def _dynamic(self: Any, x: Tensor) -> Tensor:
    scale, zero = _Q.choose_qparams(x, -128, 127, 1e-5, torch.int8)
    result: Tensor = _Q.dequantize_per_tensor.tensor(
        _Q.quantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8), scale, zero, -128, 127, torch.int8
    )
    return result


def _of_tokens(self: Any, x: Tensor) -> Tensor:
    scales, zeros = torch.full((2, 3, 8, 1), 0.03), torch.zeros(2, 3, 8, 1, dtype=torch.int64)
    integers = _Q.quantize_per_token(x, scales, zeros, -128, 127, torch.int8)
    result: Tensor = _Q.dequantize_per_token(integers, scales, zeros, -128, 127, torch.int8, torch.float32)
    return result


@pytest.mark.parametrize(
    ("body", "told"),
    [(_dynamic, "by scales that are computed anew for each input"), (_of_tokens, "edgeconv cannot translate")],
    ids=["dynamic", "per token"],
)
def test_scales_that_files_have_not_are_refused(
    body: Callable[[Any, Tensor], Tensor], told: str, tmp_path: Path
) -> None:
    with pytest.raises(edgeconv.EdgeconvError, match=told):
        edgeconv.export(_Plain(body), (_IMAGES,), tmp_path, name="net", variants="int8")


def _recorded(*, observes: bool) -> torch.export.ExportedProgram:
    """A prepared module as a program, which records what torch has fused: observing and rounding in one operator."""
    net = trained(nn.Sequential(tq.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU()), CONFIGS["qnnpack"], (3, 8, 8))
    if observes:
        net.apply(tq.enable_observer)
    return torch.export.export(net, (_IMAGES,))


def test_a_program_of_a_prepared_module(tmp_path: Path) -> None:
    program = _recorded(observes=False)
    assert any("fused_moving_avg" in str(node.target) for node in program.graph.nodes)
    expected = program.module()(_IMAGES)
    _assert_within_a_step(program, _IMAGES, expected, _step_of(expected), tmp_path)


def test_a_program_that_still_observes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(edgeconv.EdgeconvError, match="still observes"):
        edgeconv.export(_recorded(observes=True), (_IMAGES,), tmp_path, name="net", variants="int8")


class _Classifier(nn.Module):
    """Every kind of part that torch.ao observes by itself, and a pool, which it does not."""

    def __init__(self, *, by_functional: bool) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b, self.act = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Hardswish()
        self.sum = FloatFunctional() if by_functional else None
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.act(self.b(x))
        y = y + x if self.sum is None else self.sum.add(y, x)
        result: Tensor = self.fc(self.pool(y).flatten(1))
        return result


def _prepared(*, by_fx: bool, backend: str = "qnnpack") -> Any:
    torch.manual_seed(0)
    net: nn.Module = _Classifier(by_functional=not by_fx).train()
    if by_fx:
        prepared: Any = prepare_qat_fx(net, tq.get_default_qat_qconfig_mapping(backend), (_IMAGES,))
        for _ in range(4):
            prepared(torch.randn(2, 3, 8, 8))
        return prepared.eval().apply(tq.disable_observer)
    net = tq.QuantWrapper(tq.fuse_modules_qat(net, [["a.0", "a.1", "a.2"]]))
    return trained(net, CONFIGS["qnnpack"], (3, 8, 8))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's kernels for the default configurations; those of x86 saturate by themselves."""
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")


@pytest.mark.parametrize("by_fx", [False, True], ids=["eager", "fx"])
def test_modules_that_torch_ao_converted_give_their_own_integers(by_fx: bool, engine: None, tmp_path: Path) -> None:
    prepared = _prepared(by_fx=by_fx)
    converted = (convert_fx if by_fx else tq.convert)(prepared)
    expected = converted(_IMAGES)
    result = _assert_within_a_step(
        converted, _IMAGES, expected, float(converted.get_submodule("fc" if by_fx else "module.fc").scale), tmp_path,
        exact=False,
    )  # fmt: skip
    assert not _float_notes(result)
    assert torch.equal(converted(_IMAGES), expected)  # it is left as it was


class _Scaled(nn.Module):
    """A product with a number, of which torch's quantized operators say no scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x) * 0.2)
        return result


def test_a_converted_product_with_a_number_rounds_nothing(engine: None) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    prepared: Any = prepare_qat_fx(_Scaled().train(), tq.get_default_qat_qconfig_mapping("qnnpack"), (x,))
    prepared(x)
    converted = convert_fx(prepared.eval().apply(tq.disable_observer))
    assert any("quantized.mul" in str(node.target) for node in converted.graph.nodes)
    torch.testing.assert_close(as_floats(converted)(x), converted(x), rtol=0, atol=1e-6 + float(converted.second.scale))


@pytest.mark.parametrize("backend", ["qnnpack", "x86"])
def test_reference_modules_give_their_own_integers(backend: str, tmp_path: Path) -> None:
    """They round weights at each call, per tensor (qnnpack) or per channel (x86), and results in between."""
    module = convert_to_reference_fx(_prepared(by_fx=True, backend=backend))
    expected = module(_IMAGES)
    result = _assert_within_a_step(module, _IMAGES, expected, _step_of(expected), tmp_path)
    assert not _float_notes(result)
    assert not [note for note in result.notes if "rounded to the scale of what it reads" in note]  # it rounds its pool


_LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, 2, 1, 1, 2), (2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, dilation=2, bias=False), (2, 4, 9, 9)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1), (2, 4, 9)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2), (2, 4, 5, 5)),
    "Linear": (lambda: nn.Linear(7, 5), (3, 7)),
}


@pytest.mark.parametrize("name", _LAYERS)
def test_each_reference_layer_has_a_form_of_floats(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = _LAYERS[name][0](), _LAYERS[name][1]
    scheme = {"qscheme": torch.per_tensor_affine, "dtype": torch.qint8, "scale": 0.004, "zero_point": 3}
    part = getattr(quantized.reference, name).from_float(layer, scheme)
    module, x = nn.Sequential(part), torch.randn(shape)
    assert torch.equal(as_floats(module)(x), module(x))
    assert (as_floats(module)(x) - layer(x)).abs().max() > 1e-3  # the weight is rounded


def test_a_module_that_fx_prepared(tmp_path: Path) -> None:
    prepared = _prepared(by_fx=True)
    expected = prepared(_IMAGES)
    assert not _float_notes(_assert_within_a_step(prepared, _IMAGES, expected, _step_of(expected), tmp_path))


def _converted(part: nn.Module, shape: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net: Any = nn.Sequential(tq.QuantStub(), part, tq.DeQuantStub()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.qconfig = tq.get_default_qconfig("qnnpack")
    prepared, x = tq.prepare(net), torch.randn(shape)
    prepared(x)
    return tq.convert(prepared), x


PARTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, bias=False), (2, 4, 9, 9)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5, 5)),
    "Linear": (lambda: nn.Linear(7, 5), (3, 7)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4), (2, 4, 5, 5)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 5, 5)),
    "LayerNorm": (lambda: nn.LayerNorm(7), (3, 7)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), (2, 4, 5, 5)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), (3, 7)),
    "Hardswish": (nn.Hardswish, (3, 7)),
    "ELU": (nn.ELU, (3, 7)),
    "ReLU6": (nn.ReLU6, (3, 7)),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_converted_part_has_a_form_of_floats(name: str, engine: None) -> None:
    """Both round real numbers that are equal but for the last bits: one step apart at ties."""
    build, shape = PARTS[name]
    module, x = _converted(build(), shape)
    scale = getattr(module[1], "scale", None) or getattr(module[1], "output_scale", 0.05)
    distance = (as_floats(module)(x) - module(x)).abs() / float(scale)
    assert distance.max() < 1.01
    assert (distance > 0.01).float().mean() < 0.1


@pytest.mark.parametrize("part", [quantized.Sigmoid(1 / 256, 0), quantized.Softmax(1, 1 / 256, 0)], ids=str)
def test_each_part_with_a_fixed_scale_has_a_form_of_floats(part: nn.Module, engine: None) -> None:
    module = nn.Sequential(quantized.Quantize(0.02, 120, torch.quint8), part, quantized.DeQuantize())
    distance = (as_floats(module)(_IMAGES) - module(_IMAGES)).abs() * 256
    assert distance.max() < 1.01
    assert (distance > 0.01).float().mean() < 0.1


@pytest.mark.parametrize("backend", ["qnnpack", "x86"])
def test_an_observer_beside_fake_quantizations_rounds_nothing(backend: str, tmp_path: Path) -> None:
    """torch's mapping for training gives PReLU's result an observer, which hands on what it gets and goes on counting.

    It was refused as a module that calibrates.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.Conv2d(4, 4, 3)).train()
    prepared: Any = prepare_qat_fx(net, tq.get_default_qat_qconfig_mapping(backend), (_IMAGES,))
    prepared(_IMAGES)
    prepared.eval().apply(tq.disable_observer)
    expected, counted = prepared(_IMAGES), {name: item.clone() for name, item in prepared.state_dict().items()}
    assert any(name.endswith("histogram") for name in counted)
    _assert_within_a_step(prepared, _IMAGES, expected, _step_of(expected), tmp_path)
    assert all(torch.equal(item, counted[name]) for name, item in prepared.state_dict().items())
