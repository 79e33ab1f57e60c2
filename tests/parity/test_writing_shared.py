"""Two layouts of one graph are judged on the same operands, each computed once, and judged as each is alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edgeconv.capture import capture
from edgeconv.core.verdicts import LinkResult
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import RewriteError
from edgeconv.parity.writing import Graph, OperandCache, TfliteFile, writing
from edgeconv.parity.writing._ends import Operands
from edgeconv.reference import tflite
from edgeconv.rewrite import optimize


@pytest.fixture(scope="module")
def model() -> ir.Model:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(8, 4, 1), nn.Sigmoid()).eval()
    return optimize(capture(module, (torch.zeros(1, 3, 8, 8),), input_names=["x"], output_names=["y"]))


def _file(model: ir.Model, graph: Graph, layout: str, slope: float | None = None) -> TfliteFile:
    if slope is not None:
        model = model.clone()
        node = next(node for node in model.graph if node.op_type == "LeakyRelu")
        node.attributes["alpha"] = ir.AttrFloat32("alpha", slope)
    emitted = to_tflite(model, metadata={}, layout=layout)
    return TfliteFile(tflite.read(emitted.data), graph, emitted.inputs, emitted.outputs, emitted.intermediates)


def _judged(model: ir.Model, graph: Graph, slopes: tuple[float | None, float | None]) -> list[LinkResult]:
    inputs = {"x": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}
    layouts = zip(("nhwc", "nchw"), slopes, strict=True)
    return [writing(graph, _file(model, graph, layout, slope), inputs, "one") for layout, slope in layouts]


@pytest.mark.parametrize("slopes", [(None, None), (0.2, None), (None, 0.2)])
def test_each_layout_is_judged_as_it_is_alone(slopes: tuple[float | None, float | None], model: ir.Model) -> None:
    alone, graph = _judged(model, Graph(model), slopes), Graph(model)
    graph.shared = OperandCache()
    assert _judged(model, graph, slopes) == alone
    assert [link.verdict.value for link in alone] == ["pass" if slope is None else "fail" for slope in slopes]


def test_the_graph_is_evaluated_once_for_both(model: ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[bool] = []
    held = Graph.held
    monkeypatch.setattr(Graph, "held", lambda *args, **options: evaluated.append(True) or held(*args, **options))
    _judged(model, Graph(model), (None, None))
    for_each = len(evaluated)
    graph = Graph(model)
    graph.shared = OperandCache()
    _judged(model, graph, (None, None))
    assert 0 < len(evaluated) - for_each == for_each // 2


def test_other_arrays_or_another_question_have_operands_of_their_own() -> None:
    shared, array = OperandCache(), np.zeros(2)

    def operands(number: float) -> Iterator[Operands]:
        yield Operands({}, {"a": np.full(2, number)}, {})

    def numbers(what: str, arrays: list[np.ndarray], number: float) -> list[float]:
        return [float(item.values["a"][0]) for item in shared.of(what, arrays, lambda: operands(number))]

    assert numbers("what", [array], 1) == numbers("what", [array], 2) == [1]
    assert numbers("what", [array.copy()], 3) == [3]  # the same numbers in another array
    assert numbers("else", [array], 4) == [4]


def test_what_could_not_be_computed_is_not_passed_over_by_the_next_file() -> None:
    shared, array = OperandCache(), np.zeros(2)

    def operands() -> Iterator[Operands]:
        yield Operands({}, {}, {})
        raise RewriteError("an operator is missing")

    for _ in range(2):
        with pytest.raises(RewriteError, match="missing"):
            list(shared.of("what", [array], operands))
