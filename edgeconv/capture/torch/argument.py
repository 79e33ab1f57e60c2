"""Checks the argument ``module``, and says what to do with the things that are often passed in place of one."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from edgeconv.core import values
from edgeconv.errors import CaptureError

_THE_MODULE = "pass the module itself"
_SAVED = "save it with onnx.save, and give edgeconv.export_onnx the path"
_INSTEAD_OF_FILES = {
    ".onnx": "give the path to edgeconv.export_onnx",
    ".toml": "write edgeconv.export_recipe(edgeconv.load_recipe(path), out)",
    ".pt2": "pass what torch.export.load makes of it",
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".safetensors"), "build the module, load these weights into it, and pass the module"
    ),
}
_INSTEAD_OF_OBJECTS = {
    "onnx.ModelProto": _SAVED,
    "onnx_ir.Model": _SAVED.replace("onnx.save", "onnx_ir.save"),
    "torch.ONNXProgram": "save it with its method save, and give edgeconv.export_onnx the path",
    "edgeconv.Recipe": "write edgeconv.export_recipe(recipe, out)",
}


def checked_module(module: object, *, or_program: bool = False) -> torch.nn.Module | torch.export.ExportedProgram:
    """Returns the module unchanged.

    Raises:
        CaptureError: it is no ``nn.Module`` and, with `or_program`, no ``ExportedProgram`` either.
    """
    if isinstance(module, torch.nn.Module) or (or_program and isinstance(module, torch.export.ExportedProgram)):
        return module
    what = f"it is {values.kind_of(module)}, not a torch.nn.Module"
    raise CaptureError(what, where="module", hint=instead_of(module))


def instead_of(module: object) -> str:
    """The hint for an object that is no module, by its type."""
    if isinstance(module, type) and issubclass(module, torch.nn.Module):
        return f"pass an instance: {module.__name__}(…)"
    if isinstance(module, str | os.PathLike):
        suffix = os.path.splitext(os.fspath(module))[1].lower()  # noqa: PTH122 - of bytes, too
        return _INSTEAD_OF_FILES.get(suffix if isinstance(suffix, str) else suffix.decode("latin-1"), _THE_MODULE)
    kind = f"{type(module).__module__.partition('.')[0]}.{type(module).__name__}"
    if kind in _INSTEAD_OF_OBJECTS:
        return _INSTEAD_OF_OBJECTS[kind]
    if isinstance(module, Mapping) and any(isinstance(value, torch.Tensor) for value in module.values()):
        return "weights alone compute nothing: build the module, call load_state_dict, and pass it"
    if callable(module):
        return "wrap it in a torch.nn.Module whose forward calls it"
    return _THE_MODULE
