"""The stored tensors of an ``.onnx`` file, external data included, and checks of their sizes.

onnx's own reader resolves the location of external data in a subgraph against the current folder, reads to the end of
the file if no length is stated, and leaves it to numpy to complain of a wrong size.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from edgeconv.core.defaults import LARGEST_FILE_BYTES
from edgeconv.core.named_files import refuse_pointer
from edgeconv.errors import CaptureError

_SHOWN = 60  # characters of a name in a message
_MOST_AXES = 32  # numpy's limit before 2.0 (64 since)
_WHOLE = "the file is damaged; export it again"


def stored_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model: initializers and attributes, in subgraphs and functions too."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)
        yield from _of_attributes(function.attribute_proto)


def load_external(proto: onnx.ModelProto, path: Path, size_bytes: int) -> bool:
    """Loads external data into the model, in place.

    Returns:
        Whether there is any.

    Raises:
        CaptureError: a data file is missing, not in the model's folder, too short or too long, or the whole is too
            large.
    """
    # Everything is checked before the first byte of data is read.
    tensors = [tensor for tensor in stored_tensors(proto) if uses_external_data(tensor)]
    for tensor in tensors:
        _check_data_file(tensor, path)
        _state_length(tensor, str(path))
    check_total(size_bytes + sum(map(_needed_bytes, tensors)), str(path))
    for tensor in tensors:
        if not _needed_bytes(tensor):  # onnx would read the whole file for a length of 0
            tensor.raw_data, tensor.data_location = b"", onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # onnx's own, about keys that it does not know
                load_external_data_for_tensor(tensor, str(path.parent))
        except Exception as error:  # the border: onnx raises ValueError, OSError and classes from C++
            raise CaptureError(
                f"the data of {tensor.name!r} cannot be read from {_shown(_location(tensor))}: "
                f"{' '.join(str(error).split())[:200]}",
                where=str(path),
                hint="put the whole data file itself into the model's folder, or save the model as a single file",
            ) from error
    return bool(tensors)


def check_total(size_bytes: int, where: str) -> None:
    """Refuses a model that is too large to convert.

    Raises:
        CaptureError: it is.
    """
    if size_bytes > LARGEST_FILE_BYTES:  # onnx's checker and converter take no more either
        what = f"takes {size_bytes / 2**30:.2f} GiB with its weights, and less than 2 GiB can be converted"
        raise CaptureError(what, where=where, hint="export the network in parts")


def check_sizes(proto: onnx.ModelProto, where: str) -> None:
    """Checks that every tensor holds as many elements as its shape says.

    Raises:
        CaptureError: one holds more or less.
    """
    for tensor in stored_tensors(proto):
        _check_dims(tensor, where)
        stored, needed, unit = _stored_size(tensor)
        if stored != needed:
            raise _wrong_size(tensor, stored, needed, unit, where)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        yield from _of_attributes(node.attribute)


def _of_attributes(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _of_graph(graph)


def _location(tensor: onnx.TensorProto) -> str:
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")


def _check_data_file(tensor: onnx.TensorProto, path: Path) -> None:
    """Checks that a tensor's data file is a regular file in the model's folder, as a stranger's file may name any."""
    name = _location(tensor)
    inside = name and not Path(name).is_absolute() and ".." not in Path(name).parts
    if not inside:
        what = f"it says that the data of {tensor.name!r} lies in {_shown(name)}, outside of its folder"
        raise CaptureError(what, where=str(path), hint="save the model as a single file, or with its data beside it")
    try:
        exists = (path.parent / name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        exists = False
    if not exists:
        what = f"its weights lie in {_shown(name)}, which is not beside it"
        hint = "put that file into the same folder, or save the model as a single file"
        raise CaptureError(what, where=str(path), hint=hint)
    if (path.parent / name).is_symlink():
        what = f"its weights lie in {_shown(name)}, which is a symbolic link"
        raise CaptureError(what, where=str(path), hint="put a copy of the file itself in its place")
    refuse_pointer(path.parent / name, name, where=str(path), error=CaptureError)


def _state_length(tensor: onnx.TensorProto, where: str) -> None:
    """Checks the stated length of a tensor against its shape, and states it where it is missing."""
    _check_dims(tensor, where)
    if _bits(tensor) is None:
        what = f"the tensor {tensor.name!r} is of the element type {tensor.data_type}, which no other file can hold"
        raise CaptureError(what, where=where, hint=_WHOLE)
    size = _needed_bytes(tensor)
    for entry in tensor.external_data:
        text = str(entry.value)  # protobuf gives bytes where the value is no UTF-8
        if entry.key == "length" and text.strip().lstrip("0") != str(size).lstrip("0"):
            raise _wrong_size(tensor, _shown(text).strip("'"), size, "bytes", where)
    if not any(entry.key == "length" for entry in tensor.external_data):
        tensor.external_data.add(key="length", value=str(size))


def _check_dims(tensor: onnx.TensorProto, where: str) -> None:
    if any(dim < 0 for dim in tensor.dims):
        what = f"the tensor {tensor.name!r} has the shape {list(tensor.dims)}"
        raise CaptureError(what, where=where, hint=_WHOLE)
    if len(tensor.dims) > _MOST_AXES:
        what = f"the tensor {tensor.name!r} has {len(tensor.dims)} axes, and at most {_MOST_AXES} are read"
        raise CaptureError(what, where=where, hint="merge some of them, or export it again")


def _wrong_size(tensor: onnx.TensorProto, stored: object, needed: int, unit: str, where: str) -> CaptureError:
    what = f"the tensor {tensor.name!r} of the shape {list(tensor.dims)} holds {stored} {unit}, and needs {needed}"
    return CaptureError(what, where=where, hint=_WHOLE)


def _needed_bytes(tensor: onnx.TensorProto) -> int:
    """The bytes that a tensor of numbers takes by its shape; elements of less than a byte are packed."""
    count: int = math.prod(tensor.dims)
    return -(-count * (_bits(tensor) or 0) // 8)


def _bits(tensor: onnx.TensorProto) -> int | None:
    """The bits of one element; None for strings, and for unknown types."""
    if tensor.data_type in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        return None
    if tensor.data_type not in ir.DataType._value2member_map_:
        return None
    bits = ir.DataType(tensor.data_type).bitwidth
    return bits if bits % 8 == 0 or 8 % bits == 0 else None  # 6-bit floats, which are refused later


def _stored_size(tensor: onnx.TensorProto) -> tuple[int, int, str]:
    """How much a tensor stores, how much it needs, and the unit of both."""
    count, bits = math.prod(tensor.dims), _bits(tensor)
    if bits is None:  # left to onnx's checker
        return count, count, "elements"
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data), _needed_bytes(tensor), "bytes"
    field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
    # Elements of less than a byte are packed; a complex one takes two entries.
    pairs = 2 if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128) else 1
    return len(getattr(tensor, field)), -(-count * bits // 8) if bits < 8 else count * pairs, "numbers"
