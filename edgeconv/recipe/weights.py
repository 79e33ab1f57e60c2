"""A weights file into a module: no code is run, nothing is left out, nothing non-finite gets in."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeconv.errors import RecipeError

_CHECKPOINTS = (".pt", ".pth", ".bin", ".ckpt", ".tar")


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
            the module's. (``num_batches_tracked`` may be missing: inference does not use it.)
    """
    state = _state_dict(_read(path, where), path, key, where)
    if prefix:
        state = _without_prefix(state, prefix, path, where)
    _check_finite(state, path, where)
    _check_shapes(module, state, path, where)
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        parts = [
            f"{word}: {_few(names)}" for word, names in (("missing", missing), ("unexpected", unexpected)) if names
        ]
        raise RecipeError(
            f"{path.name} does not match the module; {'; '.join(parts)}",
            where=where,
            mend=_mend_keys(missing, unexpected),
        )


def _read(path: Path, where: str) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise RecipeError(
                f"{path.name} is no readable safetensors file: {error}", where=where, mend="save it again"
            ) from error
    if path.suffix not in _CHECKPOINTS:
        raise RecipeError(
            f"{path.name} is neither .safetensors nor a checkpoint ({', '.join(_CHECKPOINTS)})",
            where=where,
            mend="save the state dict with safetensors.torch.save_file",
        )
    # torch.load raises nearly anything on a damaged file (RuntimeError, KeyError, EOFError, AttributeError, …).
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).partition("Please file")[0].partition("\n")[0]
        raise RecipeError(
            f"{path.name} holds more than tensors, and its code was not run: {first}",
            where=where,
            mend="save only the state dict: torch.save(module.state_dict(), path), or use safetensors",
        ) from error
    except Exception as error:
        raise RecipeError(
            f"{path.name} is no readable checkpoint: {type(error).__name__}: {error}", where=where, mend="save it again"
        ) from error


def _state_dict(value: Any, path: Path, key: str | None, where: str) -> dict[str, Tensor]:
    for part in key.split(".") if key else ():
        if not isinstance(value, Mapping) or part not in value:
            known = _few(list(value)) if isinstance(value, Mapping) else type(value).__name__
            raise RecipeError(f"{path.name} has no {key!r}, but: {known}", where=where, mend="correct model.key")
        value = value[part]
    if isinstance(value, Mapping) and value and all(isinstance(item, Tensor) for item in value.values()):
        return {str(name): tensor for name, tensor in value.items()}
    if not isinstance(value, Mapping):
        raise RecipeError(
            f"{path.name} holds a {type(value).__name__} and no state dict",
            where=where,
            mend="save module.state_dict()",
        )
    inner = [str(name) for name, item in value.items() if isinstance(item, Mapping)]
    mend = f"set model.key to one of: {_few(inner)}" if inner else "save module.state_dict()"
    raise RecipeError(f"{path.name} is no state dict; it holds: {_few(list(value))}", where=where, mend=mend)


def _without_prefix(state: dict[str, Tensor], prefix: str, path: Path, where: str) -> dict[str, Tensor]:
    others = [name for name in state if not name.startswith(prefix)]
    if others:
        raise RecipeError(
            f"keys of {path.name} do not begin with {prefix!r}: {_few(others)}",
            where=where,
            mend="correct model.prefix",
        )
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _check_finite(state: Mapping[str, Tensor], path: Path, where: str) -> None:
    bad = [
        name
        for name, tensor in state.items()
        if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all())
    ]
    if bad:
        raise RecipeError(
            f"{path.name} holds NaN or Inf in {_few(bad)}", where=where, mend="use a checkpoint from before it diverged"
        )


def _check_shapes(module: nn.Module, state: Mapping[str, Tensor], path: Path, where: str) -> None:
    own = module.state_dict()
    wrong = [
        f"{name} is {tuple(tensor.shape)} in the file and {tuple(own[name].shape)} in the module"
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if wrong:
        raise RecipeError(
            f"{path.name} does not match the module: {_few(wrong)}", where=where, mend="correct model.args or the file"
        )


def _mend_keys(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Every key merely prefixed (``module.`` of DataParallel, ``model.`` of trainers) is the usual reason."""
    if missing and unexpected:
        shortest = min(unexpected, key=len)
        for name in missing:
            if shortest.endswith("." + name):
                return f'set model.prefix = "{shortest.removesuffix(name)}"'
    return "use the weights of this network, or correct model.args"


def _few(names: Sequence[Any], limit: int = 4) -> str:
    shown = ", ".join(str(name) for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
