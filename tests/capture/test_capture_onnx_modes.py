"""Files in training mode, with second outputs, paddings that the result states, and of opsets 23 and 24.

`tests/contract/test_contract_onnx_schema.py` sets every member of every schema by itself. Here stand those that depend
on one another. Kinds thought of: statistics of the batch as outputs or inside; Dropout whose mode or ratio is an input,
false, or zero; ConvTranspose by output_shape beside auto_pad, output_padding, groups, dilations, one and two axes;
auto_pad beside dilations (Conv, MaxPool), even and odd paddings, with strides.
"""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper

from edgeconv.capture import open_onnx, settled_shapes
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize

_draw = np.random.default_rng(3)


def f(*shape: int) -> np.ndarray:
    return _draw.standard_normal(shape).astype(np.float32)


IMAGE, LINE = f(2, 4, 5, 6), f(2, 4, 7)


def _file(
    folder: Path, nodes: list[onnx.NodeProto], x: np.ndarray, outputs: dict[str, int], opset: int, **constants: Any
) -> Path:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = max(8, helper.find_min_ir_version_for(model.opset_import))
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def _assert_both(path: Path, x: np.ndarray) -> None:
    """The graph and both files give what onnxruntime makes of the file."""
    file = open_onnx(path)
    graph = file.graph(settled_shapes(file, {}))
    names = [value.name for value in file.outputs]
    expected = onnxruntime.InferenceSession(file.data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    values = evaluate(graph, {"x": x}, keep=names)
    graph = optimize(graph)
    theirs = onnxruntime.InferenceSession(to_onnx(graph, metadata={}).data, providers=["CPUExecutionProvider"])
    runner = Interpreter(model_content=to_tflite(graph, metadata={}, layout="nchw").data, num_threads=1)
    tflite = runner.get_signature_runner()(x=x)
    for name, other, ours in zip(names, expected, theirs.run(None, {"x": x}), strict=True):
        for result in (values[name], ours, tflite[name]):
            np.testing.assert_allclose(result, other, rtol=1e-4, atol=2e-5, err_msg=name)


SHAPES = list(itertools.product(("NOTSET", "SAME_UPPER", "SAME_LOWER"), (0, 1, 2), (0, 1), (1, 2)))


@pytest.mark.parametrize(("auto_pad", "less", "extra", "groups"), SHAPES)
def test_transposed_convolution_of_a_stated_shape(
    tmp_path: Path, auto_pad: str, less: int, extra: int, groups: int
) -> None:
    stated = [(5 - 1) * 2 + 3 + extra - less, (6 - 1) * 2 + 5 - less]  # the second axis is dilated
    node = helper.make_node(
        "ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2], dilations=[1, 2], group=groups, auto_pad=auto_pad,
        output_shape=stated, output_padding=[extra, 0],
    )  # fmt: skip
    path = _file(tmp_path, [node], IMAGE, {"y": 1}, 18, w=f(4, 3, 3, 3), b=f(3 * groups))
    _assert_both(path, IMAGE)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_transposed_convolution_of_a_line(tmp_path: Path, auto_pad: str) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[3], auto_pad=auto_pad)
    _assert_both(_file(tmp_path, [node], LINE, {"y": 1}, 11, w=f(4, 3, 4)), LINE)


def test_a_shape_that_a_transposed_convolution_cannot_make(tmp_path: Path) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_shape=[11, 15])
    path = _file(tmp_path, [node], IMAGE, {"y": 1}, 18, w=f(4, 3, 3, 3))
    file = open_onnx(path)
    with pytest.raises(CaptureError, match=r"y: ConvTranspose cannot make its output_shape \[11, 15\]"):
        file.graph(settled_shapes(file, {}))


