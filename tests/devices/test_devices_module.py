"""The torch rows: the float64 reference and float32, and the caller's module left as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao import quantization
from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators of programs

from edgeconv.core import Sample, Verdict
from edgeconv.devices import run_module

RANDOM = np.random.default_rng(5)
SAMPLES = tuple(
    Sample(f"s{index}", {"x": RANDOM.standard_normal((1, 3, 6, 6)).astype(np.float32)}) for index in range(2)
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.LeakyReLU(0.1))


class Returning(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, *arguments: torch.Tensor) -> object:
        return self.function(self, *arguments)  # type: ignore[operator]


def test_float64_is_float64_and_float32_is_near() -> None:
    module = network().eval()
    wide = run_module(module, SAMPLES, input_names=["x"], output_names=["y"])
    narrow = run_module(module, SAMPLES, input_names=["x"], output_names=["y"], dtype="float32")
    assert (wide.device, narrow.device, wide.artifact) == ("torch-float64", "torch", "")
    assert len(wide.outputs) == len(wide.latency_ms) == 2
    for sample, a, b in zip(SAMPLES, narrow.outputs, wide.outputs, strict=True):
        assert (a["y"].dtype, b["y"].dtype) == (np.float32, np.float64)
        np.testing.assert_allclose(a["y"], b["y"], rtol=1e-4, atol=1e-5)
        assert not np.array_equal(a["y"], b["y"])
        with torch.no_grad():
            np.testing.assert_array_equal(a["y"], module(torch.from_numpy(sample.inputs["x"])).numpy())


def test_the_callers_module_is_left_as_it_was() -> None:
    module = network().train()
    module(torch.randn(2, 3, 6, 6)).sum().backward()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    inputs = [sample.inputs["x"].copy() for sample in SAMPLES]
    run_module(module, SAMPLES, input_names=["x"], output_names=["y"])
    assert all(part.training for part in module.modules())
    after = module.state_dict()
    assert all(
        torch.equal(tensor, after[name]) and tensor.dtype == after[name].dtype for name, tensor in before.items()
    )
    assert all(torch.equal(one, parameter.grad) for one, parameter in zip(gradients, module.parameters(), strict=True))
    assert torch.get_default_dtype() == torch.float32
    assert all(np.array_equal(one, sample.inputs["x"]) for one, sample in zip(inputs, SAMPLES, strict=True))


def test_a_module_in_training_mode_runs_as_in_evaluation() -> None:
    runs = [
        run_module(module, SAMPLES, input_names=["x"], output_names=["y"])
        for module in (network().train(), network().eval())
    ]
    np.testing.assert_array_equal(runs[0].outputs[0]["y"], runs[1].outputs[0]["y"])


def test_nested_results_are_flattened_in_order() -> None:
    module = Returning(lambda self, x: {"a": x * self.scale, "b": (x.amax(), [x.argmax(), None])})
    run = run_module(module, SAMPLES, input_names=["x"], output_names=["a", "b", "c"])
    assert run.reason == ""
    first, x = run.outputs[0], SAMPLES[0].inputs["x"].astype(np.float64)
    np.testing.assert_array_equal(first["a"], x * 3)
    assert (float(first["b"]), int(first["c"]), first["c"].dtype) == (x.max(), x.argmax(), np.int64)


def test_inputs_are_taken_by_name() -> None:
    module = Returning(lambda self, a, b: a - b)
    samples = (Sample("s", {"b": np.ones(2, np.float32), "a": np.full(2, 5, np.float32)}),)
    run = run_module(module, samples, input_names=["a", "b"], output_names=["y"])
    assert run.outputs[0]["y"].tolist() == [4.0, 4.0]


def test_a_module_that_works_in_place_does_not_change_the_sample() -> None:
    before = SAMPLES[0].inputs["x"].copy()
    run_module(Returning(lambda self, x: x.mul_(2)), SAMPLES, input_names=["x"], output_names=["y"], dtype="float32")
    np.testing.assert_array_equal(SAMPLES[0].inputs["x"], before)


def test_constants_made_in_forward_and_plain_attributes_get_the_precision() -> None:
    module = Returning(lambda self, x: nn.functional.conv2d(x, self.kernel) + torch.full((1,), 0.1))
    module.kernel = torch.rand(2, 3, 1, 1)
    run = run_module(module, SAMPLES, input_names=["x"], output_names=["y"])
    assert run.reason == ""
    kernel = module.kernel.numpy().astype(np.float64)[:, :, 0, 0]
    expected = np.einsum("oc,nchw->nohw", kernel, SAMPLES[0].inputs["x"].astype(np.float64)) + 0.1
    np.testing.assert_allclose(run.outputs[0]["y"], expected, rtol=1e-14)
    assert module.kernel.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex32])
@pytest.mark.parametrize("where", ["parameter", "buffer", "attribute", "convolution"])
def test_complex_tensors_stay_complex_and_get_the_precision(where: str, dtype: torch.dtype) -> None:
    factor = torch.view_as_complex(torch.rand(3, 1, 1, 2)).to(dtype)
    module = Returning(lambda self, x: torch.view_as_real(self.factor.to(torch.complex64) * x))
    if where == "parameter":
        module.factor = nn.Parameter(factor)
    elif where == "buffer":
        module.register_buffer("factor", factor)
    elif where == "attribute":
        module.factor = factor
    else:  # whose weight and bias torch checks before any operator is dispatched
        module = Returning(lambda self, x: torch.view_as_real(self.layer(torch.complex(x, x))))
        module.layer = nn.Conv2d(3, 3, 1, groups=3, dtype=torch.complex64)
        nn.init.zeros_(module.layer.bias)
        factor = module.layer.weight.detach()[:, :, 0].to(torch.complex128) * (1 + 1j)
    run = run_module(module, SAMPLES[:1], input_names=["x"], output_names=["y"])
    assert run.reason == ""
    numbers = factor.to(torch.complex128).numpy() * SAMPLES[0].inputs["x"].astype(np.float64)
    expected = np.stack([numbers.real, numbers.imag], -1)
    np.testing.assert_allclose(run.outputs[0]["y"], expected, rtol=1e-13, atol=1e-14)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_operator_in_python_that_refuses_float64_gets_float32() -> None:
    """As torchao's `quantize_affine` does, which is no kernel of torch and asserts what it is given."""

    def rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32, f"Unsupported input dtype: {x.dtype}"
        return torch.round(x / scale) * scale

    library = torch.library.Library("edgeconv_narrow", "DEF")
    library.define("rounded(Tensor x, Tensor scale) -> Tensor")
    library.impl("rounded", rounded, "CompositeImplicitAutograd")
    call = torch.ops.edgeconv_narrow.rounded.default
    module = Returning(lambda self, x: call(x, self.scale) / 3 + x * 1e-9)
    run = run_module(module, SAMPLES[:1], input_names=["x"], output_names=["y"])
    assert run.verdict is not Verdict.FAIL, run.reason
    x = SAMPLES[0].inputs["x"].astype(np.float64)
    np.testing.assert_allclose(run.outputs[0]["y"], np.round(x / 3) + x * 1e-9, rtol=1e-12, atol=1e-15)
    library._destroy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("channels", [False, True])
