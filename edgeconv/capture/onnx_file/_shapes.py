"""The static shapes of a file's inputs; a dimension may stay open as the batch only."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence, Set

from edgeconv.capture.onnx_file._read import OnnxFile, OnnxTensor
from edgeconv.core import values
from edgeconv.core.defaults import BATCH, MAX_DIMENSION
from edgeconv.errors import CaptureError, Wording

Shape = tuple[int | str, ...]
_MOST_NAMED = 4  # inputs in one message


def settled_shapes(file: OnnxFile, shapes: Mapping[str, Sequence[int | str]]) -> dict[str, Shape]:
    """The shape of every input: the file's, completed by the caller's for dimensions that the file leaves open.

    Args:
        file: the file.
        shapes: by input name; a str is a dimension that stays symbolic, which only the first one may.

    Returns:
        Static shapes, or shapes with one common str as the first dimension: a file that leaves its batch open, and
        nothing else, keeps it open.

    Raises:
        CaptureError: a dimension is open, the caller contradicts the file, or names no input of it.
    """
    inputs = {tensor.name: tensor for tensor in file.inputs}
    hint = f"write shapes={{name: (1, 3, 224, 224)}}; its inputs are {_few(inputs)}"
    shapes = values.mapping(shapes, "shapes", CaptureError, hint=hint)
    for name in shapes:
        if name not in inputs:
            raise CaptureError(f"it has no input {name!r}", where=str(file.path), hint=f"its inputs are {_few(inputs)}")
    where = str(file.path)
    _check_stated([tensor for tensor in file.inputs if tensor.name not in shapes and _is_open(tensor)], where)
    settled = {
        tensor.name: _agreed(tensor, shapes[tensor.name], where) if tensor.name in shapes else _own(tensor)
        for tensor in file.inputs
    }
    symbols = {name: str(shape[0]) for name, shape in settled.items() if shape and isinstance(shape[0], str)}
    if len(set(symbols.values())) > 1:
        first, second = list(symbols)[:2]
        raise CaptureError(
            f"the inputs {first!r} and {second!r} have batches of their own "
            f"({symbols[first]!r} and {symbols[second]!r}), and a file can have one",
            where=where,
            hint=f"fix one of them: {_stated(inputs[second])}",
        )
    return settled


def _is_open(tensor: OnnxTensor) -> bool:
    """Whether the file leaves another dimension than the first one open."""
    return tensor.shape is None or any(isinstance(dim, str) for dim in tensor.shape[1:])


def _check_stated(tensors: Sequence[OnnxTensor], where: str) -> None:
    """Checks that there are no inputs whose shape only the caller can know; the error names all of them at once."""
    if not tensors:
        return
    shapes = [
        f"its input {tensor.name!r} "
        + ("no shape" if tensor.shape is None else f"the shape [{', '.join(map(str, tensor.shape))}]")
        for tensor in tensors[:_MOST_NAMED]
    ]
    more = f" and {len(tensors) - _MOST_NAMED} more" if len(tensors) > _MOST_NAMED else ""
    what = f"the file gives {', '.join(shapes)}{more}, and files for devices have fixed ones"
    raise CaptureError(what, where=where, hint=f"state it: {_stated(*tensors[:_MOST_NAMED])}")


def _own(tensor: OnnxTensor) -> Shape:
    """The file's own shape, of which only the first dimension may be open."""
    dims = tensor.shape or ()
    if dims and isinstance(dims[0], str):
        return (dims[0] if dims[0].isidentifier() else BATCH, *dims[1:])
    return dims


def _dims(tensor: OnnxTensor, shape: object, where: str) -> Shape:
    """The caller's shape: integers, or a name for a dimension that stays open.

    Raises:
        CaptureError: it is something else.
    """
    place = f"{where}: input {tensor.name!r}"
    if isinstance(shape, str | bytes | Mapping | Set) or not isinstance(shape, Iterable):
        raise CaptureError(f"its shape is {values.kind_of(shape)}", where=place, hint=f"write {_stated(tensor)}")
    return tuple(_dim(dim, place, tensor) for dim in shape)


def _dim(dim: object, place: str, tensor: OnnxTensor) -> int | str:
    if isinstance(dim, str) and dim.isidentifier():
        return dim
    if isinstance(dim, bool) or not hasattr(dim, "__index__"):
        what = f"a dimension of its shape is {dim!r:.40}"
        raise CaptureError(what, where=place, hint=f"write {_stated(tensor)}, or a name for a batch that stays open")
    return values.integer(dim, f"{place}, a dimension", CaptureError, least=-MAX_DIMENSION, most=MAX_DIMENSION)


def _agreed(tensor: OnnxTensor, shape: object, where: str) -> Shape:
    """The caller's shape.

    Raises:
        CaptureError: it contradicts the file's.
    """
    stated = _dims(tensor, shape, where)
    place = f"{where}: input {tensor.name!r}"
    if any(isinstance(dim, str) for dim in stated[1:]):
        raise CaptureError("only its first dimension can stay open", where=place, hint="give numbers for the others")
    if any(isinstance(dim, int) and dim < 1 for dim in stated):
        raise CaptureError(f"the shape {list(stated)} has no elements", where=place, hint="give positive numbers")
    if tensor.shape is None:
        return stated
    if len(stated) != len(tensor.shape):
        what = f"the shape {list(stated)} has {len(stated)} dimensions, and the file gives it {len(tensor.shape)}"
        raise CaptureError(what, where=place, hint=f"write {_stated(tensor)}")
    for index, (stated_size, file_size) in enumerate(zip(stated, tensor.shape, strict=True)):
        if isinstance(file_size, int) and stated_size != file_size:
            what = f"the file fixes dimension {index} to {file_size}, and {stated_size} is asked for"
            hint = "export the file again with that shape, or leave that dimension as it is"
            raise CaptureError(what, where=place, hint=hint)
    return stated


def _stated(*tensors: OnnxTensor) -> Wording:
    """The hint how to state shapes: sizes that are fixed as numbers, open ones by their names."""
    dims = {tensor.name: _spelled(tensor) for tensor in tensors}
    more = " (or whatever it takes)" if any(tensor.shape is None for tensor in tensors) else ""
    quoted = {json.dumps(name, ensure_ascii=False): sizes for name, sizes in dims.items()}  # as TOML writes texts
    keys = [f"[[inputs]] with name = {name}, shape = [{', '.join(sizes)}]" for name, sizes in quoted.items()]
    items = ", ".join(f"{name!r}: ({', '.join(sizes)})" for name, sizes in dims.items())
    return Wording(
        " ".join(f"--shape {shlex.quote(name)}={','.join(sizes)}" for name, sizes in dims.items()) + more,
        "; ".join(keys) + more,
        f"shapes={{{items}}}{more}",
    )


def _spelled(tensor: OnnxTensor) -> list[str]:
    if tensor.shape is None:
        return ["1", "3", "224", "224"]
    dims = [f"<{'dim' if dim == '?' else dim}>" if isinstance(dim, str) else str(dim) for dim in tensor.shape]
    dims[:1] = ["1" if dim.startswith("<") else dim for dim in dims[:1]]
    return dims


def _few(names: Mapping[str, object]) -> str:
    return values.listed(list(names), 8)
