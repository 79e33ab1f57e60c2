"""Random operands for the operators of `bounds_cases`, and a tally of how much of their bounds a runtime uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime
from bounds_models import Array, NodeCase, node_of

from edgeconv.parity.bounds import Arithmetic, Bound, of_node

KINDS = 6
LEAST = 10_000


@dataclass
class Tally:
    """Of results: how many had a bound that is finite, how many were beyond it, and the largest share that was used."""

    cases: int = 0
    beyond: int = 0
    used: float = 0.0

    def add(self, bound: Bound, result: Array) -> None:
        """Counts each element."""
        shares, finite = bound.used(result), np.isfinite(bound.worst)
        self.cases += int(finite.sum())
        self.beyond += int((shares > 1).sum())
        self.used = max(self.used, float(shares.max(initial=0.0)))

    def __str__(self) -> str:
        return f"{self.cases:>9,} results, {self.beyond} beyond the bound, at most {self.used:.3f} of it used"


def tallied(draw: Callable[[int], list[tuple[Bound, Array]]], name: str) -> Tally:
    """What is drawn from seeds until there are enough results."""
    tally, seed = Tally(), 0
    while tally.cases < LEAST and seed < 20_000:
        for bound, result in draw(seed):
            tally.add(bound, result)
        seed += 1
    print(f"{name:<30} {tally}")
    return tally


def spread(x: Array, rng: np.random.Generator, kind: int) -> Array:
    """Plain numbers, of one sign, canceling, of many magnitudes, sparse, or with denormals and zeros among them."""
    y = x.astype(np.float64)
    if kind == 1:
        y = np.abs(y)
    elif kind == 2 and x.ndim:
        half = y.shape[-1] // 2
        y[..., half : 2 * half] = -y[..., :half]
    elif kind == 3:
        y = y * np.exp2(rng.uniform(-12, 12, y.shape))
    elif kind == 4:
        y = y * (rng.random(y.shape) < 0.3)
    elif kind == 5:
        y = y * rng.choice((1.0, float(np.finfo(np.float32).smallest_normal), 1e-20), y.shape)
    return np.asarray(y, x.dtype)


def drawn(item: Array | None, rng: np.random.Generator, kind: int) -> Array | None:
    """Others of an operand's shape and type, in its domain: not negative, or at most 1, where it is so; places stay."""
    if item is None or item.dtype == np.int64 or not item.size:
        return item
    if item.dtype == np.bool_:
        return np.asarray(rng.random(item.shape) < rng.random())
    if item.dtype.kind in "iu":
        if not item.any():
            return item
        limits = np.iinfo(item.dtype) if item.dtype != np.int32 else np.iinfo(np.int16)
        return np.asarray(rng.integers(limits.min, limits.max, item.shape, endpoint=True).astype(item.dtype))
    size = np.abs(item[np.isfinite(item)])
    y = spread(np.asarray(rng.standard_normal(item.shape), item.dtype), rng, kind)
    y = np.abs(y) if item.min() >= 0 else y
    if item.min() >= 1:
        y = 1 + y
    elif size.max(initial=0.0) <= 1 and item.size > 9:
        y = np.clip(y, -1, 1)
    return np.where(np.isinf(item), item, y).astype(item.dtype)


def on_one_session(case: NodeCase, arithmetic: Arithmetic) -> Callable[[int], list[tuple[Bound, Array]]]:
    """Draws operands of a node, and gives its bounds with ONNX Runtime's results."""
    model, node = node_of(case)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def draw(seed: int) -> list[tuple[Bound, Array]]:
        rng = np.random.default_rng(seed)
        operands = [drawn(item, rng, seed % KINDS) for item in case.operands]
        if case.name in ("Resize", "Upsample"):
            operands[1:] = case.operands[1:]
        if case.name == "Range":
            operands = _steps(rng)
        moved = replace(case, operands=operands)
        feeds = {f"x{at}": item for at, item in enumerate(operands) if item is not None}
        bounds = of_node(node, moved.operands, opset=case.opset, arithmetic=arithmetic)
        results = session.run(None, feeds)
        return [pair for pair in zip(bounds, results, strict=True) if pair[0].exact.shape == pair[1].shape]

    return draw


def _steps(rng: np.random.Generator) -> list[Array | None]:
    start, delta = rng.standard_normal(2) * np.exp(rng.uniform(-5, 5, 2))
    numbers = np.float32([start, start + delta * (rng.integers(1, 300) - 0.5), delta])
    return [np.asarray(number) for number in numbers]
