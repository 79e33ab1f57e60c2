"""What a file computes as its graph does is told by looking, and costs no evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.parity.writing import Graph, OnnxFile, writing
from edgeconv.parity.writing._numbers import Pool, of_these

CHAIN = """<ir_version: 9, opset_import: ["" : 18]> g (float[1, 2, 4, 4] x) => (float[1, 2, 4, 4] y)
  <float[2, 2, 1, 1] w = {1.5, 2, 3, 4.25}, float[1] b = {0.5}>
  { a = Conv <kernel_shape = [1, 1]> (x, w) c = LeakyRelu <alpha = 0.25> (a) d = Add (c, b) y = Sigmoid (d) }"""
X = {"x": np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)}


def beside(changed: tuple[str, str], folder: Path) -> tuple[Graph, OnnxFile]:
    graph = Graph(ir.from_onnx_text(CHAIN))
    path = folder / "net.onnx"
    ir.save(ir.from_onnx_text(CHAIN.replace(*changed)), path)
    return graph, OnnxFile(path, graph)


@pytest.mark.parametrize(
    ("changed", "apart"),
    [
        (("", ""), set()),
        (("1.5, 2", "1.5000001, 2"), {"a"}),
        (("0.25>", "0.26>"), {"c"}),
        (("Add (c, b)", "Add (c, x)"), {"d"}),
        (("Sigmoid (d)", "Sigmoid (c)"), {"y"}),
        (('"" : 18', '"" : 17'), {"a", "c", "d", "y"}),
    ],
)
def test_a_value_is_alike_where_node_constants_and_operands_are(
    changed: tuple[str, str], apart: set[str], tmp_path: Path
) -> None:
    _, file = beside(changed, tmp_path)
    assert file.alike(file.names) == file.names - apart
    assert file.alike([]) <= file.alike(file.names)  # what is not held has to be alike itself


def test_a_file_that_is_its_graph_is_not_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, file = beside(("", ""), tmp_path)
    asked: list[str] = []
    monkeypatch.setattr(Graph, "held", lambda self, inputs, values, changed, names, *_: asked.extend(names) or {})
    link = writing(graph, file, X, "one")
    assert not asked
    assert (link.verdict.value, link.error, link.used, link.where) == ("pass", 0.0, 0.0, "a")


def test_a_part_that_differs_is_told_among_those_that_are_alike(tmp_path: Path) -> None:
    graph, file = beside(("0.25>", "0.26>"), tmp_path)
    link = writing(graph, file, X, "one")
    assert (link.verdict.value, link.where) == ("fail", "c")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("count", [3, 40, 4000])
def test_numbers_that_no_constant_has_are_those_of_a_set(count: int, dtype: type) -> None:
    generator = np.random.default_rng(count)
    arrays = [np.round(generator.normal(size=size), 2).astype(np.float32) for size in (1, 30, 900)]
    arrays[0][0] = np.nan
    looked_for = np.round(generator.normal(size=(count,)), 2).astype(dtype)
    looked_for[:2] = np.nan, 1
    known = {float(number) for array in arrays for number in array.astype(dtype)} | {0.0, 1.0, -1.0}
    due = sorted({float(number) for number in looked_for[2:]} - known)
    missing = Pool(arrays, lambda array: array.astype(dtype)).missing([looked_for[:5], looked_for[5:], looked_for[:0]])
    assert missing.tolist() == due
    some = looked_for[::3]
    assert of_these(some, missing).tolist() == sorted(set(due) & {float(number) for number in some})
