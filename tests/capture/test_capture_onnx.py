"""Files that others wrote: the graph computes what onnxruntime makes of the file, or one line says why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv.capture import FILE_OPSETS, OnnxFile, open_onnx, settled_shapes
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate

SUITE = Path(onnx.__file__).parent / "backend/test/data"
Nodes = Sequence[onnx.NodeProto]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model of one input ``x`` and one output ``y``."""

    def write(nodes: Nodes, shape: Sequence[Any] | None = (1, 4, 6, 6), opset: int = 18, **more: Any) -> Path:
        constants = {name: numpy_helper.from_array(array, name) for name, array in more.get("constants", {}).items()}
        inputs = [helper.make_tensor_value_info("x", more.get("dtype", TensorProto.FLOAT), shape)]
        if more.get("old_style"):
            inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in constants.values()]
        outputs = [helper.make_tensor_value_info("y", more.get("dtype", TensorProto.FLOAT), None)]
        graph = helper.make_graph(nodes, "g", inputs, outputs, list(constants.values()))
        ids = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **more.get("also", {})}.items()]
        model = helper.make_model(graph, opset_imports=ids, functions=more.get("functions", ()))
        model.ir_version = 3 if more.get("old_style") else 8
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return write


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    name = attributes.pop("name", f"the_{op.lower()}")
    return helper.make_node(op, inputs.split(), outputs.split(), name=name, **attributes)


def opened(path: Path, **shapes: Sequence[int]) -> tuple[OnnxFile, Any, dict[str, Any]]:
    file = open_onnx(path)
    settled = {
        name: tuple(2 if isinstance(dim, str) else dim for dim in shape)
        for name, shape in settled_shapes(file, shapes).items()
    }
    generator = np.random.default_rng(0)
    feeds: dict[str, Any] = {
        value.name: (
            generator.standard_normal(settled[value.name])
            if value.dtype == "float32"
            else generator.integers(0, 2, settled[value.name])
        ).astype(value.dtype)
        for value in file.inputs
    }
    return file, file.graph(settled), feeds


def assert_same(path: Path, **shapes: Sequence[int]) -> Any:
    """The graph, in float64, beside the file itself on onnxruntime; returns the graph."""
    file, model, feeds = opened(path, **shapes)
    assert model.opset_imports[""] in FILE_OPSETS
    session = onnxruntime.InferenceSession(file.data, providers=["CPUExecutionProvider"])
    theirs = session.run(None, feeds)
    ours = evaluate(model, feeds, keep=[value.name for value in file.outputs])
    for value, b in zip(file.outputs, theirs, strict=True):
        np.testing.assert_allclose(ours[value.name], b, rtol=1e-4, atol=1e-5 * max(1, np.abs(b).max()), equal_nan=True)
    for node in model.graph:
        assert all(value.shape is not None and value.shape.is_static() and value.dtype for value in node.outputs)
    return model


W = np.random.default_rng(1).standard_normal((5, 4, 3, 3)).astype(np.float32)
GROWN: dict[str, tuple[int, Nodes, dict[str, Any]]] = {
    "softmax flattens": (11, [node("Softmax", "x", axis=1)], {}),
    "clip by attributes": (7, [node("Clip", "x", min=-0.5, max=0.5)], {}),
    "pad by attributes": (7, [node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 1, 1])], {}),
    "nearest upsample": (7, [node("Upsample", "x", scales=[1.0, 1.0, 2.0, 2.0])], {}),
    "linear upsample": (
        9, [node("Upsample", "x s", mode="linear")], {"s": np.array([1, 1, 2, 2], np.float32)}
    ),
    "nearest resize, 2.5 times": (10, [node("Resize", "x s")], {"s": np.array([1, 1, 2.5, 2.5], np.float32)}),
    "linear resize": (10, [node("Resize", "x s", mode="linear")], {"s": np.array([1, 1, 2, 2], np.float32)}),
    "slice by attributes": (7, [node("Slice", "x", axes=[2], starts=[1], ends=[5])], {}),
    "mean by attributes": (11, [node("ReduceMean", "x", axes=[2, 3], keepdims=0)], {}),
    "split by attributes": (11, [node("Split", "x", "a b", axis=1, split=[1, 3]), node("Relu", "b")], {}),
    "dropout": (7, [node("Dropout", "x", ratio=0.3)], {}),
    "dequantized weights": (
        13,
        [node("DequantizeLinear", "w s", "wf"), node("Conv", "x wf")],
        {"w": (W * 20).astype(np.int8), "s": np.array(0.05, np.float32)},
    ),
    "gelu": (20, [node("Gelu", "x")], {}),
    "group normalization": (
        21, [node("GroupNormalization", "x s b", num_groups=2, epsilon=0.1)],
        {"s": np.arange(4, dtype=np.float32), "b": np.ones(4, np.float32)},
    ),
    "newer than ours": (24, [node("Relu", "x")], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", GROWN)
def test_operators_of_other_opsets(write, case: str) -> None:
    opset, nodes, constants = GROWN[case]
    model = assert_same(write(nodes, opset=opset, constants=constants))
    assert not [value.name for node in model.graph for value in node.outputs if value.name.startswith("_v_")]


def test_quantize_and_dequantize_stay(write) -> None:
    scale = {"s": np.array(0.1, np.float32), "z": np.array(3, np.int8), "w": (W * 20).astype(np.int8)}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "w s", "wf", name="of_the_weights"),
        node("Conv", "d wf"),
    ]
    model = assert_same(write(nodes, opset=13, constants=scale))
    assert [node.op_type for node in model.graph].count("DequantizeLinear") == 2


