"""Non-trivial BatchNorm statistics for modules without trained weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeconv.errors import RecipeError, raise_if_ending
from edgeconv.recipe.foreign import clause_of
from edgeconv.recipe.schema import Input, Warmup


def warm_up(module: nn.Module, inputs: Sequence[Input], warmup: Warmup, *, where: str = "") -> None:
    """Randomizes BatchNorm weights and biases and makes the running statistics those of seeded noise.

    The passes run in float64 and their result is rounded once: float32 sums would differ in the last place between
    CPUs and thread counts, and with them the bytes of the artifacts.

    Args:
        module: changed in place; its parameters and buffers keep their dtypes, its mode becomes training mode.
        inputs: of the module; the first dimension of each becomes ``warmup.batch_size``.
        warmup: what the recipe says.
        where: for the messages.

    Raises:
        RecipeError: the module has no BatchNorm, or its forward pass fails on these inputs.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        raise RecipeError("the module has no BatchNorm layer", where=where, hint="remove [model.warmup]")
    # A generator of its own: the draws do not depend on what ran before.
    generator = torch.Generator().manual_seed(warmup.seed)
    _randomize(norms, generator)
    dtypes = {name: tensor.dtype for name, tensor in _tensors(module)}
    momenta = [layer.momentum for layer in norms]
    module.train().double()
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
    try:
        # Dropout and its like draw from the global generator.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(warmup.seed)
            for _ in range(warmup.batches):
                module(*(_batch(item, warmup.batch_size, generator) for item in inputs))
    except BaseException as error:  # foreign code: its own message says best what it did not like
        raise_if_ending(error)
        hint = "correct that code" if isinstance(error, SystemExit) else "correct [[inputs]]"
        raise RecipeError(f"the forward pass {clause_of(error)}", where=where, hint=hint) from error
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
    for name, tensor in _tensors(module):
        tensor.data = tensor.data.to(dtypes[name])


def _randomize(norms: Sequence[_BatchNorm], generator: torch.Generator) -> None:
    with torch.no_grad():
        for layer in norms:
            if layer.affine:
                layer.weight.copy_(torch.rand(layer.num_features, generator=generator) * 0.5 + 0.5)
                layer.bias.copy_(torch.randn(layer.num_features, generator=generator) * 0.1)


def _batch(item: Input, batch_size: int, generator: torch.Generator) -> Tensor:
    shape = (batch_size, *item.static_shape[1:])
    if item.dtype.startswith("float"):
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.randint(0, 2, shape, generator=generator).to(getattr(torch, item.dtype))


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
