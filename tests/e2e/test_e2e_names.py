"""Names that we invent never meet the user's.

Members: what each stage makes of names (``x.half``, ``x.quantized``, ``x.zero_point.unsigned``, ``x.equalized``,
``x.absorbed``, ``x.gelu``, ``x/held``, …) as names of the user's values, outputs and constants; the short names of
sessions of one operator (``x0``, ``c1``, ``y0``); names with control characters; our temporary names; ``output``.
Names of other scripts, with blanks and with punctuation stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto as Tensors
from onnx import helper, numpy_helper

import edgeconv

Arrays = dict[str, list[npt.NDArray[np.generic]]]
X = np.random.default_rng(0).standard_normal((4, 1, 3, 8, 8)).astype(np.float32)


def _nodes() -> tuple[list[onnx.NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """Layers whose weights are equalized, a branch, a gate, a group norm, a resize, two outputs and a head."""
    draw = np.random.default_rng(1)
    constants: dict[str, npt.NDArray[np.generic]] = {
        "w0": draw.standard_normal((8, 3, 3, 3)).astype(np.float32), "b0": np.ones(8, np.float32),
        "w1": (draw.standard_normal((8, 8, 1, 1)) * 0.01).astype(np.float32),
        "w2": draw.standard_normal((8, 8, 3, 3)).astype(np.float32), "b2": np.zeros(8, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32), "w3": draw.standard_normal((8, 5)).astype(np.float32),
        "b3": np.ones(5, np.float32), "shape": np.array([0, 2, -1]), "back": np.array([1, 8, 8, 8]),
        "ones": np.ones(2, np.float32), "zeros": np.zeros(2, np.float32),
    }  # fmt: skip
    layers = [
        ("Conv", ["in", "w0", "b0"], ["v0"], {"pads": [1] * 4}), ("Relu", ["v0"], ["v1"], {}),
        ("Conv", ["v1", "w1"], ["v2"], {}), ("Relu", ["v2"], ["v3"], {}),
        ("Conv", ["v3", "w2", "b2"], ["v4"], {"pads": [1] * 4}), ("Add", ["v4", "v1"], ["v5"], {}),
        ("Sigmoid", ["v5"], ["v6"], {}), ("Mul", ["v5", "v6"], ["v7"], {}),
        ("Reshape", ["v7", "shape"], ["v8"], {}), ("InstanceNormalization", ["v8", "ones", "zeros"], ["v9"], {}),
        ("Reshape", ["v9", "back"], ["v10"], {}), ("HardSwish", ["v10"], ["v11"], {}),
        ("Resize", ["v11", "", "scales"], ["v12"], {"mode": "nearest"}),
        ("GlobalAveragePool", ["v12"], ["v13"], {}), ("Flatten", ["v13"], ["v14"], {}),
        ("Gemm", ["v14", "w3", "b3"], ["v15"], {}),
    ]  # fmt: skip
    return [helper.make_node(kind, ins, outs, **more) for kind, ins, outs, more in layers], constants


def _saved(path: Path, names: Mapping[str, str]) -> Path:
    """The model with other names for some of its values."""
    nodes, constants = _nodes()
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(names.get("in", "in"), Tensors.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(names.get(name, name), Tensors.FLOAT, None) for name in ("v15", "v11")],
        [numpy_helper.from_array(array, names.get(name, name)) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def _exported(path: Path, out: Path, variant: str, opset: int) -> tuple[Arrays, set[str]]:
    """What the files compute, output by output, and every name in them."""
    name = onnx.load(path).graph.input[0].name
    data = edgeconv.Quantization(batches=lambda: [{name: x} for x in X], rounding="corrected", absorb_biases=True)
    result = edgeconv.export_onnx(path, out, name="m", variants=variant, quantization=data, opset=opset)
    found: Arrays = {}
    names: set[str] = set()
    for artifact in result.artifacts:
        feed = {artifact.inputs[0].name: artifact.inputs[0].to_file(X[0])}
        if artifact.format == "onnx":
            graph = onnx.load(artifact.path).graph
            names |= {value for node in graph.node for value in node.output} | {each.name for each in graph.initializer}
            session = onnxruntime.InferenceSession(artifact.path.read_bytes())
            values = dict(zip([each.name for each in session.get_outputs()], session.run(None, feed), strict=True))
        else:
            interpreter = Interpreter(str(artifact.path))
            names |= {each["name"] for each in interpreter.get_tensor_details()}
            values = interpreter.get_signature_runner()(**feed)
        found[artifact.path.name] = [each.from_file(values[each.name]) for each in artifact.outputs]
    return found, names


def _assert_equal(ours: Arrays, expected: Arrays) -> None:
    assert ours.keys() == expected.keys()
    for name, arrays in expected.items():
        for one, other in zip(ours[name], arrays, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


def _renamed(invented: Collection[str], turn: int) -> dict[str, str]:
    """Names from those that were invented, for some of the values, constants and outputs."""
    nodes, constants = _nodes()
    own = [*(value for node in nodes for value in node.output), *constants]
    free = sorted(name for name in invented if name and name not in {*own, "in"} and ";" not in name)
    generator = np.random.default_rng(turn)
    count = min(len(free), len(own) * 2 // 3)
    return dict(zip(generator.permutation(own)[:count], generator.permutation(free)[:count], strict=True))


@pytest.mark.parametrize(("variant", "opset"), [("fp32", 13), ("fp16", 18), ("int8", 18), ("int8-weights", 18)])
def test_names_that_we_invent_may_be_the_users(tmp_path: Path, variant: str, opset: int) -> None:
    expected, names = _exported(_saved(tmp_path / "m.onnx", {}), tmp_path / "out", variant, opset)
    for turn in range(2):
        renamed = {str(key): str(name) for key, name in _renamed(names, turn).items()}
        assert renamed
        ours, _ = _exported(_saved(tmp_path / "m.onnx", renamed), tmp_path / "out", variant, opset)
        _assert_equal(ours, expected)


SHORT = {"v0": "x0", "v1": "x1", "v2": "c1", "w1": "x2", "v3": "y0", "v4": "\0000", "v5": "\x011", "w2": "\x022",
         "v6": "\x03v5.scales", "v15": "output", "v7": "in.output", "v14": "serving_default_in", "v8": "temporary.0",
         "b0": "temporary_1.1"}  # fmt: skip


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_short_and_temporary_names_and_control_characters_may_be_the_users(tmp_path: Path, variant: str) -> None:
    expected, _ = _exported(_saved(tmp_path / "m.onnx", {}), tmp_path / "out", variant, 18)
    ours, _ = _exported(_saved(tmp_path / "m.onnx", SHORT), tmp_path / "out", variant, 18)
    _assert_equal(ours, expected)


def test_names_of_any_script_stay(tmp_path: Path) -> None:
    written = {"in": "größe x", "v0": "слой 1", "v11": "出力", "v15": "a/b:0 [%]", "w0": "poids é"}
    path = _saved(tmp_path / "m.onnx", written)
    kept = {written["in"], written["v11"], written["v15"]}
    result = edgeconv.export_onnx(
        path, tmp_path / "out", name="m", devices=("onnxruntime", "litert", "litert-reference", "tflite-runtime")
    )
    assert result.report is not None
    assert [(row.verdict, row.reason) for row in result.report.comparisons] == [(edgeconv.Verdict.PASS, "")] * 10
    for artifact in result.artifacts:
        assert {spec.name for spec in (*artifact.inputs, *artifact.outputs)} == kept
    graph = onnx.load(result.artifacts[0].path).graph
    assert {graph.input[0].name, *(value.name for value in graph.output)} == kept
    assert written["w0"] in {tensor.name for tensor in graph.initializer}


def test_an_output_that_is_an_input_gets_a_name_that_is_free(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["x.output"])]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", Tensors.FLOAT, [1, 3])], [value(n, Tensors.FLOAT, [1, 3]) for n in ("x", "x.output")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    result = edgeconv.export_onnx(tmp_path / "m.onnx", tmp_path / "out", name="m")
    assert [each.name for each in result.artifacts[0].outputs] == ["x.output_1", "x.output"]


def test_default_names_of_outputs_make_way_for_inputs(tmp_path: Path) -> None:
    """Nobody gave a name twice: the second was ours."""

    class Net(torch.nn.Module):
        def forward(self, image: torch.Tensor, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return image + output, image * output

    x = torch.randn(1, 3, 4, 4)
    for artifact in edgeconv.export(Net(), (x, x), tmp_path, name="net").artifacts:
        assert [spec.name for spec in artifact.inputs] == ["image", "output"]
        assert len({spec.name for spec in (*artifact.inputs, *artifact.outputs)}) == 4
