"""Loads a weights file into a module: runs no code, requires every key, refuses NaN and infinities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from edgeconv.core.values import kind_of, listed
from edgeconv.errors import RecipeError, raise_if_ending
from edgeconv.recipe.checkpoint import read_checkpoint
from edgeconv.recipe.foreign import clause_of, foreign_line

_CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt", ".tar")

_EXPANDED_BYTES = 2**26  # expanded tensors (masks of ones, say) below this size fit into any memory

# Casts that keep every value.
_WIDER: Mapping[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float16: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float64),
    torch.float32: (torch.float64,),
    torch.uint8: (torch.int16, torch.int32, torch.int64),
    torch.int8: (torch.int16, torch.int32, torch.int64),
    torch.int16: (torch.int32, torch.int64),
    torch.int32: (torch.int64,),
}


def load_weights(module: nn.Module, path: Path, *, key: str | None = None, prefix: str = "", where: str = "") -> None:
    """Loads a state dict into a module, strictly.

    Args:
        module: changed in place.
        path: ``.safetensors``, or a checkpoint that ``torch.load(weights_only=True)`` accepts.
        key: where in the checkpoint the state dict is, dotted.
        prefix: removed from every key.
        where: for the messages.

    Raises:
        RecipeError: the file cannot be read without running code, holds NaN or Inf, or its keys or shapes are not
            the module's, or a dtype is not and would be rounded: half precision widens to float32, float64 is
            refused. (``num_batches_tracked`` may be missing or of any real dtype: inference does not use it.)
    """
    # Everything that load_state_dict would change or leave out silently is refused before.
    state = _state_dict(_read(path, where), path, key, where)
    if prefix:
        state = _without_prefix(state, prefix, path, where)
    _check_plain(state, path, where)
    own = _module_state(module, where)
    _check_shapes(own, state, path, where)
    _check_dtypes(own, state, path, where)
    _check_finite(state, path, where)
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except BaseException as error:  # modules may have loading code of their own
        raise_if_ending(error)
        what = f"loading {path.name} into the module {clause_of(error)}"
        raise RecipeError(what, where=where, hint="use the weights of this network") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        parts = [
            f"{word}: {_first_few(names)}"
            for word, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        what = f"{path.name} does not match the module; {'; '.join(parts)}"
        raise RecipeError(what, where=where, hint=_hint_for(missing, unexpected))


def _read(path: Path, where: str) -> Any:
    try:
        if path.stat().st_size == 0:
            raise RecipeError(f"{path.name} is empty", where=where, hint="save it again")
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in _CHECKPOINTS:
            return read_checkpoint(path, where=where)
    except SafetensorError as error:
        what = f"{path.name} is no readable safetensors file: {foreign_line(str(error))}"
        raise RecipeError(what, where=where, hint="save it again") from error
    except OSError as error:
        what = f"{path.name} cannot be read: {error.strerror or foreign_line(str(error))}"
        raise RecipeError(what, where=where, hint="give a readable file") from error
    what = f"{path.name} is neither .safetensors nor a checkpoint ({', '.join(_CHECKPOINTS)})"
    raise RecipeError(what, where=where, hint="save the state dict with safetensors.torch.save_file")


def _state_dict(value: Any, path: Path, key: str | None, where: str) -> dict[str, Tensor]:
    for part in key.split(".") if key else ():
        if not isinstance(value, Mapping) or part not in value:
            keys = _first_few(list(value)) if isinstance(value, Mapping) else type(value).__name__
            raise RecipeError(f"{path.name} has no {key!r}, but: {keys}", where=where, hint="correct model.key")
        value = value[part]
    if isinstance(value, Mapping) and value and all(isinstance(item, Tensor) for item in value.values()):
        return {str(name): tensor for name, tensor in value.items()}
    if not isinstance(value, Mapping):
        what = f"{path.name} holds {kind_of(value)} and no state dict"
        raise RecipeError(what, where=where, hint="save module.state_dict()")
    if not value:
        what = f"{path.name} is empty" + (f" at {key!r}" if key else "")
        raise RecipeError(what, where=where, hint="save module.state_dict()")
    inner = [str(name) for name, item in value.items() if isinstance(item, Mapping)]
    hint = f"set model.key to one of: {_first_few(inner)}" if inner else "save module.state_dict()"
    raise RecipeError(f"{path.name} is no state dict; it holds: {_first_few(list(value))}", where=where, hint=hint)


def _without_prefix(state: dict[str, Tensor], prefix: str, path: Path, where: str) -> dict[str, Tensor]:
    others = [name for name in state if not name.startswith(prefix)]
    if others:
        what = f"keys of {path.name} do not begin with {prefix!r}: {_first_few(others)}"
        raise RecipeError(what, where=where, hint="correct model.prefix")
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _check_finite(state: Mapping[str, Tensor], path: Path, where: str) -> None:
    bad = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if bad:
        what = f"{path.name} holds NaN or Inf in {_first_few(bad)}"
        raise RecipeError(what, where=where, hint="use a checkpoint from before it diverged")


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    try:  # torch has no isfinite for its floats of 8 bits, and cannot read those of 4, which no module's tensor is of
        return bool(torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all())
    except (RuntimeError, NotImplementedError):
        return True


def _check_plain(state: Mapping[str, Tensor], path: Path, where: str) -> None:
    odd = [
        name
        for name, tensor in state.items()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_nested
    ]
    if odd:
        what = f"{path.name} holds sparse, quantized or empty tensors in {_first_few(odd)}"
        raise RecipeError(what, where=where, hint="save dense float32 weights")
    expanded = [name for name, tensor in state.items() if _expands(tensor)]
    if expanded:
        what = f"{path.name} claims more elements than it holds in {_first_few(expanded)}"
        raise RecipeError(what, where=where, hint="save tensor.contiguous()")


def _expands(tensor: Tensor) -> bool:
    """Whether a tensor declares far more elements than it stores: with stride 0, one element looks like 10^12."""
    size = tensor.numel() * tensor.element_size()
    return size > max(_EXPANDED_BYTES, tensor.untyped_storage().nbytes())


def _module_state(module: nn.Module, where: str) -> dict[str, Tensor]:
    try:
        own = dict(module.state_dict())
    except BaseException as error:  # modules may have saving code of their own
        raise_if_ending(error)
        what = f"the module's state_dict() {clause_of(error)}"
        raise RecipeError(what, where=where, hint="fix that module") from error
    lazy = [name for name, tensor in own.items() if is_lazy(tensor)]
    if lazy:
        what = f"the module does not know the shape of {_first_few(lazy)} yet"
        raise RecipeError(what, where=where, hint="use layers with given sizes in place of lazy ones")
    return own


def _check_shapes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path, where: str) -> None:
    wrong = [
        f"{name} is {tuple(tensor.shape)} in the file and {tuple(own[name].shape)} in the module"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if wrong:
        what = f"{path.name} does not match the module: {_first_few(wrong)}"
        raise RecipeError(what, where=where, hint="correct model.args or the file")


def _check_dtypes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path, where: str) -> None:
    """Refuses casts that would change a value: `load_state_dict` casts silently."""
    wrong = [
        (name, tensor.dtype, own[name].dtype)
        for name, tensor in state.items()
        if name in own and not _is_counter(name, tensor) and not _widens(tensor.dtype, own[name].dtype)
    ]
    if wrong:
        texts = [f"{name} is {_name(stored)} in the file and {_name(own)} in the module" for name, stored, own in wrong]
        wanted_dtype = _name(wrong[0][2])
        raise RecipeError(
            f"{path.name} would be altered by the cast: {_first_few(texts)}",
            where=where,
            hint=f"save it as {wanted_dtype} (tensor.to(torch.{wanted_dtype})), so that what is exported is what you "
            "tested",
        )


def _is_counter(name: str, tensor: Tensor) -> bool:
    """Whether it counts batches, which has no use in eval mode.

    A complex one is refused as any weight is: torch would keep its real half, and say so on stderr.
    """
    return name.endswith("num_batches_tracked") and not tensor.is_complex()


def _widens(stored: torch.dtype, own: torch.dtype) -> bool:
    """Whether a cast from the file's dtype to the module's keeps every value."""
    return stored == own or own in _WIDER.get(stored, ())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _hint_for(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """A hint on keys that do not match; often all have a prefix (DataParallel's ``module.``, trainers' ``model.``)."""
    if missing and unexpected:
        shortest = min(unexpected, key=len)
        for name in missing:
            if shortest.endswith("." + name):
                return f'set model.prefix = "{shortest.removesuffix(name)}"'
    return "use the weights of this network, or correct model.args"


def _first_few(names: Sequence[Any]) -> str:
    return listed([foreign_line(str(name)) for name in names], 4)
