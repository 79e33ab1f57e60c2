"""Random ``.onnx`` graphs through every variant and both formats, on the runtimes, against onnx's reference evaluator.

A few seeds always run; the sweep is slow: EDGECONV_RANDOM_GRAPHS says how many (two hundred by default),
EDGECONV_RANDOM_FIRST where the seeds begin, EDGECONV_RANDOM_LOG a file that each outcome is added to.

Thought of: opsets 10 to 24, their attributes and inputs of the same things, constants in initializers and nodes and
among the inputs, constants and values of several readers, branches that join, dead nodes, outputs that are read, an
input that is an output, open batches, If, local functions, optional outputs, and names like our own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
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


_EXACT = frozenset(
    {
        "Abs", "Ceil", "Clip", "Compress", "Concat", "Constant", "DepthToSpace", "Dropout", "Expand", "Flatten",
        "Floor", "Gather", "GatherElements", "GatherND", "GlobalMaxPool", "Hardmax", "Identity", "Max", "MaxPool",
        "Min", "Neg", "OneHot", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape", "Round", "ScatterElements",
        "ScatterND", "Sign", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu",
        "Unsqueeze", "Where",
    }
)  # fmt: skip
"""Operators that choose and move numbers, and so give the same on every runtime."""


def _with_errors(model: onnx.ModelProto, floats: dict[str, tuple[int, ...]], seed: int) -> onnx.ModelProto:
    """The same with an error of half a step of float32 behind every float operator that rounds."""
    rng = np.random.default_rng(seed)
    computed = {name for node in model.graph.node if node.op_type not in _EXACT for name in node.output}

    def disturb(name: str, number: int) -> list[onnx.NodeProto]:
        factors = (1 + 2.0**-24 * rng.standard_normal(floats[name])).astype(np.float32)
        value = numpy_helper.from_array(factors)
        return [
            helper.make_node("Constant", [], [f"errors {number}"], value=value),
            helper.make_node("Mul", [name, f"errors {number}"], [f"with errors {number}"]),
        ]

    return _followed(_with_summed_means(model, floats, rng), computed & floats.keys(), disturb)


def _with_summed_means(
    model: onnx.ModelProto, floats: dict[str, tuple[int, ...]], rng: np.random.Generator
) -> onnx.ModelProto:
    """Normalizations written out, their means with any error that a sum of n numbers may have: n half steps of them.

    onnxruntime loses nothing of equal numbers there. A sum in another order does, and epsilon makes much of it (Higham,
    Accuracy and Stability of Numerical Algorithms, section 4.2).
    """
    summed = onnx.ModelProto()
    summed.CopyFrom(model)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(model.graph.node):
        if node.op_type not in ("LayerNormalization", "InstanceNormalization") or len(node.output) != 1:
            nodes.append(node)
            continue
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        shape = floats[node.input[0]]
        by_layer = node.op_type == "LayerNormalization"
        axes = list(range(attributes.get("axis", -1) % len(shape) if by_layer else 2, len(shape)))
        size = int(np.prod([shape[axis] for axis in axes]))
        mean_shape = [1 if axis in axes else extent for axis, extent in enumerate(shape)]
        constants = {
            "error": 1 + size * 2.0**-24 * rng.uniform(-1, 1, mean_shape).astype(np.float32),
            "eps": np.array(attributes.get("epsilon", 1e-5), np.float32),
            "axes": np.array(axes, np.int64),
            "channels": np.array([-1] + [1] * (len(shape) - 2), np.int64),
        }
        name = {
            key: f"mean {number} {key}" for key in (*constants, "mean", "off", "x", "square", "var", "sum", "root", "y")
        }
        for key, array in constants.items():
            value = numpy_helper.from_array(np.asarray(array, array.dtype))
            nodes.append(helper.make_node("Constant", [], [name[key]], value=value))

        def mean(source: str, result: str, axes: list[int] = axes, name: dict[str, str] = name) -> onnx.NodeProto:
            if opset < 18:
                return helper.make_node("ReduceMean", [source], [result], axes=axes, keepdims=1)
            return helper.make_node("ReduceMean", [source, name["axes"]], [result], keepdims=1)

        factors = []
        for factor in filter(None, node.input[1:]):
            factors.append(factor if by_layer else f"{name['y']} {factor}")
            if not by_layer:
                nodes.append(helper.make_node("Reshape", [factor, name["channels"]], [factors[-1]]))
        nodes += [
            mean(node.input[0], name["mean"]),
            helper.make_node("Mul", [name["mean"], name["error"]], [name["off"]]),
            helper.make_node("Sub", [node.input[0], name["off"]], [name["x"]]),
            helper.make_node("Mul", [name["x"], name["x"]], [name["square"]]),
            mean(name["square"], name["var"]),
            helper.make_node("Add", [name["var"], name["eps"]], [name["sum"]]),
            helper.make_node("Sqrt", [name["sum"]], [name["root"]]),
            helper.make_node("Div", [name["x"], name["root"]], [name["y"] if factors else node.output[0]]),
        ]
        if factors:
            scaled = node.output[0] if len(factors) == 1 else f"{name['y']} scaled"
            nodes.append(helper.make_node("Mul", [name["y"], factors[0]], [scaled]))
        if len(factors) == 2:
            nodes.append(helper.make_node("Add", [scaled, factors[1]], [node.output[0]]))
    del summed.graph.node[:]
    summed.graph.node.extend(nodes)
    return summed


def _rounded_to_halves(
    model: onnx.ModelProto, floats: Collection[str], share: float, seed: int, *, folded: bool
) -> onnx.ModelProto:
    """The same in float32, with the float values rounded to float16 that this share of their readers reads.

    Not all have to be: where there is no kernel of halves, onnxruntime computes in float32, and rounds between two such
    operators or does not. What compares numbers that only rounding makes unequal then gives anything. Files round
    weights in which others are `folded`: by another half step.
    """
    rng = np.random.default_rng(seed)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph = rounded.graph
    scales = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in scales:
            array = numpy_helper.to_array(tensor)
            array = array * (1 + 2.0**-12 * rng.standard_normal(array.shape)) if folded else array
            array = array.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    def through_half(name: str, number: int) -> list[onnx.NodeProto]:
        half, single = f"rounded to float16 {number}", f"rounded to float32 {number}"
        return [
            helper.make_node("Cast", [name], [half], to=TensorProto.FLOAT16),
            helper.make_node("Cast", [half], [single], to=TensorProto.FLOAT),
        ]

    return _followed(rounded, floats, through_half, share, seed)


def _followed(
    model: onnx.ModelProto,
    floats: Collection[str],
    behind: Callable[[str, int], list[onnx.NodeProto]],
    share: float = 1.0,
    seed: int = 0,
) -> onnx.ModelProto:
    """The model with nodes behind these values, whose last result this share of their readers takes instead."""
    rng = np.random.default_rng(seed)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    nodes: list[onnx.NodeProto] = []
    names: dict[str, str] = {}

    def follow(name: str) -> None:
        if name in floats:
            nodes.extend(behind(name, len(nodes)))
            names[name] = nodes[-1].output[0]

    for value in graph.input:
        follow(value.name)
    for node in graph.node:
        own = onnx.NodeProto()
        own.CopyFrom(node)
        own.input[:] = [names.get(name, name) if rng.random() < share else name for name in node.input]
        nodes.append(own)
        for name in node.output:
            follow(name)
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.output:
        value.name = names.get(value.name, value.name)
    return made


def _expected(graph: DrawnGraph, seed: int, rounds: int = 4) -> Expected:
    """By float64 where onnx's evaluator and onnxruntime agree on it, else by either.

    Args:
        graph: the drawn one.
        seed: of the errors.
        rounds: how often errors are drawn that show what the graph loses of itself.
    """
    feeds = graph.batches[0]
    plain = run_plain(graph.model, feeds)
    exact = _in_float64(graph.model, feeds)
    same = {at: exact[at] for at in range(len(plain)) if exact is not None and exact[at].shape == plain[at].shape}
    agreed = {at: array for at, array in same.items() if decibels(array, plain[at]) >= _AGREED_DB}
    outputs = [agreed.get(at, array) for at, array in enumerate(plain)]
    rng = np.random.default_rng(seed)
    halves: list[list[float]] = []
    singles: list[list[float]] = [list(map(decibels, outputs, plain))]

    def note(losses: list[list[float]], model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
        with contextlib.suppress(Exception):  # onnxruntime infers other sizes than it computes of some nodes
            losses.append(list(map(decibels, outputs, run_plain(model, feeds))))

    for number in range(rounds):
        share = 1.0 if number % 4 < 2 else 0.5
        model = _rounded_to_halves(graph.model, graph.floats, share, seed + number, folded=number >= 4)
        noise = {name: rng.standard_normal(array.shape) for name, array in feeds.items()}
        near = {name: (array * (1 + 2.0**-12 * noise[name])).astype(np.float32) for name, array in feeds.items()}
        note(halves, model, near)
        near = {name: (array * (1 + 2.0**-24 * noise[name])).astype(np.float32) for name, array in feeds.items()}
        note(singles, graph.model, near)
        note(singles, _with_errors(graph.model, graph.floats, seed + 1000 * number), feeds)
    losses = {"fp16": [*halves, *singles], "fp32": singles}  # files of halves may compute in float32, and lose as much
    plain_db = {name: [min(each) for each in zip(*rows, strict=True)] for name, rows in losses.items() if rows}
    return Expected(outputs, plain_db, {at: array for at, array in same.items() if at not in agreed})


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

    feeds = list(graph.batches[0].values())
    outcome = judged(seed, graph.described, export, feeds, _expected(graph, seed))
    if not outcome.wrong:
        return outcome
    # Few errors show no comparison that is close to equality: more are drawn before anything is called wrong.
    return judged(seed, graph.described, export, feeds, _expected(graph, seed, rounds=40))


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
def test_no_random_graph_is_exported_wrongly() -> None:
    outcomes = sweep(range(_FIRST, _FIRST + _COUNT), tried, Path(_LOG) if _LOG else None)
    assert not any(outcome.wrong for outcome in outcomes), summary(outcomes)
