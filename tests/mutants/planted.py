"""What faults have in common in both formats: constants, layers with weights, scales, and where a fault was planted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from edgeconv.core import Array

_Item = TypeVar("_Item")


class NoPlaceError(Exception):
    """The file has no place for a fault of this kind."""


@dataclass(frozen=True)
class Constant:
    """A constant of a file: its name, a copy of its values, and what stores others of the same shape and dtype."""

    name: str
    values: Array
    put: Callable[[Array], None]

    def store(self, values: Array) -> None:
        """Stores values, saturated to integers where the file holds integers."""
        if self.values.dtype.kind in "iu":
            limits = np.iinfo(self.values.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        changed = np.asarray(values, self.values.dtype)
        if np.array_equal(changed, self.values):
            raise NoPlaceError
        self.put(np.ascontiguousarray(changed))

    @property
    def floating(self) -> bool:
        """Whether it holds real numbers."""
        return self.values.dtype.kind == "f"


@dataclass(frozen=True)
class Layer:
    """A convolution or a product with constant weights.

    Attributes:
        name: of its output.
        weights: as the file holds them.
        axes: of the stored weights (of 4 dimensions, the last ones 1 where there are fewer) that are output channels,
            input channels of a group, height and width.
        bias: None where it has none.
        groups: of a convolution.
        image: channels, height and width of the image whose flattened elements it reads; empty for others.
        reads_input: whether it reads an input of the graph.
    """

    name: str
    weights: Constant
    axes: tuple[int, int, int, int]
    bias: Constant | None = None
    groups: int = 1
    image: tuple[int, ...] = ()
    reads_input: bool = False

    @property
    def kernel(self) -> Array:
        """The weights as (output, input, height, width)."""
        shape = self.weights.values.shape
        return self.weights.values.reshape(shape + (1,) * (4 - len(shape))).transpose(self.axes)

    def store(self, kernel: Array) -> None:
        """Stores weights of (output, input, height, width)."""
        back = np.argsort(self.axes)
        self.weights.store(kernel.transpose(back).reshape(self.weights.values.shape))


@dataclass(frozen=True)
class Scale:
    """Quantization parameters of a tensor, one or one per channel; `final` where it is an output of the graph."""

    name: str
    scales: Constant
    zero_points: Constant | None
    final: bool = False


class File(Protocol):
    """A file that is changed in place: what faults of both formats need of it."""

    def layers(self) -> Sequence[Layer]:
        """All layers with constant weights."""
        ...

    def constants(self) -> Sequence[Constant]:
        """Real constants that are no layer's weights or bias."""
        ...

    def activation_scales(self) -> Sequence[Scale]:
        """Of the tensors that hold activations, those of outputs being final."""
        ...

    def weight_scales(self) -> Sequence[Scale]:
        """Of the constants."""
        ...

    def data(self) -> bytes:
        """The file."""
        ...


def drawn(rng: random.Random, places: Sequence[_Item]) -> _Item:
    """One of the places.

    Raises:
        NoPlaceError: there is none.
    """
    if not places:
        raise NoPlaceError
    return places[rng.randrange(len(places))]
