"""Files with further outputs, in both languages; and what a device computes in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from edgeconv.core import Array
from edgeconv.errors import ParityError
from edgeconv.parity.bounds import Arithmetic
from edgeconv.parity.running._layer_cache import LayerCache
from edgeconv.parity.running._layers import Judged

if TYPE_CHECKING:
    import onnx_ir as ir


class ProbedFile(Protocol):
    """A file that can be given further outputs."""

    @property
    def groups(self) -> Sequence[Collection[str]]:
        """Values to return, by what a runtime may fuse them with: all of a group change its kernels, or none does."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether a run begins where the one before ended, so that a device has to load the file for each."""
        ...

    def probe(self, names: Sequence[str]) -> bytes:
        """A copy of the file that gives these values behind its own outputs, in this order."""
        ...

    def judge(self, inputs: Sequence[Array], outputs: Sequence[Array], returned: Mapping[str, Array]) -> Judged:
        """Judges the values that a runtime returned.

        Args:
            inputs: in the file's order and layout.
            outputs: of the file, likewise.
            returned: values of the probe, by name.
        """
        ...


def open_probed(path: Path, data: bytes, arithmetic: Arithmetic, cache: LayerCache | None = None) -> ProbedFile:
    """The file as a `ProbedFile`.

    Args:
        path: where it lies, with what belongs to it; its suffix tells the language.
        data: its bytes.
        arithmetic: of the runtime that it is judged for.
        cache: layers of ``.tflite`` files that were judged already; one for all files and devices.
    """
    if path.suffix == ".onnx":
        from edgeconv.parity.running._onnx import OnnxFile

        return OnnxFile(path, data, arithmetic)
    from edgeconv.parity.running._tflite import TfliteFile

    return TfliteFile(data, arithmetic, cache)


def open_graph(model: ir.Model, arithmetic: Arithmetic) -> ProbedFile:
    """A graph as the file that it would be, node by node, for values that a framework returned of it.

    Args:
        model: with constants of float32.
        arithmetic: of the framework.

    Raises:
        ParityError: it is larger than a file of its own may be.
    """
    import onnx_ir

    from edgeconv.parity.running._onnx import OnnxFile

    try:
        data = onnx_ir.to_proto(model).SerializeToString()
    except (EncodeError, ValueError) as error:
        raise ParityError("is too large to be judged", where="the graph", hint="judge its files") from error
    return OnnxFile(Path("graph.onnx"), data, arithmetic)


_RUNTIMES = {"onnxruntime": "onnxruntime", "litert": "any", "litert-reference": "tflite", "tflite-runtime": "any"}
"""XNNPACK leaves some operators to TFLite's own kernels: either may have computed a value."""


def arithmetic_of(environment: Mapping[str, str]) -> Arithmetic:
    """What a device computes in.

    Args:
        environment: what it says of itself; an unknown runtime is held to the widest bounds. Halves are computed in
            float32 on x86-64, whose kernels know no others.
    """
    runtime = _RUNTIMES.get(environment.get("runtime", ""), "any")
    compute = "float32" if environment.get("machine") in ("x86_64", "AMD64") else "float16"
    return Arithmetic("float32", compute, runtime)
