"""Each table of operators has every operator of the reference or says why not, and what it says is so.

`edgeconv operators --details` prints the page that this walks over.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from ai_edge_litert.schema_py_generated import BuiltinOperator
from onnx import TensorProto, helper, numpy_helper
from test_contract_onnx_schema import node_of, plain_of, versions
from torch import nn

import edgeconv.capture.normalize
import edgeconv.capture.onnx_file
import edgeconv.emit.tflite
from edgeconv.capture import capture, open_onnx, settled_shapes
from edgeconv.capture.onnx_file._dissolved import DISSOLVED
from edgeconv.capture.onnx_file._sums import WRITTEN_OUT
from edgeconv.devices import ENVIRONMENTS
from edgeconv.devices._environments import python_of
from edgeconv.emit.tflite._graph import Graph, Tensor
from edgeconv.emit.tflite._quantization import of_type
from edgeconv.emit.tflite.file._encoding import Encoding
from edgeconv.emit.tflite.file._flatbuffer import write
from edgeconv.emit.tflite.file._integer_versions import SINCE_OF_INTEGERS
from edgeconv.emit.tflite.file._versions import SINCE
from edgeconv.emit.tflite.integer._rules import RULES as INTEGER_RULES
from edgeconv.emit.tflite.lower._convert import convert
from edgeconv.emit.tflite.lower._operators import WITHOUT_LOWERING
from edgeconv.flow.operator_page import Details, Support, aten_operators, details, incomplete, to_page
from edgeconv.flow.operators import operators, rows
from edgeconv.graph.integer_rules import FLOAT, WITHOUT_KERNEL
from edgeconv.graph.traits import Trait, having
from edgeconv.parity.bounds import EXACT_TFLITE, STEPS_TFLITE, TFLITE, WITHOUT_BOUND
from edgeconv.reference import OPERATORS, evaluate
from edgeconv.reference.tflite._operators import OPERATORS as READ_BACK
from edgeconv.rewrite.open_batch._rules import WITHOUT_RULE

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6, 6])


def test_every_table_has_each_operator_or_says_why_not() -> None:
    page = details()
    gaps = incomplete(page)
    print(to_page([row for row in page if any(gap.startswith(f"{row.operator}: ") for gap in gaps)]))
    assert [row.operator for row in page] == sorted({*OPERATORS, *DISSOLVED}, key=str.lower)
    lists = "WITHOUT_LOWERING, WITHOUT_BOUND, FLOAT or WITHOUT_RULE beside the table"
    assert not gaps, f"enter them there, or say why not in {lists}; AND YET: remove the line there"


def test_a_table_that_says_nothing_and_one_that_says_both_are_found() -> None:
    row = Details("Foo", range(7, 25), {"a": Support(), "b": Support("`b`", "not yet"), "c": Support("`c`")})
    assert incomplete([row]) == ["Foo: a: MISSING", "Foo: b: `b`; AND YET: not yet"]


def test_every_operator_of_tflite_that_is_written_has_its_versions_and_is_read_back() -> None:
    room = Path(edgeconv.emit.tflite.__file__).parent
    named = {node.value for file in room.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))
             if isinstance(node, ast.Constant) and hasattr(BuiltinOperator, str(node.value))}  # fmt: skip
    named -= OPERATORS.keys()  # LSTM and RNN, which both name so
    assert named >= {"CONV_2D", "REVERSE_SEQUENCE"}
    assert named <= SINCE.keys() | SINCE_OF_INTEGERS.keys(), "enter it in emit/tflite/file/_versions.py"
    assert named <= READ_BACK.keys(), "enter it in a file of reference/tflite/_operators"


def test_every_operator_of_tflite_that_is_read_has_a_bound() -> None:
    tables = (TFLITE.keys(), EXACT_TFLITE, STEPS_TFLITE)
    assert READ_BACK.keys() == set().union(*tables), "enter it in a file of parity/bounds"
    assert sum(map(len, tables)) == len(READ_BACK)


def test_no_reason_outlives_its_operator() -> None:
    both = set(operators().both)
    assert set(FLOAT) <= both
    assert WITHOUT_LOWERING.keys() | WITHOUT_RULE.keys() | WITHOUT_BOUND.keys() <= OPERATORS.keys()
    assert set(operators().onnx_only) == WITHOUT_LOWERING.keys()


def test_every_operator_that_capture_knows_by_name_has_a_row() -> None:
    rooms = [Path(edgeconv.capture.normalize.__file__).parent, Path(edgeconv.capture.onnx_file.__file__).parent]
    standard = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    trees = [ast.parse(file.read_text()) for room in rooms for file in room.glob("*.py")]
    texts = {node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    named = texts & standard - having(Trait.RANDOM)
    assert named >= {"DFT", "Loop", "Optional", "Conv"}
    assert named <= {row.operator for row in rows()}, "enter what it leaves of them in onnx_file/_dissolved"


def _file(nodes: Sequence[onnx.NodeProto], opset: int = 18, **constants: Any) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [X], [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _spectral(operator: str, operands: str, opset: int, shape: Sequence[int], **constants: Any) -> onnx.ModelProto:
    """A file whose input, in that shape, is transformed or, where it is none of the operands, multiplied."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["signal"])]
    nodes += [helper.make_node(operator, operands.split(), ["of it"])]
    nodes += [helper.make_node("Mul", ["of it", "one" if "signal" in operands.split() else "signal"], ["y"])]
    return _file(nodes, opset, shape=np.array(shape), one=np.float32(1), **constants)


