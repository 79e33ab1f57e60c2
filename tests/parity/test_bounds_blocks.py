"""Bounds are computed block by block: as one block they would be the same numbers."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.core import blocks
from edgeconv.parity.bounds import Arithmetic, Bound, of_node
from edgeconv.parity.bounds._bound import carried_over
from edgeconv.parity.bounds._later import Later

GENERATOR = np.random.default_rng(3)
ODD = np.array([0.0, -0.0, 1e-40, -1e-45, 3e38, -3e38, np.inf, -np.inf, np.nan], np.float32)


def operand(*shape: int) -> np.ndarray:
    """Numbers of all sizes; of many, a few are denormal, infinite or none."""
    array = (GENERATOR.normal(size=shape) * 10.0 ** GENERATOR.integers(-3, 4, shape)).astype(np.float32)
    if array.size < 200:
        return array
    array.reshape(-1)[GENERATOR.choice(array.size, ODD.size, replace=False)] = ODD
    return array


def bound_of(op_type: str, *operands: np.ndarray, storage: str = "float32", **attributes: object) -> Bound:
    values = [
        ir.Value(name=f"x{at}", shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
        for at, array in enumerate(operands)
    ]
    node = ir.node(op_type, values, attributes)
    (bound, *_) = of_node(node, operands, opset=18, arithmetic=Arithmetic(storage=storage))
    return bound


CASES = {
    "Conv": (operand(1, 3, 19, 11), operand(4, 3, 3, 3), operand(4)),
    "LeakyRelu": (operand(2, 3, 40),),
    "HardSwish": (operand(2, 3, 40),),
    "Relu": (operand(2, 3, 40),),
    "Mul": (operand(2, 3, 40), operand(3, 1)),
    "PRelu": (operand(2, 3, 40), operand(3, 1)),
    "Sigmoid": (operand(2, 3, 40),),
}


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("op_type", CASES)
def test_blocks_change_no_bound_and_no_share_of_it(op_type: str, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operands = CASES[op_type]
    whole = bound_of(op_type, *operands, storage=storage)
    with np.errstate(all="ignore"):
        result = (whole.exact * (1 + 1e-7 * GENERATOR.normal(size=whole.exact.shape))).astype(np.float32)
    used = whole.use(result)
    monkeypatch.setattr(blocks, "BLOCK", 7)
    parts = bound_of(op_type, *operands, storage=storage)
    for name in ("exact", "worst", "likely"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name), err_msg=name)
    again = parts.use(result)
    assert (again.used, again.error, again.bound) == (used.used, used.error, used.bound)
    assert (again.likely, again.widest) == (used.likely, used.widest)
    assert again.noise == pytest.approx(used.noise, rel=1e-12)
    assert again.signal == pytest.approx(used.signal, rel=1e-12)


def chain_of(*steps: tuple[str, tuple[np.ndarray, ...]], storage: str = "float32") -> Bound:
    """The bound behind several nodes, each of which reads the one before and further operands."""
    bound: Bound | None = None
    for op_type, operands in steps:
        own = (*([] if bound is None else [bound]), *operands)
        arrays = [item.exact if isinstance(item, Bound) else item for item in own]
        values = [
            ir.Value(shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.from_numpy(array.dtype)))
            for array in arrays
        ]
        (bound, *_) = of_node(ir.node(op_type, values), own, opset=18, arithmetic=Arithmetic(storage=storage))
    assert bound is not None
    return bound


INTEGERS = (GENERATOR.integers(-128, 128, (1, 3, 19, 11)).astype(np.int8), np.float32(0.07), np.int8(3))
QUANTIZED = ("QuantizeLinear", (np.float32(0.3), np.int8(-5)))
CHAINS = {
    "a convolution between integers": [("DequantizeLinear", INTEGERS), ("Conv", CASES["Conv"][1:]), QUANTIZED],
    "a sum between integers": [("DequantizeLinear", INTEGERS), ("Add", (operand(1, 3, 19, 11),)), QUANTIZED],
    "a scale per channel": [
        *(("DequantizeLinear", INTEGERS), ("Mul", (operand(3, 1, 1),))),
        ("QuantizeLinear", (np.array([0.3, 0.2, 0.1], np.float32), np.array([0, 1, 2], np.int8))),
    ],
    "activations": [("Mul", (operand(2, 3, 40), operand(2, 3, 40))), ("LeakyRelu", ()), ("Sigmoid", ())],
}


@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("name", CHAINS)
def test_carried_errors_are_the_same_block_by_block_and_asked_for_at_once(
    name: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = chain_of(*CHAINS[name], storage=storage)
    steps = CHAINS[name]
    monkeypatch.setattr(blocks, "BLOCK", 7)
    parts = chain_of(*steps, storage=storage)
    for of in ("exact", "worst", "likely"):
        np.testing.assert_array_equal(getattr(whole, of), getattr(parts, of), err_msg=of)
    assert whole.has_errors == parts.has_errors == bool(whole.worst.any())
    least = parts.at_least(1.0)
    np.testing.assert_array_equal(least.worst, np.maximum(whole.worst, 1.0))
    np.testing.assert_array_equal(least.likely, whole.likely)


def test_an_error_of_the_last_element_alone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 7)
    errors = np.zeros(3000)
    assert not Bound(errors, errors, errors).has_errors
    errors[-1] = 1e-9
    assert Bound(errors, errors, errors).has_errors
    later = Later(lambda x: (np.abs(x), np.abs(x)), (errors,))
    assert Bound.later(errors, later).has_errors


@pytest.mark.filterwarnings("error")
def test_infinite_operands_with_infinite_errors_warn_nobody() -> None:
    numbers = np.array([np.inf, 1.0, -np.inf])
    errors = np.array([np.inf, 0.25, np.inf])
    (bound,) = carried_over([numbers], {0: Bound(numbers, errors, errors)}, lambda offsets: [numbers + offsets[0]])
    np.testing.assert_array_equal(bound.worst, errors)


@pytest.mark.parametrize("op_type", CASES)
def test_the_most_used_element_is_that_of_all_shares(op_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = bound_of(op_type, *CASES[op_type])
    with np.errstate(all="ignore"):
        result = bound.exact.astype(np.float32)
    place = np.unravel_index(result.size // 2, result.shape)
    result[place] = 17.25  # a fault in the middle
    monkeypatch.setattr(blocks, "BLOCK", 7)
    shares, use = bound.used(result), bound.use(result)
    at = np.unravel_index(int(np.argmax(shares)), shares.shape)
    assert use.used == shares[at]
    assert use.bound == bound.worst[at]
    assert use.likely == bound.used(result, likely=True).max()
    assert use.widest == bound.worst.max()


def test_a_single_altered_element_of_many_equal_ones_is_found() -> None:
    exact = np.ones(3 * blocks.BLOCK)
    bound = Bound(exact, np.full(exact.shape, 1e-7), np.full(exact.shape, 1e-8))
    result = exact.copy()
    assert bound.use(result).used == 0
    result[-1] += 3e-7
    assert bound.use(result).used == pytest.approx(3, rel=1e-6)
    result[-1] = np.nan
    assert bound.use(result).used == np.inf


def test_results_that_are_one_array_in_some_blocks_alone_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def split(block: np.ndarray) -> list[np.ndarray]:
        return [block, block, block if block[0] < 9 else -block]

    numbers = np.arange(20.0)
    monkeypatch.setattr(blocks, "BLOCK", 3)
    first, second, third = blocks.by_blocks(split, numbers)
    assert first is second
    assert first.tolist() == numbers.tolist()
    assert third.tolist() == np.where(numbers < 9, numbers, -numbers).tolist()


def test_what_a_result_uses_is_told_without_an_array_of_errors() -> None:
    x = np.linspace(-3, 3, 1 << 20, dtype=np.float32)
    bound = bound_of("LeakyRelu", x)
    result = bound.exact.astype(np.float32)
    tracemalloc.start()
    used = bound.use(result)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < bound.exact.nbytes
    assert used.used == bound.used(result).max()
    assert used.widest == bound.worst.max()


def test_an_element_without_error_uses_nothing_of_no_bound_beside_others() -> None:
    exact = np.array([1.0, 0.0, 2.0, np.inf])
    bound = Bound(exact, np.array([0.0, 0.0, 4e-7, 0.0]), np.array([0.0, 0.0, 2e-7, 0.0]))
    use = bound.use(np.array([1.0, 0.0, 2.0 + 1e-7, np.inf]))
    assert use.used == pytest.approx(0.25)
    assert use.likely == pytest.approx(0.5)
    assert bound.use(np.array([1.0, 1e-300, 2.0, np.inf])).used == np.inf
    assert bound.use(np.array([1.0, np.nan, 2.0, np.inf])).used == np.inf
