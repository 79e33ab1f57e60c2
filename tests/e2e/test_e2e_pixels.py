"""Inputs of uint8: where one scale has the preprocessing in it, an application hands over pixels as they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgeconv
from edgeconv.core import Artifact, Verdict

_IMAGES = 6


def _exported(folder: Path, preprocessing: str, quantize: str = "", io: str = "uint8") -> list[Artifact]:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for index in range(_IMAGES):
        Image.fromarray(rng.integers(20, 230, (16, 16, 3), np.uint8)).save(folder / "images" / f"{index}.png")
    (folder / "m.toml").write_text(
        f'name = "m"\n[model]\nfactory = "edgeconv.nn:DepthwiseSeparableConv"\n'
        f'args = {{in_channels = 3, out_channels = 8}}\n[[inputs]]\nname = "image"\nshape = [1, 3, 16, 16]\n'
        f'[export]\nvariants = ["int8"]\n[parity]\ndevices = ["onnxruntime", "litert"]\n[[parity.images]]\n'
        f'files = ["images/0.png"]\n[quantize]\nio = "{io}"\n{quantize}\n[[quantize.images]]\nfolder = "images"\n'
        f'[preprocessing]\nresize = 16\ncolour = "rgb"\n{preprocessing}\n'
    )
    result = edgeconv.export_recipe(edgeconv.load_recipe(folder / "m.toml"), folder / "out")
    assert result.report is not None
    assert result.report.verdict is Verdict.PASS
    return list(result.artifacts)


@pytest.mark.parametrize(
    ("preprocessing", "scale", "zero_point"),
    [
        ("rescale = 1.0\nmean = 127.0\nstd = 128.0", 1 / 128, 127),
        ("mean = 0.0", 1 / 255, 0),
        ("rescale = 1.0", 1.0, 0),
        ("mean = [0.4, 0.4, 0.4]\nstd = 0.25", 4 / 255, 102),
    ],
)
def test_pixels_are_the_integers(preprocessing: str, scale: float, zero_point: int, tmp_path: Path) -> None:
    from edgeconv.recipe.preprocessing import preprocess

    for artifact in _exported(tmp_path, preprocessing):
        (spec,) = artifact.inputs
        assert (spec.dtype, spec.scale, spec.zero_point) == ("uint8", pytest.approx(scale, rel=1e-6), zero_point)
        path = tmp_path / "images" / "3.png"
        recipe = edgeconv.load_recipe(tmp_path / "m.toml")
        assert recipe.preprocessing is not None
        pixels = np.asarray(Image.open(path))[None]
        written = spec.to_file(preprocess(path, recipe.preprocessing))
        assert np.array_equal(written, pixels if spec.layout == "nhwc" else pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("preprocessing", "quantize", "io"),
    [
        ("mean = [0.4, 0.5, 0.6]", "", "uint8"),  # no one scale has it
        ("mean = 0.0", '[[quantize.override]]\noperators = ["image"]\nobserver = "min-max"', "uint8"),
        ("mean = 0.0", "", "int8"),
    ],
)
def test_else_the_range_is_that_of_the_data(preprocessing: str, quantize: str, io: str, tmp_path: Path) -> None:
    _exported(tmp_path, preprocessing, quantize, io)
    scale = json.loads((tmp_path / "out" / "m.int8.plan.json").read_text())["tensors"]["image"]["scale"]
    assert scale != pytest.approx(1 / 255, rel=1e-3)


def test_a_range_that_python_states(tmp_path: Path) -> None:
    import torch

    data = [{"x": np.random.default_rng(0).random((1, 3, 16, 16), np.float32)}]
    choice = edgeconv.Override(operators=("x",), range=(-1.0, 1.0))
    result = edgeconv.export(
        torch.nn.Conv2d(3, 4, 3).eval(), (torch.zeros(1, 3, 16, 16),), tmp_path, name="m", variants="int8",
        input_names=["x"], quantization=edgeconv.Quantization(lambda: data, io="uint8", override=(choice,)),
    )  # fmt: skip
    assert {artifact.inputs[0].scale for artifact in result.artifacts} == {float(np.float32(2 / 255))}
    assert {artifact.inputs[0].zero_point for artifact in result.artifacts} == {127}
