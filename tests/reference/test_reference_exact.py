"""What folding computes without torch is what the engine computes, to the last bit.

Kinds thought of: floats with infinities, both zeros and NaN; int32 and int64 at their ends; booleans; no elements, no
axes; operands of two types; opsets where axes are attributes and where they are inputs; operands without a result.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edgeconv.errors import RewriteError
from edgeconv.reference import OPERATORS, ImpossibleError, evaluate_node
from edgeconv.reference._evaluate import evaluate_alone
from edgeconv.reference._exact import EXACT, computed

Draw = Callable[..., Any]
Operands = Sequence[np.ndarray | None]

FLOATS = st.one_of(
    st.floats(-4, 4), st.sampled_from([0.0, -0.0, 1.0, float("inf"), float("-inf"), float("nan"), 1e300, 5e-324])
)
INTEGERS = st.one_of(st.integers(-4, 4), st.sampled_from([2**31 - 1, -(2**31)]))
SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)


def _arrays(shape: Any = SHAPES, dtypes: str = "fil?") -> st.SearchStrategy[np.ndarray]:
    """Arrays of float64 or float32 (f), int32 (i), int64 (l), bool (?)."""
    kinds = {
        "f": st.one_of(npst.arrays(np.float64, shape, elements=FLOATS), npst.arrays(np.float32, shape)),
        "i": npst.arrays(np.int32, shape, elements=INTEGERS),
        "l": npst.arrays(np.int64, shape, elements=st.one_of(INTEGERS, st.sampled_from([2**63 - 1, -(2**63)]))),
        "?": npst.arrays(np.bool_, shape),
    }
    return st.one_of(*(kinds[dtype] for dtype in dtypes))


def _small(length: int, low: int = -4, high: int = 4) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(np.int64, length, elements=st.integers(low, high))


@st.composite
def _alike(draw: Draw, count: int, dtypes: str = "fil?") -> Operands:
    """Operands that broadcast, nearly always of one type."""
    shapes = draw(npst.mutually_broadcastable_shapes(num_shapes=count, max_dims=3, max_side=3, min_side=0))
    dtype = draw(st.sampled_from(dtypes))
    return [draw(_arrays(shape, dtype)) for shape in shapes.input_shapes]


@st.composite
def _with_integers(draw: Draw, counts: Sequence[int], low: int = -4, high: int = 4) -> Operands:
    """A tensor, and lists of integers behind it, as long as it has axes where 9 is stated."""
    x = draw(_arrays())
    return [x, *(draw(_small(x.ndim if count == 9 else count, low, high)) for count in counts)]


@st.composite
def _chosen(draw: Draw) -> Operands:
    x, y = draw(_alike(2))
    return [draw(npst.arrays(np.bool_, x.shape)), x, y]


_PAIRS = ("Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Sub")
_SINGLES = ("Ceil", "Floor", "Identity", "Neg", "Not", "Shape", "Size")
_AXES = st.lists(st.integers(-3, 3), max_size=3)
NODES: dict[str, tuple[st.SearchStrategy[Operands], dict[str, st.SearchStrategy[Any]]]] = {
    **{name: (_alike(2), {}) for name in _PAIRS},
    **{name: (_alike(3, "il"), {}) for name in ("Max", "Min")},
    **{name: (_alike(2, "?"), {}) for name in ("And", "Or")},
    **{name: (_alike(1), {}) for name in _SINGLES},
    "Cast": (_alike(1), {"to": st.sampled_from([1, 6, 7, 9, 10, 11])}),
    "Concat": (_alike(2), {"axis": st.integers(-3, 3)}),
    "ConstantOfShape": (st.tuples(_small(2, -1)), {}),
    "Expand": (_with_integers([2], 0, 3), {}),
    "Flatten": (_alike(1), {"axis": st.integers(-3, 3)}),
    "Gather": (
        st.tuples(_arrays(), npst.arrays(np.int64, SHAPES, elements=st.integers(-3, 2))),
        {"axis": _AXES.map(len)},
    ),
    "Range": (st.tuples(_small(()), _small(()), _small(())), {}),
    "ReduceProd": (_alike(1), {"keepdims": st.integers(0, 1)}),
    "Reshape": (_with_integers([2], -1, 3), {"allowzero": st.integers(0, 1)}),
    "Slice": (_with_integers([9, 9, 9, 9]), {}),
    "Split": (_with_integers([2], 0, 2), {"axis": st.integers(-2, 2)}),
    "Squeeze": (_with_integers([1]), {}),
    "Tile": (_with_integers([9], -1, 2), {}),
    "Transpose": (_alike(1), {"perm": _AXES.filter(len)}),
    "Unsqueeze": (_with_integers([2]), {}),
    "Where": (_chosen(), {}),
}


def _node(operator: str, arrays: Operands, attributes: dict[str, Any]) -> ir.Node:
    """A node whose inputs state their types, as those of a file do."""
    names = [f"x{index}" if array is not None else "" for index, array in enumerate(arrays)]
    outputs = ["y0", "y1"] if operator == "Split" else ["y0"]
    proto = onnx.helper.make_node(operator, names, outputs, **attributes)
    graph = onnx.helper.make_graph(
        [proto],
        "one",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, arrays, strict=True)
            if array is not None
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    model = ir.serde.deserialize_model(onnx.helper.make_model(graph))
    return model.graph.node(0)


def _bits(results: Sequence[np.ndarray]) -> list[tuple[Any, ...]]:
    return [(result.shape, result.dtype, result.tobytes()) for result in results]


def test_each_operator_is_tried_and_is_the_engines() -> None:
    assert NODES.keys() == EXACT.keys()
    assert EXACT.keys() <= OPERATORS.keys()


@pytest.mark.parametrize("operator", sorted(NODES))
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_results_have_the_engines_bits(operator: str, data: st.DataObject) -> None:
    operands, choices = NODES[operator]
    arrays = data.draw(operands)
    attributes = {name: data.draw(choice) for name, choice in choices.items() if data.draw(st.booleans())}
    if operator == "Cast":
        attributes = {"to": data.draw(choices["to"])}
    if operator == "Concat":
        attributes = {"axis": data.draw(choices["axis"])}
    node = _node(operator, arrays, attributes)
    results = computed(node, arrays, 18)
    if results is not None:
        assert _bits(results) == _bits(evaluate_alone(node, arrays, opset=18))


_X = np.arange(12, dtype=np.float32).reshape(1, 3, 4) - 5
_I = np.array([3, -7, 5])
# What files hold: the shapes that they calculate, and weights that they move.
USUAL: list[tuple[str, Operands, dict[str, Any], int]] = [
    ("Add", [_I, np.array(1)], {}, 13),
    ("And", [_I > 0, _I > 4], {}, 13),
    ("Cast", [_I], {"to": 1}, 13),
    ("Cast", [_X], {"to": 7}, 13),
    ("Ceil", [_X / 2], {}, 13),
    ("Concat", [_I, _I], {"axis": 0}, 13),
    ("ConstantOfShape", [_I[:1]], {}, 9),
    ("Div", [_I, np.array(2)], {}, 13),
    ("Div", [_X, np.array(3, np.float32)], {}, 13),
    ("Equal", [_I, np.array(-7)], {}, 13),
    ("Expand", [_X, np.array([2, 1, 1])], {}, 13),
    ("Flatten", [_X], {"axis": 2}, 13),
    ("Floor", [_X / 2], {}, 13),
    ("Gather", [_I, np.array(-1)], {"axis": 0}, 13),
    ("Gather", [_X, np.array([[2, 0]])], {"axis": 1}, 13),
    ("Greater", [_X, _X[..., :1]], {}, 13),
    ("GreaterOrEqual", [_I, np.array(3)], {}, 13),
    ("Identity", [_X], {}, 13),
    ("Less", [_I, np.array(3)], {}, 13),
    ("LessOrEqual", [_I, np.array(3)], {}, 13),
    ("Max", [_I, np.array(3)], {}, 13),
    ("Min", [_I, np.array(3)], {}, 13),
    ("Mul", [_X, np.array(3, np.float32)], {}, 13),
    ("Neg", [_I], {}, 13),
    ("Not", [_I > 0], {}, 13),
    ("Or", [_I > 0, _I > 4], {}, 13),
    ("Range", [np.array(0), np.array(7), np.array(2)], {}, 13),
    ("ReduceProd", [_I], {"keepdims": 0}, 18),
    ("Reshape", [_X, np.array([0, -1])], {}, 13),
    ("Shape", [_X], {"start": 1}, 15),
    ("Size", [_X], {}, 13),
    ("Slice", [_I, np.array([1]), np.array([2**63 - 1]), np.array([0])], {}, 13),
    ("Slice", [_X, np.array([-1]), np.array([-(2**63)]), np.array([2]), np.array([-2])], {}, 13),
    ("Slice", [_X], {"starts": [1], "ends": [3], "axes": [1]}, 9),
    ("Split", [_X, np.array([1, 2])], {"axis": 1}, 13),
    ("Squeeze", [_X], {}, 13),
    ("Squeeze", [_X], {"axes": [0]}, 11),
    ("Sub", [_X, _X[..., :1]], {}, 13),
    ("Tile", [_X, np.array([1, 2, 3])], {}, 13),
    ("Transpose", [_X], {"perm": [2, 0, 1]}, 13),
    ("Unsqueeze", [np.array(5), np.array([0])], {}, 13),
    ("Unsqueeze", [_X], {"axes": [0, -1]}, 11),
    ("Where", [_X > 0, _X, _X[..., :1]], {}, 13),
]


def test_each_operator_has_a_usual_form() -> None:
    assert {operator for operator, *_ in USUAL} == EXACT.keys()


@pytest.mark.parametrize(("operator", "arrays", "attributes", "opset"), USUAL)
def test_usual_forms_need_no_torch(operator: str, arrays: Operands, attributes: dict[str, Any], opset: int) -> None:
    node = _node(operator, arrays, attributes)
    results = computed(node, arrays, opset)
    assert results is not None
    assert _bits(results) == _bits(evaluate_alone(node, arrays, opset=opset))


def test_results_share_no_memory_with_their_operands() -> None:
    (moved,) = evaluate_node(_node("Reshape", [x := np.zeros((2, 3)), np.array([6])], {}), [x, np.array([6])], opset=13)
    moved[:] = 1
    assert not x.any()


@pytest.mark.parametrize(
    ("operator", "arrays", "error"),
    [
        ("Div", [_I, np.array(0)], ImpossibleError),
        ("Gather", [_I, np.array(3)], RewriteError),
        ("Reshape", [_X, np.array([5])], RewriteError),
        ("ConstantOfShape", [np.array([2**20, 2**20])], ImpossibleError),
        ("Expand", [np.zeros(1), np.array([2**26])], ImpossibleError),
    ],
)
def test_what_has_no_result_is_refused_by_the_engine(
    operator: str, arrays: Operands, error: type[RewriteError]
) -> None:
    with pytest.raises(error):
        evaluate_node(_node(operator, arrays, {}), arrays, opset=13)


def test_evaluating_a_node_leaves_torch_alone() -> None:
    code = """
import sys, numpy as np, onnx_ir as ir
from edgeconv.reference import evaluate_node
x = ir.Value(name="x", type=ir.TensorType(ir.DataType.INT64))
node = ir.Node("", "Add", [x, x], outputs=[ir.Value(name="y")])
print(evaluate_node(node, [np.array([1, 2])] * 2, opset=18)[0].tolist(), "torch" in sys.modules)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[2, 4] False"
