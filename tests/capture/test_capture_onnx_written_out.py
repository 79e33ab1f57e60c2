"""Operators of files that are written out: what onnxruntime computes comes out of both formats, in floats and int8.

Members thought of: Einsum of matrices, batches, dots, outer products, diagonals, sums, orders, several operands and
sizes that broadcast; Gemm by what is computed, of rows that differ; Mean of one and of several; OneHot by indices
from the end and out of range, on any axis, of values that are computed; Hardmax over one axis, and over several
before opset 13; Compress along an axis and of all elements; a norm of equal numbers; branches that are not taken and
read what nothing else does; pools that pad by themselves, with dilations and with strides beyond their windows;
slopes and inputs of PRelu that are one number; scatters that combine; places outside that are reflected; functions of
constants alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from right_from_file import assert_right_from_file, file_of, noise, outputs_of

import edgeconv
from edgeconv.capture import open_onnx
from edgeconv.errors import CaptureError, EmitError

_node = helper.make_node

EINSUMS: dict[str, tuple[tuple[int, ...], ...]] = {
    "bij,jk->bik": ((2, 3, 4), (4, 5)),
    "bij,jk->kbi": ((2, 3, 4), (4, 5)),
    "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)),
    "bhid,bhjd->bhij": ((1, 2, 3, 4), (1, 2, 5, 4)),
    "nchw,cd->ndhw": ((1, 4, 3, 5), (4, 6)),
    "...ij,jk->...ik": ((2, 3, 4, 5), (5, 3)),
    "ij,kl": ((2, 3), (4, 5)),
    "ba,b": ((3, 4), (3,)),
    "ij,ij->ij": ((3, 4), (3, 4)),
    "ij,j,j->i": ((3, 4), (4,), (4,)),
    "iji->j": ((4, 3, 4),),
    "ii->i": ((4, 4),),
    "ij->": ((3, 4),),
    "ij->ij": ((3, 4),),
    "ij,jk->ik": ((3, 1), (4, 5)),
    " i j , j k -> k i ": ((3, 4), (4, 5)),
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_every_einsum_is_written_out_exactly(tmp_path: Path, equation: str) -> None:
    first, *shapes = EINSUMS[equation]
    others = {f"other{number}": noise(*shape) for number, shape in enumerate(shapes)}
    node = _node("Einsum", ["x", *others], ["y"], equation=equation)
    assert_right_from_file(file_of(tmp_path, [node], first, 18, **others), first, tmp_path)


def test_an_equation_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    path = file_of(tmp_path, [_node("Einsum", ["x"], ["y"], "sums", equation="ijk->i")], (2, 3), 18)
    with pytest.raises(CaptureError, match=r"Einsum.*sums"):
        open_onnx(path).graph({"x": (2, 3)})


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("added", [(3, 1), (3, 5), (1, 5), (5,), ()])
def test_matrices_that_are_no_layer(tmp_path: Path, turned: int, added: tuple[int, ...]) -> None:
    shapes = {"w": (5, 4) if turned else (4, 5), "c": added}
    constants = {name: np.asarray(noise(*shape)) for name, shape in shapes.items()}
    more = {"alpha": 0.5, "beta": 2.0, "transB": turned}
    nodes = [
        _node("Gemm", ["x", "w", "c"], ["y"], **more),
        _node("Sigmoid", ["x"], ["gate"]),
        _node("Gemm", ["gate", "x", "k"], ["z"], transA=1, alpha=0.5),
    ]
    path = file_of(tmp_path, nodes, (3, 4), 13, k=noise(4), **constants)
    assert_right_from_file(path, (3, 4), tmp_path)


def test_mean_of_values(tmp_path: Path) -> None:
    nodes = [_node("Mean", ["x", "a", "b"], ["y"]), _node("Mean", ["x"], ["z"])]
    path = file_of(tmp_path, nodes, (2, 3, 4), 13, a=noise(3, 1), b=noise(2, 3, 4))
    assert_right_from_file(path, (2, 3, 4), tmp_path)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot_takes_indices_that_are_negative_or_beyond(tmp_path: Path, axis: int) -> None:
    nodes = [_node("OneHot", ["i", "d", "v"], ["hot"], axis=axis), _node("Mul", ["hot", "x"], ["y"])]
    index, values = np.array([[0, -1, 7], [3, -4, -9]]), np.array([-1, 2], np.float32)
    path = file_of(tmp_path, nodes, (1, 1, 1), 13, i=index, d=np.array([4], np.float32), v=values)
    assert_right_from_file(path, (1, 1, 1), tmp_path)


def test_one_hot_of_the_largest(tmp_path: Path) -> None:
    nodes = [_node("ArgMax", ["x"], ["i"], axis=1, keepdims=0), _node("OneHot", ["i", "d", "v"], ["y"], axis=1)]
    constants = {"d": np.int64(3), "v": np.array([0, 1], np.float32)}
    path = file_of(tmp_path, nodes, (2, 3, 4), 18, **constants)
    assert_right_from_file(path, (2, 3, 4), tmp_path, variants=("fp32",))


@pytest.mark.parametrize(("opset", "axis"), [(18, 1), (18, -1), (11, 1)])
def test_hardmax_is_written_out_at_every_opset(tmp_path: Path, opset: int, axis: int) -> None:
    path = file_of(tmp_path, [_node("Hardmax", ["x"], ["y"], axis=axis)], (2, 3, 4), opset)
    assert_right_from_file(path, (2, 3, 4), tmp_path, variants=("fp32",))


@pytest.mark.parametrize("axis", [None, 1, -1])
def test_compress_by_a_constant(tmp_path: Path, axis: int | None) -> None:
    condition = np.array([True, False, True])
    attributes = {} if axis is None else {"axis": axis}
    nodes = [_node("Compress", ["x", "c"], ["z"], **attributes), _node("Relu", ["z"], ["y"])]
    assert_right_from_file(file_of(tmp_path, nodes, (2, 3, 4), 11, c=condition), (2, 3, 4), tmp_path)


@pytest.mark.parametrize("format_", ["onnx", "tflite"])
def test_equal_numbers_less_their_mean_are_nothing(tmp_path: Path, format_: str) -> None:
    path = file_of(tmp_path, [_node("MeanVarianceNormalization", ["x"], ["y"], axes=[2, 3])], (1, 2, 7, 12), 13)
    (artifact,) = edgeconv.export_onnx(path, tmp_path / "out", name="net", formats=format_).artifacts
    x = noise(1, 2, 7, 12)
    x[:, 1] = 0.46211717  # which float32 has not, times 84 divided by 84
    (y,) = outputs_of(artifact, x)
    assert np.abs(y[:, 1]).max() < 1e-2
    assert abs(float(y[:, 0].std()) - 1) < 1e-3


def test_what_only_a_branch_reads_that_is_not_taken_is_not_computed(tmp_path: Path) -> None:
    def branch(name: str, read: str) -> Any:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([_node("Relu", [read], [name])], name, [], [output])

    nodes = [
        _node("Conv", ["x", "w"], ["read"]),
        _node("If", ["c"], ["y"], then_branch=branch("t", "x"), else_branch=branch("e", "read")),
    ]
    path = file_of(tmp_path, nodes, (1, 2, 5, 5), 14, w=noise(3, 2, 1, 1), c=np.array(True))
    assert [node.op_type for node in open_onnx(path).graph({"x": (1, 2, 5, 5)}).graph] == ["Relu"]
    assert_right_from_file(path, (1, 2, 5, 5), tmp_path)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
def test_dilated_pools_pad_as_the_specification_says_and_tell_that_onnxruntime_does_not(
    tmp_path: Path, operator: str
) -> None:
    window = {"kernel_shape": [3, 2], "dilations": [2, 1]}
    automatic = file_of(
        tmp_path, [_node(operator, ["x"], ["y"], "slid", auto_pad="SAME_UPPER", **window)], (1, 2, 6, 7), 22
    )
    result = edgeconv.export_onnx(automatic, tmp_path / "out", name="net")
    assert any("'slid'" in note and "onnxruntime" in note for note in result.notes)
    stated = file_of(tmp_path, [_node(operator, ["x"], ["y"], pads=[2, 0, 2, 1], **window)], (1, 2, 6, 7), 22)
    x = noise(1, 2, 6, 7)
    (expected,) = onnxruntime.InferenceSession(stated).run(None, {"x": x})
    for artifact in result.artifacts:
        np.testing.assert_allclose(outputs_of(artifact, x)[0], expected, atol=1e-5)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER"])
def test_windows_that_end_before_the_last_element_are_not_padded(tmp_path: Path, operator: str, automatic: str) -> None:
    more = {} if operator == "LpPool" else {"ceil_mode": 1}
    node = _node(operator, ["x"], ["y"], kernel_shape=[2, 2], strides=[5, 2], auto_pad=automatic, **more)
    result = edgeconv.export_onnx(file_of(tmp_path, [node], (1, 2, 9, 6), 17), tmp_path / "out", name="net")
    assert any("onnxruntime" in note for note in result.notes) == (operator != "MaxPool" and automatic == "SAME_UPPER")
    stated = _node(operator, ["x"], ["y"], kernel_shape=[2, 2], strides=[5, 2])
    x = noise(1, 2, 9, 6)
    (expected,) = onnxruntime.InferenceSession(file_of(tmp_path, [stated], (1, 2, 9, 6), 17)).run(None, {"x": x})
    for artifact in result.artifacts:
        np.testing.assert_allclose(outputs_of(artifact, x)[0], expected, atol=1e-5)


@pytest.mark.parametrize("slope", [np.float32(0.3), np.array([0.3], np.float32)])
def test_slopes_of_numbers_alone(tmp_path: Path, slope: Any) -> None:
    nodes = [_node("PRelu", ["x", "s"], ["y"])]
    assert_right_from_file(file_of(tmp_path, nodes, (5,), 16, s=slope), (5,), tmp_path)
    if not np.ndim(slope):
        nodes = [_node("ReduceSum", ["x"], ["sum"], keepdims=0), _node("PRelu", ["sum", "s"], ["y"])]
        assert_right_from_file(file_of(tmp_path, nodes, (2, 3), 16, s=slope), (2, 3), tmp_path)


@pytest.mark.parametrize("reduction", ["add", "mul", "max", "min"])
def test_scatters_that_combine(tmp_path: Path, reduction: str) -> None:
    places = np.stack([np.random.default_rng(row).permutation(3)[:2] for row in range(8)]).reshape(2, 4, 2)
    nodes = [
        _node("ScatterElements", ["x", "i", "u"], ["y"], axis=1, reduction=reduction),
        _node("ScatterND", ["x", "j", "v"], ["z"], reduction=reduction),
    ]
    constants = {"i": places.swapaxes(1, 2), "u": noise(2, 2, 4), "j": np.array([[0, 1], [1, -1]]), "v": noise(2, 4)}
    assert_right_from_file(file_of(tmp_path, nodes, (2, 3, 4), 18, **constants), (2, 3, 4), tmp_path)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("corners", [0, 1])
def test_places_reflected_at_the_border(tmp_path: Path, mode: str, corners: int) -> None:
    places = noise(2, 4, 5, 2) * np.float32(2)
    node = _node("GridSample", ["x", "g"], ["y"], mode=mode, padding_mode="reflection", align_corners=corners)
    path = file_of(tmp_path, [node], (2, 3, 4, 6), 20, g=places)
    assert_right_from_file(path, (2, 3, 4, 6), tmp_path, variants=("fp32",))


def test_a_function_of_constants_alone_is_computed(tmp_path: Path) -> None:
    nodes = [_node("Gelu", ["c"], ["y"]), _node("Relu", ["x"], ["z"])]
    path = file_of(tmp_path, nodes, (1, 3), 20, c=noise(2, 3))
    assert_right_from_file(path, (1, 3), tmp_path, variants=("fp32",))


COLUMNS: dict[str, tuple[tuple[int, int, int], list[int], list[int], dict[str, list[int]]]] = {
    "windows that tile the image": ((2, 12, 6), [4, 6], [2, 2], {"strides": [2, 2]}),
    "tiles that are no squares": ((2, 12, 6), [4, 9], [2, 3], {"strides": [2, 3]}),
    "windows that overlap": ((2, 18, 16), [6, 6], [3, 3], {}),
    "strides, with a remainder": ((1, 8, 4), [5, 5], [2, 2], {"strides": [2, 3]}),
    "padding of one side, dilated": ((1, 8, 9), [4, 4], [2, 2], {"pads": [1, 0, 0, 1], "dilations": [2, 2]}),
    "one axis": ((2, 6, 5), [7], [3], {}),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_become_an_image_in_both_formats(tmp_path: Path, name: str) -> None:
    shape, image, block, attributes = COLUMNS[name]
    node = _node("Col2Im", ["x", "image", "block"], ["y"], **attributes)
    path = file_of(tmp_path, [node], shape, 18, image=np.array(image), block=np.array(block))
    assert_right_from_file(path, shape, tmp_path)


@pytest.mark.parametrize("name", ["windows that tile the image", "windows that overlap"])
def test_columns_of_an_open_batch_leave_it_open(tmp_path: Path, name: str) -> None:
    (_, *inner), image, block, attributes = COLUMNS[name]
    node = _node("Col2Im", ["x", "image", "block"], ["y"], **attributes)
    path = file_of(tmp_path, [node], ("n", *inner), 18, image=np.array(image), block=np.array(block))
    result = edgeconv.export_onnx(path, tmp_path / "out", name="net", devices=("onnxruntime", "litert"))
    assert result.report is not None
    assert result.report.verdict.value == "pass"
    assert {artifact.inputs[0].shape[0] for artifact in result.artifacts} == {"n"}


def test_columns_that_are_no_windows_are_refused_by_name(tmp_path: Path) -> None:
    node = _node("Col2Im", ["x", "image", "block"], ["y"], "fold", strides=[2, 2])
    path = file_of(tmp_path, [node], (1, 4, 9), 18, image=np.array([4, 4]), block=np.array([2, 2]))
    with pytest.raises(CaptureError, match=r"fold.*9 columns, where the image has 4 windows"):
        edgeconv.export_onnx(path, tmp_path / "out", name="net")


def test_refusals_speak_of_the_files_nodes(tmp_path: Path) -> None:
    path = file_of(tmp_path, [_node("Det", ["x"], ["y"], "volume of it")], (2, 3, 3), 18)
    with pytest.raises(EmitError, match=r"node 'volume of it' \(Det\)") as caught:
        edgeconv.export_onnx(path, tmp_path / "out", name="net")
    assert "module" not in str(caught.value)
    nodes = [_node("Det", ["x"], ["y"], "first"), _node("MaxUnpool", ["x", "i"], ["z"], "second", kernel_shape=[1])]
    path = file_of(tmp_path, nodes, (2, 4, 4), 18, i=np.arange(32).reshape(2, 4, 4))
    with pytest.raises(EmitError, match=r"Det \(node 'first'\), MaxUnpool \(node 'second'\)") as caught:
        edgeconv.export_onnx(path, tmp_path / "out", name="net")
    assert "module" not in str(caught.value)


def test_a_slope_of_a_sixth_that_the_file_holds_rounded_makes_a_hard_swish(tmp_path: Path) -> None:
    gate = _node("HardSigmoid", ["x"], ["gate"], alpha=1 / 6, beta=0.5)
    path = file_of(tmp_path, [gate, _node("Mul", ["x", "gate"], ["y"])], (2, 6), 18)
    result = edgeconv.export_onnx(path, tmp_path / "out", name="m", devices=("onnxruntime", "litert"))
    assert result.report is not None
    assert result.report.verdict.value == "pass"
    assert [node.op_type for node in onnx.load(tmp_path / "out" / "m.fp32.onnx").graph.node] == ["HardSwish"]
