"""Checks of arguments of public functions: a graph, and the metadata of a file."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.core import values
from edgeconv.errors import EdgeconvError, EmitError

_READ = "give onnx_ir.from_proto of it"
_HINTS = {
    "ModelProto": _READ,
    "GraphProto": "give the whole model, an onnx_ir.Model",
    "Graph": "give the whole model, an onnx_ir.Model",
    "OnnxFile": "give what its method graph makes of shapes",
}


def checked_model(model: object, error: type[EdgeconvError]) -> ir.Model:
    """Returns the graph unchanged.

    Raises:
        EdgeconvError: of the class `error`; it is no `onnx_ir.Model`.
    """
    hint = _HINTS.get(type(model).__name__, "give an onnx_ir.Model, as edgeconv.capture makes it")
    return values.instance(model, ir.Model, "model", error, hint=hint)


def checked_metadata(metadata: object) -> Mapping[str, str]:
    """Returns the metadata that a file is to hold.

    Raises:
        EmitError: it is no mapping from texts to texts.
    """
    hint = 'give a dict of texts: {"name": "value"}'
    items = values.mapping(metadata, "metadata", EmitError, hint=hint)
    return {key: values.text(value, f"metadata[{key!r:.40}]", EmitError, hint=hint) for key, value in items.items()}
