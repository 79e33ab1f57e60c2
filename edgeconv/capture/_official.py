"""The official path: torch.export, then torch.onnx without its optimiser."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch

from edgeconv.capture._borders import export_errors, onnx_errors
from edgeconv.capture._provenance import set_origins

_NOISY = ("torch", "torch.export", "torch.onnx", "onnxscript", "onnx_ir")


def export_program(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """``torch.export`` of a module that is in eval state, for exactly these shapes.

    Raises:
        CaptureError: torch cannot trace the module with these inputs.
    """
    with _quiet(), export_errors(module):
        return torch.export.export(module, args)


def to_ir(program: torch.export.ExportedProgram, *, opset: int) -> tuple[ir.Model, frozenset[str]]:
    """The official exporter's graph of a program, unoptimised; every node knows its `Origin`.

    Returns:
        The graph, and the names of the buffers that the forward changes.

    Raises:
        CaptureError: an operator has no ONNX form.
    """
    with _quiet(), contextlib.redirect_stdout(io.StringIO()), onnx_errors(program):
        onnx_program = torch.onnx.export(
            program, (), dynamo=True, optimize=False, opset_version=opset, verbose=False, verify=False
        )
    if onnx_program is None:  # only the legacy exporter returns nothing; the type says it may
        raise RuntimeError("torch.onnx.export returned no program")
    model = onnx_program.model
    decomposed = onnx_program.exported_program or program
    set_origins(model, decomposed, program)
    return model, frozenset(decomposed.graph_signature.buffers_to_mutate.values())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of torch's warnings, logs and prints reaches the terminal; what forward prints to stdout does."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        # torch.export prints the graph so far to stderr when a value decides a branch; the error says it better.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
