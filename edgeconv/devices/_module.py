"""Runs the torch module itself: the float64 reference, and the float32 row."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeconv.core import Array, Run, Sample, Verdict
from edgeconv.core.threads import one_thread
from edgeconv.devices._device import torch_environment
from edgeconv.devices.agent import matched, one_line
from edgeconv.errors import DeviceError, raise_if_ending

if TYPE_CHECKING:
    import torch

Precision = Literal["float64", "float32"]

_DEVICE_NAMES: Mapping[str, str] = {"float64": "torch-float64", "float32": "torch"}


class _OutputError(Exception):
    """The module returned what cannot be compared."""


def run_module(
    module: torch.nn.Module,
    samples: Sequence[Sample],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dtype: Precision = "float64",
) -> Run:
    """Runs a module on samples in evaluation mode, in float64 or float32.

    A copy of the module runs, so that the caller's keeps its mode, parameters, buffers and gradients.

    Args:
        module: any module whose results flatten to tensors.
        samples: floating inputs are cast to ``dtype``, others are taken as they are.
        input_names: the names of the module's arguments, in order.
        output_names: names for its results, flattened in pytree order.
        dtype: ``"float64"`` is the reference.

    Returns:
        A Run named ``"torch-float64"`` or ``"torch"``; FAIL with a reason where the module raises, returns another
        number of tensors than names.
    """
    import torch

    from edgeconv.devices._precision import computing_in

    kind = {"float64": torch.float64, "float32": torch.float32}[dtype]
    outputs: list[Mapping[str, Array]] = []
    latencies: list[float] = []
    verdict, reason, at = Verdict.PASS, "", "copy of the module"
    try:
        worker = _copy_in(module, kind)
        with torch.no_grad(), computing_in(kind), one_thread():
            for sample in samples:
                at = f"sample {sample.name!r}"
                arguments = [_tensor(array, kind) for array in matched(input_names, list(sample.inputs.items()))]
                start = time.perf_counter_ns()
                results = worker(*arguments)
                latencies.append((time.perf_counter_ns() - start) / 1e6)
                outputs.append(_named(results, output_names, kind))
            _check_repeated(worker, samples, outputs, input_names, output_names, kind)
    except BaseException as error:  # noqa: BLE001 - a module may raise anything; that is a failed row
        raise_if_ending(error)
        line = str(error) if isinstance(error, _OutputError) else one_line(error)
        verdict, reason, outputs, latencies = Verdict.FAIL, f"{at}: {line}", [], []
    return Run(_DEVICE_NAMES[dtype], "", tuple(outputs), verdict, reason, torch_environment(), tuple(latencies))


def values_of_modules(
    module: torch.nn.Module, sample: Sample, *, input_names: Sequence[str], dtype: str = "float32"
) -> tuple[tuple[Array, ...], Mapping[str, Array]]:
    """Runs a module on a sample, and keeps what each module inside of it returns.

    Args:
        module: as for `run_module`; a copy runs.
        sample: its inputs.
        input_names: the names of the module's arguments, in order.
        dtype: ``"float32"`` or ``"float64"``.

    Returns:
        The results, flattened in pytree order; and the tensors that modules returned, by path, of later calls
        ``path@1`` and so on, as values of the graph are named.

    Raises:
        DeviceError: the module raises.
    """
    import torch

    from edgeconv.devices._precision import computing_in

    kind, values, calls = getattr(torch, dtype), dict[str, Array](), Counter[str]()

    def keep(name: str, result: object) -> None:
        if isinstance(result, torch.Tensor) and not result.is_complex():
            values[f"{name}@{calls[name]}" if calls[name] else name] = result.detach().numpy().copy()
        calls[name] += 1

    def hook(name: str) -> Callable[..., None]:
        return lambda part, arguments, result: keep(name, result)

    try:
        worker = _copy_in(module, kind)
        for name, part in worker.named_modules():
            if name:
                part.register_forward_hook(hook(name))
        with torch.no_grad(), computing_in(kind), one_thread():
            arguments = [_tensor(array, kind) for array in matched(input_names, list(sample.inputs.items()))]
            leaves = _leaves(worker(*arguments), kind)
    except BaseException as error:  # a module may raise anything
        raise_if_ending(error)
        raise DeviceError(one_line(error), where="torch") from error
    return tuple(leaf.detach().numpy().copy() for leaf in leaves), values


def _check_repeated(
    worker: torch.nn.Module,
    samples: Sequence[Sample],
    outputs: Sequence[Mapping[str, Array]],
    input_names: Sequence[str],
    output_names: Sequence[str],
    kind: torch.dtype,
) -> None:
    """Runs the first sample again: a module that keeps state between calls is no reference for a file.

    Raises:
        _OutputError: it does not.
    """
    if not samples:
        return
    arguments = [_tensor(array, kind) for array in matched(input_names, list(samples[0].inputs.items()))]
    again = _named(worker(*arguments), output_names, kind)
    changed = [name for name, array in again.items() if not _same_bits(array, outputs[0][name])]
    if changed:
        what = f"output {changed[0]!r} of sample {samples[0].name!r} is another one when the module is called again"
        raise _OutputError(f"{what}, and a file keeps no state")


def _same_bits(first: Array, second: Array) -> bool:
    same_nan = first.dtype.kind in "fc"
    return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=same_nan)


def _copy_in(module: torch.nn.Module, kind: torch.dtype) -> torch.nn.Module:
    """A copy in evaluation mode with every floating tensor in ``kind``, those that are plain attributes included."""
    import torch

    # Tensors with a history (what weight_norm computes) refuse deepcopy; its memo gets detached copies of them.
    tensors = [value for part in module.modules() for value in vars(part).values() if isinstance(value, torch.Tensor)]
    worker = copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in tensors})
    worker.to(device="cpu")
    worker.double() if kind is torch.float64 else worker.float()  # Module.to(dtype) would make complex tensors real
    for tensor in (*worker.parameters(), *worker.buffers()):
        if tensor.is_complex():
            tensor.data = tensor.data.to(kind.to_complex())
    for part in worker.modules():
        part.training = False  # an exported program refuses eval()
    # Tensors that are plain attributes, neither parameters nor buffers, are moved by nobody else.
    for part in worker.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
                vars(part)[name] = value.to(device="cpu", dtype=kind.to_complex() if value.is_complex() else kind)
    return worker


def _tensor(array: Array, kind: torch.dtype) -> torch.Tensor:
    import torch

    # A copy: a module that works in place must not change the sample.
    tensor = torch.from_numpy(np.array(array, order="C"))
    return tensor.to(kind) if tensor.is_floating_point() else tensor


def _named(results: Any, names: Sequence[str], kind: torch.dtype) -> Mapping[str, Array]:
    leaves = _leaves(results, kind)
    if len(leaves) != len(names):
        raise _OutputError(f"the module returned {len(leaves)} tensors, but {len(names)} outputs are named")
    return {name: leaf.detach().numpy().copy() for name, leaf in zip(names, leaves, strict=True)}


def _leaves(results: Any, kind: torch.dtype) -> list[torch.Tensor]:
    """The tensors of what a module returned, in pytree order, floating ones in a type.

    Raises:
        _OutputError: something else is among them.
    """
    import torch
    from torch.utils import _pytree

    leaves = [leaf for leaf in _pytree.tree_leaves(results) if leaf is not None]
    strangers = [type(leaf).__name__ for leaf in leaves if not isinstance(leaf, torch.Tensor)]
    if strangers:
        raise _OutputError(f"the module returned a {strangers[0]} where a tensor was expected")
    # A module that returns float64 by itself is compared in float32 with files that compute in it.
    return [leaf.to(kind) if leaf.is_floating_point() else leaf for leaf in leaves]
