"""What the float layers make on the calibration data: their means, and some of their outputs to compare with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.quantize._calibrate import run_float
from edgeconv.quantize._columns import Positions
from edgeconv.quantize._structure import Layer

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

_COMPARED = 1 << 18  # outputs per layer that the gain is computed of (one number); 50 layers take 50 MB


class Means:
    """The mean of each channel over samples and all axes but one, of the elements that are read.

    Args:
        axis: of the channels.
        read: which elements are, sample by sample; None for all.
    """

    def __init__(self, axis: int, read: Sequence[_Flags] | None) -> None:
        self._axis, self._read, self._rank = axis, None if read is None else iter(read), 0
        self._sum: _Floats = np.zeros(1)
        self._count: npt.NDArray[np.int64] = np.zeros(1, np.int64)

    def add(self, array: Array) -> None:
        """Looks at the next sample."""
        rows, self._rank = self._rows(array), array.ndim
        flags = None if self._read is None else self._rows(next(self._read))
        with np.errstate(over="ignore", invalid="ignore"):
            self._sum = self._sum + (rows if flags is None else np.where(flags, rows, 0)).sum(axis=1, dtype=np.float64)
        self._count = self._count + (rows.shape[1] if flags is None else flags.sum(axis=1))

    def _rows(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return np.moveaxis(array, self._axis, 0).reshape(array.shape[self._axis], -1)

    @property
    def value(self) -> _Floats:
        """Shape (channels,); NaN where no element is read."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self._sum / self._count)

    @property
    def along(self) -> list[int]:
        """The shape in which a number per channel broadcasts to the arrays."""
        return [-1 if index == self._axis % self._rank else 1 for index in range(self._rank)]


class Target:
    """The outputs of one float layer, over all samples: their means, and a selection of positions.

    Args:
        layer: that it is.
        samples: how many will be added.
        most: positions that the rounding of its weight sees; 0 where it is not rounded.
        read: as of `Means`.

    Attributes:
        means: of its channels.
        positions: of each sample, which the rounding sees.
        compared: those of them of which the outputs are kept.
    """

    def __init__(self, layer: Layer, samples: int, most: int, read: Sequence[_Flags] | None) -> None:
        self._axis = channel_axis(layer)
        self.means = Means(self._axis, read)
        self.positions: list[npt.NDArray[np.int64]] = []
        self.compared: list[npt.NDArray[np.int64]] = []
        self._drawn = Positions(samples, most) if most else None
        self._samples, self._outputs = samples, list[Array]()

    def add(self, array: Array) -> None:
        """Looks at the next sample."""
        self.means.add(array)
        if self._drawn is None:
            return
        rows = np.atleast_2d(np.moveaxis(array, self._axis, -1))  # a view, the channels last
        positions = self._drawn.drawn(math.prod(rows.shape[:-1]))
        most = max(1, _COMPARED // (self._samples * max(1, rows.shape[-1])))
        # Every so many of the positions, as many as make up _COMPARED numbers.
        compared = positions[:: -(-len(positions) // most)] if len(positions) else positions
        self.positions.append(positions)
        self.compared.append(compared)
        self._outputs.append(rows[np.unravel_index(compared, rows.shape[:-1])])

    def outputs(self, groups: int) -> Array:
        """The outputs at the positions of `compared`: (groups, positions, channels of a group)."""
        rows = np.concatenate(self._outputs)
        return np.ascontiguousarray(rows.reshape(len(rows), groups, -1).transpose(1, 0, 2))


def targets_of(
    model: ir.Model,
    samples: Sequence[Mapping[str, Array]],
    layers: Iterable[Layer],
    positions: Mapping[str, int],
    reads: Mapping[str, Sequence[_Flags]],
) -> dict[str, Target]:
    """The targets of a float graph's layers, by name, from one run over the samples.

    Args:
        model: float32.
        samples: graph inputs by name, for each sample.
        layers: of the graph.
        positions: how many the rounding sees, of the layers that are rounded.
        reads: which elements are read, of the layers of which some are not.
    """
    targets = {
        layer.name: Target(layer, len(samples), positions.get(layer.name, 0), reads.get(layer.name)) for layer in layers
    }
    for values in run_float(model, samples, targets):
        for name, array in values.items():
            targets[name].add(array)
    return targets


def channel_axis(layer: Layer) -> int:
    """The axis of a layer's output along which its channels lie."""
    return -1 if layer.node.op_type in ("Gemm", "MatMul") else 1


def unit_of(*arrays: Array) -> np.float32:
    """The power of two with which the largest number of the arrays is between 1/2 and 1, as far as float32 has it."""
    largest = max(max(-float(array.min(initial=0.0)), float(array.max(initial=0.0))) for array in arrays)
    return np.float32(2.0 ** -min(max(math.frexp(largest)[1], -126), 126))
