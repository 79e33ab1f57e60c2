"""A file that a stranger wrote is refused in one line, before it takes memory or time, and never ends the process.

Members thought of: constants and values of 10^9 elements by Range, Expand, Pad, Tile, ConstantOfShape, OneHot, Resize,
MatMul, broadcasting and chains of Concat; groups, strides, dilations, kernels, block sizes that are 0, negative or
beyond int32; perm that is none; integer division by 0 and of the smallest integer by -1, in both widths, and Mod;
element types that there are not; sizes below zero; names that are no UTF-8 or steer a terminal; functions that call
themselves, each other, or each the next ten times, inside of branches too, that share a name, or have that of an
operator of ONNX; domains of two versions; integers to negative powers; subgraphs in subgraphs; indices out of range;
chains of more nodes than any network has.
"""

from __future__ import annotations

import itertools
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeconv
from edgeconv.capture.onnx_file._soundness import MOST_NODES
from edgeconv.cli import run

node = helper.make_node
Bytes = Callable[[onnx.ModelProto], bytes]
WEIGHT = np.ones((4, 3, 3, 3), np.float32)


def _long(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def _file(
    path: Path, nodes: list[Any], constants: dict[str, Any], functions: list[Any] | None = None
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions or [])
    path.write_bytes(model.SerializeToString())
    return model


def _constant(op: str, constants: dict[str, Any], **attributes: Any) -> tuple[list[Any], dict[str, Any]]:
    """An operator of constants, whose sum is added to the input."""
    nodes = [
        node(op, list(constants), ["c"], **attributes),
        node("Cast", ["c"], ["f"], to=1),
        node("ReduceSum", ["f"], ["s"], keepdims=0),
        node("Add", ["x", "s"], ["y"]),
    ]
    return nodes, constants


def _of_input(op: str, constants: dict[str, Any] | None = None, **attributes: Any) -> tuple[list[Any], dict[str, Any]]:
    return [node(op, ["x", *(constants or {})], ["y"], **attributes)], constants or {}


def _chain(count: int) -> tuple[list[Any], dict[str, Any]]:
    joins = [node("Concat", [f"c{at}", f"c{at}"], [f"c{at + 1}"], axis=0) for at in range(count)]
    ends = [node("ReduceSum", [f"c{count}"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])]
    return [*joins, *ends], {"c0": np.ones(8, np.float32)}


OPSET_18 = helper.make_opsetid("", 18)
ONE, TEN = np.float32(1), np.ones(10, np.float32)
HUGE = 10**9
REFUSED: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "Range": _constant("Range", {"a": _long(0)[0], "b": _long(HUGE)[0], "d": _long(1)[0]}),
    "Range of floats": _constant("Range", {"a": np.float32(0), "b": np.float32(1e6), "d": np.float32(1e-3)}),
    "Expand": _constant("Expand", {"a": ONE, "b": _long(1000, 1000, 1000)}),
    "Pad": _constant("Pad", {"a": TEN, "b": _long(0, HUGE)}),
    "Tile": _constant("Tile", {"a": TEN, "b": _long(10**8)}),
    "ConstantOfShape": _constant("ConstantOfShape", {"a": _long(10**5, 10**5)}),
    "OneHot": _constant("OneHot", {"a": _long(*range(999)), "b": _long(10**7)[0], "d": np.array([0, 1], np.float32)}),
    "MatMul": _constant("MatMul", {"a": np.ones((99999, 1), np.float32), "b": np.ones((1, 99999), np.float32)}),
    "Add": _constant("Add", {"a": np.ones((99999, 1), np.float32), "b": np.ones((1, 99999), np.float32)}),
    "Concat": _chain(36),
    "Tile of the input": _of_input("Tile", {"r": _long(1000, 1000, 10, 10)}),
    "Pad of the input": _of_input("Pad", {"p": _long(0, 0, 0, 0, 0, 0, 10**5, 10**5)}),
    "Pad below zero": _of_input("Pad", {"p": _long(0, 0, -(2**40), 0, 0, 0, 0, 0)}),
    "Expand of the input": _of_input("Expand", {"s": _long(10**7, 3, 8, 8)}),
    **{f"group {group}": _of_input("Conv", {"w": WEIGHT}, group=group) for group in (0, 7, -1, 2**40)},
    **{f"strides {size}": _of_input("Conv", {"w": WEIGHT}, strides=[size, size]) for size in (0, -1, 2**40)},
    "dilations": _of_input("Conv", {"w": WEIGHT}, dilations=[2**40, 1]),
    "pads": _of_input("Conv", {"w": WEIGHT}, pads=[2**40, 0, 0, 0]),
    "kernel": _of_input("AveragePool", kernel_shape=[2**40, 2**40]),
    "no kernel": _of_input("MaxPool", kernel_shape=[0, 0]),
    "block": _of_input("DepthToSpace", blocksize=0),
    **{f"perm {perm}": _of_input("Transpose", perm=perm) for perm in ([0, 0, 0, 0], [0, 1, 2, 9], [1, 0])},
    "Div by 0": _constant("Div", {"a": _long(1), "b": _long(0)}),
    "Mod by 0": _constant("Mod", {"a": _long(1), "b": _long(0)}),
    "Pow to -1": _constant("Pow", {"a": _long(0, 1, 2, 3), "b": _long(-1, -1, -1, -1)}),
    "Pow to -1.0": _constant("Pow", {"a": _long(0), "b": np.float32(-1)}),
    "out of range": _of_input("Gather", {"i": _long(10**15)}, axis=1),
    "axis": _of_input("Softmax", axis=99),
    "a name of control characters": ([node("Foo\x1b[2J", ["x"], ["y"])], {}),
}


