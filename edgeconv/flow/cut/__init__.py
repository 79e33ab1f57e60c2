"""One layer of a file as a file of its own, cut from its bytes: what is wrong with it stays in it.

Public names
    `open_layers`: a file whose layers can be cut.
    `Layers`: its interface, the same for both formats.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgeconv.core import Array

if TYPE_CHECKING:
    import onnx_ir as ir


class Layers(Protocol):
    """A file whose layers can be cut.

    Attributes:
        inputs: names of the file's inputs, in their order.
        outputs: of its outputs.
        results: the names of what its operators compute, in their order.
        returned: those of them that runtimes return as intermediates.
    """

    @property
    def inputs(self) -> Sequence[str]: ...
    @property
    def outputs(self) -> Sequence[str]: ...
    @property
    def results(self) -> Sequence[str]: ...
    @property
    def returned(self) -> Collection[str]: ...
    def operands(self, layer: str, borders: Collection[str]) -> list[str]:
        """The values that a layer reads, by name: going back from it, the first of these borders or of the inputs."""
        ...

    def values(self, inputs: Sequence[Array], names: Collection[str]) -> dict[str, Array]:
        """What the file computes of inputs in its own order and layout, in float64 or exact integers."""
        ...

    def reads(self, name: str) -> Sequence[str]:
        """The values that the operator behind a value reads directly, constants among them."""
        ...

    def is_real(self, name: str) -> bool:
        """Whether a value is real numbers, or integers whose one scale the file states."""
        ...

    def stored(self, name: str, array: Array) -> Array:
        """Real numbers as a tensor of the file stores them."""
        ...

    def cut(self, layer: str, operands: Mapping[str, Array]) -> bytes:
        """The layer as a file with these inputs, in their order, and one output.

        Raises:
            ParityError: it cannot be.
        """
        ...

    def graph(self, layer: str, operands: Mapping[str, Array]) -> ir.Graph:
        """The same as a graph of ONNX.

        Raises:
            EdgeconvError: it cannot be.
        """
        ...


def open_layers(path: Path, data: bytes) -> Layers:
    """The file as `Layers`.

    Args:
        path: where it lies; its suffix says which format it is, and its external weights lie beside it.
        data: its bytes.

    Raises:
        EdgeconvError: it cannot be read. A damaged file may raise anything (`edgeconv.capture.whatever_it_brings`).
    """
    if path.suffix == ".onnx":
        from edgeconv.flow.cut.onnx import OnnxLayers

        return OnnxLayers(path, data)
    from edgeconv.flow.cut.tflite import TfliteLayers

    return TfliteLayers(data)
