"""Every attribute, optional input and optional output that ONNX gives an operator of ours is honored, or refused.

The walk is over `onnx.defs`: every version of an operator that is in force in an opset from 7 to 24. Each member of its
schema is set to something that is not its default, which changes what onnxruntime (or onnx's own evaluator) makes of
the node; the graph, the ``.onnx`` and the ``.tflite`` compute the same, or one line that names the operator says why
not. Kinds thought of: paddings stated by results, training modes, second outputs, orders of storage, moving averages,
axes as attributes and as inputs, axes from the end, operators that older opsets define otherwise.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_schema import PLAIN, REFUSED, REFUSED_BY_TFLITE, SILENT, Plain
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_

from edgeconv.capture import open_onnx, settled_shapes
from edgeconv.core import Emitted
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.emit.tflite.lower._operators import LOWERINGS
from edgeconv.errors import EdgeconvError
from edgeconv.flow.operators import operators, rows
from edgeconv.reference import OPERATORS, evaluate
from edgeconv.rewrite import optimize

OPSETS = range(7, 25)
RESULTS = [f"result_{index}" for index in range(6)]
ELSEWHERE = {"Resize", "Upsample"}  # test_emit_tflite_resize and test_capture_onnx_resizing sweep these
SUBGRAPHS = {"If", "SequenceAt", "SequenceConstruct", "SequenceLength", "SplitToSequence", "ConcatFromSequence"}
CONSTANT = {"Constant", "DynamicQuantizeLinear"}
IN_TFLITE = {row.operator for row in rows() if row.tflite}
WALKED = sorted({*OPERATORS, *LOWERINGS} - ELSEWHERE - SUBGRAPHS - CONSTANT - {*operators().unread})


@cache
def schemas() -> Mapping[str, list[defs.OpSchema]]:
    """Every version of each operator of the standard domain; onnx copies them all for each list of them."""
    by_name: dict[str, list[defs.OpSchema]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            by_name.setdefault(schema.name, []).append(schema)
    return by_name


def versions(operator: str) -> Iterator[tuple[int, defs.OpSchema]]:
    """Each version of an operator that is read, with the newest opset in which it is in force."""
    history = schemas()[operator]
    starts = sorted(each.since_version for each in history)
    for schema in sorted(history, key=lambda each: each.since_version):
        later = [start for start in starts if start > schema.since_version]
        newest = min(later[0] - 1 if later else OPSETS[-1], OPSETS[-1])
        if newest >= max(schema.since_version, OPSETS[0]) and not schema.deprecated:
            yield newest, schema


def members(schema: defs.OpSchema) -> list[str]:
    """Attributes, optional inputs, optional outputs."""
    optional = defs.OpSchema.FormalParameterOption.Optional
    parameters = [each.name for each in (*schema.inputs, *schema.outputs) if each.option == optional]
    return [*schema.attributes, *parameters]


def plain_of(schema: defs.OpSchema, opset: int) -> Plain | None:
    """The table's, or one of noise for operators of nothing but tensors that they need."""
    if schema.name in PLAIN:
        return next((plain for plain in PLAIN[schema.name] if opset in plain.opsets), None)
    generator, count = np.random.default_rng(0), max(schema.min_input, 1)
    if schema.inputs[-1].option == defs.OpSchema.FormalParameterOption.Variadic:
        count = 3
    arrays = [np.clip(generator.standard_normal((1, 4, 3, 2)) / 3, -0.9, 0.9) for _ in range(count)]
    dtype: Any = np.float32
    if schema.name in ("And", "Not", "Or", "Xor"):
        arrays, dtype = [array > 0 for array in arrays], np.bool_
    elif schema.name.startswith("Bitwise"):
        arrays, dtype = [array * 50 for array in arrays], np.int32
    elif schema.name in ("Log", "Sqrt", "Acosh", "Pow"):
        arrays = [np.abs(array) + (1.01 if schema.name == "Acosh" else 0.1) for array in arrays]
    return Plain([array.astype(dtype) for array in arrays])


def cases() -> Iterator[Any]:
    for operator in WALKED:
        newest = max(opset for opset, _ in versions(operator))
        for opset, schema in versions(operator):
            for member in ["", *members(schema)]:
                marks = [] if opset == newest and member else [pytest.mark.slow]
                if f"{operator}.{member}" not in SILENT:
                    yield pytest.param(operator, opset, member, id=f"{operator}-{opset}-{member}", marks=marks)