@pytest.mark.parametrize(("x", "opset"), [(IMAGE, 14), (LINE, 15), (f(5, 4), 24)])
def test_statistics_of_the_batch(tmp_path: Path, x: np.ndarray, opset: int) -> None:
    names = ["scale", "bias", "mean", "variance"]
    nodes = [
        helper.make_node("BatchNormalization", ["x", *names], ["n", "m", "v"], training_mode=1, momentum=0.7),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    constants = dict(zip(names, (f(4), f(4), f(4), np.abs(f(4))), strict=True))
    path = _file(tmp_path, nodes, x, {"y": 1, "m": 1, "v": 1}, opset, **constants)
    _assert_both(path, x)
    graph = open_onnx(path).graph({"x": x.shape}).graph
    assert {"n.mean.flat", "n.variance.flat.kept"} < {value.name for node in graph for value in node.outputs}
    assert not [name for name in graph.initializers if name.startswith("temporary")]


def test_statistics_out_of_training(tmp_path: Path) -> None:
    names = ["scale", "bias", "mean", "variance"]
    node = helper.make_node("BatchNormalization", ["x", *names], ["y", "m", "v"])
    path = _file(tmp_path, [node], IMAGE, {"y": 1, "m": 1, "v": 1}, 13, **{name: np.abs(f(4)) for name in names})
    with pytest.raises(CaptureError, match="BatchNormalization"):
        open_onnx(path).graph({"x": IMAGE.shape})


@pytest.mark.parametrize(("ratio", "training"), [(0.5, False), (0.0, True)])
def test_a_dropout_that_drops_nothing(tmp_path: Path, ratio: float, training: bool) -> None:
    nodes = [helper.make_node("Dropout", ["x", "r", "t"], ["d", "mask"]), helper.make_node("Relu", ["d"], ["y"])]
    constants = {"r": np.float32(ratio), "t": np.array(training)}
    _assert_both(_file(tmp_path, nodes, IMAGE, {"y": 1, "mask": TensorProto.BOOL}, 18, **constants), IMAGE)


@pytest.mark.parametrize("case", ["training", "mode is computed"])
def test_a_dropout_that_draws(tmp_path: Path, case: str) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Greater", ["top", "r"], ["greater"]),
        helper.make_node("Dropout", ["x", "r", "t" if case == "training" else "greater"], ["y"]),
    ]
    file = open_onnx(_file(tmp_path, nodes, IMAGE, {"y": 1}, 18, r=np.float32(0.5), t=np.array(True)))
    with pytest.raises(CaptureError, match="y: Dropout is in training mode and draws random numbers"):
        file.graph(settled_shapes(file, {}))


@pytest.mark.parametrize("opset", [23, 24])
def test_files_of_new_opsets_keep_theirs(tmp_path: Path, opset: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["c", "s"], ["rows"]),
        helper.make_node("RMSNormalization", ["rows", "g"], ["n"], epsilon=1e-3),
        helper.make_node("Attention", ["n", "n", "n"], ["a"], q_num_heads=2, kv_num_heads=2, is_causal=1, softcap=2.0),
        helper.make_node("Transpose", ["a"], ["y"], perm=[0, 2, 1]),
    ]
    path = _file(tmp_path, nodes, IMAGE, {"y": 1}, opset, w=f(8, 4, 3, 3), s=np.array([2, 30, 8]), g=f(8))
    _assert_both(path, IMAGE)
    file = open_onnx(path)
    graph = optimize(file.graph(settled_shapes(file, {})))
    assert onnx.load_from_string(to_onnx(graph, metadata={}).data).opset_import[0].version == opset


X, W, R = f(5, 2, 3), f(1, 16, 3), f(1, 16, 4)
MISFITS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "weights": ({}, {"w": W[:, :15]}, r"takes 'w' of the shape \[1, 15, 3\] where \[1, 16, 3\] is due"),
    "hidden size": ({"hidden_size": 5}, {}, r"takes 'w' of the shape \[1, 16, 3\] where \[1, 20, 3\] is due"),
    "bias": ({}, {"b": f(1, 31)}, r"takes 'b' of the shape \[1, 31\] where \[1, 32\] is due"),
    "state": ({}, {"h": f(1, 1, 4)}, r"takes 'h' of the shape \[1, 1, 4\] where \[1, 2, 4\] is due"),
    "direction": ({"direction": "sideways"}, {}, "LSTM has no direction 'sideways'"),
    "a number": (
        {"activations": ["ScaledTanh"] * 3, "activation_alpha": [1.0] * 3},
        {},
        "states no activation_beta for",
    ),
    "activation": ({"activations": ["Foo", "Tanh", "Tanh"]}, {}, "LSTM has no activation 'foo'"),
    "activations": ({"activations": ["Tanh"]}, {}, "LSTM takes 1 activations; name 3"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_recurrent_layers_whose_parts_do_not_fit(tmp_path: Path, case: str) -> None:
    attributes, constants, said = MISFITS[case]
    constants = {"w": W, "r": R, "b": f(1, 32), "h": f(1, 2, 4), **constants}
    node = helper.make_node("LSTM", ["x", "w", "r", "b", "", "h"], ["y"], **{"hidden_size": 4, **attributes})
    path = _file(tmp_path, [node], X, {"y": 1}, 18, **constants)
    with pytest.raises(CaptureError, match=said):
        open_onnx(path).graph({"x": X.shape})


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 26, reason="this onnx has no operator of opset 26")
def test_operators_of_newer_opsets_are_all_told_at_once(tmp_path: Path) -> None:
    """onnx's converter said `Assertion false failed`, of the first of them."""
    nodes = [
        helper.make_node("CumProd", ["x", "axis"], ["p"]),
        helper.make_node("BitCast", ["p"], ["y"], to=TensorProto.INT32),
    ]
    path = _file(tmp_path, nodes, f(2, 3), {"y": TensorProto.INT32}, 26, axis=np.array(0))
    with pytest.raises(CaptureError, match="BitCast, CumProd are operators that opsets up to 24 do not have") as caught:
        open_onnx(path).graph({"x": (2, 3)})
    assert "with operators of opset 24" in str(caught.value)