def _run() -> onnx.GraphProto:
    values = [helper.make_tensor_value_info("i", TensorProto.INT64, []), *(
        helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (("c", TensorProto.BOOL, []), ("a", TensorProto.FLOAT, [2, 4, 6, 6]),
                                  ("d", TensorProto.BOOL, []), ("b", TensorProto.FLOAT, [2, 4, 6, 6]))
    )]  # fmt: skip
    nodes = [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Sin", ["a"], ["b"])]
    return helper.make_graph(nodes, "run", values[:3], values[3:])


def _branch(operator: str) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(operator, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(operator, ["x"], [operator])], operator, [], [result])


_PARTS = helper.make_node("SplitToSequence", ["x"], ["parts"], axis=1)
_JOINED = helper.make_node("SequenceConstruct", ["x", "x"], ["parts"])
_LENGTH = [helper.make_node("SequenceLength", ["parts"], ["n"]), helper.make_node("Cast", ["n"], ["f"], to=1)]
_LENGTH += [helper.make_node("Mul", ["x", "f"], ["y"])]
_TAKEN = helper.make_node("SequenceAt", ["parts", "at"], ["y"])
_STACKED = helper.make_node("ConcatFromSequence", ["parts"], ["y"], axis=-1, new_axis=1)
_OPTIONAL = [helper.make_node("Optional", ["x"], ["o"]), helper.make_node("OptionalGetElement", ["o"], ["e"])]
_OPTIONAL += [helper.make_node("OptionalHasElement", ["o"], ["is there"])]
_OPTIONAL += [helper.make_node("Where", ["is there", "e", "x"], ["y"])]
_CONSTANT = helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(np.float32(2)))
_BANDS = {"bands": np.int64(16), "n": np.int64(16), "rate": np.int64(8000), "low": np.float32(0), "high": np.float32(9)}
FILES: dict[str, list[onnx.ModelProto]] = {
    **{
        window: [_spectral(window, "k", 17, [32, 9], k=np.int64(9))]
        for window in ("BlackmanWindow", "HammingWindow", "HannWindow")
    },
    "MelWeightMatrix": [_spectral("MelWeightMatrix", "bands n rate low high", 17, [2, 1, 9, 16], **_BANDS)],
    "DFT": [
        _spectral("DFT", "signal", 17, [2, 72, 2]),
        _spectral("DFT", "signal n k", 20, [2, 72, 2], n=np.int64(8), k=np.int64(1)),
    ],
    "STFT": [_spectral("STFT", "signal k w", 17, [2, 144, 1], k=np.int64(8), w=np.ones(16, np.float32))],
    "Loop": [_file([helper.make_node("Loop", ["k", "", "x"], ["y"], body=_run())], k=np.int64(3))],
    **{operator: [_file(_OPTIONAL)] for operator in ("Optional", "OptionalGetElement", "OptionalHasElement")},
    "ConcatFromSequence": [_file([_PARTS, _STACKED]), _file([_JOINED, _STACKED])],
    "Constant": [_file([_CONSTANT, helper.make_node("Mul", ["x", "k"], ["y"])])],
    "If": [
        _file(
            [helper.make_node("If", ["k"], ["y"], then_branch=_branch("Relu"), else_branch=_branch("Neg"))],
            k=np.array(True),
        )
    ],
    "NonZero": [
        _file(
            [helper.make_node("NonZero", ["k"], ["at"]), helper.make_node("Gather", ["x", "at"], ["y"], axis=1)],
            k=np.array([1, 0, 1, 1], np.float32),
        )
    ],
    "SequenceAt": [_file([_PARTS, _TAKEN], at=np.int64(-1)), _file([_JOINED, _TAKEN], at=np.int64(1))],
    "SequenceConstruct": [_file([_JOINED, _TAKEN, *_LENGTH[:2]], at=np.int64(0))],
    "SequenceLength": [_file([_PARTS, *_LENGTH]), _file([_JOINED, *_LENGTH])],
    "SplitToSequence": [
        _file([helper.make_node("SplitToSequence", ["x"], ["parts"], axis=2, keepdims=0), _STACKED]),
        _file([_PARTS, _TAKEN], at=np.int64(2)),
    ],
    "Upsample": [
        _file([helper.make_node("Upsample", ["x", "k"], ["y"])], 9, k=np.array([1, 1, 2, 2], np.float32)),
    ],
}
"""For operators of which the schema walk has no node."""


