"""What a graph of integers was made from: the float graphs before it, and the plan that is written beside its files."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.observed import Observed


class Holds(enum.Enum):
    """How far a change of the float graph leaves what it computes."""

    EXACTLY = "exactly"
    """On any input, in real arithmetic."""
    ON_DATA = "on data"
    """On the inputs of `Change`, up to what float32 is off: the calibration data, which were run in float32."""
    BELOW_SIX = "below six"
    """Where no ReLU6 that became a ReLU reaches 6. The two graphs are the same in all else, node by node."""


@dataclass(frozen=True)
class Change:
    """A change of the float graph before it is quantized.

    Attributes:
        what: in words, as a sentence names it: ``"equalization"``.
        before: the graph as it was; not changed.
        after: what was made of it; not changed.
        holds: how far both compute the same.
        inputs: on which they do, where they do not on all, by name, in torch's layout.
    """

    what: str
    before: ir.Model
    after: ir.Model
    holds: Holds = Holds.EXACTLY
    inputs: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """What a graph of integers was made from, and how.

    Attributes:
        changes: of the float graph, in their order; the first starts at the graph that link 1 has judged.
        prepared: the float graph that was calibrated, whose numbers the integers stand for.
        rounded: the same, with the weights and biases that a rounding gave it before each became the nearest integer.
        rounding: of weights: ``"nearest"``, ``"corrected"``, ``"feedback"`` or ``"learned"``.
        plan: as JSON, as it is written beside the files.
        is_chosen: whether the plan's numbers were chosen for this graph; else somebody stated them.
        ranges: of the values, as an observer chose each by itself, by name; of a plan that was chosen.
        corrections: what a rounding states that it added to the bias of each layer, by its name.
        observed: what calibration saw of the values whose range an observer chose, by name; of a plan that was chosen.
    """

    changes: tuple[Change, ...]
    prepared: ir.Model
    rounded: ir.Model
    rounding: str
    plan: str
    is_chosen: bool = True
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    corrections: Mapping[str, Array] = field(default_factory=dict)
    observed: Mapping[str, Observed] = field(default_factory=dict)

    @cached_property
    def numbers(self) -> Numbers:
        """The plan's numbers."""
        return Numbers(json.loads(self.plan))


@dataclass(frozen=True)
class TensorNumbers:
    """real = scale · (integer - zero_point) of a tensor, as the plan states it."""

    dtype: str
    scale: float
    zero_point: int


@dataclass(frozen=True)
class WeightNumbers:
    """The scales of a weight along an axis, or one of the whole weight, as the plan states them."""

    axis: int | None
    scales: tuple[float, ...]


class Numbers:
    """A plan's numbers, read from its JSON.

    Attributes:
        tensors: by the name of the value.
        weights: by the name of the layer's output.
        kept_float: operators that stay float, by their first output.
        pair_safe: whether no two weights that are added up in 16 bits may overflow.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.pair_safe = bool(document["pair_safe"])
        self.kept_float = frozenset(document["kept_float"])
        self.tensors = {name: TensorNumbers(**item) for name, item in document["tensors"].items()}
        self.weights = {
            name: WeightNumbers(item["axis"], tuple(item["scales"])) for name, item in document["weights"].items()
        }