def test_results_that_nobody_wants_need_no_shape(write) -> None:
    """An exporter leaves the names of the sequence and the cell state empty."""
    weights = {"w": np.ones((1, 16, 3), np.float32), "r": np.ones((1, 16, 4), np.float32)}
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["", "y", ""], hidden_size=4)
    _, model, _ = opened(write([lstm], (5, 1, 3), constants=weights))
    assert [node.op_type for node in model.graph] == ["LSTM"]


def test_text_that_nobody_wants(write) -> None:
    nodes = [node("Constant", "", "a", value_string="why"), node("Constant", "", "b", value_strings=["why", "not"])]
    model = assert_same(write([*nodes, node("Identity", "a", "c"), node("Relu", "x")]))
    assert [node.op_type for node in model.graph] == ["Relu"]


def test_weights_among_the_inputs_are_weights(write) -> None:
    path = write([node("Conv", "x w")], opset=8, constants={"w": W}, old_style=True)
    assert [value.name for value in open_onnx(path).inputs] == ["x"]
    assert list(assert_same(path).graph.initializers) == ["w"]


def test_shapes_that_are_computed_become_constants(write) -> None:
    nodes = [
        node("Shape", "x", "shape"), node("Gather", "shape zero", "n"), node("Concat", "n rest", "target", axis=0),
        node("Reshape", "x target"),
    ]  # fmt: skip
    rest = {"zero": np.array([0]), "rest": np.array([-1])}
    model = assert_same(write(nodes, ("N", 4, 6, 6), constants=rest))
    assert [node.op_type for node in model.graph] == ["Reshape"]


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_on_a_constant_is_taken(write, taken: bool) -> None:
    y = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["t"]), helper.make_node("Neg", ["t"], ["y"])], "one", [], y
    )
    two = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["t"]), helper.make_node("Exp", ["t"], ["y"])], "two", [], y
    )
    inner = helper.make_node("If", ["c"], ["t"], then_branch=branch, else_branch=two)
    model = assert_same(write([inner, node("Tanh", "t")], constants={"c": np.array(taken)}))
    assert [node.op_type for node in model.graph] == (["Relu", "Neg"] if taken else ["Abs", "Exp"]) + ["Tanh"]


