"""Random ``.onnx`` graphs through every variant and both formats, on the runtimes, against onnx's reference evaluator.

A few seeds always run; the sweep is slow: EDGECONV_RANDOM_GRAPHS says how many (two hundred by default),
EDGECONV_RANDOM_FIRST where the seeds begin, EDGECONV_RANDOM_LOG a file that each outcome is added to.

Thought of: opsets 10 to 24, their attributes and inputs of the same things, constants in initializers and nodes and
among the inputs, constants and values of several readers, branches that join, dead nodes, outputs that are read, an
input that is an output, open batches, If, local functions, optional outputs, and names like our own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from random_graphs import Array, DrawnGraph, drawn_graph, run_plain
from random_judge import Expected, Outcome, decibels, judged, summary, sweep

import edgeconv

_COUNT = int(os.environ.get("EDGECONV_RANDOM_GRAPHS", "200"))
_FIRST = int(os.environ.get("EDGECONV_RANDOM_FIRST", "0"))
_LOG = os.environ.get("EDGECONV_RANDOM_LOG", "")
_AGREED_DB = 80.0
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)


def _in_float64(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array] | None:
    """By onnx's own evaluator; None where it has no such operator, or none for float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graphs = [wide.graph]
    for graph in graphs:
        for tensor in graph.initializer:
            _widen(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                if attribute.HasField("t") and node.op_type in ("Constant", "ConstantOfShape"):
                    _widen(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.DOUBLE
    doubles = {name: array.astype(np.float64) for name, array in feeds.items()}
    try:
        return [np.asarray(array) for array in ReferenceEvaluator(wide).run(None, doubles)]
    except Exception:  # noqa: BLE001  (it implements what it implements)
        return None


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _rounded_to_halves(model: onnx.ModelProto, floats: set[str]) -> onnx.ModelProto:
    """The same in float32, with every float value rounded to float16 as soon as it is there."""
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    graph = rounded.graph
    scales = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:
            array = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    names: dict[str, str] = {}
    for number, value in enumerate(value.name for value in graph.input if value.name in floats):
        nodes += _through_half(value, names, number)
    for node in graph.node:
        own = onnx.NodeProto()
        own.CopyFrom(node)
        own.input[:] = [names.get(name, name) for name in node.input]
        nodes.append(own)
        for name in node.output:
            if name in floats:
                nodes += _through_half(name, names, len(nodes))
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.output:
        value.name = names.get(value.name, value.name)
    return rounded


def _through_half(name: str, names: dict[str, str], number: int) -> list[onnx.NodeProto]:
    names[name] = f"rounded to float32 {number}"
    return [
        helper.make_node("Cast", [name], [f"rounded to float16 {number}"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"rounded to float16 {number}"], [names[name]], to=TensorProto.FLOAT),
    ]


def _expected(graph: DrawnGraph, seed: int) -> Expected:
    """By float64 where onnx's evaluator and onnxruntime agree on it, else by onnxruntime in float32."""
    feeds = graph.batches[0]
    plain = run_plain(graph.model, feeds)
    exact = _in_float64(graph.model, feeds)
    outputs = [
        plain[at] if exact is None or exact[at].shape != plain[at].shape or decibels(exact[at], plain[at]) < _AGREED_DB
        else exact[at] for at in range(len(plain))
    ]  # fmt: skip
    rng = np.random.default_rng(seed)
    halves: list[list[float]] = []
    singles: list[list[float]] = [list(map(decibels, outputs, plain))]
    model = _rounded_to_halves(graph.model, graph.floats)
    for _ in range(3):
        noise = {name: rng.standard_normal(array.shape) for name, array in feeds.items()}
        near = {name: (array * (1 + 2.0**-12 * noise[name])).astype(np.float32) for name, array in feeds.items()}
        halves.append(list(map(decibels, outputs, run_plain(model, near))))
        near = {name: (array * (1 + 2.0**-24 * noise[name])).astype(np.float32) for name, array in feeds.items()}
        singles.append(list(map(decibels, outputs, run_plain(graph.model, near))))
    plain_db = {"fp16": [min(each) for each in zip(*halves, strict=True)]}
    return Expected(outputs, plain_db | {"fp32": [min(each) for each in zip(*singles, strict=True)]})


def tried(seed: int) -> Outcome:
    """A seed's graph, exported and judged."""
    graph = drawn_graph(seed)

    def export(folder: Path, formats: Any, variants: Any) -> edgeconv.ExportResult:
        folder.mkdir(parents=True)
        path = folder / "drawn.onnx"
        path.write_bytes(graph.model.SerializeToString())
        names = [value.name for value in edgeconv_inputs(path)]
        batches = [dict(zip(names, batch.values(), strict=True)) for batch in graph.batches]
        quantization = edgeconv.Quantization(batches=lambda: batches)
        return edgeconv.export_onnx(
            path, folder / "out", name="net", formats=formats, variants=variants, quantization=quantization
        )  # fmt: skip

    return judged(seed, graph.described, export, list(graph.batches[0].values()), _expected(graph, seed))


def edgeconv_inputs(path: Path) -> tuple[Any, ...]:
    """What a caller feeds, under the names that they get."""
    from edgeconv.capture import open_onnx

    return open_onnx(path).inputs


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 6, 7, 8, 9])
def test_a_random_graph_is_computed_or_refused(seed: int) -> None:
    outcome = tried(seed)
    assert not outcome.wrong, summary([outcome])
    assert outcome.right, summary([outcome])


@pytest.mark.slow
def test_random_graphs() -> None:
    outcomes = sweep(range(_FIRST, _FIRST + _COUNT), tried, Path(_LOG) if _LOG else None)
    assert not any(outcome.wrong for outcome in outcomes), summary(outcomes)
