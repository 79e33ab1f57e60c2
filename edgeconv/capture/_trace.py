"""``torch.export``: what every path starts with.

It is most of the time of a capture (MobileNetV2, one core, warm: 0.34 s of 0.43 s). ``make_fx`` needs 0.17 s and
``torch.jit.trace`` 0.20 s for the same network, but neither refuses a forward whose branches depend on values or that
changes its buffers, and the faster forms of ``make_fx`` are not public. ``strict=True`` needs 2.5 s. Switching module
signatures or deferred assertions changes nothing that can be measured. The first call in a process takes 1 s more,
which are the imports of ``torch.export`` itself.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch

from edgeconv.capture._borders import export_errors

_NOISY = ("torch", "torch.export", "torch.onnx", "onnxscript", "onnx_ir")


def export_program(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """``torch.export`` of a module that is in eval state, for exactly these shapes.

    Raises:
        CaptureError: torch cannot trace the module with these inputs.
    """
    with quiet(), export_errors(module):
        return torch.export.export(module, args)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