def _refused(path: Path, capsys: pytest.CaptureFixture[str], verb: Sequence[str] = ()) -> str:
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verb = verb or ["export", "--out", str(path.parent / "out"), "--no-parity", "-q"]
    assert run([*verb, str(path)]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1, told
    assert told.rstrip("\n").isprintable()
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20, "kilobytes"
    return told


@pytest.mark.parametrize("name", list(REFUSED))
def test_hostile_graphs_are_refused_in_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _file(tmp_path / "in.onnx", *REFUSED[name])
    _refused(tmp_path / "in.onnx", capsys)


DIVISIONS = [
    (op, dtype, expected)
    for dtype in (np.int32, np.int64)
    for op, expected in (("Div", float(np.iinfo(dtype).min)), ("Mod", 0.0))
]


@pytest.mark.parametrize(("op", "dtype", "expected"), DIVISIONS)
def test_the_smallest_integer_by_minus_one(op: str, dtype: Any, expected: float, tmp_path: Path) -> None:
    """It wraps, as numpy's does; a processor's own division ends the process."""
    constants = {"a": np.array([np.iinfo(dtype).min, 7], dtype), "b": np.array([-1, -1], dtype)}
    nodes = [node(op, ["a", "b"], ["c"]), node("Cast", ["c"], ["f"], to=1), node("Gather", ["f", "i"], ["s"])]
    _file(tmp_path / "in.onnx", [*nodes, node("Add", ["x", "s"], ["y"])], {**constants, "i": _long(0)[()][0]})
    done = edgeconv.export_onnx(tmp_path / "in.onnx", tmp_path, name="out", formats="onnx")
    (constant,) = onnx.load(done.artifacts[0].path).graph.initializer
    assert numpy_helper.to_array(constant).reshape(-1).tolist() == [expected]


def _typed(number: int) -> Bytes:
    def change(model: onnx.ModelProto) -> bytes:
        model.graph.initializer[0].data_type = number
        return model.SerializeToString()

    return change


def _sized(*sizes: int) -> Bytes:
    def change(model: onnx.ModelProto) -> bytes:
        model.graph.initializer[0].dims[:] = sizes
        return model.SerializeToString()

    return change


def _declared(place: str) -> Bytes:
    """The constant, which is of float32, declared as of int64 in that list of the graph."""

    def change(model: onnx.ModelProto) -> bytes:
        name = model.graph.initializer[0].name
        getattr(model.graph, place).append(helper.make_tensor_value_info(name, TensorProto.INT64, [1, 1, 8, 8]))
        return model.SerializeToString()

    return change


def _opened(model: onnx.ModelProto) -> bytes:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "DIMENSION"
    return model.SerializeToString()


CHANGED: dict[str, Bytes] = {
    **{f"declared of another type as {place}": _declared(place) for place in ("input", "output", "value_info")},
    **{f"element type {number}": _typed(number) for number in (999, 0, -1)},
    **{f"sizes {sizes}": _sized(*sizes) for sizes in ((-3,), (-1, -3), (2**62, 4))},
    "a name": lambda model: model.SerializeToString().replace(b"NAME", b"\xff\xfe\x80\x81"),
    "the name of an open dimension": lambda model: _opened(model).replace(b"DIMENSION", b"DIMENSIO\xff"),
    "zeros": lambda model: bytes(100_000),
    "nothing": lambda model: b"",
    "half": lambda model: model.SerializeToString()[:70],
}


@pytest.mark.parametrize("name", list(CHANGED))
def test_files_of_changed_bytes_are_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [node("Relu", ["x"], ["NAME"]), node("Add", ["NAME", "k"], ["y"])]
    model = _file(tmp_path / "in.onnx", nodes, {"k": np.ones((1, 1, 8, 8), np.float32)})
    (tmp_path / "in.onnx").write_bytes(CHANGED[name](model))
    _refused(tmp_path / "in.onnx", capsys)


def _function(name: str, calls: list[str]) -> Any:
    names = ["x", *(f"v{at}" for at in range(len(calls)))]
    body = [node(op, [names[at]], [names[at + 1]], domain="" if op == "Relu" else "f") for at, op in enumerate(calls)]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["x"], [names[-1]], body, opsets)


