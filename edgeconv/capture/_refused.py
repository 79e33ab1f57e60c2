"""What the official exporter would translate into a graph that computes something else: refused by name."""

from __future__ import annotations

import torch

from edgeconv.capture._provenance import origin_in
from edgeconv.errors import CaptureError

_DROPPED = {"avg_pool2d": "divisor_override", "avg_pool3d": "divisor_override"}
"""Operations, and the argument of theirs that the exporter drops without a word."""


def check_official(program: torch.export.ExportedProgram) -> None:
    """The exporter honours every argument of a traced module.

    Raises:
        CaptureError: it would drop one; names the module.
    """
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        operation = str(schema.name).rpartition("::")[2] if schema is not None else ""
        argument = _DROPPED.get(operation)
        if argument is None or schema is None:
            continue
        position = [each.name for each in schema.arguments].index(argument)
        given = node.args[position] if position < len(node.args) else node.kwargs.get(argument)
        if given is not None:
            raise CaptureError(
                f"{operation} with {argument}={given} has no ONNX form",
                where=origin_in(node).module or "the module",
                mend=f"leave {argument} out and multiply the result instead",
            )
