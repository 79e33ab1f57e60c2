"""Places of maxima in both formats: outputs of a graph, and what max_unpool puts back.

Members thought of: one to three axes, strides, padding in front and behind, sizes rounded up, dilations, windows that
tile or overlap or leave elements out, several planes, equal maxima, maxima of -inf, adaptive pools, `storage_order` of
files; places that are sliced, split, copied in whole planes, transposed. Refused in TFLite: values that are put back to
places which may be the same, of which the last counts: of overlapping windows, of planes that are mixed, chosen twice,
or computed in any other way.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import edgeconv
from edgeconv.core import Artifact


class _Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def _outputs(artifact: Artifact, x: np.ndarray) -> list[np.ndarray]:
    feed = {artifact.inputs[0].name: artifact.inputs[0].to_file(x)}
    if artifact.format == "onnx":
        named = dict(
            zip(
                [spec.name for spec in artifact.outputs],
                onnxruntime.InferenceSession(artifact.path.read_bytes()).run(None, feed),
                strict=True,
            )
        )
    else:
        named = Interpreter(model_content=artifact.path.read_bytes(), num_threads=1).get_signature_runner()(**feed)
    return [spec.from_file(np.asarray(named[spec.name])) for spec in artifact.outputs]


def _equal(*shape: int) -> Tensor:
    """Whole numbers, of which many are equal."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).mul(1.5).round()


def _placed(pool: Callable[..., object], *arguments: object, **more: object) -> Callable[[Tensor], object]:
    return lambda x: pool(x, *arguments, return_indices=True, **more)


POOLS: dict[str, tuple[Callable[[Tensor], object], Tensor]] = {
    "tiles": (_placed(F.max_pool2d, 2), _equal(2, 3, 6, 8)),
    "overlapping": (_placed(F.max_pool2d, 3, 2, 1), _equal(2, 3, 9, 8)),
    "every place": (_placed(F.max_pool2d, 3, 1, 1), _equal(2, 3, 5, 6)),
    "rounded up": (_placed(F.max_pool2d, 3, 2, ceil_mode=True), _equal(1, 2, 8, 10)),
    "apart": (_placed(F.max_pool2d, (2, 1), 3), _equal(1, 2, 8, 9)),
    "dilated": (_placed(F.max_pool2d, 3, 1, 0, 2), _equal(1, 2, 8, 9)),
    "line": (_placed(F.max_pool1d, 3, 2, 1), _equal(2, 3, 9)),
    "volume": (_placed(F.max_pool3d, (2, 3, 2), 2, (1, 1, 0)), _equal(1, 2, 5, 6, 7)),
    "adaptive": (_placed(F.adaptive_max_pool2d, (3, 4)), _equal(1, 2, 6, 8)),
    "lowest": (_placed(F.max_pool2d, 3, 2, 1), torch.full((1, 2, 6, 6), -torch.inf)),
}


@pytest.mark.parametrize("name", POOLS)
def test_places_are_outputs(name: str, tmp_path: Path) -> None:
    function, x = POOLS[name]
    expected = function(x)
    for artifact in edgeconv.export(_Of(function), (x,), tmp_path, name="net").artifacts:
        for output, reference in zip(_outputs(artifact, x.numpy()), expected, strict=True):
            np.testing.assert_array_equal(output, reference.numpy(), err_msg=artifact.format)


