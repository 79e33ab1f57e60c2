"""A file says which integers of the quantized graph its tensors hold, and a runtime tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from crossed import diagonal
from torch import nn

from edgeconv.core import Array, Artifact, Emitted, IntegerTensor, Sample
from edgeconv.devices import DEVICES, run_intermediates
from edgeconv.errors import DeviceError
from edgeconv.parity import layer_steps
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.rewrite.open_batch import free_batch

_SHAPE = (1, 3, 8, 8)


class _Net(nn.Module):
    """Images, one axis, a product of matrices, channels that the file orders otherwise, a sum of moved and unmoved."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8))
        self.act = nn.LeakyReLU(0.1)
        self.up = nn.Sequential(nn.Conv2d(8, 32, 1), nn.PixelShuffle(2))
        self.axis = nn.Sequential(nn.Flatten(2), nn.Conv1d(8, 6, 3), nn.ReLU(), nn.Conv1d(6, 4, 3))
        self.fc = nn.Linear(4 * 32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.stem(x))
        y = y + nn.functional.avg_pool2d(self.up(y), 2)
        logits: torch.Tensor = self.fc(torch.flatten(self.axis(y + y.flip(3).mean(1, keepdim=True)), 1))
        return logits


def _samples(count: int, seed: int, batch: int = 1) -> list[Sample]:
    rng = np.random.default_rng(seed)
    shape = (batch, *_SHAPE[1:])
    return [Sample(str(at), {"input0": rng.standard_normal(shape).astype(np.float32)}) for at in range(count)]


def _written(tflite: Any, folder: Path, scheme: str, *, open_batch: bool = False) -> tuple[Any, Artifact]:
    graph = tflite.graph_of(_Net(), torch.zeros((2 if open_batch else 1, *_SHAPE[1:])))
    if open_batch:
        graph = free_batch(graph, inputs=["input0"], symbol="batch")
    return _quantized(tflite, folder, scheme, graph, [sample.inputs for sample in _samples(4, seed=1)])


def _quantized(
    tflite: Any, folder: Path, scheme: str, graph: ir.Model, data: Sequence[Mapping[str, Array]]
) -> tuple[ir.Model, Artifact]:
    graph = apply(graph, make_plan(graph, calibrate(graph, data), scheme=scheme))
    emitted: Emitted = tflite.to_tflite(graph, metadata={})
    path = folder / "net.tflite"
    path.write_bytes(emitted.data)
    artifact = Artifact(
        path, "tflite", scheme, "nhwc", "", emitted.inputs, emitted.outputs, intermediates=emitted.intermediates
    )
    return graph, artifact


@pytest.mark.parametrize(("open_batch", "scheme"), diagonal([False, True], ["int8", "int16x8"]))
def test_every_layer_is_within_one_step_on_its_own_operands(
    tflite: Any, tmp_path: Path, scheme: str, open_batch: bool
) -> None:
    graph, artifact = _written(tflite, tmp_path, scheme, open_batch=open_batch)
    samples = _samples(2, seed=2, batch=3 if open_batch else 1)
    runs = run_intermediates(DEVICES["litert-reference"], artifact, samples, timeout_s=60)
    layers = layer_steps(graph, artifact.intermediates, [sample.inputs for sample in samples], runs)
    names = [layer.name for layer in layers]
    assert names[0] == "input0"
    assert {"stem.1", "stem.2", "act", "axis.2", "axis.3"} <= set(names)
    assert max(layer.largest for layer in layers) <= 1
    assert len({tensor.name for tensor in artifact.intermediates}) == len(artifact.intermediates) == len(layers)


def _noise(*shape: int) -> list[Array]:
    return [np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 2 for seed in range(4)]


def _ramp(limit: float) -> list[Array]:
    return [np.linspace(-limit, limit, 65536, dtype=np.float32).reshape(1, 1, 256, 256)]


# What is known to be off by more than a step: the module, the scheme, inputs that show it, and what is allowed.
_OFF: dict[str, tuple[nn.Module, str, list[Array], int]] = {
    "tanh": (nn.Tanh(), "int16x8", _ramp(1), 3),
    "softmax": (nn.Softmax(1), "int16x8", [20 * array for array in _noise(1, 8)], 14),
    "bilinear": (nn.Upsample(size=(28, 17), mode="bilinear"), "int8", _noise(1, 8, 20, 12), 4),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), "int16x8", _noise(1, 8, 12, 12), 2),
}


@pytest.mark.parametrize("name", _OFF)
def test_what_is_allowed_is_needed_and_enough(tflite: Any, tmp_path: Path, name: str) -> None:
    module, scheme, arrays, most = _OFF[name]
    data = [{"input0": array} for array in arrays]
    graph, artifact = _quantized(tflite, tmp_path, scheme, tflite.graph_of(module, torch.from_numpy(arrays[0])), data)
    samples = [Sample(str(at), inputs) for at, inputs in enumerate(data)]
    runs = run_intermediates(DEVICES["litert-reference"], artifact, samples, timeout_s=60)
    layer = layer_steps(graph, artifact.intermediates, data, runs)[-1]
    assert layer.most == most
    assert 1 < layer.largest <= most
    assert layer.reason


@pytest.mark.parametrize(("counted", "scheme"), diagonal([True, False], ["int8", "int16x8"]))
def test_nothing_is_allowed_to_a_kernel_that_rounds_once(
    tflite: Any, tmp_path: Path, counted: bool, scheme: str
) -> None:
    size = (16, 6)  # of 12 and 12: each place is a whole number of 1024ths of an element, as the kernel has them
    module = nn.Sequential(
        nn.AvgPool2d(3, 2, 1, count_include_pad=counted), nn.Upsample(size=size, mode="bilinear"), nn.Sigmoid()
    )
    arrays = _noise(1, 8, 24, 24)
    graph, artifact = _quantized(
        tflite,
        tmp_path,
        scheme,
        tflite.graph_of(module, torch.from_numpy(arrays[0])),
        [{"input0": array} for array in arrays],
    )
    runs = run_intermediates(DEVICES["litert-reference"], artifact, [Sample("0", {"input0": arrays[0]})], timeout_s=60)
    layers = layer_steps(graph, artifact.intermediates, [{"input0": arrays[0]}], runs)
    assert [layer.operators for layer in layers] == [(), ("AveragePool",), ("Resize",), ("Sigmoid",)]
    assert all(layer.largest <= 1 and layer.most == 0 for layer in layers)


def test_a_file_of_floats_tells_nothing(tflite: Any) -> None:
    graph = tflite.graph_of(_Net(), torch.zeros(_SHAPE))
    assert tflite.to_tflite(graph, metadata={}).intermediates == ()


def test_a_runtime_that_cannot_tell_says_so(tflite: Any, tmp_path: Path) -> None:
    _, artifact = _written(tflite, tmp_path, "int8")
    with pytest.raises(DeviceError, match=r"cannot load the file: TypeError: .*unexpected keyword argument 'tensors'"):
        run_intermediates(DEVICES["litert"], artifact, _samples(1, seed=0), timeout_s=60)


def test_a_tensor_that_the_file_has_not_is_an_error(tflite: Any, tmp_path: Path) -> None:
    _, artifact = _written(tflite, tmp_path, "int8")
    other = IntegerTensor("nothing", (1,), "int8", (0,), 1.0, 0, ("nothing",))
    unknown = Artifact(**{**vars(artifact), "intermediates": (other,)})
    with pytest.raises(DeviceError, match="cannot load the file: KeyError"):
        run_intermediates(DEVICES["litert-reference"], unknown, _samples(1, seed=0), timeout_s=60)
