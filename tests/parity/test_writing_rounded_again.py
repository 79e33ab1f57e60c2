"""Link 3 of weights with zero points that a file has to round again, in whatever form it writes their layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from crossed import slow_but
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from test_writing import emitted, judged
from torch import nn
from writing_faults import moved_terms_in_tflite, planted_in_tflite

import edgeconv
from edgeconv.capture import capture, open_onnx
from edgeconv.core.verdicts import Verdict
from edgeconv.emit.onnx import to_onnx
from edgeconv.flow.variants import Quantization, Variant, variants_of
from edgeconv.parity.writing import HALF_UNIT
from edgeconv.parity.writing._constants import match
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize

X = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
LAYERS = {
    "phases": lambda: nn.ConvTranspose2d(4, 6, 2, 2, bias=False),  # Conv and DepthToSpace
    "phases and terms": lambda: nn.ConvTranspose2d(4, 6, 2, 2),  # which have the steps of each phase
    "turned": lambda: nn.ConvTranspose2d(4, 6, 3, 1, 1, bias=False),
    "groups": lambda: nn.ConvTranspose2d(4, 8, 3, 2, 1, groups=2),
    "depthwise": lambda: nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1),
}


class _Noise(CalibrationDataReader):
    def __init__(self) -> None:
        self._batches = iter([{"x": X}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _variant(name: str, folder: Path) -> Variant:
    torch.manual_seed(0)
    layer = LAYERS[name]().eval()
    with torch.no_grad():
        layer.weight += 0.1 * layer.weight.abs().max()  # so that the middle of their range is not zero
    model = optimize(capture(layer, (torch.from_numpy(X),), input_names=["x"], output_names=["y"]))
    (folder / "float.onnx").write_bytes(to_onnx(model, metadata={}).data)
    options = {"WeightSymmetric": False}
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8, "extra_options": options}
    quantize_static(folder / "float.onnx", folder / "theirs.onnx", _Noise(), quant_format=QuantFormat.QDQ, **kinds)
    file = open_onnx(folder / "theirs.onnx")
    (made,) = variants_of(optimize(file.graph({"x": X.shape})), ("int8",), Quantization(), Silent())
    return made


@pytest.mark.parametrize("name", slow_but(["turned", "groups", "depthwise", "transposed"], LAYERS))
def test_weights_that_are_rounded_again_are_the_nearest_in_any_order(name: str, tmp_path: Path) -> None:
    made, inputs, path = _variant(name, tmp_path), {"x": X}, tmp_path / "net.tflite"
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, path)
    assert right.verdict is Verdict.PASS, right.reason
    wrong = [(kind, data) for kind, data, where in planted_in_tflite(contents.data) if "weight" in where]
    verdicts = {kind: judged(made, inputs, contents, data, path).verdict for kind, data in wrong}
    assert set(verdicts) >= {"ulp", "permuted", "zeroed"}
    assert set(verdicts.values()) == {Verdict.FAIL}


def test_terms_of_each_phase_are_the_nearest_of_its_own_steps(tmp_path: Path) -> None:
    made, inputs, path = _variant("phases and terms", tmp_path), {"x": X}, tmp_path / "net.tflite"
    contents = emitted(made, "tflite")
    moved = list(moved_terms_in_tflite(contents.data))
    assert len(moved) == 24
    wrong = [judged(made, inputs, contents, data, path) for data in moved[::5]]  # of each phase
    assert {link.verdict for link in wrong} == {Verdict.FAIL}


def test_a_number_between_two_integers_may_become_either_one() -> None:
    scale = np.float64(np.float32(0.00121639))
    steps = np.arange(-60, 61, 5)
    due = steps * scale
    due[3] = (steps[3] + 0.5) * scale * (1 + 2.0**-24)
    held = due.copy()
    held[3] = steps[3] * scale
    found = match({"w": due}, {"w": held}, lambda _: np.full(held.shape, scale / 2), rounded_again={"w"})
    assert not found.faults
    held[4] += scale
    found = match({"w": due}, {"w": held}, lambda _: np.full(held.shape, scale / 2), rounded_again={"w"})
    assert list(found.faults) == ["w"]


@pytest.mark.parametrize("name", ["right", "a step off", "another's"])
def test_a_bias_before_depth_to_space_is_the_nearest_in_the_order_of_blocks(name: str) -> None:
    """A model that was trained for integers has a bias of floats, and its file the nearest of 32 bits."""
    due = np.random.default_rng(2).standard_normal(16).astype(np.float32)
    steps = np.random.default_rng(3).uniform(1e-5, 4e-5, 16)
    order = np.arange(16).reshape(4, 4).T.reshape(-1)
    held = np.rint(due[order].astype(np.float64) / steps) * steps
    held[5] += {"right": 0.0, "a step off": steps[5], "another's": held[6] - held[5]}[name]
    found = match({"b": due}, {"b": held}, lambda _: steps / 2)
    assert bool(found.faults) == (name != "right")


@pytest.mark.parametrize("up", [True, False])
def test_a_bias_that_stays_what_it_is_has_its_scale_to_the_last_unit(up: bool) -> None:
    """An .onnx file has the graph's own integers: nothing is rounded again there, but for what a scale was before."""
    integers = np.random.default_rng(0).integers(-200_000, 200_000, 16)
    scales = np.random.default_rng(1).uniform(1e-6, 4e-6, 16).astype(np.float32)
    due = integers * scales.astype(np.float64)
    altered = scales.copy()
    altered[5] = np.nextafter(scales[5], np.float32(up), dtype=np.float32)
    held = integers * altered.astype(np.float64)
    found = match({"b": due}, {"b": held}, lambda _: np.abs(held) * HALF_UNIT, rounded_again={"b"})
    assert "b" in found.faults
    assert not match({"b": due}, {"b": due}, lambda _: np.abs(due) * HALF_UNIT, rounded_again={"b"}).faults


def test_what_is_rounded_behind_a_slice_is_held_on_its_own_integers(tmp_path: Path) -> None:
    """A table has none between them: a slice of a layer in float, softened (Softplus) in integers."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.last = nn.Conv2d(4, 3, 1)
            self.last.weight.data[0] *= 100  # the layer stays float
            self.last.bias.data[:] = torch.tensor([30.0, 0.1, 1.0])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.last(x)
            return torch.cat([y[:, :1], y[:, 1:2].sigmoid(), nn.functional.softplus(y[:, 2:])], 1)

    rng = np.random.default_rng(0)
    batches = [{"x": rng.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(24)]
    result = edgeconv.export(
        Head().eval(),
        (torch.zeros(1, 4, 8, 8),),
        tmp_path,
        name="head",
        input_names=["x"],
        variants="int8",
        formats="tflite",
        quantization=edgeconv.Quantization(batches=lambda: batches[:16]),
        samples=[edgeconv.Sample(f"unseen {index}", batch) for index, batch in enumerate(batches[16:])],
        devices=("litert",),
    )
    assert [(row.verdict.value, row.reason) for row in result.report.comparisons] == [("pass", "")]