@pytest.mark.parametrize("operator", WALKED)
def test_every_member_has_a_case(operator: str) -> None:
    for opset, schema in versions(operator):
        plain = plain_of(schema, opset)
        assert plain is not None, f"no node of {operator} in opset {opset}"
        for member in members(schema):
            assert member in plain.changes or f"{operator}.{member}" in SILENT, f"{operator} {opset}: {member}"


def test_what_is_silent_is_there() -> None:
    every = {
        f"{operator}.{member}" for operator in WALKED for _, schema in versions(operator) for member in members(schema)
    }
    assert set(SILENT) <= every


@pytest.mark.parametrize(("operator", "opset", "member"), list(cases()))
def test_honored_or_refused(operator: str, opset: int, member: str, tmp_path: Path) -> None:
    schema = dict(versions(operator))[opset]
    plain = plain_of(schema, opset)
    assert plain is not None
    outcome = outcome_of(schema, opset, plain, member, tmp_path)
    refused = sorted(form for form, line in outcome.items() if line)
    assert refused == expected_refusals(operator, opset, member), outcome


@pytest.mark.parametrize("member", ["", "x_zero_point", "axis", "block_size"])
def test_integers_that_are_constants_are_dequantized_for_every_format(member: str, tmp_path: Path) -> None:
    opset, schema = list(versions("DequantizeLinear"))[-1]
    plain = plain_of(schema, opset)
    assert plain is not None
    outcome = outcome_of(schema, opset, replace(plain, fed=()), member, tmp_path)
    assert not any(outcome.values()), outcome


def outcome_of(schema: defs.OpSchema, opset: int, plain: Plain, member: str, folder: Path) -> dict[str, str]:
    """By form, the line that refuses a node with a member set; empty where its results are those of others."""
    model, feeds = node_of(schema, opset, plain, member)
    expected = theirs(model, feeds)
    if expected and member and plain.changes[member] is not True:
        before = theirs(*node_of(schema, opset, plain, ""))
        assert differ(expected, before), "the change says nothing"
    path = folder / "model.onnx"
    onnx.save(model, path)
    outcome = {}
    for form in ("graph", "onnx", "tflite"):
        try:
            results = OURS[form](path, feeds)
        except EdgeconvError as error:
            line = str(error)
            assert "\n" not in line
            assert schema.name in line or (member and member in line), line
            outcome[form] = line
            continue
        assert expected, "nobody computes it, so there is nothing that this could be proven to equal"
        for name, ours, other in zip(RESULTS[: len(expected)], results, expected, strict=True):
            assert_same(f"{form}, output {name}", ours, other)
        outcome[form] = ""
    return outcome


