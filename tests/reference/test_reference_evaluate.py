"""The walk over a graph: what is computed, kept, refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeconv.errors import RewriteError
from edgeconv.reference import evaluate

MODEL = """
<ir_version: 10, opset_import: ["" : 18]>
small (float[N, 3] x, int64 k) => (float[N, 2] y)
<float[3, 2] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.1}, int64[1] zero = {0}>
{
    a = MatMul(x, w)
    b = Relu(a)
    rows = Shape(b)
    positive = Greater(a, b)
    kf = Cast<to = 1>(k)
    y = Mul(b, kf)
    unused = Exp(a)
}
"""
X = np.array([[1.0, -2.0, 0.5], [0.1, 0.2, -0.3]], dtype=np.float32)
FEEDS = {"x": X, "k": np.array(3)}


def parse(text: str) -> ir.Model:
    return ir.serde.deserialize_model(onnx.parser.parse_model(text))


@pytest.fixture
def model() -> ir.Model:
    return parse(MODEL)


def test_every_value_comes_back_in_float64(model: ir.Model) -> None:
    values = evaluate(model, FEEDS)
    assert set(values) == {"x", "k", "a", "b", "rows", "positive", "kf", "y", "unused"}
    weight = np.array([[1, 2], [3, 4], [5, np.float32(6.1)]], dtype=np.float64)  # the number that the file holds
    np.testing.assert_allclose(values["a"], X.astype(np.float64) @ weight, rtol=1e-15)
    np.testing.assert_array_equal(values["y"], np.maximum(values["a"], 0) * 3)
    dtypes = {name: values[name].dtype.name for name in ("x", "k", "rows", "positive", "kf", "y")}
    assert dtypes == {
        "x": "float64",
        "k": "int64",
        "rows": "int64",
        "positive": "bool",
        "kf": "float64",
        "y": "float64",
    }


def test_only_what_is_asked_for_is_computed_and_kept(model: ir.Model) -> None:
    whole = evaluate(model, FEEDS)
    some = evaluate(model, {"x": X}, keep=["b", "w"])  # without k, on which b does not depend
    assert set(some) == {"b", "w"}
    np.testing.assert_array_equal(some["b"], whole["b"])
    assert some["w"].dtype == np.float64


def test_a_value_that_is_read_twice_by_one_node_is_kept_until_then() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[2] x) => (float[2] y) { a = Neg(x) b = Mul(a, a) c = Neg(b) y = Add(a, c) }"""
    )
    values = evaluate(model, {"x": np.array([1.0, 2.0])}, keep=["y"])
    assert values["y"].tolist() == [-2.0, -6.0]


def test_a_constant_can_be_replaced(model: ir.Model) -> None:
    exact = np.full((3, 2), 1 / 3)
    values = evaluate(model, {**FEEDS, "w": exact}, keep=["a"])
    np.testing.assert_allclose(values["a"], X.astype(np.float64) @ exact, rtol=1e-14, atol=1e-16)


def test_nothing_given_is_written_to(model: ir.Model) -> None:
    operand = X.astype(np.float64)
    values = evaluate(model, {"x": operand, "k": np.array(3)})
    values["x"][:] = 0
    assert operand[0, 0] == 1.0


def test_an_operator_that_is_not_in_the_table_is_named() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 18, "com.acme" : 1]>
        g (float[2] x) => (float[2] y) { a = Neg(x) y = com.acme.Wobble(a) }"""
    )
    model.graph[1].metadata_props["edgeconv.module"] = "features.3"
    with pytest.raises(RewriteError, match=r"features.3: the reference has no operator com.acme::Wobble; .*"):
        evaluate(model, {"x": np.zeros(2)})
    assert evaluate(model, {"x": np.ones(2)}, keep=["a"])["a"].tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("feeds", "keep", "says"),
    [
        ({"k": np.array(3)}, None, "nothing gives the value 'x'"),
        ({**FEEDS, "q": X}, None, "no value is named 'q'"),
        ({**FEEDS, "b": X}, None, "'b' is no input of the graph"),
        ({**FEEDS, "x": X[:, :2]}, None, "input x: the shape (2, 2) is not Nx3"),
        ({**FEEDS, "k": np.array(0.5)}, None, "input k: an array of float64 is no int64"),
        (FEEDS, ["positives"], "no value is named 'positives'; the nearest are positive"),
    ],
)
def test_wrong_arguments_are_named(model: ir.Model, feeds: dict[str, Any], keep: Any, says: str) -> None:
    with pytest.raises(RewriteError, match=re.escape(says)):
        evaluate(model, feeds, keep=keep)


def test_operands_that_do_not_fit_are_named() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[n] x, float[m] z) => (float[k] y) { y = Add(x, z) }"""
    )
    with pytest.raises(RewriteError, match=r"Add cannot be evaluated on shapes \(2,\), \(3,\)"):
        evaluate(model, {"x": np.zeros(2), "z": np.zeros(3)})


def test_functions_are_inlined() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 18, "local" : 1]>
        g (float[2] x) => (float[2] y) { y = local.twice(x) }
        <domain: "local", opset_import: ["" : 18]>
        twice (a) => (b) { b = Add(a, a) }"""
    )
    assert evaluate(model, {"x": np.ones(2)})["y"].tolist() == [2, 2]
    assert model.functions


@pytest.mark.parametrize("keep", [None, ["y"]])
def test_branches_read_the_graph_around_them(keep: list[str] | None) -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (bool flag, float[2] x) => (float[2] y) {
            a = Neg(x)
            y = If (flag) <
                then_branch = one () => (float[2] t) { b = Exp(a) t = Mul(a, b) },
                else_branch = two () => (float[2] e) { e = Identity(a) }
            >
        }"""
    )
    x = np.array([1.0, 2.0])
    for flag, expected in ((True, -x * np.exp(-x)), (False, -x)):
        values = evaluate(model, {"flag": np.array(flag), "x": x}, keep=keep)
        np.testing.assert_allclose(values["y"], expected, rtol=1e-15)


def test_sequences_pass_through() -> None:
    model = parse(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[2, 5] x) => (float[2, 5] y) {
            size = Constant<value = int64 {2}>()
            parts = SplitToSequence<axis = 1>(x, size)
            last = Constant<value = int64 {-1}>()
            part = SequenceAt(parts, last)
            count = SequenceLength(parts)
            again = SequenceConstruct(part, part)
            y = ConcatFromSequence<axis = 1>(again)
        }"""
    )
    x = np.arange(10.0).reshape(2, 5)
    values = evaluate(model, {"x": x})
    assert values["count"] == 3
    assert values["y"].tolist() == [[4, 4], [9, 9]]
    assert "parts" not in values


def test_memory_is_given_back() -> None:
    """A chain of 60 tensors of 8 MB: with `keep` only a few of them live at once."""
    lines = "".join(f"v{i + 1} = Neg(v{i})\n" for i in range(60))
    model = parse(
        f"""<ir_version: 10, opset_import: ["" : 18]>
        g (float[n] v0) => (float[n] v60) {{ {lines} }}"""
    )
    alive: list[int] = []
    seen: set[int] = set()
    from edgeconv.reference import _evaluate

    step = _evaluate._Walk.step

    def counting(walk: Any, node: ir.Node) -> None:
        step(walk, node)
        alive.append(len(walk.values))
        seen.add(id(node))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_evaluate._Walk, "step", counting)
        evaluate(model, {"v0": np.zeros(4)}, keep=["v60", "v7"])
    assert len(seen) == 60
    assert max(alive) <= 3
