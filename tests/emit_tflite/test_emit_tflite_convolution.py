"""Convolutions of every shape, against torch in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

_FEW = settings(deadline=None, max_examples=25)


def _check(tflite: Any, operator: str, layer: Any, shape: tuple[int, ...], **more: Any) -> Any:
    """Checks a layer against the ONNX node that it is."""
    constants = [parameter.detach().numpy() for parameter in (layer.weight, layer.bias) if parameter is not None]
    image = torch.zeros(shape)
    model = tflite.node_of(
        operator,
        {"input": image.numpy()},
        constants,
        layer(image).shape,
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        pads=[*layer.padding, *layer.padding],
        dilations=list(layer.dilation),
        group=layer.groups,
        **more,
    )
    return tflite.check(layer, shape, model=model, layouts=("nhwc",))


@_FEW
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(9, 13), st.integers(9, 13)),
    kind=st.sampled_from(["plain", "depthwise", "multiplier", "grouped"]),
    bias=st.booleans(),
)
def test_convolutions_of_any_window_run_on_every_runtime(
    tflite: Any,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
    kind: str,
    bias: bool,
) -> None:
    outputs, groups = {"plain": (5, 1), "depthwise": (4, 4), "multiplier": (12, 4), "grouped": (6, 2)}[kind]
    layer = nn.Conv2d(4, outputs, kernel, stride, padding, dilation, groups, bias)
    runs = _check(tflite, "Conv", layer, (2, 4, *size))
    operator = "DEPTHWISE_CONV_2D" if kind in ("depthwise", "multiplier") else "CONV_2D"
    assert [name for name in runs["nhwc"].operators if name != "PAD"] == [operator]


@_FEW
@given(
    kernel=st.tuples(st.integers(4, 15), st.integers(4, 15)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    less=st.integers(0, 14),
    size=st.tuples(st.integers(11, 18), st.integers(11, 18)),
    multiplier=st.integers(1, 2),
    bias=st.booleans(),
)
def test_large_depthwise_kernels(
    tflite: Any,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    less: int,
    size: tuple[int, int],
    multiplier: int,
    bias: bool,
) -> None:
    padding = tuple(max(0, d * (k - 1) // 2 - less) for k, d in zip(kernel, dilation, strict=True))
    assume(all(s + 2 * p > d * (k - 1) for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    layer = nn.Conv2d(3, 3 * multiplier, kernel, stride, padding, dilation, 3, bias)
    _check(tflite, "Conv", layer, (2, 3, *size))


@pytest.mark.parametrize("is_padded", [True, False], ids=["padded", "valid"])
@pytest.mark.parametrize(
    ("kernel", "parts"),
    [((5, 5), 1), ((7, 7), 3), ((9, 9), 4), ((11, 11), 6), ((1, 33), 2), ((13, 13), 9), ((21, 21), 21), ((31, 31), 44)],
)
def test_depthwise_kernels_have_at_most_25_taps(
    tflite: Any, kernel: tuple[int, int], parts: int, is_padded: bool
) -> None:
    """More are convolved channel by channel in XNNPACK, several times slower."""
    padding = (kernel[0] // 2, kernel[1] // 2) if is_padded else 0
    layer = nn.Conv2d(4, 4, kernel, padding=padding, groups=4)
    operators = tflite.check(nn.Sequential(layer, nn.ReLU()), (1, 4, 32, 36))["nhwc"].operators
    assert operators.count("DEPTHWISE_CONV_2D") == parts
    assert operators.count("ADD") == parts - 1
    assert {*operators} <= {"ADD", "DEPTHWISE_CONV_2D", "PAD" if is_padded else "SLICE"}


@_FEW
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.integers(0, 2),
    extra=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
)
def test_transposed_convolutions_of_any_window_run_on_every_runtime(
    tflite: Any,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: int,
    extra: int,
    dilation: int,
    groups: int,
) -> None:
    assume(extra < min(stride))
    assume(padding <= dilation * (min(kernel) - 1))
    layer = nn.ConvTranspose2d(4, 8, kernel, stride, padding, extra, groups, True, dilation)
    _check(tflite, "ConvTranspose", layer, (1, 4, 5, 6), output_padding=[extra, extra])


@pytest.mark.parametrize(
    ("stride", "padding", "groups"),
    [((2, 2), (3, 2), 1), ((1, 1), (4, 3), 1), ((2, 3), (0, 5), 1), ((2, 1), (6, 2), 2), ((3, 3), (5, 7), 4)],
)
def test_transposed_convolutions_whose_padding_cuts_off_whole_inputs(
    tflite: Any, stride: tuple[int, int], padding: tuple[int, int], groups: int
) -> None:
    layer = nn.ConvTranspose2d(4, 8, (3, 2), stride, padding, groups=groups)
    _check(tflite, "ConvTranspose", layer, (1, 4, 9, 10))


@pytest.mark.parametrize(
    ("size", "stride", "padded"),
    [(9, 2, False), (8, 2, True), (8, 1, False)],
    ids=["odd: SAME is torch's", "even: SAME would pad at the end", "stride 1"],
)
def test_torch_padding_is_kept_where_same_differs(tflite: Any, size: int, stride: int, padded: bool) -> None:
    runs = _check(tflite, "Conv", nn.Conv2d(3, 4, 3, stride, 1), (1, 3, size, size))
    assert ("PAD" in runs["nhwc"].operators) == padded


def test_same_is_not_used_where_windows_end_before_the_input(tflite: Any) -> None:
    """TensorFlow Lite 2.14 computes such a SAME wrongly, with an error of the order of the values."""
    runs = _check(tflite, "Conv", nn.Conv2d(4, 5, (1, 3), (2, 1), (0, 1)), (2, 4, 12, 11))
    assert runs["nhwc"].operators == ["PAD", "CONV_2D"]


def test_padding_same_of_an_even_kernel(tflite: Any) -> None:
    tflite.check(nn.Conv2d(3, 4, 4, padding="same"), (1, 3, 9, 9))


def test_asymmetric_padding_runs_on_every_runtime(tflite: Any) -> None:
    tflite.check(nn.Sequential(nn.ZeroPad2d((1, 0, 2, 3)), nn.Conv2d(3, 4, 3)), (1, 3, 8, 8))


def test_transposed_convolution_is_a_convolution_to_subpixels(tflite: Any) -> None:
    expected = {
        nn.ConvTranspose2d(4, 3, 2, 2): ["CONV_2D", "DEPTH_TO_SPACE"],
        nn.ConvTranspose2d(4, 3, 3, 2, 1, 1): ["CONV_2D", "DEPTH_TO_SPACE"],
        nn.ConvTranspose2d(4, 3, 4, 2, 1): ["PAD", "CONV_2D", "DEPTH_TO_SPACE", "SLICE"],
        nn.ConvTranspose2d(4, 3, 3, (2, 3)): ["TRANSPOSE_CONV"],
    }
    for layer, operators in expected.items():
        assert _check(tflite, "ConvTranspose", layer, (1, 4, 5, 5))["nhwc"].operators == operators


def test_what_is_clamped_after_subpixels_is_clamped_by_the_convolution(tflite: Any) -> None:
    expected = {
        nn.ConvTranspose2d(4, 3, 2, 2): ["CONV_2D", "DEPTH_TO_SPACE"],
        nn.ConvTranspose2d(4, 3, 4, 2, 1): ["PAD", "CONV_2D", "DEPTH_TO_SPACE", "SLICE"],
    }
    for layer, operators in expected.items():
        runs = tflite.check(nn.Sequential(layer, nn.ReLU6()), (1, 4, 5, 5))
        assert runs["nhwc"].operators == operators


def test_what_others_read_before_the_clamp_stays_unclamped(tflite: Any) -> None:
    class Both(nn.ConvTranspose2d):
        def forward(self, x: torch.Tensor, output_size: Any = None) -> Any:
            y = super().forward(x, output_size)
            return torch.relu(y), y

    runs = tflite.check(Both(4, 3, 2, 2), (1, 4, 5, 5))
    assert "RELU" in runs["nhwc"].operators


def test_one_dimensional_chain_reshapes_only_at_its_ends(tflite: Any) -> None:
    layers = [nn.Conv1d(6, 8, 3, 2, 1), nn.ReLU(), nn.Conv1d(8, 4, 5, 1, 4, dilation=2), nn.LeakyReLU(0.1)]
    runs = tflite.check(nn.Sequential(*layers, nn.MaxPool1d(2), nn.Conv1d(4, 4, 3)), (1, 6, 21))
    inner = runs["nhwc"].operators[2:-2]
    assert "RESHAPE" not in inner
    assert "TRANSPOSE" not in inner


def test_pixel_shuffle_is_absorbed_by_the_convolution_before_it(tflite: Any) -> None:
    runs = tflite.check(nn.Sequential(nn.Conv2d(6, 12, 3), nn.PixelShuffle(2)), (1, 6, 9, 10))
    assert runs["nhwc"].operators == ["CONV_2D", "DEPTH_TO_SPACE"]


def test_pixel_shuffle_alone(tflite: Any) -> None:
    tflite.check(nn.PixelShuffle(2), (1, 8, 5, 6))
    tflite.check(nn.PixelUnshuffle(2), (1, 3, 8, 10))


def test_batch_normalization_that_was_not_folded(tflite: Any) -> None:
    layer = nn.BatchNorm2d(4)
    with torch.no_grad():
        for tensor in (layer.running_mean, layer.weight, layer.bias):
            tensor.normal_()  # type: ignore[union-attr]
        layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    assert tflite.check(layer, (1, 4, 5, 6))["nhwc"].operators == ["DEPTHWISE_CONV_2D"]


@pytest.mark.parametrize("bias", [(), ((6,),)])
@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        ((2, 4, 8, 9), (6, 4, 3, 2), {"padding": 1}),
        ((2, 4, 8, 9), (6, 2, 3, 3), {"groups": 2, "padding": 2, "dilation": 2}),
        ((1, 6, 8, 9), (6, 1, 4, 4), {"groups": 6}),
        ((2, 3, 8, 9), (6, 1, 3, 3), {"groups": 3, "stride": 2}),
        ((2, 4, 9), (6, 4, 3), {"padding": 1}),
        ((2, 3, 9), (6, 1, 3), {"groups": 3, "stride": 2}),
    ],
    ids=["plain", "grouped", "depthwise", "multiplier", "of rank 3", "depthwise of rank 3"],
)
def test_weights_that_are_computed(
    tflite: Any, x: tuple[int, ...], weight: tuple[int, ...], options: dict[str, int], bias: tuple[tuple[int, ...], ...]
) -> None:
    """Dynamic convolutions; of one channel per group, the correlation of a siamese tracker."""
    convolve = {3: torch.nn.functional.conv1d, 4: torch.nn.functional.conv2d}[len(x)]
    tflite.check(tflite.Function(lambda *tensors: convolve(*tensors, **options)), x, weight, *bias)