ATTENTIONS: dict[str, dict[str, Any]] = {
    "keys of another length": {"k": f(1, 2, 7, 4)},
    "keys of another size": {"k": f(1, 2, 6, 3)},
    "keys of another batch": {"k": f(2, 2, 6, 4), "v": f(2, 2, 6, 4)},
    "heads that do not divide": {"k": f(1, 3, 6, 4), "v": f(1, 3, 6, 4)},
    "keys of three axes": {"k": f(1, 6, 8)},
    "a mask of other rows": {"m": f(4, 6)},
    "a mask of more keys": {"m": f(5, 8)},
    "a mask of one number": {"m": f()},
    "a mask of five axes": {"m": f(1, 1, 1, 5, 6)},
    "a mask of truths of other rows": {"m": np.ones((3, 6), np.bool_)},
    "earlier keys of other heads": {"pk": f(1, 1, 2, 4), "pv": f(1, 1, 2, 4), "m": f(5, 8)},
    "earlier keys and values of two lengths": {"pk": f(1, 2, 2, 4), "pv": f(1, 2, 3, 4), "m": f(5, 8)},
}


@pytest.mark.parametrize("case", [*ATTENTIONS, ""])
def test_attention_of_operands_that_do_not_fit(tmp_path: Path, case: str) -> None:
    constants = {"k": f(1, 2, 6, 4), "v": f(1, 2, 6, 4), "m": f(5, 6), **ATTENTIONS.get(case, {})}
    past = ["pk", "pv"] if "pk" in constants else []
    node = helper.make_node("Attention", ["x", "k", "v", "m", *past], ["y"])
    path = _file(tmp_path, [node], f(1, 2, 5, 4), {"y": 1}, 23, **constants)
    with pytest.raises(CaptureError, match="operands of the shapes") if case else nullcontext():
        open_onnx(path).graph({"x": (1, 2, 5, 4)})


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
def test_an_order_of_booleans(tmp_path: Path, operator: str) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node(operator, ["positive", "axes"], ["y"], keepdims=0),
    ]
    constants = {"zero": np.float32(0), "axes": np.array([2])}
    _assert_both(_file(tmp_path, nodes, IMAGE, {"y": TensorProto.BOOL}, 20, **constants), IMAGE)


def test_a_power_of_integers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Pow", ["whole", "exponents"], ["y"]),
    ]
    path = _file(tmp_path, nodes, 3 * IMAGE, {"y": TensorProto.INT64}, 18, exponents=np.arange(6))
    _assert_both(path, 3 * IMAGE)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize(("dilations", "strides"), [([2, 2], [1, 1]), ([3, 1], [2, 2]), ([2, 3], [1, 1])])
