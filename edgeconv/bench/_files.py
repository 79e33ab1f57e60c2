"""Reads from .onnx and .tflite files what the bench needs: inputs, sizes, numbers of operators.

Everything is read from the file itself, so that files of any origin can be measured, with a report or without.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.core import DATA_SUFFIX, DTYPES, NCHW, Artifact, Sample, TensorSpec
from edgeconv.core.named_files import read_named, sha256_of, subfolders
from edgeconv.errors import EmitError, is_own_fault
from edgeconv.reference.tflite import names_of, open_tflite, text_of

_OPEN_DIMENSION = 1  # the size that an open dimension gets: one image of a batch
_MOST_INPUT_BYTES = 2**31  # of all inputs of a file together, which are made here

_Interface = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], int]


@dataclass(frozen=True)
class BenchFile:
    """A file to be measured.

    Attributes:
        name: as tables write it: the file's path below the folder that was given.
        artifact: the file; its tensors count as having torch's layout, so that nothing transposes them.
        operators: in its main graph, as stored (a runtime may fuse or split them).
    """

    name: str
    artifact: Artifact
    operators: int

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return self.artifact.size_bytes or 0

    def sample(self, seed: int = 0) -> Sample:
        """Noise for floating inputs, zeros for integers (which may be indices), in the file's layout."""
        generator = np.random.default_rng(seed)
        inputs = {}
        for spec in self.artifact.inputs:
            shape = _measured_shape(spec)
            kind = np.dtype(spec.dtype)
            values = generator.standard_normal(shape) if kind.kind == "f" else np.zeros(shape)
            inputs[spec.name] = np.asarray(values, kind)
        return Sample("noise", inputs)


def find_files(folder: Path) -> tuple[BenchFile, ...]:
    """Reads the .onnx and .tflite files of an export's folder, or of the folders in a folder of exports.

    Args:
        folder: searched first itself, then one level down, but not in linked folders; a file is taken alone.

    Raises:
        EmitError: there is none, or one cannot be read.
    """
    if folder.is_file():
        return (read_file(folder),)
    for level in ([folder], subfolders(folder, holding="*")):
        entries = sorted(path for searched in level for path in searched.glob("*"))
        paths = [path for path in entries if path.suffix in _READERS and path.is_file()]
        if paths:
            return tuple(read_file(path, name=path.relative_to(folder).as_posix()) for path in paths)
    raise EmitError("no .onnx or .tflite file here", where=str(folder), hint="give the folder of an export")


def read_file(path: Path, *, name: str | None = None) -> BenchFile:
    """Reads what one file declares.

    Args:
        path: an .onnx or .tflite file.
        name: what to call it; the file's own name by default.

    Raises:
        EmitError: it cannot be read, is damaged, or has tensors that no device takes.
    """
    reader = _READERS.get(path.suffix)
    if reader is None:
        kind = path.suffix or "no suffix"
        raise EmitError(f"{kind} is not known", where=str(path), hint="give an .onnx or .tflite file")
    data = read_named(path, kind=path.suffix, error=EmitError)
    try:
        inputs, outputs, operators = reader(data, path)
    except EmitError as error:
        raise EmitError(error.what, where=str(path), hint=error.hint) from error
    except Exception as error:  # the border: each kind of damage raises another kind of error
        if is_own_fault(error):
            raise
        raise EmitError("the file is damaged", where=str(path), hint="export it again") from error
    size_bytes, sha256 = len(data), hashlib.sha256(data).hexdigest()
    unknown = [f"{spec.name!r} ({spec.dtype})" for spec in (*inputs, *outputs) if spec.dtype not in DTYPES]
    if unknown:
        raise EmitError(f"no device takes tensors as {unknown[0]}", where=str(path), hint="use plain number types")
    _check_sizes(inputs, outputs, path)
    format_ = path.suffix.removeprefix(".")
    beside = path.with_name(path.name + DATA_SUFFIX)
    data_sha256 = sha256_of(beside, error=EmitError) if format_ == "onnx" and beside.is_file() else None
    size_bytes += beside.stat().st_size if data_sha256 else 0
    # NCHW and no variant: arrays go to the device as the file declares them.
    artifact = Artifact(path, format_, "", NCHW, sha256, inputs, outputs, size_bytes, data_sha256)
    return BenchFile(name or path.name, artifact, operators)


def _measured_shape(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(_OPEN_DIMENSION if isinstance(size, str) else size for size in spec.shape)


def _check_sizes(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], path: Path) -> None:
    """Refuses tensors that nobody could make, before anybody tries.

    Raises:
        EmitError: a size is negative, or the inputs take more than 2 GiB.
    """
    for spec in (*inputs, *outputs):
        if min(_measured_shape(spec), default=0) < 0:
            raise EmitError(f"{spec.name!r} has the shape {spec.shape}", where=str(path), hint="export it again")
    total = sum(math.prod(_measured_shape(spec)) * np.dtype(spec.dtype).itemsize for spec in inputs)
    if total > _MOST_INPUT_BYTES:
        what = f"its inputs would take {total / 2**30:,.4g} GiB"
        raise EmitError(what, where=str(path), hint=f"give smaller ones: at most {_MOST_INPUT_BYTES // 2**30} GiB")


def _onnx(data: bytes, path: Path) -> _Interface:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.ModelProto.FromString(data).graph
    except DecodeError as error:
        raise EmitError("not an ONNX file, or damaged", where=str(path), hint="export it again") from error
    constants = {item.name for item in graph.initializer}  # up to IR version 3, these are listed among the inputs too

    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        tensor = value.type.tensor_type
        # A dimension with neither a number nor a name is open as well, and gets a name of its own.
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{axis}"
            for axis, dim in enumerate(tensor.shape.dim)
        )
        return TensorSpec(value.name, dims, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name)

    return (
        tuple(spec(value) for value in graph.input if value.name not in constants),
        tuple(spec(value) for value in graph.output),
        sum(node.op_type != "Constant" for node in graph.node),
    )


def _tflite(data: bytes, path: Path) -> _Interface:
    from ai_edge_litert import schema_py_generated as schema

    graph = open_tflite(data).Subgraphs(0)
    types = names_of(schema.TensorType)

    def spec(index: int) -> TensorSpec:
        tensor: Any = graph.Tensors(index)
        name = text_of(tensor.Name())
        # `shape_signature` has -1 for open dimensions, where `shape` has 1; files without these may lack it.
        signature, shape = tensor.ShapeSignatureLength(), tensor.ShapeLength()
        sizes = tensor.ShapeSignatureAsNumpy() if signature else tensor.ShapeAsNumpy() if shape else ()
        dims = tuple(f"{name}.{axis}" if size < 0 else int(size) for axis, size in enumerate(sizes))
        return TensorSpec(name, dims, types[tensor.Type()].lower())

    inputs = tuple(spec(int(graph.Inputs(at))) for at in range(graph.InputsLength()))
    return inputs, tuple(spec(int(graph.Outputs(at))) for at in range(graph.OutputsLength())), graph.OperatorsLength()


_READERS: Mapping[str, Callable[[bytes, Path], _Interface]] = {".onnx": _onnx, ".tflite": _tflite}
