"""The official path: torch.onnx without its optimizer."""

from __future__ import annotations

import contextlib
import io

import onnx_ir as ir
import torch

from edgeconv.capture.torch._borders import onnx_errors
from edgeconv.capture.torch._provenance import set_origins
from edgeconv.capture.torch._trace import quiet


def to_ir(program: torch.export.ExportedProgram, *, opset: int) -> ir.Model:
    """The official exporter's graph of a program, unoptimized; every node knows its `Origin`.

    Raises:
        CaptureError: an operator has no ONNX form.
    """
    with quiet(), contextlib.redirect_stdout(io.StringIO()), onnx_errors(program):
        onnx_program = torch.onnx.export(
            program, (), dynamo=True, optimize=False, opset_version=opset, verbose=False, verify=False
        )
    if onnx_program is None:  # only the legacy exporter returns nothing; the type says it may
        raise RuntimeError("torch.onnx.export returned no program")
    model = onnx_program.model
    decomposed = onnx_program.exported_program or program
    set_origins(model, decomposed, program)
    return model
