"""Each layer is judged once; where any bit differs that its judgment depends on, it is judged anew."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from edgeconv.capture import capture
from edgeconv.core import Array
from edgeconv.emit.tflite import to_tflite
from edgeconv.parity.bounds import FLOAT32, Arithmetic, Bound
from edgeconv.parity.running import Judged, LayerCache
from edgeconv.parity.running._layers import Reading, judged_layers
from edgeconv.parity.running._step import Operand, Step
from edgeconv.parity.running._tflite import TfliteFile
from edgeconv.rewrite import optimize

X = np.array([1.0, 2.0], np.float32)
WEIGHT = np.array([3.0, 4.0], np.float32)
TOLD = {"y": np.array([4.0, 6.0], np.float32), "z": np.array([8.0, 12.5], np.float32)}


def as_told(key: Hashable, told: Array) -> Operand:
    return told


class Network:
    """y = double(half(x + weight)), z = 2 y; it counts how often an operator is bounded."""

    def __init__(
        self, cache: LayerCache | None, identities: Sequence[str] = ("add", "half", "double", "twice")
    ) -> None:
        self.cache, self.count = cache, 0
        self.steps = [
            Step("ADD", ("x", "weight"), ("a",), self.bound(lambda x, weight: x + weight), identities[0]),
            Step("HALF", ("a",), ("h",), self.bound(lambda a: a / 2), identities[1]),
            Step("DOUBLE", ("h",), ("y",), self.bound(lambda h: h * 2), identities[2]),
            Step("TWICE", ("y",), ("z",), self.bound(lambda y: y * 2), identities[3]),
        ]

    def bound(self, function: Callable[..., Array]) -> Callable[[Sequence[Operand]], Sequence[Bound]]:
        def bounds(operands: Sequence[Operand]) -> Sequence[Bound]:
            self.count += 1
            values = [operand.exact if isinstance(operand, Bound) else operand for operand in operands]
            exact = function(*(np.asarray(value, np.float64) for value in values))
            return [Bound(exact, np.full(exact.shape, 1.0), np.full(exact.shape, 0.5))]

        return bounds

    def judged(
        self,
        told: Mapping[str, Array] = TOLD,
        *,
        x: Array = X,
        weight: Array = WEIGHT,
        readings: Sequence[Reading] = (as_told,),
        prefix: str = "",
    ) -> Judged:
        held = {"x": x, "weight": weight}
        return judged_layers(self.steps, held, dict(told), readings, lambda key: f"{prefix}{key}", self.cache)


def altered(array: Array) -> Array:
    """With one bit of its last number changed."""
    other = array.copy()
    other.view(np.int32)[-1] ^= 1
    return other


@pytest.fixture
def cache() -> LayerCache:
    """Of a network that was judged."""
    cache = LayerCache()
    Network(cache).judged()
    return cache


def network_of(cache: LayerCache | None, **identities: str) -> Network:
    names = {"add": "add", "half": "half", "double": "double", "twice": "twice", **identities}
    return Network(cache, tuple(names.values()))


def test_the_same_bits_are_judged_once_and_have_the_names_of_their_own_file(cache: LayerCache) -> None:
    network = network_of(cache)
    again = network.judged(prefix="other.")
    assert network.count == 0
    fresh = network_of(None).judged(prefix="other.")
    assert again == fresh
    assert [layer.name for layer in again.layers] == ["other.y", "other.z"]


@pytest.mark.parametrize(
    ("changed", "operators"),
    [
        ({"x": altered(X)}, 3),
        ({"weight": altered(WEIGHT)}, 3),
        ({"told": {**TOLD, "z": altered(TOLD["z"])}}, 1),
        ({"told": {**TOLD, "y": altered(TOLD["y"])}}, 4),  # the result of one, the operand of the other
        ({"told": {"z": TOLD["z"]}}, 4),  # one piece, where these were two
    ],
)
def test_any_other_bit_is_judged_anew(cache: LayerCache, changed: dict, operators: int) -> None:
    network, fresh = network_of(cache), network_of(None)
    assert network.judged(**changed) == fresh.judged(**changed)
    assert network.count == operators


@pytest.mark.parametrize(("operator", "count"), [("add", 3), ("half", 3), ("double", 3), ("twice", 1)])
def test_another_operator_is_judged_anew(cache: LayerCache, operator: str, count: int) -> None:
    network = network_of(cache, **{operator: "another"})
    network.judged()
    assert network.count == count


def test_an_operator_without_an_identity_is_never_cached(cache: LayerCache) -> None:
    for _ in range(2):
        network = network_of(cache, half="")
        network.judged()
        assert network.count == 3


def test_a_layer_that_is_right_by_a_wider_reading_alone_is_not_taken_for_one_that_is_right_as_told() -> None:
    cache = LayerCache()
    told = {**TOLD, "z": TOLD["z"] + 100}

    def hundred_more(key: Hashable, array: Array) -> Operand:
        return array + 50 if key == "y" else array

    for _ in range(2):
        (wrong,) = [layer for layer in network_of(cache).judged(told).layers if layer.name == "z"]
        assert wrong.used > 1
        judged = network_of(cache).judged(told, readings=(as_told, hundred_more))
        (right,) = [layer for layer in judged.layers if layer.name == "z"]
        assert right.used <= 1


def identities(slope: float, arithmetic: Arithmetic = FLOAT32, padding: int = 0) -> list[str]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=padding), nn.LeakyReLU(slope), nn.AvgPool2d(2)).eval()
    model = optimize(capture(module, (torch.zeros(1, 3, 12, 12),), input_names=["x"], output_names=["y"]))
    file = TfliteFile(to_tflite(model, metadata={}).data, arithmetic, LayerCache())
    return [step.identity for step in file._steps()]


def test_options_shapes_and_arithmetic_are_part_of_what_an_operator_is() -> None:
    first = identities(0.1)
    assert first == identities(0.1)
    assert [a == b for a, b in zip(first, identities(0.2), strict=True)].count(False) == 1
    assert not set(first) & set(identities(0.1, Arithmetic(runtime="tflite")))
    assert not set(first) & set(identities(0.1, padding=1))
