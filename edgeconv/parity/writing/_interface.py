"""Whether the inputs and outputs that a file states are those that it is said to have: names, order, types, shapes.

Values are compared by their names, so that two outputs in another order, or one in another type, leave each number as
it is; who reads results by place, or feeds what the report states, has something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import onnx
import onnx_ir as ir

from edgeconv.core import Artifact, TensorSpec
from edgeconv.core.named_files import read_named
from edgeconv.errors import EmitError
from edgeconv.parity.writing._read_back import onnx_spec, signature_names, tflite_spec
from edgeconv.reference import tflite

_Fault = tuple[str, str]


def interface_faults(
    artifact: Artifact,
    inputs: Sequence[str],
    outputs: Sequence[str],
    scales: Mapping[str, tuple[float, int]] = MappingProxyType({}),
) -> list[_Fault]:
    """Name and one line of each input or output that a file has otherwise than it is said to.

    Args:
        artifact: what is said of the file, which exists; of one without outputs nothing is said.
        inputs: the names of the graph's, in its order.
        outputs: likewise.
        scales: scale and zero point of those that are integers in the graph itself (`border_scales`).

    Raises:
        EmitError: the file cannot be read.
    """
    graph = None
    if artifact.format == "onnx":
        held = _onnx_interface(artifact)
    else:
        data = read_named(artifact.path, kind=".tflite", error=EmitError)
        graph = tflite.read(data)
        held = _tflite_interface(artifact, graph, data)
    sides = (("input", inputs, artifact.inputs, held[0]), ("output", outputs, artifact.outputs, held[1]))
    faults = [fault for side, names, stated, specs in sides for fault in _of_side(side, names, stated, specs, scales)]
    return faults if faults or graph is None else [*_exchanged_tensors(artifact, graph)]


def _of_side(
    side: str,
    names: Sequence[str],
    stated: Sequence[TensorSpec],
    held: Sequence[TensorSpec],
    scales: Mapping[str, tuple[float, int]],
) -> Iterator[_Fault]:
    for whose, specs in (("is said to have", stated), ("has", held)):
        order = [spec.name for spec in specs]
        if order != [*names] and (specs is held or stated):
            first = next((name for name, other in zip(names, order, strict=False) if name != other), side)
            why = f"; cause: its {side}s are in another order" if sorted(order) == sorted(names) else ""
            yield first, f"the file {whose} the {side}s {', '.join(order)}, and the graph has {', '.join(names)}{why}"
            return
    for spec, other in zip(stated, held, strict=False):
        due_scale = (spec.scale, spec.zero_point) if spec.scale is not None else scales.get(spec.name, (None, 0))
        for what, due, actual in (
            ("type", spec.dtype, other.dtype),
            ("shape", _sizes(spec.shape), _sizes(other.shape)),
            ("scale and zero point", due_scale, (other.scale, other.zero_point)),
        ):
            # An .onnx file states no scale of its inputs and outputs.
            if due != actual and not (what.startswith("scale") and other.scale is None):
                yield (
                    spec.name,
                    f"the {side} {spec.name} of the file has the {what} {actual}, and is said to have {due}",
                )


def _sizes(shape: Sequence[int | str]) -> list[int | str]:
    """The dimensions, whatever open ones are called."""
    return [size if isinstance(size, int) else "open" for size in shape]


def _onnx_interface(artifact: Artifact) -> tuple[list[TensorSpec], list[TensorSpec]]:
    data = read_named(artifact.path, kind=".onnx", error=EmitError)
    graph = ir.from_proto(onnx.load_model_from_string(data)).graph
    inputs = [onnx_spec(value) for value in graph.inputs if not value.is_initializer()]
    return inputs, [onnx_spec(value) for value in graph.outputs]


def _tflite_interface(
    artifact: Artifact, graph: tflite.TfliteGraph, data: bytes
) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """By the names of the signature, which an application asks by, where the file has one."""
    named = dict(signature_names(tflite.open_tflite(data), graph))
    sides = []
    for indices, stated in ((graph.inputs, artifact.inputs), (graph.outputs, artifact.outputs)):
        specs = [tflite_spec(graph.tensors[index]) for index in indices]
        shapes = [spec.shape for spec in stated] + [()] * len(specs)
        sides.append(
            [
                replace(spec, name=named.get(spec.name, spec.name), shape=_opened(spec.shape, shape))
                for spec, shape in zip(specs, shapes, strict=False)
            ]
        )
    return sides[0], sides[1]


def _exchanged_tensors(artifact: Artifact, graph: tflite.TfliteGraph) -> Iterator[_Fault]:
    """Tensors of a ``.tflite`` file with the name of another input or output: a caller may ask for these, too."""
    sides = (("input", graph.inputs, artifact.inputs), ("output", graph.outputs, artifact.outputs))
    for side, indices, stated in sides:
        places = {spec.name: index for spec, index in zip(stated, indices, strict=False)}
        for spec, index in zip(stated, indices, strict=False):
            name = graph.tensors[index].name
            if name != spec.name and places.get(name, index) != index:
                yield (
                    spec.name,
                    f"the tensor of the {side} {spec.name} has the name of the {side} {name}; cause: the names of two "
                    f"{side}s are exchanged",
                )


def _opened(shape: Sequence[int | str], stated: Sequence[int | str]) -> tuple[int | str, ...]:
    """A file's shape, open where it is said to be: the file itself has some number there."""
    if len(shape) != len(stated):
        return tuple(shape)
    return tuple(due if isinstance(due, str) else size for size, due in zip(shape, stated, strict=True))