def test_a_fake_quantization_that_is_fused_with_its_observer_is_of_float64(channels: bool) -> None:
    """torch's kernel computes in float32, where a number just below a half of steps is a half of steps."""
    kind = quantization.MovingAveragePerChannelMinMaxObserver if channels else quantization.MovingAverageMinMaxObserver
    scheme = torch.per_channel_symmetric if channels else torch.per_tensor_affine
    limits = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}
    part = quantization.FusedMovingAvgObsFakeQuantize(kind, **limits, qscheme=scheme)
    part(torch.tensor([[-1.0, 1.0], [-3.0, 2.0]]))
    part.eval().apply(quantization.disable_observer)
    x = np.array([[0.3, -0.77], [1.5, 7.0]])
    scale = part.scale.double().numpy().reshape(-1, 1)
    x[0, 0] = 10.5 * scale[0, 0] * (1 - 1e-9)
    module = Returning(lambda self, x: self.part(x * self.scale))
    module.part, module.scale = part, nn.Parameter(torch.tensor(1.0))
    run = run_module(module, (Sample("s", {"x": x.astype(np.float32)}),), input_names=["x"], output_names=["y"])
    zero, seen = part.zero_point.double().numpy().reshape(-1, 1), x.astype(np.float32).astype(np.float64)
    expected = (np.clip(np.round(seen / scale) + zero, -128, 127) - zero) * scale
    np.testing.assert_allclose(run.outputs[0]["y"], expected, rtol=1e-12)
    part.apply(quantization.disable_fake_quant)
    run = run_module(module, (Sample("s", {"x": x.astype(np.float32)}),), input_names=["x"], output_names=["y"])
    np.testing.assert_array_equal(run.outputs[0]["y"], seen)


