"""Runs a block with a module in eval state and puts the module back exactly as it was found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """The module and every submodule in eval state, no gradients recorded; restored however the block ends.

    ``training`` is set on each submodule by itself: ``module.eval()`` may be overridden (frozen normalization layers,
    networks that merge their branches in ``eval``), and ``module.train(mode)`` would flatten mixed modes.
    The states of torch's CPU random generator, of Python's and of numpy's are kept as well.
    """
    modes = [(each, each.training) for each in module.modules()]
    generator, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        for each, _ in modes:
            each.training = False
        with torch.no_grad():
            yield
    finally:
        for each, training in modes:
            each.training = training
        torch.set_rng_state(generator)
        random.setstate(python)
        np.random.set_state(numpy)