UNPOOLS: dict[str, tuple[Callable[[Tensor], object], Tensor]] = {
    "tiles": (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), _equal(2, 3, 6, 8)),
    "apart": (
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, 3, 1, return_indices=True), 2, 3, 1, x.shape[2:]),
        _equal(1, 3, 8, 8),
    ),
    "line": (lambda x: F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), 2), _equal(2, 3, 8)),
    "volume": (lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2), _equal(1, 2, 4, 4, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", UNPOOLS)
@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_unpooling_puts_maxima_back_in_both_formats(name: str, variant: str, tmp_path: Path) -> None:
    function, x = UNPOOLS[name]
    for artifact in edgeconv.export(_Of(function), (x,), tmp_path, name="net", variants=(variant,)).artifacts:
        np.testing.assert_array_equal(_outputs(artifact, x.numpy())[0], function(x).numpy(), err_msg=artifact.format)


def _moved(move: Callable[[Tensor], Tensor], *sizes: int, rows: int = 8) -> Callable[[Tensor], Tensor]:
    """Of both the maxima and their places."""

    def forward(x: Tensor) -> Tensor:
        pooled, places = F.max_pool2d(x, *sizes, return_indices=True)
        return F.max_unpool2d(move(pooled), move(places), *sizes, output_size=[rows, 8])

    return forward


APART: dict[str, Callable[[Tensor], Tensor]] = {
    "some channels": _moved(lambda x: x[:, :2], 2),
    "some rows": _moved(lambda x: x[:, :, :3], 2, rows=6),
    "windows with gaps": _moved(lambda x: x[:, 1:], 2, 3, 1),
    "other order": _moved(lambda x: x.transpose(0, 1)[[0, 2, 2]].transpose(0, 1), 2),
    "two pools": _moved(lambda x: torch.cat([x[:, :1], x], 1), 2),
    "split": _moved(lambda x: x.split([1, 2], 1)[1], 2),
}


@pytest.mark.parametrize("name", APART)
def test_places_that_are_moved(name: str, tmp_path: Path) -> None:
    x = _equal(2, 3, 8, 8)
    for artifact in edgeconv.export(_Of(APART[name]), (x,), tmp_path, name="net").artifacts:
        expected = APART[name](x).numpy()
        np.testing.assert_array_equal(_outputs(artifact, x.numpy())[0], expected, err_msg=artifact.format)


def _computed_places(x: Tensor) -> Tensor:
    return F.max_unpool2d(x, (x * 0).long(), 2)


MEETING: dict[str, Callable[[Tensor], Tensor]] = {
    "padded": _moved(lambda x: x, 3, 2, 1),
    "some channels": _moved(lambda x: x[:, :2], 3, 2),
    "two pools in a plane": _moved(lambda x: torch.cat([x[:, :, :2], x[:, :, 2:]], 2), 3, 2),
    "planes laid together": _moved(lambda x: x.reshape(2, 1, -1, x.shape[-1])[:, :, :4], 2),
    "twice": _moved(lambda x: x[:, :, [0, 0, 1, 2]], 2),
    "computed": _computed_places,
}


@pytest.mark.parametrize("name", MEETING)
def test_values_that_may_meet_are_refused_in_tflite_alone(name: str, tmp_path: Path) -> None:
    module = _Of(MEETING[name])
    x = _equal(2, 3, 8, 8)
    artifact = edgeconv.export(module, (x,), tmp_path, name="net", formats=("onnx",)).artifacts[0]
    np.testing.assert_array_equal(_outputs(artifact, x.numpy())[0], module(x).numpy())
    with pytest.raises(edgeconv.EmitError, match="two of its values may come to one place"):
        edgeconv.export(module, (x,), tmp_path, name="net", formats=("tflite",))


def test_places_in_an_open_batch(tmp_path: Path) -> None:
    module = nn.MaxPool2d(3, 2, return_indices=True)
    artifact = edgeconv.export(
        module, (_equal(1, 3, 9, 9),), tmp_path, name="net", formats=("onnx",), dynamic_batch=True
    ).artifacts[0]
    x = _equal(3, 3, 9, 9)
    for output, expected in zip(_outputs(artifact, x.numpy()), module(x), strict=True):
        np.testing.assert_array_equal(output, expected.numpy())


class _Segments(nn.Module):
    """As SegNet: an encoder whose places a decoder takes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.up = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled, places = F.max_pool2d(self.down(x), 2, return_indices=True)
        return self.up(F.max_unpool2d(pooled, places, 2))


def test_a_segmenter_in_every_variant(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    result = edgeconv.export(
        _Segments().eval(), (x,), tmp_path, name="net", variants=("fp32", "fp16"), devices=("onnxruntime", "litert")
    )
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS


@pytest.mark.parametrize("storage_order", [0, 1])
def test_places_of_a_file(storage_order: int, tmp_path: Path) -> None:
    node = helper.make_node(
        "MaxPool", ["x"], ["y", "places"], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1],
        storage_order=storage_order,
    )  # fmt: skip
    outputs = [helper.make_tensor_value_info(*declared, None) for declared in (("y", TensorProto.FLOAT), ("places", 7))]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", 1, (2, 3, 6, 7))], outputs)
    path = tmp_path / "m.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    )
    x = _equal(2, 3, 6, 7).numpy()
    expected = onnxruntime.InferenceSession(path).run(None, {"x": x})
    for artifact in edgeconv.export_onnx(path, tmp_path / "out", name="net").artifacts:
        for output, reference in zip(_outputs(artifact, x), expected, strict=True):
            np.testing.assert_array_equal(output, reference, err_msg=artifact.format)