def test_functions_are_inlined(write) -> None:
    body = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    swish = helper.make_function("mine", "Swish", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    call = helper.make_node("Swish", ["x"], ["y"], domain="mine")
    model = assert_same(write([call], functions=[swish], also={"mine": 1}))
    assert [node.op_type for node in model.graph] == ["Sigmoid", "Mul"]


def test_names_are_the_files_own(write) -> None:
    written = [("Relu", "x", "a b"), ("Neg", "a b", "a\tb"), ("Tanh", "a\tb", "a_b")]
    nodes = [helper.make_node(operator, [value], [result]) for operator, value, result in written]
    model = assert_same(write([*nodes, node("Abs", "a_b")]))
    assert [node.outputs[0].name for node in model.graph] == ["a b", "a_b_1", "a_b", "y"]


def test_an_output_that_stands_twice(write) -> None:
    path = write([node("Relu", "x")])
    model = onnx.load(path)
    model.graph.output.append(model.graph.output[0])
    onnx.save(model, path)
    with pytest.raises(CaptureError, match="its outputs name 'y' twice"):
        open_onnx(path)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another domain": (
        {"nodes": [node("Inverse", "x", domain="com.microsoft")], "also": {"com.microsoft": 1}},
        "node the_inverse: com.microsoft::Inverse is no operator of standard ONNX",
    ),
    "half precision": ({"nodes": [node("Relu", "x")], "dtype": TensorProto.FLOAT16}, "x is float16"),
    "double inside": (
        {"nodes": [node("Cast", "x", "d", to=TensorProto.DOUBLE), node("Cast", "d", to=TensorProto.FLOAT)]},
        "d is float64",
    ),
    "strings": ({"nodes": [node("Identity", "x")], "dtype": TensorProto.STRING}, "x is string"),
    "text inside": (
        {"nodes": [node("Constant", "", "s", value_string="a"), node("Equal", "s s", "e"), node("Where", "e x x")],
         "opset": 19},
        "s is string",
    ),
    "text as a weight": (
        {"nodes": [node("Equal", "s s", "e"), node("Where", "e x x")], "opset": 19,
         "constants": {"s": np.array(["a"], object)}},
        "s is string",
    ),
    "sparse": (
        {"nodes": [node("Constant", "", "w", sparse_value=helper.make_sparse_tensor(
            numpy_helper.from_array(np.ones(1, np.float32), "v"), numpy_helper.from_array(np.array([2]), "i"), [6])),
            node("Add", "x w")]},
        "sparse weights; save them dense",
    ),
    "old": ({"nodes": [node("Relu", "x")], "opset": 5}, "opset 5 is not read"),
    "values decide a shape": (
        {"nodes": [node("NonZero", "x", "i"), node("Cast", "i", to=1)]}, "node the_nonzero: NonZero has a shape"
    ),
    "channels": ({"nodes": [node("Conv", "x w")], "constants": {"w": W}, "shape": (1, 4)}, "do not fit"),
    "groups": (
        {"nodes": [node("GroupNormalization", "x s s", num_groups=3)], "opset": 21,
         "constants": {"s": np.ones(4, np.float32)}},
        "3 groups do not divide 4 channels",
    ),
    "random": ({"nodes": [node("RandomNormalLike", "x")]}, "random"),
    "an open height": ({"nodes": [node("Relu", "x")], "shape": (1, 3, "h", 8)}, "shapes={'x': (1, 3, <h>, 8)}"),
    "a batch of none": ({"nodes": [node("Relu", "x")], "shape": (0, 4)}, "'x' has the shape [0, 4], which holds no"),
    "a height of none": ({"nodes": [node("Relu", "x")], "shape": (1, 4, 0, 4)}, "which holds no elements"),
    "no shape": ({"nodes": [node("Relu", "x")], "shape": None}, "shapes={'x': ("),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_one_line(write, case: str) -> None:
    model, says = REFUSED[case]
    with pytest.raises(CaptureError) as caught:
        opened(write(**model))
    assert says in str(caught.value)
    assert "model.onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "version", "says"),
    [
        ([node("Relu", "x")], 99, "save it with an older release of onnx, or install a newer one"),
        ([node("Relu", "x", "a"), node("Abs", "x", "a"), node("Neg", "a")], 8, "give each tensor a name of its own"),
        ([node("Relu", "q")], 8, "make each input, ahead of the nodes that read it"),
        ([node("Gelu", "x")], 8, "export it with an opset that has the operator"),
        ([node("Relu", "x", slope=1)], 8, "Unrecognized attribute: slope for operator Relu; correct the model"),
    ],
)
def test_what_the_checker_refuses_has_its_own_hint(write, nodes: Nodes, version: int, says: str) -> None:
    path = write(nodes)
    model = onnx.load(path)
    model.ir_version = version
    onnx.save(model, path)
    with pytest.raises(CaptureError) as caught:
        open_onnx(path)
    assert says in str(caught.value)
    assert "another opset" not in str(caught.value)


