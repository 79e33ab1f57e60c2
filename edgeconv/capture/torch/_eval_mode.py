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
    modes = [(part, part.training) for part in module.modules()]
    generator, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        for part, _ in modes:
            part.training = False
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
        torch.set_rng_state(generator)
        random.setstate(python)
        np.random.set_state(numpy)
