"""Weights of files that others wrote: from the file's own folder, of the right size, or one line."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeconv
from edgeconv.capture import open_onnx, settled_shapes
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate

X = np.arange(4, dtype=np.float32)[None]
ONES = np.ones(4, np.float32)
ADD = helper.make_node("Add", ["x", "w"], ["y"])


def outside(location: str = "w.bin", name: str = "w", **more: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def save(
    path: Path, nodes: Sequence[onnx.NodeProto], weights: Sequence[TensorProto], functions: Sequence[Any] = ()
) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    domains = [helper.make_opsetid("", 18), *([helper.make_opsetid("mine", 1)] if functions else ())]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=domains, ir_version=8, functions=functions)
    path.write_bytes(model.SerializeToString())
    return path


def in_a_branch(path: Path) -> None:
    result = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    then = helper.make_graph([helper.make_node("Add", ["x", "w"], ["t"])], "one", [], result, [outside()])
    two = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "two", [], result)
    branch = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=two)
    save(path, [branch], [numpy_helper.from_array(np.array(True), "c")])


def in_a_branchs_constant(path: Path) -> None:
    result = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "one", [], result)
    constant = helper.make_node("Constant", [], ["w"], value=outside())
    two = helper.make_graph([constant, helper.make_node("Add", ["x", "w"], ["t"])], "two", [], result)
    branch = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=two)
    save(path, [branch], [numpy_helper.from_array(np.array(False), "c")])


def in_a_function(path: Path) -> None:
    body = [helper.make_node("Constant", [], ["w"], value=outside()), helper.make_node("Add", ["a", "w"], ["b"])]
    function = helper.make_function("mine", "Plus", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    save(path, [helper.make_node("Plus", ["x"], ["y"], domain="mine")], [], [function])


def in_an_initializer(path: Path) -> None:
    save(path, [ADD], [outside()])


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """The current folder: with a file of the same name, and other numbers."""
    folder, before = tmp_path / "elsewhere", Path.cwd()
    folder.mkdir()
    (ONES * 100).tofile(folder / "w.bin")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.mark.parametrize("model", [in_an_initializer, in_a_branch, in_a_branchs_constant, in_a_function])
def test_weights_lie_beside_the_model(tmp_path: Path, elsewhere: Path, model: Callable[[Path], None]) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "model.onnx"
    model(path)
    ONES.tofile(path.parent / "w.bin")
    result = edgeconv.export_onnx(path, tmp_path / "out", name="m", formats="onnx", devices="onnxruntime")
    written = result.artifacts[0].path.read_bytes()
    assert b"w.bin" not in written
    np.testing.assert_array_equal(onnxruntime.InferenceSession(written).run(None, {"x": X})[0], X + 1)
    (path.parent / "w.bin").unlink()
    with pytest.raises(CaptureError, match=r"its weights lie in 'w.bin', which is not beside it"):
        open_onnx(path)


def test_data_without_a_length_ends_where_the_tensor_ends(tmp_path: Path) -> None:
    np.arange(12, dtype=np.float32).tofile(tmp_path / "w.bin")
    file = open_onnx(save(tmp_path / "m.onnx", [ADD], [outside(offset="16")]))
    model = file.graph({"x": (1, 4)})
    np.testing.assert_array_equal(evaluate(model, {"x": X})["y"], X + np.arange(4, 8))


def longer(count: int) -> TensorProto:
    tensor = numpy_helper.from_array(ONES, "w")
    tensor.raw_data += b"\0" * count
    return tensor


def numbers(count: int) -> TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], float_data=[1.0] * count)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (longer(1), "holds 17 bytes, and needs 16"),
        (longer(400), "holds 416 bytes, and needs 16"),
        (numbers(5), "holds 5 numbers, and needs 4"),
        (numbers(3), "holds 3 numbers, and needs 4"),
        (outside(length="20"), "holds 20 bytes, and needs 16"),
        (outside(length="8"), "holds 8 bytes, and needs 16"),
        (outside(length="4000"), "holds 4000 bytes, and needs 16"),
        (outside(length="sixteen"), "holds sixteen bytes, and needs 16"),
        (outside(length="9" * 5000), "bytes, and needs 16"),
        (outside(offset="40"), "the data of 'w' cannot be read from 'w.bin'"),
        (outside(offset="a lot"), "the data of 'w' cannot be read from 'w.bin'"),
        (outside("a" * 5000), "which is not beside it"),
        (outside("a\0b"), "which is not beside it"),
        (outside("../w.bin"), "outside of its folder; save the model as a single file"),
        (outside("/etc/hostname"), "outside of its folder"),
        (outside(""), "outside of its folder"),
        (outside("link.bin"), "is a symbolic link; put a copy of the file itself"),
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_what_is_no_weight_of_that_shape(tmp_path: Path, weight: TensorProto, says: str, constant: bool) -> None:
    np.arange(12, dtype=np.float32).tofile(tmp_path / "w.bin")
    (tmp_path / "link.bin").symlink_to("w.bin")
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), ADD] if constant else [ADD]
    path = save(tmp_path / "m.onnx", nodes, [] if constant else [weight])
    with pytest.raises(CaptureError) as caught:
        open_onnx(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "opset" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.BOOL, TensorProto.INT16])
@pytest.mark.parametrize("raw", [False, True])
def test_packed_elements_are_counted(tmp_path: Path, kind: int, raw: bool) -> None:
    weight = helper.make_tensor("w", kind, [5], [1, 0, 1, 1, 0])
    if raw:
        weight = numpy_helper.from_array(numpy_helper.to_array(weight), "w")
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("Relu", ["x"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [])
    model = onnx.load(path)
    model.ir_version, model.opset_import[0].version = 10, 21  # which know all of these types
    onnx.save(model, path)
    assert settled_shapes(open_onnx(path), {}) == {"x": (1, 4)}


def test_a_stated_length_is_not_read_where_the_shape_says_another(tmp_path: Path) -> None:
    """Files of holes: they cost their author nothing, and a reader that believes them all memory."""
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(30 << 30)
    texts = outside(length=str(20 << 30))
    texts.data_type = TensorProto.STRING
    below = outside(length=str(20 << 30))
    below.dims[:] = [-4]
    twice = outside(length="16")
    twice.external_data.add(key="length", value=str(20 << 30))
    cases = {
        "holds 21474836480 bytes, and needs 16": [outside(length=str(20 << 30))],
        "holds 1468006400 bytes, and needs 16": [
            outside(name=name, length=str(1400 << 20)) for name in ("w", "v", "u")
        ],
        "holds 21474836480 bytes, and needs 16; ": [twice],
        "is of the element type 8, which no other file can hold": [texts],
        r"has the shape \[-4\]": [below],
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for says, weights in cases.items():
        with pytest.raises(CaptureError, match=says):
            open_onnx(save(tmp_path / "m.onnx", [ADD], weights))
    nothing = outside(length="0")
    nothing.dims[:] = [0]
    assert open_onnx(save(tmp_path / "m.onnx", [ADD], [nothing])).proto.graph.initializer[0].raw_data == b""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "kilobytes"


def test_a_tensor_of_more_axes_than_arrays_have(tmp_path: Path) -> None:
    """numpy said so, in words of its own; found by mutation."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1] * 100, float_data=[1.0])
    with pytest.raises(CaptureError, match="the tensor 'w' has 100 axes, and at most 32 are read"):
        open_onnx(save(tmp_path / "m.onnx", [ADD], [weights]))
