"""Only float32 is captured: every later stage computes, compares and bounds its errors in it."""

from __future__ import annotations

import torch

from edgeconv.errors import CaptureError

_NARROW = (torch.float16, torch.bfloat16)


def check_precision(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    """The module's parameters are float32, and no input is narrower.

    Raises:
        CaptureError: otherwise; names the first parameter or the input.
    """
    where = type(module).__name__
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point() and parameter.dtype is not torch.float32:
            raise CaptureError(
                f"the parameter {name} is {_name(parameter)}, and only float32 modules are exported",
                where=where,
                mend="call module.float() before the export",
            )
    for index, value in enumerate(args):
        if value.dtype in _NARROW:
            raise CaptureError(
                f"input {index} is {_name(value)}, and only float32 modules are exported",
                where=where,
                mend="pass float32, and call module.float() before the export",
            )


def _name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
