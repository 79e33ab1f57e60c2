"""Small relative changes of random signs: what a graph makes of them is how well it is conditioned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from edgeconv.core import Array
from edgeconv.parity.writing import magnitude


class Signs:
    """Changes real numbers by a relative amount, each up or down.

    Args:
        change: relative.
        seed: which signs are drawn.
    """

    def __init__(self, change: float, seed: int) -> None:
        self._change = change
        self._generator = torch.Generator().manual_seed(seed)

    def on_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A float64 tensor, changed; zeros and infinities stay."""
        signs = torch.randint(0, 2, tensor.shape, generator=self._generator, dtype=torch.float64)
        return tensor * (1 + self._change * (2 * signs - 1))

    def on_arrays(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays, changed where they are of floats."""
        return {name: self._on_array(array) for name, array in arrays.items()}

    def on_rounded(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays of floats, changed relative to their largest number, where they are no numbers of float16.

        Those are what people write down, and need no rounding.
        """
        changed = {}
        for name, array in arrays.items():
            with np.errstate(over="ignore"):
                is_short = array.astype(np.float16) == array
            moved = array + (self._on_array(np.full(array.shape, magnitude(array))) - magnitude(array))
            changed[name] = np.where(is_short, array, moved)
        return changed

    def _on_array(self, array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        return self.on_tensor(torch.from_numpy(array.astype(np.float64))).numpy()