@pytest.mark.parametrize("operator", ["Conv", "MaxPool"])
def test_dilated_windows_that_pad_by_themselves(
    tmp_path: Path, operator: str, dilations: list[int], strides: list[int], auto_pad: str
) -> None:
    kernel, weights = [3, 2], {"w": f(3, 4, 3, 2)} if operator == "Conv" else {}
    attributes: dict[str, Any] = {"auto_pad": auto_pad, "dilations": dilations, "strides": strides}
    attributes |= {} if weights else {"kernel_shape": kernel}
    node = helper.make_node(operator, ["x", *weights], ["y"], **attributes)
    file = open_onnx(_file(tmp_path, [node], IMAGE, {"y": TensorProto.FLOAT}, 19, **weights))
    pads: list[int] = []
    for axis in (1, 0):  # torch pads the last axis first
        size, reach = IMAGE.shape[2 + axis], (kernel[axis] - 1) * dilations[axis] + 1
        total = max((-(-size // strides[axis]) - 1) * strides[axis] + reach - size, 0)
        halves = (total // 2, total - total // 2)
        pads += halves if auto_pad == "SAME_UPPER" else halves[::-1]
    padded = torch.nn.functional.pad(torch.from_numpy(IMAGE), pads, value=0.0 if weights else float("-inf"))
    if weights:
        expected = torch.conv2d(padded, torch.from_numpy(weights["w"]), stride=strides, dilation=dilations)
    else:
        expected = torch.max_pool2d(padded, kernel, strides, 0, dilations)
    graph = optimize(file.graph(settled_shapes(file, {})))
    session = onnxruntime.InferenceSession(to_onnx(graph, metadata={}).data, providers=["CPUExecutionProvider"])
    results = [evaluate(graph, {"x": IMAGE}, keep=["y"])["y"], session.run(None, {"x": IMAGE})[0]]
    if weights:  # TFLite has no dilated pool
        runner = Interpreter(model_content=to_tflite(graph, metadata={}, layout="nchw").data, num_threads=1)
        results.append(runner.get_signature_runner()(x=IMAGE)["y"])
    for result in results:
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("opset", [7, 8])
def test_statistics_of_each_element_are_refused_by_name(tmp_path: Path, opset: int) -> None:
    node = helper.make_node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y"], spatial=0)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 3))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((2, 3), np.float32), "s")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(CaptureError, match="node y: BatchNormalization with spatial = 0"):
        open_onnx(tmp_path / "m.onnx")


# Operators of one input whose defaults are no short decimals, with what they need to be valid.
_DEFAULTS = {"LeakyRelu": {}, "HardSigmoid": {}, "Selu": {}, "LRN": {"size": 3}}


@pytest.mark.parametrize("operator", _DEFAULTS)
def test_defaults_are_the_float32_numbers_that_files_state(tmp_path: Path, operator: str) -> None:
    """Left out or stated is the same graph: what is written holds float32 numbers, and was called 2e-8 off."""
    schema = onnx.defs.get_schema(operator, 20)
    defaults = {name: item.default_value.f for name, item in schema.attributes.items() if item.default_value.type == 1}
    results = []
    for attributes in (_DEFAULTS[operator] | defaults, _DEFAULTS[operator]):
        node = helper.make_node(operator, ["x"], ["y"], **attributes)
        path = _file(tmp_path, [node], IMAGE, {"y": TensorProto.FLOAT}, 20)
        results.append(evaluate(open_onnx(path).graph({"x": IMAGE.shape}), {"x": IMAGE})["y"])
    np.testing.assert_array_equal(*results)


def test_nodes_before_what_they_read(tmp_path: Path) -> None:
    """Editors that add constants at the end write such files, and onnxruntime loads them."""
    pads = numpy_helper.from_array(np.array([0, 0, 1, 0, 0, 0, 1, 0]), "pads")
    nodes = [
        helper.make_node("Relu", ["padded"], ["y"]),
        helper.make_node("Pad", ["x", "pads"], ["padded"], mode="edge"),
        helper.make_node("Constant", [], ["pads"], value=pads),
    ]
    _assert_both(_file(tmp_path, nodes, IMAGE, {"y": TensorProto.FLOAT}, 18), IMAGE)


def test_branches_before_what_they_read_around_them(tmp_path: Path) -> None:
    branches = [
        helper.make_graph(
            [helper.make_node("Neg", ["late"], [f"{kind}.in"]), helper.make_node(kind, [f"{kind}.in"], [kind])],
            kind, [], [helper.make_tensor_value_info(kind, TensorProto.FLOAT, None)],
        )
        for kind in ("Relu", "Tanh")
    ]  # fmt: skip
    nodes = [
        helper.make_node("If", ["yes"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Sin", ["x"], ["late"]),
    ]
    _assert_both(_file(tmp_path, nodes, IMAGE, {"y": TensorProto.FLOAT}, 18, yes=np.array(True)), IMAGE)


def test_nodes_that_read_one_another_in_a_circle(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(CaptureError, match="ahead of the nodes that read it"):
        open_onnx(_file(tmp_path, nodes, IMAGE, {"b": TensorProto.FLOAT}, 18))