def node_of(schema: defs.OpSchema, opset: int, plain: Plain, member: str) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A model of one node, with a member set; and what its inputs are fed with."""
    names = [each.name for each in schema.inputs]
    names += [f"{names[-1]}_{i}" for i in range(len(plain.inputs) - len(names))]
    inputs: dict[str, Any] = dict(zip(names, plain.inputs, strict=False))
    attributes, wanted = dict(plain.attributes), max(schema.min_output, 1)
    change = plain.changes.get(member, {})
    outputs = [each.name for each in schema.outputs]
    for name, value in (change if isinstance(change, Mapping) else {member: change}).items():
        if value is True:
            wanted = max(wanted, outputs.index(name) + 1 if name in outputs else 0)
        elif name in schema.attributes:
            attributes[name] = value
        elif name in names:
            inputs[name] = value
    attributes = {name: value for name, value in attributes.items() if value is not None}
    if schema.name == "Split":
        parts = inputs.get("split", attributes.get("split"))
        wanted = attributes.get("num_outputs", 2) if parts is None else len(parts)
    if isinstance(attributes.get("value"), np.ndarray):
        attributes["value"] = numpy_helper.from_array(attributes["value"])
    used = [name for name in names if inputs.get(name) is not None]
    listed = [name if name in used else "" for name in names[: names.index(used[-1]) + 1]]
    node = helper.make_node(schema.name, listed, RESULTS[:wanted], **attributes)
    fed = [name for i, name in enumerate(names) if i in plain.fed and name in used]
    feeds = {name: inputs[name] for name in fed}
    tensors = [numpy_helper.from_array(np.asarray(inputs[name]), name) for name in used if name not in fed]
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        for name, each in feeds.items()
    ]
    if not given:  # a model has an input
        feeds, given = {"unused": np.zeros(1, np.float32)}, [helper.make_tensor_value_info("unused", 1, [1])]
    graph = helper.make_graph([node], "g", given, [onnx.ValueInfoProto(name=name) for name in node.output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = max(helper.find_min_ir_version_for(model.opset_import), 8)
    inferred = onnx.shape_inference.infer_shapes(model)
    for index, value in enumerate(inferred.graph.output):
        if not value.type.HasField("tensor_type"):
            model.graph.output[index].CopyFrom(helper.make_tensor_value_info(value.name, 1, None))
        else:
            model.graph.output[index].CopyFrom(value)
    return model, feeds


def theirs(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[Any]:
    """What onnxruntime makes of it; of operators that it lacks, onnx's evaluator; nothing where neither can."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    older = onnx.ModelProto()
    older.CopyFrom(model)
    older.opset_import[0].version = min(model.opset_import[0].version, 21)  # what onnxruntime has of a few operators
    for each in (model, older):
        with contextlib.suppress(Exception):
            session = onnxruntime.InferenceSession(
                each.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            return list(session.run(None, dict(feeds)))
    with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()), np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, dict(feeds)))
    return []


def _optimized(path: Path, feeds: Mapping[str, Any]) -> Any:
    file = open_onnx(path)
    return optimize(file.graph(settled_shapes(file, {name: array.shape for name, array in feeds.items()})))


def _graph(path: Path, feeds: Mapping[str, Any]) -> list[Any]:
    file = open_onnx(path)
    model = file.graph(settled_shapes(file, {name: array.shape for name, array in feeds.items()}))
    values = evaluate(model, feeds, keep=[each.name for each in file.outputs])
    return [values[each.name] for each in file.outputs]


def _onnx(path: Path, feeds: Mapping[str, Any]) -> list[Any]:
    emitted = to_onnx(_optimized(path, feeds), metadata={})
    fed = {each.name: feeds[each.name] for each in emitted.inputs}
    try:
        return list(onnxruntime.InferenceSession(emitted.data, providers=["CPUExecutionProvider"]).run(None, fed))
    except NotImplemented_:  # it has GlobalLpPool of older opsets only, and does not run the given file either
        model = ir.from_proto(onnx.load_from_string(emitted.data))
        values = evaluate(model, fed, keep=[each.name for each in emitted.outputs])
        return [values[each.name] for each in emitted.outputs]


def _tflite(path: Path, feeds: Mapping[str, Any]) -> list[Any]:
    emitted: Emitted = to_tflite(_optimized(path, feeds), metadata={}, layout="nchw")
    run = Interpreter(model_content=emitted.data, num_threads=1).get_signature_runner()
    results = run(**{each.name: feeds[each.name] for each in emitted.inputs})
    return [results[each.name] for each in emitted.outputs]


OURS = {"graph": _graph, "onnx": _onnx, "tflite": _tflite}


def differ(a: list[Any], b: list[Any]) -> bool:
    return len(a) != len(b) or any(
        x.shape != y.shape or x.dtype != y.dtype or not np.array_equal(x, y, equal_nan=x.dtype.kind == "f")
        for x, y in zip(a, b, strict=True)
    )


def assert_same(what: str, ours: Any, other: Any) -> None:
    assert ours.shape == other.shape, what
    if other.dtype.kind == "f":
        np.testing.assert_allclose(ours, other, rtol=1e-4, atol=2e-5, err_msg=what)
    else:
        np.testing.assert_array_equal(ours.astype(other.dtype), other, what)


def expected_refusals(operator: str, opset: int, member: str) -> list[str]:
    if opset < max(REFUSED.get(f"{operator}.{member}", 0), REFUSED.get(operator, 0)):
        return ["graph", "onnx", "tflite"]
    by_tflite = operator not in IN_TFLITE or {operator, f"{operator}.{member}"} & REFUSED_BY_TFLITE
    return ["tflite"] if by_tflite else []
