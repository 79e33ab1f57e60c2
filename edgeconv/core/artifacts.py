"""Files, and graphs in a few words, as they pass between the stages: frozen, stdlib and numpy only.

Names of tensors are torch's (``input``, ``features.3.conv.2``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from edgeconv.core.affine import dequantized, quantized
from edgeconv.core.moved import contiguous
from edgeconv.core.precision import Array
from edgeconv.core.verdicts import Coverage, FlipCertificate, LinkResult

DATA_SUFFIX = ".data"
"""Suffix behind the name of an ``.onnx`` file, for the file of its weights where these lie in their own."""
NCHW = "nchw"
NHWC = "nhwc"
Format = Literal["onnx", "tflite"]
FORMATS: tuple[str, ...] = get_args(Format)
"""The formats of files; also their suffixes, without the dot."""
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
)  # fmt: skip
"""Element types of inputs and outputs, by numpy's names: what recipes state, devices compute with and reports hold.

The devices' `agent.py` runs without edgeconv; a test holds its copy to this one.
"""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of an artifact, as the file declares it.

    Attributes:
        name: its name in the file.
        shape: its dimensions in the file's own layout; a str is a symbolic dimension (``"batch"``).
        dtype: numpy's name of its element type (``"float32"``).
        layout: ``"nhwc"`` when the file holds the tensor channels-last and torch has it channels-first (rank 4);
            ``"nchw"`` otherwise, which for every other rank means "as torch has it".
        scale: of a quantized tensor, the real number that one step is: ``real = scale * (stored - zero_point)``;
            None where the stored numbers are the real ones.
        zero_point: the stored number that is 0.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    layout: str = NCHW
    scale: float | None = None
    zero_point: int = 0

    @property
    def axes(self) -> tuple[int, ...]:
        """The file's tensor is ``value.transpose(axes)`` of the value in torch's layout."""
        return (0, 2, 3, 1) if self.layout == NHWC else tuple(range(len(self.shape)))

    def to_file(self, array: Array) -> Array:
        """Moves an array from torch's layout (N, C, H, W) to the file's, quantized where the file has it so.

        In float32, as an application beside the runtime does. C-contiguous.
        """
        if self.scale is not None:
            array = quantized(array, self.scale, self.zero_point, self.dtype, np.float32)
        return contiguous(array.transpose(0, 2, 3, 1) if self.layout == NHWC else array)

    def from_file(self, array: Array) -> Array:
        """Moves an array from the file's layout to torch's (N, C, H, W), as real numbers; C-contiguous.

        Halves become float32, which holds them.
        """
        if self.scale is not None:
            array = dequantized(array, self.scale, self.zero_point, np.float32)
        elif array.dtype == np.float16:
            array = array.astype(np.float32)
        return contiguous(array.transpose(0, 3, 1, 2) if self.layout == NHWC else array)


@dataclass(frozen=True)
class IntegerTensor:
    """A tensor of integers inside a file, and what it holds of the quantized graph that the file was written from.

    Attributes:
        name: its own in the file.
        shape: its dimensions in the file's order; a str is one that follows an open batch.
        dtype: numpy's name of its element type.
        axes: its elements are those of ``value.transpose(axes)`` in their order, in whatever shape.
        scale: of one step: ``real = scale * (stored - zero_point)``.
        zero_point: the stored number that is 0.
        values: what it holds: results of QuantizeLinear, by name; several are equal.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    axes: tuple[int, ...]
    scale: float
    zero_point: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class Artifact:
    """A deployable file.

    Attributes:
        path: where it lies.
        format: ``"onnx"`` or ``"tflite"``.
        variant: of `edgeconv.core.variants.VARIANTS`; empty for a file of which nothing but its tensors is known.
        layout: ``"nchw"`` or ``"nhwc"``: the layout of its rank-4 inputs and outputs.
        sha256: of its bytes, hexadecimal.
        inputs: in the order of the module's arguments.
        outputs: in the order of the module's results.
        size_bytes: of the file, with that of its weights; None when it is not known.
        data_sha256: of the bytes of ``<its name>.data`` beside it, which holds its weights; None where it has them all.
        intermediates: tensors inside the file whose integers a runtime can return; empty where none is known.
        links: how the links of the proof hold that no device takes part in: rewrites, rounding, writing.
        coverage: what of its graph the inputs of the proof reached; None where that is not known.
        certificate: of a classifier's classes; None where there is none.
    """

    path: Path
    format: str
    variant: str
    layout: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    size_bytes: int | None = None
    data_sha256: str | None = None
    intermediates: tuple[IntegerTensor, ...] = ()
    links: tuple[LinkResult, ...] = ()
    coverage: Coverage | None = None
    certificate: FlipCertificate | None = None

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of the file, and of its data file, by name."""
        of_data = {} if self.data_sha256 is None else {self.path.name + DATA_SUFFIX: self.data_sha256}
        return {self.path.name: self.sha256, **of_data}


@dataclass(frozen=True)
class NodeSummary:
    """One operator of a graph, for people: ``name`` is its first output, which is named after its torch module."""

    op: str
    name: str
    inputs: tuple[str, ...]
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSummary:
    """A graph at one point of the flow (``"captured"``, ``"folded"``, …)."""

    stage: str
    nodes: tuple[NodeSummary, ...]


@dataclass(frozen=True)
class Emitted:
    """A file that an emitter made, not yet on disk.

    Attributes:
        data: its bytes.
        inputs: as the file declares them, in the order of the module's arguments.
        outputs: as the file declares them, in the order of the module's results.
        notes: what the user should know of how it was made, one line each (shown in the report).
        intermediates: tensors inside the file whose integers a runtime can return.
        external: bytes of the file that has to lie beside it, part by part; ``<its name>.data``, as it says itself.
    """

    data: bytes
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()
    intermediates: tuple[IntegerTensor, ...] = ()
    external: tuple[Array, ...] = ()
