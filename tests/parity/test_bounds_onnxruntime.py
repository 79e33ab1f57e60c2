"""ONNX Runtime, operator by operator, within the bounds of its nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from bounds_cases import CASES, FUNCTIONS, normal
from bounds_models import NodeCase, judged, node_of, on_onnxruntime

from edgeconv.errors import ParityError
from edgeconv.parity.bounds import NODES, Arithmetic, of_node

RUNTIME = Arithmetic(runtime="onnxruntime")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operators_are_within_their_bounds(case: NodeCase) -> None:
    for bound, result in judged(case, RUNTIME):
        assert bound.worst.shape == bound.likely.shape == result.shape
        assert (bound.likely <= bound.worst).all()
        assert bound.used(result).max() <= 1
        assert np.isinf(bound.worst).mean() < 0.6


def test_every_rule_is_tried() -> None:
    assert set(NODES) <= {case.name for case in CASES}


def test_the_bound_of_a_convolution_is_used() -> None:
    """A depthwise layer, the first of a network, and a pointwise one of 32 channels."""
    f = normal
    for case, least in (
        (NodeCase("Conv", [f(1, 32, 28, 28), f(32, 1, 3, 3)], {"group": 32}), 0.1),
        (NodeCase("Conv", [f(1, 3, 64, 64), f(32, 3, 3, 3)], {"strides": [2, 2]}), 0.05),
        (NodeCase("Conv", [f(1, 32, 28, 28), f(64, 32, 1, 1)]), 0.05),
    ):
        ((bound, result),) = judged(case, RUNTIME)
        assert least < bound.used(result).max() <= bound.used(result, likely=True).max() <= 1


@pytest.mark.parametrize("at", [(0, 0), (7, 8), (10, 11)])
@pytest.mark.parametrize("channels", [16, 64])
def test_a_huge_pixel_leaves_no_trace_under_weights_of_zero(at: tuple[int, int], channels: int) -> None:
    """As it would in the tiles of a fast convolution, where all taps are mixed."""
    x, weight = np.ones((1, channels, 16, 16), np.float32), np.ones((channels, channels, 3, 3), np.float32)
    weight[:, :, 2], weight[..., 2] = 0, 0
    x[:, :, at[0], at[1]] = 1e30
    case = NodeCase("Conv", [x, weight], {"pads": [1, 1, 1, 1]})
    (result,) = on_onnxruntime(node_of(case)[0], case.operands)
    row, column = np.indices((16, 16))
    outside = ((row - at[0]) // 2 != 0) | ((column - at[1]) // 2 != 0)
    assert 0 < np.abs(result[0, 0][outside]).max() <= 4 * channels


def test_an_operator_without_a_bound_is_named_with_the_reason() -> None:
    node = ir.node("SequenceConstruct", [ir.Value(name="a"), ir.Value(name="b")])
    with pytest.raises(ParityError, match="no error bound is known for SequenceConstruct: its operand or result is a"):
        of_node(node, [normal(4), normal(4)], opset=22)
    with pytest.raises(ParityError, match="no error bound is known for LpPool of p = 3"):
        judged(NodeCase("LpPool", [normal(1, 1, 4, 4)], {"kernel_shape": [2, 2], "p": 3}), RUNTIME)


@pytest.mark.parametrize("name", ["RNN", "GRU"])
def test_recurrent_layers_have_functions_of_their_own(name: str) -> None:
    """RNN's tanh is 2 sigmoid(2x) - 1, of which nothing is left near 0; GRU's reset gate a half of a tanh and 1."""
    x = np.concatenate([np.geomspace(1e-30, 30, 4000), np.linspace(-30, 0, 4000)]).astype(np.float32).reshape(1, -1, 1)
    if name == "RNN":
        weights, recurrences = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
        case = NodeCase(name, [x, weights, recurrences], {"hidden_size": 1}, 2)
    else:  # tanh(1000 r) of the reset gate's r, which may be below 0: the update gate is shut, the state before is 1
        weights, recurrences, bias = np.zeros((1, 24, 1)), np.zeros((1, 24, 8)), np.zeros((1, 48))
        weights[:, 8:16], recurrences[:, 16:], bias[:, :8] = 1, 1000 * np.eye(8), -100
        state = np.ones((1, x.shape[1], 8))
        operands = [item if item is None else item.astype(np.float32) for item in (x, weights, recurrences, bias, None)]
        case = NodeCase(name, [*operands, state.astype(np.float32)], {"hidden_size": 8}, 2)
    (bound, result), _ = judged(case, RUNTIME)
    assert 0.05 < bound.used(result).max() <= 1
    assert bound.used(result + np.float32(2e-3)).max() > 1


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"Celu"}))  # Celu is of float32 alone
def test_functions_of_every_half(name: str) -> None:
    """Kernels of float32 between two roundings, and function bodies, in which every value is rounded."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    operand = every[np.isfinite(every)].reshape(1, -1)
    arithmetic = Arithmetic(runtime="onnxruntime", storage="float16")
    ((bound, result),) = judged(NodeCase(name, [operand]), arithmetic)
    error = np.abs(result.astype(np.float64) - bound.exact)
    is_finite = np.isfinite(result) & np.isfinite(bound.exact)
    assert (error <= bound.worst)[is_finite].all()


@pytest.mark.parametrize("name", ["HardSwish", "Mish"])
def test_a_function_body_rounds_inside_where_its_result_is_handed_on_unrounded(name: str) -> None:
    """onnxruntime casts the body's inner values to halves and back, and leaves the last cast to whoever reads it."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    operand = every[np.isfinite(every)].reshape(1, -1)
    told = Arithmetic(runtime="onnxruntime", inner_storage="float16")
    stored = Arithmetic(runtime="onnxruntime", storage="float16")
    node, opset = node_of(NodeCase(name, [operand]))[1], 22
    (inner,), (both,), (neither,) = (
        of_node(node, [operand], opset=opset, arithmetic=arithmetic)
        for arithmetic in (told, stored, Arithmetic(runtime="onnxruntime"))
    )
    assert (inner.worst <= both.worst).all()
    assert (inner.worst < both.worst)[np.abs(inner.exact) > 1].any()
    assert (inner.worst > 100 * neither.worst)[np.abs(inner.exact) > 1].any()
