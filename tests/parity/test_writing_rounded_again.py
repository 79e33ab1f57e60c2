"""Link 3 of weights with zero points that a file has to round again, in whatever form it writes their layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from test_writing import emitted, judged
from torch import nn
from writing_faults import planted_in_tflite

from edgeconv.capture import capture, open_onnx
from edgeconv.core.verdicts import Verdict
from edgeconv.emit.onnx import to_onnx
from edgeconv.flow.variants import Quantization, Variant, variants_of
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize

X = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
LAYERS = {
    "phases": lambda: nn.ConvTranspose2d(4, 6, 2, 2, bias=False),  # Conv and DepthToSpace
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


@pytest.mark.parametrize("name", LAYERS)
def test_weights_that_are_rounded_again_are_the_nearest_in_any_order(name: str, tmp_path: Path) -> None:
    made, inputs, path = _variant(name, tmp_path), {"x": X}, tmp_path / "net.tflite"
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, path)
    assert right.verdict is Verdict.PASS, right.reason
    wrong = [(kind, data) for kind, data, where in planted_in_tflite(contents.data) if "weight" in where]
    verdicts = {kind: judged(made, inputs, contents, data, path).verdict for kind, data in wrong}
    assert set(verdicts) >= {"ulp", "permuted", "zeroed"}
    assert set(verdicts.values()) == {Verdict.FAIL}
