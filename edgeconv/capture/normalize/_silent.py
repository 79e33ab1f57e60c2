"""What torch and the ONNX packages say while they work, kept from the user's terminal; errors say it better."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_NOISY = ("torch", "torch.export", "torch.onnx", "onnxscript", "onnx_ir")


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing that torch or onnx warns of, logs or prints reaches stderr; what forward prints to stdout does."""
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