def _programs_rounding(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, *, by_tensors: bool) -> torch.Tensor:
    quantize, dequantize = (
        getattr(getattr(torch.ops.quantized_decomposed, f"{name}_per_tensor"), "tensor" if by_tensors else "default")
        for name in ("quantize", "dequantize")
    )
    stated = (scale, zero) if by_tensors else (float(scale), int(zero))
    return dequantize(quantize(x, *stated, -128, 127, torch.int8), *stated, -128, 127, torch.int8)


def _programs_rounding_by_channel(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    operators = torch.ops.quantized_decomposed
    stated = (scale.reshape(1), zero.reshape(1), 0, -128, 127, torch.int8)
    return operators.dequantize_per_channel(operators.quantize_per_channel(x, *stated), *stated)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "function",
    [
        lambda x, scale, zero: torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), -128, 127),
        lambda x, scale, zero: torch.fake_quantize_per_tensor_affine(x, scale, zero, -128, 127),
        lambda x, scale, zero: torch.fake_quantize_per_channel_affine(
            x, scale.reshape(1), zero.reshape(1), 0, -128, 127
        ),
        partial(_programs_rounding, by_tensors=False),
        partial(_programs_rounding, by_tensors=True),
        _programs_rounding_by_channel,
    ],
    ids=["number", "tensors", "channels", "program-number", "program-tensors", "program-channels"],
)
def test_every_fake_quantization_of_the_reference_is_of_float64(function: Callable[..., torch.Tensor]) -> None:
    """Beside a tie by less than float32's rounding, where torch's kernels, or their inverse of the scale, pass it."""
    scale, zero, halves = np.float64(np.float32(0.0371)), 3, np.arange(-120, 120) + 0.5
    x = halves[None] * scale * (1 + np.tile([1e-9, -1e-9], 120))

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return function(self.x + 0 * x, self.steps, self.zero)

    module = Returning(forward)
    module.x, module.steps = torch.from_numpy(x), torch.tensor(scale, dtype=torch.float32)
    module.zero = torch.tensor(zero, dtype=torch.int32)
    sample = Sample("s", {"x": np.zeros((1, 1), np.float32)})
    run = run_module(module, (sample,), input_names=["x"], output_names=["y"])
    assert run.verdict is not Verdict.FAIL, run.reason
    expected = (np.clip(np.round(x / scale) + zero, -128, 127) - zero) * scale
    np.testing.assert_allclose(run.outputs[0]["y"], expected, rtol=1e-12)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("limits", [{}, {"posinf": 7.0}])
def test_an_infinity_becomes_the_largest_number_that_a_file_has(limits: dict[str, float], in_place: bool) -> None:
    """The file has float32's: the largest float64 in its place would make every right file wrong."""
    function = torch.Tensor.nan_to_num_ if in_place else torch.Tensor.nan_to_num
    module = Returning(lambda self, x: function(x / 0, **limits))
    sample = Sample("s", {"x": np.array([[-1.0, 0.0, 1.0]], np.float32)})
    run = run_module(module, [sample], input_names=["x"], output_names=["y"])
    largest = float(np.finfo(np.float32).max)
    np.testing.assert_array_equal(run.outputs[0]["y"], [[-largest, 0.0, limits.get("posinf", largest)]])


def test_a_module_with_weight_norm_runs() -> None:
    module = nn.utils.weight_norm(nn.Conv2d(3, 4, 3))
    module(torch.randn(1, 3, 6, 6))
    run = run_module(module, SAMPLES, input_names=["x"], output_names=["y"])
    assert run.reason == ""
    with torch.no_grad():
        expected = module(torch.from_numpy(SAMPLES[0].inputs["x"])).numpy()
    np.testing.assert_allclose(run.outputs[0]["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda self, x: x @ torch.ones(5, 5), "sample 's0': RuntimeError: "),
        (lambda self, x: (x, x), "returned 2 tensors, but 1 outputs are named"),
        (lambda self, x: {"y": "text"}, "returned a str where a tensor was expected"),
    ],
)
def test_a_module_that_fails_is_a_failed_run(function: object, words: str) -> None:
    run = run_module(Returning(function), SAMPLES, input_names=["x"], output_names=["y"])
    assert run.verdict is Verdict.FAIL
    assert words in run.reason
    assert "\n" not in run.reason
    assert run.outputs == ()
    assert torch.get_default_dtype() == torch.float32


def test_another_number_of_inputs_is_a_failed_run() -> None:
    run = run_module(network(), SAMPLES, input_names=["x", "z"], output_names=["y"])
    assert run.verdict is Verdict.FAIL
    assert "['x', 'z']" in run.reason
