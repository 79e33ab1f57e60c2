"""Convolutions and poolings: every combination of window attributes, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_graphs import assert_as_onnx, assert_same, compute
from torch.nn import functional as F  # noqa: N812

QUICK = settings(deadline=None, max_examples=25)


@st.composite
def windows(draw: st.DrawFn, *, dilated: bool = True) -> tuple[list[int], dict[str, Any]]:
    """Spatial sizes, and the attributes of a window that fits into them."""
    rank = draw(st.integers(1, 2))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dilations = draw(st.lists(st.integers(1, 2 if dilated else 1), min_size=rank, max_size=rank))
    extents = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)),
        "dilations": dilations,
    }
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if auto_pad == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, size - 1)) for size in (*kernel, *kernel)]
    else:
        attributes["auto_pad"] = auto_pad
    return [extent + draw(st.integers(0, 6)) for extent in extents], attributes


@QUICK
@given(windows(), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.booleans(), st.integers(0, 99))
def test_convolution_is_as_in_onnx(
    window: tuple[list[int], dict[str, Any]], group: int, per_in: int, per_out: int, bias: bool, seed: int
) -> None:
    sizes, attributes = window
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, group * per_in, *sizes))
    weight = rng.normal(size=(group * per_out, per_in, *attributes["kernel_shape"]))
    shift = [rng.normal(size=group * per_out)] if bias else []
    assert_as_onnx("Conv", x, weight, *shift, group=group, **attributes)


@QUICK
@given(windows(), st.booleans(), st.integers(0, 99))
def test_max_pooling_and_its_indices_agree_with_torch(
    window: tuple[list[int], dict[str, Any]], ceil: bool, seed: int
) -> None:
    sizes, attributes = window
    x = np.random.default_rng(seed).normal(size=(2, 3, *sizes))
    pooled, indices = compute("MaxPool", x, outputs=2, ceil_mode=int(ceil), **attributes)
    assert_same(compute("MaxPool", x, ceil_mode=int(ceil), **attributes)[0], pooled)
    np.testing.assert_array_equal(x.reshape(-1)[indices], pooled)
    if "pads" in attributes and attributes["pads"][: len(sizes)] == attributes["pads"][len(sizes) :]:
        half = [2 * pad <= size for pad, size in zip(attributes["pads"], attributes["kernel_shape"], strict=False)]
        assume(all(half))  # torch's limit
        function = (F.max_pool1d, F.max_pool2d)[len(sizes) - 1]
        pads, steps = attributes["pads"][: len(sizes)], attributes["dilations"]
        expected = function(torch.from_numpy(x), attributes["kernel_shape"], attributes["strides"], pads, steps, ceil)
        assert_same(pooled, expected.numpy())


@QUICK
@given(windows(dilated=False), st.booleans(), st.booleans(), st.integers(0, 99))
def test_average_pool_as_torch(window: tuple[list[int], dict[str, Any]], ceil: bool, include: bool, seed: int) -> None:
    sizes, attributes = window
    rank = len(sizes)
    pads = attributes.get("pads")
    assume(pads is not None)
    pads = [min(pad, size // 2) for pad, size in zip(pads, attributes["kernel_shape"], strict=False)]
    attributes = {**attributes, "pads": pads * 2}
    x = np.random.default_rng(seed).normal(size=(2, 3, *sizes))
    function = (F.avg_pool1d, F.avg_pool2d)[rank - 1]
    expected = function(torch.from_numpy(x), attributes["kernel_shape"], attributes["strides"], pads, ceil, include)
    flags = {"ceil_mode": int(ceil), "count_include_pad": int(include)}
    assert_same(compute("AveragePool", x, opset=19, **flags, **attributes)[0], expected.numpy())


@QUICK
@given(windows(), st.booleans(), st.integers(0, 99))
def test_average_pool_counts_its_taps(window: tuple[list[int], dict[str, Any]], include: bool, seed: int) -> None:
    """The sum over the taps over the number of taps: both are convolutions with ones."""
    sizes, attributes = window
    x = np.random.default_rng(seed).normal(size=(2, 1, *sizes))
    ones = np.ones((1, 1, *attributes["kernel_shape"]))
    total = compute("Conv", x, ones, **attributes)[0]
    count = ones.sum() if include and "pads" in attributes else compute("Conv", np.ones_like(x), ones, **attributes)[0]
    assume(np.all(count > 0))
    include = include and "pads" in attributes
    ours = compute("AveragePool", x, opset=19, count_include_pad=int(include), **attributes)[0]
    assert_same(ours, total / count)


@QUICK
@given(windows(), st.integers(1, 3), st.integers(1, 2), st.integers(0, 99))
def test_conv_transpose_is_the_adjoint_of_conv(
    window: tuple[list[int], dict[str, Any]], group: int, per_out: int, seed: int
) -> None:
    """<conv(x), y> = <x, conv_transpose(y)> with the same weight, which pins every attribute down."""
    sizes, attributes = window
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, 2 * group, *sizes))
    weight = rng.normal(size=(group * per_out, 2, *attributes["kernel_shape"]))
    convolved = compute("Conv", x, weight, group=group, **attributes)[0]
    y = rng.normal(size=convolved.shape)
    attributes = {name: value for name, value in attributes.items() if name != "kernel_shape"}
    strides = attributes["strides"]
    if attributes.get("auto_pad", "NOTSET") != "NOTSET":
        attributes["output_shape"] = sizes
        assume(attributes["auto_pad"].startswith("SAME"))
        # Where the stride leaves gaps, Conv pads nothing and ConvTranspose would have to extend.
        assume(all(size == -(-size // step) * step for size, step in zip(sizes, strides, strict=True)))
        assume(all(step == 1 for step in strides))
    else:
        natural = compute("ConvTranspose", y, weight, group=group, **attributes)[0]
        attributes["output_padding"] = [a - b for a, b in zip(sizes, natural.shape[2:], strict=True)]
    back = compute("ConvTranspose", y, weight, group=group, **attributes)[0]
    assert back.shape == x.shape
    np.testing.assert_allclose((convolved * y).sum(), (x * back).sum(), rtol=1e-10, atol=1e-10)


def test_conv_transpose_spreads_automatic_padding() -> None:
    x, weight = np.ones((1, 1, 3)), np.arange(1.0, 5).reshape(1, 1, 4)
    upper = compute("ConvTranspose", x, weight, strides=[1], auto_pad="SAME_UPPER")[0]
    lower = compute("ConvTranspose", x, weight, strides=[1], auto_pad="SAME_LOWER")[0]
    full = compute("ConvTranspose", x, weight)[0]
    np.testing.assert_array_equal(upper, full[..., 1:4])  # of 3 too many, the extra one is at the end
    np.testing.assert_array_equal(lower, full[..., 2:5])


@pytest.mark.parametrize("order", [0, 1])
def test_max_pool_indices_as_onnx(order: int) -> None:
    x = np.random.default_rng(0).normal(size=(2, 2, 5, 4))
    assert_as_onnx("MaxPool", x, outputs=2, kernel_shape=[2, 2], strides=[2, 2], storage_order=order)


def test_a_window_that_starts_in_the_padding_is_none() -> None:
    x = np.arange(1.0, 6).reshape(1, 1, 5)
    attributes: dict[str, Any] = {"kernel_shape": [2], "strides": [3], "pads": [1, 1], "ceil_mode": 1}
    np.testing.assert_array_equal(compute("MaxPool", x, **attributes)[0], [[[1.0, 4.0]]])


def test_a_window_that_starts_in_the_input_is_kept_with_ceil_mode() -> None:
    x = np.arange(1.0, 7).reshape(1, 1, 6)
    attributes: dict[str, Any] = {"kernel_shape": [3], "strides": [3], "pads": [1, 1]}
    np.testing.assert_array_equal(compute("MaxPool", x, **attributes)[0], [[[2.0, 5.0]]])
    np.testing.assert_array_equal(compute("MaxPool", x, ceil_mode=1, **attributes)[0], [[[2.0, 5.0, 6.0]]])


def test_three_spatial_axes() -> None:
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(1, 2, 4, 5, 3)), rng.normal(size=(3, 2, 2, 3, 1))
    pads = [0, 1, 0, 1, 1, 0]
    expected = F.conv3d(F.pad(torch.from_numpy(x), [0, 0, 1, 1, 0, 1]), torch.from_numpy(weight)).numpy()
    assert_same(compute("Conv", x, weight, pads=pads)[0], expected)
    expected = F.max_pool3d(torch.from_numpy(x), 2, 1).numpy()
    assert_same(compute("MaxPool", x, kernel_shape=[2, 2, 2])[0], expected)


def test_integers_are_pooled_as_integers() -> None:
    x = np.arange(-8, 8, dtype=np.int8).reshape(1, 1, 4, 4)
    attributes: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    pooled = compute("MaxPool", x, **attributes)[0]
    assert pooled.dtype == np.int8
    np.testing.assert_array_equal(pooled, compute("MaxPool", x.astype(np.float64), **attributes)[0])


def test_global_lp_pool() -> None:
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 5))
    expected = (np.abs(x) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)
    assert_same(compute("GlobalLpPool", x, p=3)[0], expected)
