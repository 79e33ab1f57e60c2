"""Recipe -> nn.Module: the factory called under a seed, then weights or a warm-up, then eval mode."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from edgeconv.errors import RecipeError, raise_if_ending
from edgeconv.recipe.factory import imported
from edgeconv.recipe.files import locate
from edgeconv.recipe.foreign import clause_of, prints_to_stderr
from edgeconv.recipe.imports import importing_from
from edgeconv.recipe.schema import Recipe
from edgeconv.recipe.warmup import warm_up
from edgeconv.recipe.weights import load_weights


def build_module(recipe: Recipe) -> nn.Module:
    """Makes the recipe's module, with its weights, in eval mode, on the CPU.

    The factory's module may be beside the recipe, installed, or in the working folder, and is looked for in this
    order. The generators of torch, numpy and ``random`` are seeded for it and left as they were. Whatever that code
    prints goes to stderr.

    Raises:
        RecipeError: the factory cannot be imported or called, or returns no module; weights cannot be read safely,
            hold NaN or Inf, or do not match the module; the warm-up cannot run.
    """
    model = recipe.model
    with prints_to_stderr(), importing_from(recipe.directory):
        module = _from_factory(recipe)
        if model.weights is not None:
            where = f"{recipe.path}: model.weights"
            path = locate(model.weights, recipe.directory, where=where)
            load_weights(module, path, key=model.key, prefix=model.prefix, where=where)
        if model.warmup is not None:
            warm_up(module, recipe.inputs, model.warmup, where=f"{recipe.path}: model.warmup")
        return _in_eval(module, f"{recipe.path}: model.factory")


def _in_eval(module: nn.Module, where: str) -> nn.Module:
    """The module in eval mode; its class may override `eval`, which may then raise or return anything."""
    try:
        switched = module.eval()
    except BaseException as error:  # the user's own code may raise anything
        raise_if_ending(error)
        if isinstance(module, torch.fx.GraphModule) and isinstance(error, NotImplementedError):
            return module  # of an exported program, which keeps the mode that it was exported in
        raise RecipeError(f"the module's eval() {clause_of(error)}", where=where, hint="fix that module") from error
    return switched if isinstance(switched, nn.Module) else module


def _from_factory(recipe: Recipe) -> nn.Module:
    model = recipe.model
    where = f"{recipe.path}: model.factory"
    if model.factory is None:
        raise RecipeError("there is no module, but an .onnx file", where=where, hint="name a factory")
    with _seeded(model.seed):
        factory = imported(model.factory, where)
        try:
            module = factory(**model.args)
        except BaseException as error:  # foreign code: the message keeps its type and text
            raise_if_ending(error)
            what = f"{model.factory} {clause_of(error)}"
            raise RecipeError(what, where=where, hint=_hint_for(error, bool(model.args))) from error
    if not isinstance(module, nn.Module):
        what = f"{model.factory} returned {type(module).__name__}"
        raise RecipeError(what, where=where, hint="it must return a torch.nn.Module")
    return module


def _hint_for(error: BaseException, has_args: bool) -> str:
    if isinstance(error, SystemExit):
        return "name a factory that returns a module and does not end the program"
    if has_args:
        return "correct model.args, or that code"
    return "give what it needs in model.args" if isinstance(error, TypeError) else "fix that code"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # numpy's global generator takes seeds of 32 bits.
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
