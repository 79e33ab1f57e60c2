"""Files of quantized operators, and of integers that are moved between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from calibration_noise import Noise
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from torch import Tensor, nn
from torch.nn import functional
from trained import computed

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Artifact
from edgeconv.emit.onnx import to_onnx
from edgeconv.errors import CaptureError

SHAPE = (1, 3, 16, 16)
X = np.random.default_rng(3).standard_normal(SHAPE).astype(np.float32)
U8, S8, S4, U16 = QuantType.QUInt8, QuantType.QInt8, QuantType.QInt4, QuantType.QUInt16


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.stem(x).relu(), 2)
        x = x + functional.leaky_relu(self.body(x), 0.1)
        y: Tensor = self.head(torch.cat([x, -x], 1).mean((2, 3))[:, :8])
        return y


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    model = capture(_Network().eval(), (torch.zeros(SHAPE),), input_names=["x"], output_names=["y"])
    path.write_bytes(to_onnx(model, metadata={}).data)
    return path


def _by_operator(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (result,) = onnxruntime.InferenceSession(path, options).run(None, {"x": x})
    return np.asarray(result)


def _last_scale(path: Path) -> float:
    graph = onnx.load(path).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return float(constants[graph.node[-1].input[1]])


@pytest.mark.parametrize("channels", [True, False], ids=["channels", "tensor"])
@pytest.mark.parametrize(
    ("form", "kinds", "contrib"),
    [
        (QuantFormat.QOperator, (U8, S8), False),
        (QuantFormat.QOperator, (S8, S8), False),
        (QuantFormat.QDQ, (U8, S8), True),
        (QuantFormat.QDQ, (U8, S4), True),
        (QuantFormat.QDQ, (U16, S8), True),
    ],
    ids=["operators-u8", "operators-s8", "own-pairs", "own-pairs-4-bits", "own-pairs-16-bits"],
)
def test_what_onnxruntime_quantized_keeps_its_scales(
    form: QuantFormat,
    kinds: tuple[QuantType, QuantType],
    contrib: bool,
    channels: bool,
    float_file: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "theirs.onnx"
    quantize_static(
        *(float_file, path, Noise("x", SHAPE, seed=1)), quant_format=form, activation_type=kinds[0],
        weight_type=kinds[1], per_channel=channels, extra_options={"UseQDQContribOps": contrib},
    )  # fmt: skip
    formats = ("onnx",) if kinds[0] == U16 else ("onnx", "tflite")  # TFLite's 16 bits have no zero point
    result = edgeconv.export_onnx(path, tmp_path / "out", name="net", formats=formats)
    assert {artifact.variant for artifact in result.artifacts} == {"int8"}
    for artifact in result.artifacts:
        steps = np.abs(computed(artifact, torch.from_numpy(X), by_graph=True) - _by_operator(path, X))
        assert steps.max() / _last_scale(path) < 1.01, artifact.path


def _moves() -> dict[str, Callable[[], list[onnx.NodeProto]]]:
    def one(operator: str, *constants: str, **attributes: object) -> Callable[[], list[onnx.NodeProto]]:
        return lambda: [helper.make_node(operator, ["q", *constants], ["m"], **attributes)]

    def two(operator: str, **attributes: object) -> Callable[[], list[onnx.NodeProto]]:
        flipped = helper.make_node("Transpose", ["q"], ["t"], perm=[0, 1, 3, 2])
        return lambda: [flipped, helper.make_node(operator, ["q", "t"], ["m"], **attributes)]

    return {
        "Transpose": one("Transpose", perm=[0, 2, 3, 1]),
        "Reshape": one("Reshape", "shape"),
        "MaxPool": one("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        "Pad": one("Pad", "pads"),
        "Pad-value": one("Pad", "pads", "seven"),
        "Pad-edge": one("Pad", "pads", mode="edge"),
        "Resize": one("Resize", "", "factors", mode="nearest"),
        "Slice": one("Slice", "zero", "two", "two"),
        "Gather": one("Gather", "two", axis=3),
        "ReduceMax": one("ReduceMax", "two"),
        "Clip": one("Clip", "seven", "fifty"),
        "Clip-least": one("Clip", "seven"),
        "Clip-most": one("Clip", "", "fifty"),
        "Concat": two("Concat", axis=1),
        "Max": two("Max"),
        "Min": two("Min"),
        "Split": lambda: [helper.make_node("Split", ["q"], ["first", "m"], axis=2, num_outputs=2)],
        "chain": lambda: [
            helper.make_node("Transpose", ["q"], ["t"], perm=[0, 2, 3, 1]),
            helper.make_node("Flatten", ["t"], ["m"]),
        ],
    }


def _moved(path: Path, nodes: list[onnx.NodeProto], kind: type) -> Path:
    constants = {
        "scale": np.float32(0.02),
        "point": kind(37),
        "seven": kind(7),
        "fifty": kind(50),
        "shape": np.array([1, -1, 8, 2]),
        "pads": np.array([0, 0, 1, 2, 0, 0, 2, 1]),
        "factors": np.array([1, 1, 2, 2], np.float32),
        "zero": np.array([0]),
        "two": np.array([2]),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "point"], ["q"]),
        *nodes,
        helper.make_node("DequantizeLinear", ["m", "scale", "point"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    read = {name for node in nodes for name in node.input}
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in read]
    graph = helper.make_graph(nodes, "moved", [x], [y], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("move", _moves())
def test_integers_that_are_moved_stay_the_same(move: str, kind: type, tmp_path: Path) -> None:
    path = _moved(tmp_path / "moved.onnx", _moves()[move](), kind)
    expected = _by_operator(path, X)
    for artifact in edgeconv.export_onnx(path, tmp_path / "out", name="net").artifacts:
        result = computed(artifact, torch.from_numpy(X))
        np.testing.assert_allclose(result, expected, atol=1e-6, err_msg=str(artifact.path))


def test_a_product_scaled_by_alpha_scales_its_term_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "s": np.float32(0.02), "z": np.uint8(128), "w": rng.integers(-99, 99, (8, 5), np.int8), "ws": np.float32(0.01),
        "wz": np.int8(0), "b": rng.integers(-9999, 9999, 5).astype(np.int32), "t": np.float32(0.03), "tz": np.uint8(99),
    }  # fmt: skip
    operands = ["q", "s", "z", "w", "ws", "wz", "b", "t", "tz"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QGemm", operands, ["g"], domain="com.microsoft", alpha=0.5),
        helper.make_node("DequantizeLinear", ["g", "t", "tz"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (4, 8)), ("y", (4, 5))))
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "gemm.onnx"
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", [x], [y], stored), opset_imports=domains, ir_version=9), path
    )
    values = rng.standard_normal((4, 8)).astype(np.float32)
    expected = _by_operator(path, values)
    for artifact in edgeconv.export_onnx(path, tmp_path / "out", name="net").artifacts:
        assert np.abs(computed(artifact, torch.from_numpy(values)) - expected).max() < 0.03 * 1.01, artifact.path


def test_operators_of_one_runtime_alone_are_still_refused_by_name(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy")
    nodes = [helper.make_node("BiasSplitGelu", ["x"], ["y"], domain="com.microsoft")]
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=domains), tmp_path / "g.onnx")
    with pytest.raises(CaptureError, match="BiasSplitGelu is no operator of standard ONNX"):
        edgeconv.export_onnx(tmp_path / "g.onnx", tmp_path / "out", name="net")


def test_artifacts_hold_no_operator_of_one_runtime(float_file: Path, tmp_path: Path) -> None:
    quantize_static(float_file, tmp_path / "theirs.onnx", Noise("x", SHAPE, seed=1), quant_format=QuantFormat.QOperator)
    result = edgeconv.export_onnx(tmp_path / "theirs.onnx", tmp_path / "out", name="net", formats="onnx")
    artifact: Artifact = result.artifacts[0]
    assert {node.domain for node in onnx.load(artifact.path).graph.node} == {""}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (S8, {"DedicatedQDQPair": True}),
        (S8, {"AddQDQPairToWeight": True}),
        (S8, {"WeightSymmetric": False}),
        (U8, {}),
        (U8, {"WeightSymmetric": False}),
    ],
    ids=["pairs-twice", "weights-rounded", "zero-points", "weights-of-uint8", "uint8-zero-points"],
)
def test_right_files_of_onnxruntime_s_settings_pass_their_proof(
    kind: QuantType, options: dict[str, bool], float_file: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs.onnx"
    kinds = {"activation_type": U8, "weight_type": kind, "per_channel": kind == U8}
    quantize_static(float_file, theirs, Noise("x", SHAPE, seed=1), **kinds, extra_options=options)
    result = edgeconv.export_onnx(
        tmp_path / "theirs.onnx", tmp_path / "out", name="net", devices=("onnxruntime", "litert")
    )
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons if row.verdict.value != "pass"] == []