@pytest.mark.parametrize(("runs", "computes"), [(2000, False), (3, True)], ids=["many", "computed"])
def test_a_loop_of_many_or_unknown_runs_is_refused_by_name(write, runs: int, computes: bool) -> None:
    i, c = (helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("c", 9)))
    a, b = (helper.make_tensor_value_info(name, 1, [1, 4, 6, 6]) for name in ("a", "b"))
    keep = helper.make_tensor_value_info("k", 9, [])
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Not" if computes else "Identity", ["c"], ["k"])]
    loop = node("Loop", "n t x", body=helper.make_graph(body, "body", [i, c, a], [keep, b]))
    with pytest.raises(CaptureError, match="node the_loop: Loop runs a subgraph"):
        opened(write([loop], constants={"n": np.array(runs), "t": np.array(True)}))


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"x": (1, 4, 6)}, "3 dimensions"),
        ({"x": (1, 4, 7, 6)}, "fixes dimension 2 to 6"),
        ({"x": (1, 4, "h", 6)}, "only its first dimension"),
        ({"x": (0, 4, 6, 6)}, "no elements"),
        ({"z": (1, 4, 6, 6)}, "no input 'z'"),
    ],
)
def test_shapes_that_do_not_fit_the_file(write, shapes: dict[str, Any], says: str) -> None:
    with pytest.raises(CaptureError, match=says):
        settled_shapes(open_onnx(write([node("Relu", "x")], ("N", 4, 6, 6))), shapes)


def test_all_shapes_that_are_missing_are_asked_for_at_once(tmp_path: Path) -> None:
    shapes: dict[str, Any] = {"sound": ["N", "length"], "state": [2, "N", 8], "rate": [1], "gain": None}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    nodes = [node("Relu", name, f"y_{name}") for name in shapes]
    outputs = [helper.make_tensor_value_info(f"y_{name}", TensorProto.FLOAT, None) for name in shapes]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), ir_version=8), path)
    with pytest.raises(CaptureError) as caught:
        settled_shapes(open_onnx(path), {"gain": (1, 4)})
    text = str(caught.value)
    assert "its input 'sound' the shape [N, length], its input 'state' the shape [2, N, 8]" in text
    assert "shapes={'sound': (1, <length>), 'state': (2, <N>, 8)}" in text
    assert "gain" not in text


def test_an_open_batch_stays_open_and_can_be_fixed(write) -> None:
    file = open_onnx(write([node("Relu", "x")], ("N", 4, 6, 6)))
    assert settled_shapes(file, {}) == {"x": ("N", 4, 6, 6)}
    assert settled_shapes(file, {"x": (7, 4, 6, 6)}) == {"x": (7, 4, 6, 6)}
    assert settled_shapes(file, {"x": ("images", 4, 6, 6)}) == {"x": ("images", 4, 6, 6)}
    nameless = open_onnx(write([node("Relu", "x")], (None, 4)))
    assert settled_shapes(nameless, {}) == {"x": ("batch", 4)}
    negative = open_onnx(write([node("Relu", "x")], (-1, 4)))
    assert settled_shapes(negative, {}) == {"x": ("batch", 4)}


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "folder", "missing", "no weights"])
def test_damaged_files_are_refused_by_name(write, tmp_path: Path, damage: str) -> None:
    path = write([node("Conv", "x w")], constants={"w": W})
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "no weights":
        onnx.save(
            onnx.ModelProto.FromString(whole), path, save_as_external_data=True, location="w.bin", size_threshold=0
        )
        assert opened(path)[0].inputs[0].name == "x"
        (tmp_path / "w.bin").unlink()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"name = 'x'\n" * 20}[damage])
    with pytest.raises(CaptureError) as caught:
        open_onnx(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet"])
def test_networks_of_onnxs_own_suite(name: str) -> None:
    """Opset 9, with weights among the inputs that ConstantOfShape makes."""
    assert_same(SUITE / "light" / f"{name}.onnx")


@pytest.mark.parametrize(
    "path", sorted(SUITE.glob("pytorch-converted/test_[CRZE]*2d*/model.onnx")), ids=lambda p: p.parent.name
)
def test_operators_of_onnxs_own_suite(path: Path, tmp_path: Path) -> None:
    """Written in opset 6, which these read the same in 7."""
    model = onnx.load(path)
    model.opset_import[0].version = 7
    onnx.save(model, tmp_path / "model.onnx")
    assert_same(tmp_path / "model.onnx")