def _branching(name: str, callee: str, calls: int = 9) -> Any:
    """A function that calls another in both branches of an If."""
    domain = "" if callee == "Relu" else "f"
    branches = {
        branch: helper.make_graph(
            [*(node(callee, ["x"], [f"a{at}"], domain=domain) for at in range(calls)), node("Relu", ["a0"], ["o"])],
            branch,
            [],
            [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
        )
        for branch in ("then_branch", "else_branch")
    }
    condition = node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["x"], ["y"], [condition, node("If", ["c"], ["y"], **branches)], opsets)


def _trivial(name: str) -> Any:
    """A function of one node and of a name that another has, which it would hide from whoever looks at names alone."""
    function = _function(name, ["Relu"])
    function.overload = "other"
    return function


LAUGHS = [_function("f0", ["Relu"]), *(_function(f"f{at}", [f"f{at - 1}"] * 10) for at in range(1, 11))]
FUNCTIONS = {
    "in branches": [_branching("f0", "Relu"), *(_branching(f"f{at}", f"f{at - 1}") for at in range(1, 12))],
    "branch in branch": [_branching("f0", "Relu"), *(_branching(f"f{at}", f"f{at - 1}", 1) for at in range(1, 10))],
    "itself in a branch": [_branching("f0", "f0")],
    "laughs": LAUGHS,
    "hidden by overloads": [*LAUGHS, *(_trivial(f"f{at}") for at in range(11))],
    "deep": [_function("f0", ["Relu"]), *(_function(f"f{at}", [f"f{at - 1}"] * 2) for at in range(1, 61))],
    "itself": [_function("f0", ["f0"])],
    "each other": [_function("f0", ["f1"]), _function("f1", ["f0"])],
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_functions_that_never_end(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = FUNCTIONS[name][-1].name
    _file(tmp_path / "in.onnx", [node(last, ["x"], ["y"], domain="f")], {}, FUNCTIONS[name])
    told = _refused(tmp_path / "in.onnx", capsys)
    assert _refused(tmp_path / "in.onnx", capsys, ["inspect", "--integer-only"]) == told


def test_a_chain_without_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each node takes half a millisecond, so that 99,001 of them took a minute."""
    names = ["x", *(f"v{at}" for at in range(MOST_NODES)), "y"]
    _file(tmp_path / "in.onnx", [node("Sin", [x], [y]) for x, y in itertools.pairwise(names)], {})
    told = _refused(tmp_path / "in.onnx", capsys)
    assert f"it has {MOST_NODES + 1:,} nodes, and at most {MOST_NODES:,} are converted; simplify it" in told


@pytest.mark.parametrize("domain", ["", "ai.onnx"])
def test_no_function_takes_the_place_of_an_operator(
    domain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    function = helper.make_function(domain, "Relu", ["x"], ["y"], [node("Neg", ["x"], ["y"])], [OPSET_18])
    _file(tmp_path / "in.onnx", [node("Relu", ["x"], ["y"], domain=domain)], {}, [function])
    assert "its function 'Relu' takes the place of the operator" in _refused(tmp_path / "in.onnx", capsys)


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ([("", 18), ("", 11)], "opset 18 and opset 11 of the domain 'ai.onnx'"),
        ([("ai.onnx", 9), ("", 18)], "opset 9 and opset 18 of the domain 'ai.onnx'"),
        ([("", 18), ("f", 1), ("f", 2)], "opset 1 and opset 2 of the domain 'f'"),
    ],
)
@pytest.mark.parametrize("of_function", [False, True])
def test_a_domain_has_one_version(
    stated: list[tuple[str, int]], told: str, of_function: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _file(tmp_path / "in.onnx", [node("f0", ["x"], ["y"], domain="f")], {}, [_function("f0", ["Relu"])])
    opsets = (model.functions[0] if of_function else model).opset_import
    del opsets[:]
    opsets.extend(helper.make_opsetid(domain, version) for domain, version in stated)
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    assert f"it states {told}" in _refused(tmp_path / "in.onnx", capsys)


@pytest.mark.parametrize("suffix", ["onnx", "toml", "tflite"])
@pytest.mark.parametrize("verb", ["export", "inspect", "bench"])
@pytest.mark.parametrize("kind", ["sparse", "pipe"])
def test_what_is_no_file(kind: str, verb: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"in.{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(40 * 2**30)
    started = time.monotonic()
    assert run([verb, str(path)]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert time.monotonic() - started < 30
