"""Resizing by any factor and to any size picks and weighs the elements that torch does."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crossed import slow_but
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

import edgeconv
from edgeconv.capture.normalize._resizing import settle_resizes
from edgeconv.errors import EdgeconvError
from edgeconv.reference import evaluate

_MODES = {
    "nearest": {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "nearest-exact": {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
}


def _check(tflite: Any, mode: str, shape: tuple[int, ...], **options: Any) -> None:
    """Checks one Resize against torch's float32 result: a picked element is right or wrong, whatever the precision."""
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = functional.interpolate(torch.from_numpy(image), mode=mode, **options).numpy()
    scales, sizes = np.array([1, 1, *options.get("scale_factor", ())], np.float32), np.array(expected.shape, np.int64)
    constants = [np.zeros(0, np.float32), scales if "scale_factor" in options else np.zeros(0, np.float32)]
    constants += [] if "scale_factor" in options else [sizes]
    model = tflite.node_of("Resize", {"input": image}, constants, expected.shape, mode="nearest", **_MODES[mode])
    settle_resizes(model.graph)  # as capture does
    emitted = tflite.to_tflite(model, metadata={})
    np.testing.assert_array_equal(tflite.run(emitted, [image]).outputs[0], expected)


_FACTORS = st.fractions(Fraction(1, 4), 4, max_denominator=20).map(float)


@settings(deadline=None, max_examples=25)
@given(
    mode=st.sampled_from(list(_MODES)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    scale=st.tuples(_FACTORS, _FACTORS),
)
@example(mode="nearest", size=(12, 14), scale=(1.1, 1.1))
@example(mode="nearest", size=(12, 14), scale=(1.7, 1.7))
@example(mode="nearest", size=(12, 14), scale=(0.3, 0.3))
@example(mode="nearest", size=(9, 21), scale=(4 / 7, 1 / 3))
@example(mode="nearest-exact", size=(1, 12), scale=(1.0, 1.05))
@example(mode="nearest", size=(4, 8), scale=(2.1, 2.05))
@example(mode="nearest", size=(2, 32), scale=(2.0625, 3.9166666666666665))
@example(mode="nearest", size=(38, 39), scale=(2.02, 2.02))
@example(mode="nearest", size=(40, 39), scale=(1.02, 2.3))
def test_nearest_by_a_factor(tflite: Any, mode: str, size: tuple[int, int], scale: tuple[float, float]) -> None:
    assume(all(int(side * factor) for side, factor in zip(size, scale, strict=True)))
    _check(tflite, mode, (1, 2, *size), scale_factor=scale)


@settings(deadline=None, max_examples=25)
@given(
    mode=st.sampled_from(list(_MODES)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    output_size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
def test_nearest_to_a_size(tflite: Any, mode: str, size: tuple[int, int], output_size: tuple[int, int]) -> None:
    _check(tflite, mode, (1, 2, *size), size=output_size)


def test_bilinear_by_a_factor(tflite: Any) -> None:
    def resize(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(functional.interpolate(x, scale_factor=scale, mode="bilinear") for scale in (1.1, 1.7, 0.3, 2 / 3))

    tflite.check(tflite.Function(resize), (1, 3, 12, 14), layouts=("nhwc",))


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@settings(deadline=None, max_examples=10)
@given(
    mode=st.sampled_from(["nearest", "linear", "cubic"]),
    coordinates=st.sampled_from(["half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]),
    size=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    output_size=st.tuples(st.integers(2, 30), st.integers(2, 30)),
)
@example(mode="linear", coordinates="half_pixel", size=(10, 12), output_size=(8, 15))
@example(
    mode="linear", coordinates="half_pixel", size=(3, 20), output_size=(4, 22)
)  # the size stays, and the scale is 1.1
def test_the_aspect_ratio_is_kept(
    tflite: Any, policy: str, mode: str, coordinates: str, size: tuple[int, int], output_size: tuple[int, int]
) -> None:
    """One scale for both axes; the sizes are what it makes of them."""
    ratios = [Fraction(after, before) for after, before in zip(output_size, size, strict=True)]
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    rounded = [int(before * ratio + Fraction(1, 2)) for before in size]
    assume(all(rounded))
    image = np.random.default_rng(0).standard_normal((1, 2, *size)).astype(np.float32)
    none = np.zeros(0, np.float32)
    options = {"keep_aspect_ratio_policy": policy, "coordinate_transformation_mode": coordinates, "mode": mode}
    constants = [none, none, np.array(output_size, np.int64)]
    model = tflite.node_of("Resize", {"input": image}, constants, (1, 2, *rounded), axes=[2, 3], **options)
    expected = evaluate(model, {"input": image})["output"]
    (result,) = tflite.run(tflite.to_tflite(model, metadata={}), [image]).outputs
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 2.0, 2.0), (1.0, 1.0, 1.0, 2.0)])
def test_a_matrix_beyond_the_memory_is_refused(scales: tuple[float, ...], tmp_path: Path) -> None:
    """An axis of 32768 asked for 8 GiB and more, whether it is resized or not."""
    nodes = [helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")]
    shapes = {"x": (1, 1, 32768, 4), "y": None}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    constants = [numpy_helper.from_array(np.array(scales, np.float32), "scales")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], constants), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EdgeconvError, match=r"Resize.*the matrix that resizes 32768 elements to \d+ is too large"):
        edgeconv.export_onnx(path, tmp_path / "out", name="net", formats="tflite")


VOLUMES: dict[str, dict[str, Any]] = {
    "doubled": {"scale_factor": 2},
    "to a size, corners on corners": {"size": (5, 7, 4), "align_corners": True},
    "two axes of three": {"scale_factor": (1, 2, 1.5)},
    "smaller": {"size": (2, 3, 3)},
    "down to one element": {"size": (1, 5, 6)},
}


def test_a_volume_that_keeps_only_the_first_elements_of_an_axis_is_cut(tflite: Any) -> None:
    """4 · 0.7 is 2 elements, of which nearest takes 0 and 1: the matrix is the upper half of an identity."""
    _check(tflite, "nearest", (1, 2, 4, 5, 6), scale_factor=(0.7, 0.7, 0.7))


@pytest.mark.parametrize("name", slow_but(["doubled", "smaller", "down to one element"], VOLUMES))
def test_volumes_are_weighed_axis_by_axis(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Volume(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv3d(2, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            resized = functional.interpolate(self.conv(x), mode="trilinear", **VOLUMES[name])
            return functional.relu(resized)

    x = torch.randn(1, 2, 4, 5, 6)
    result = edgeconv.export(
        Volume().eval(), (x,), tmp_path, name="volume", formats=("tflite",), devices=("litert", "litert-reference"),
        variants=("fp32", "int8"), quantization=edgeconv.Quantization(batches=lambda: [{"x": x.numpy()}]),
        input_names=["x"], dynamic_batch=False,
    )  # fmt: skip
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS
