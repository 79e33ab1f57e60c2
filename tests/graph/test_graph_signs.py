"""What is said to be never negative is not, whatever goes in; and what may be is not said to be."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.graph.signs import never_negative
from edgeconv.reference import evaluate

_HEAD = '<ir_version: 10, opset_import: ["": 20]> g (float[1, 4, 6, 6] x) => (float[N] y) <int64[8] '
_HEAD += "pads = {0, 0, 1, 1, 0, 0, 1, 1}, float less = {-3.5}, float zero = {0.0}, float below = {-0.5}, "
_HEAD += "float[1] noughts = {0.0}> "

NEVER = [
    "y = Relu(x)",
    "r = Relu(x) s = Sigmoid(x) y = Concat<axis = 1>(r, s)",
    "r = Relu(x) s = Exp(x) p = Mul(r, s) a = Abs(x) y = Add(p, a)",
    "r = Abs(x) m = MaxPool<kernel_shape = [2, 2]>(r) y = Transpose(m)",
    "y = Clip(x, zero)",
    "y = Clip(x, noughts)",
    "r = Relu(x) s, t = Split<axis = 1, num_outputs = 2>(r) y = Max(s, t)",
    "r = Softplus(x) c = Cast<to = 1>(r) y = Sqrt(c)",
]
MAY_BE = [
    "y = Neg(x)",
    "r = Relu(x) y = Pad(r, pads, less)",
    "r = Relu(x) p = Pad(r, pads, less) y = MaxPool<kernel_shape = [1, 1]>(p)",
    "r = Relu(x) a = Abs(x) y = Sub(r, a)",
    "r = Relu(x) y = Concat<axis = 1>(r, x)",
    "r = Relu(x) q = SequenceConstruct(r, x) y = ConcatFromSequence<axis = 0>(q)",
    "y = Clip(x, below)",
    "r = Relu(x) y = Add(r, below)",
]


def _computed(body: str) -> tuple[bool, np.ndarray]:
    model = ir.from_onnx_text(f"{_HEAD}{{ {body} }}")
    for node in model.graph:
        for value in node.outputs:
            value.dtype = value.dtype or ir.DataType.FLOAT  # as stages tell the types of values
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32) * 3
    return never_negative(model.graph.outputs[0]), evaluate(model, {"x": x})["y"]


@pytest.mark.parametrize("body", NEVER)
def test_a_value_that_is_never_negative_is_known(body: str) -> None:
    known, result = _computed(body)
    assert known
    assert (result >= 0).all()


@pytest.mark.parametrize("body", MAY_BE)
def test_a_value_that_may_be_negative_is_not_said_to_be_none(body: str) -> None:
    known, result = _computed(body)
    assert not known
    assert (result < 0).any()


def test_a_cast_to_integers_that_wrap_may_be_negative() -> None:
    text = _HEAD.replace("float[N] y", "int8[N] y")
    model = ir.from_onnx_text(f"{text}{{ r = Relu(x) y = Cast<to = 3>(r) }}")
    assert not never_negative(model.graph.outputs[0])


def test_many_sums_of_one_value_are_told_at_once() -> None:
    """Each reads the one before twice: without what was found before, 2^60 questions."""
    sums = " ".join(f"v{at + 1} = Add(v{at}, v{at})" for at in range(60))
    known, _ = _computed(f"v0 = Relu(x) {sums} y = Identity(v60)")
    assert known
