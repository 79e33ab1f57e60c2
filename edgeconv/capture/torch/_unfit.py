"""Refuses parts of a module that cannot be exported, before anything is traced.

Quantized by torch or by others, observing, scripted, without values, sparse: in a trace each of them would fail
somewhere inside of torch, with a message that names neither the part nor the cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch.jit._trace import TopLevelTracedModule
from torch.nn.modules.lazy import LazyModuleMixin

from edgeconv.capture.torch._trained import is_learnable, kinds
from edgeconv.core.values import kind_of
from edgeconv.errors import CaptureError

_FLOAT = "export the float module that it was made of, and have edgeconv quantize it: int8 is one of its variants"


def check_fit(module: torch.nn.Module) -> None:
    """Checks that every part of a module computes with dense tensors that have values.

    Raises:
        CaptureError: one does not; says which, and what it is.
    """
    root, parts = type(module).__name__, list(_outermost(module))
    # Observers of a module that was not trained so stand where it is to be rounded.
    is_trained = any(isinstance(part, kinds("FakeQuantizeBase")) for _, part in parts)
    for path, part in parts:
        for check in _CHECKS if is_trained else (*_CHECKS, _check_observer):
            check(part, path or root)
    _check_tensors(module, root)


def _outermost(module: torch.nn.Module, path: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """All parts with their paths, except those inside of a script or a fake quantization, which is judged as one."""
    yield path, module
    if not isinstance(module, (torch.jit.ScriptModule, *kinds("FakeQuantizeBase"))):
        for name, part in module.named_children():
            yield from _outermost(part, f"{path}.{name}" if path else name)


def _check_observing(part: Any, where: str) -> None:
    if is_learnable(part):
        if bool(part.static_enabled[0]):
            what = f"it is {kind_of(part)} that still observes: every call moves its scale"
            raise CaptureError(
                what, where=where, hint="freeze it: call its toggle_observer_update(False); or " + _FLOAT
            )
    elif isinstance(part, kinds("FakeQuantizeBase")):
        if not hasattr(part, "is_per_channel"):  # torchao's of blocks
            what = f"it is {kind_of(part)}, whose scales are neither one for all nor one per channel"
            raise CaptureError(what, where=where, hint="prepare the module with FakeQuantize, or " + _FLOAT)
        if bool(part.observer_enabled[0]):
            what = f"it is {kind_of(part)} that still observes: every call moves its scale"
            hint = f"freeze it: module.apply({_package_of(part)}.disable_observer); or " + _FLOAT
            raise CaptureError(what, where=where, hint=hint)


def _check_observer(part: Any, where: str) -> None:
    if isinstance(part, kinds("ObserverBase")):
        package = _package_of(part)
        what = f"it is {kind_of(part)}, which {package.rpartition('.quantization')[0]} put there to calibrate"
        hint = "pass what convert_pt2e makes of it, or " + _FLOAT if package.startswith("torchao") else _FLOAT
        raise CaptureError(what, where=where, hint=hint)


def _package_of(part: Any) -> str:
    return "torchao.quantization.pt2e" if type(part).__module__.startswith("torchao.") else "torch.ao.quantization"


def _check_foreign(part: Any, where: str) -> None:
    """Refuses quantizers of brevitas and AIMET, whose calls compute or compare scales: that cannot be traced."""
    for package, name, writer in _FOREIGN:
        if type(part).__module__.startswith(package) and getattr(part, "is_quant_enabled", True):
            what = f"it is a quantizer of {name} ({type(part).__name__}), whose branches no trace has"
            hint = f"write the model with {writer}, and export that .onnx file, variant int8: its integers are kept"
            raise CaptureError(what, where=where, hint=hint)


def _check_script(part: torch.nn.Module, where: str) -> None:
    # torch.export runs a traced script as it runs Python, but not one that was compiled.
    if isinstance(part, torch.jit.ScriptModule) and not isinstance(part, TopLevelTracedModule):
        what = "it is a scripted module (torch.jit.script) inside of a module that is none"
        raise CaptureError(what, where=where, hint="put the nn.Module there that it was made of, or script the whole")


def _check_lazy(part: torch.nn.Module, where: str) -> None:
    if isinstance(part, LazyModuleMixin) and part.has_uninitialized_params():
        what = f"it is {kind_of(part)} that has no weights yet"
        raise CaptureError(what, where=where, hint="run the module once on an example input, then load its weights")


_FOREIGN = (
    ("brevitas.proxy.", "brevitas", "brevitas.export.export_onnx_qcdq"),
    ("aimet_torch.quantization.", "AIMET", "aimet_torch.onnx.export (opset_version=21, export_int32_bias=False)"),
)
"""Modules that hold quantizers, whose they are, and what writes them as QuantizeLinear and DequantizeLinear."""

_CHECKS: tuple[Callable[[torch.nn.Module, str], None], ...] = (
    _check_observing,
    _check_foreign,
    _check_script,
    _check_lazy,
)


def _check_tensors(module: torch.nn.Module, root: str) -> None:
    """Checks parameters, buffers, and tensors among plain attributes."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for path, part in module.named_modules():
        plain = [(name, value) for name, value in vars(part).items() if isinstance(value, torch.Tensor)]
        tensors += [(f"{path}.{name}" if path else name, value) for name, value in plain]
    absent = [name for name, tensor in tensors if tensor.is_meta or isinstance(tensor, FakeTensor)]
    if absent:
        listed = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
        what = f"weights on the meta device, or fake ones, have no values: {listed}"
        hint = 'call module.to_empty(device="cpu") outside of any FakeTensorMode, and load its weights'
        raise CaptureError(what, where=root, hint=hint)
    for name, tensor in tensors:
        if tensor.layout is not torch.strided:
            kind = str(tensor.layout).removeprefix("torch.")
            raise CaptureError(f"{name} is a sparse tensor ({kind})", where=root, hint="make it dense: .to_dense()")