def _files(operator: str) -> list[onnx.ModelProto]:
    if operator in FILES:
        return FILES[operator]
    opset, schema = list(versions(operator))[-1]
    plain = plain_of(schema, opset)
    assert plain is not None
    return [node_of(schema, opset, plain, "")[0]]


def _graph_of(model: onnx.ModelProto, folder: Path) -> ir.Model:
    onnx.save(model, folder / "model.onnx")
    file = open_onnx(folder / "model.onnx")
    return file.graph(settled_shapes(file, {}))


@pytest.mark.parametrize("operator", sorted(DISSOLVED.keys() | WITHOUT_LOWERING.keys() | WRITTEN_OUT.keys() - {"Gemm"}))
def test_capture_leaves_no_node_of_what_it_dissolves_and_others_meet_the_tables(operator: str, tmp_path: Path) -> None:
    for model in _files(operator):
        left = {node.op_type for node in _graph_of(model, tmp_path).graph}
        assert (operator in left) == (operator in WITHOUT_LOWERING)


@pytest.mark.parametrize("operator", ["ConcatFromSequence", "SequenceAt", "SequenceLength", "SplitToSequence"])
def test_sequences_dissolve_into_the_same_numbers(operator: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    for model in FILES[operator]:
        computed = evaluate(_graph_of(model, tmp_path), {"x": x}, keep=["y"])["y"]
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        np.testing.assert_array_equal(computed, session.run(None, {"x": x})[0])


@pytest.mark.parametrize("operator", sorted(WITHOUT_KERNEL))
def test_what_lacks_a_kernel_of_integers_is_lowered_to_that_operator(operator: str, tmp_path: Path) -> None:
    low, _, _ = convert(_graph_of(_files(operator)[0], tmp_path), "nchw", Encoding())
    assert WITHOUT_KERNEL[operator] in {lowered.code for lowered in low.graph.operators}
    assert WITHOUT_KERNEL[operator] not in INTEGER_RULES


_RUN = """
import sys, numpy
from tflite_runtime.interpreter import Interpreter
run = Interpreter(sys.argv[1])
run.allocate_tensors()
for tensor in run.get_input_details():
    run.set_tensor(tensor["index"], numpy.full(tensor["shape"], 20, numpy.int8))
run.invoke()
"""


def _refuses_int8(code: str, path: Path) -> bool:
    """Whether tflite-runtime 2.14 runs no file of this operator on int8 tensors."""
    graph, steps = Graph(), of_type("int8", 0.05, 0)
    graph.inputs = [Tensor("x", (2, 6), np.dtype(np.int8), quantization=steps)]
    if code in ("DIV", "POW", "ADD"):
        graph.inputs.append(Tensor("w", (2, 6), np.dtype(np.int8), quantization=steps))
    constants = {"CUMSUM": np.array(1, np.int32), "REVERSE_SEQUENCE": np.array([6, 3], np.int32)}
    operands = [*graph.inputs, *([graph.constant(constants[code], "axis")] if code in constants else [])]
    graph.outputs = graph.add(code, operands, [(2, 6)], "y")
    graph.outputs[0].quantization = steps
    path.write_bytes(write(graph, {})[0])
    command = [str(python_of(ENVIRONMENTS["tflite-runtime"])), "-c", _RUN, str(path)]
    return subprocess.run(command, check=False, capture_output=True, timeout=120).returncode == 1


@pytest.mark.parametrize("code", sorted({*WITHOUT_KERNEL.values(), "ADD"}))
def test_the_oldest_runtime_has_no_such_kernel(code: str, tmp_path: Path) -> None:
    assert _refuses_int8(code, tmp_path / "one.tflite") == (code != "ADD")


def test_the_page_names_the_torch_operators_that_give_an_operator() -> None:
    layers = [nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2), nn.PixelShuffle(2), nn.Flatten()]
    module, x = nn.Sequential(*layers, nn.Linear(72, 5), nn.LogSoftmax(1)).eval(), torch.randn(1, 4, 8, 8)
    names = {str(node.target).split(".")[1] for node in torch.export.export(module, (x,)).graph.nodes
             if node.op == "call_function"}  # fmt: skip
    named_by = aten_operators()
    graph = capture(module, (x,), input_names=["x"], output_names=["y"], path="fast").graph
    assert {node.op_type for node in graph} >= {"Conv", "Erf", "MaxPool", "DepthToSpace", "Gemm"}
    for node in graph:
        assert named_by[node.op_type] & names, node.op_type
    assert "torch's conv1d, conv2d" in str({row.operator: row for row in details()}["Conv"].tables["capture"])
