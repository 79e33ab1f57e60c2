"""Small relative changes of random signs and sizes, which estimate how well a graph is conditioned."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch

from edgeconv.core import Array
from edgeconv.core.threads import one_thread
from edgeconv.parity.writing import HALF_UNIT, magnitude
from edgeconv.reference import evaluate

# Numbers drawn once and read from random places on: drawing one for every element of a network took a third of
# the links' time. A prime, so that no plane or row of a tensor meets the same ones as its neighbor.
_DRAWN = 65537


class Signs:
    """Changes real numbers by a relative amount, each up or down, by half of it or more.

    Were all of one size, two changes one behind the other would cancel exactly in half of the draws: with eight draws,
    for one element of 256 in all of them.

    Args:
        change: relative, the largest.
        seed: which signs and sizes are drawn.
    """

    def __init__(self, change: float, seed: int) -> None:
        self.change = change
        self._generator = torch.Generator().manual_seed(seed)
        # Uniform from half of the change to all of it, of either sign.
        drawn = torch.rand(_DRAWN, generator=self._generator, dtype=torch.float64) - 0.5
        self._factors = 1 + change * (drawn + torch.sign(drawn) / 2)

    def on_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A float64 tensor, changed; zeros and infinities stay."""
        count = tensor.numel()
        start = int(torch.randint(_DRAWN, (), generator=self._generator))
        factors = self._factors if start + count <= _DRAWN else self._factors.repeat(-(-(start + count) // _DRAWN))
        return tensor * factors[start : start + count].view(tensor.shape)

    def on_arrays(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays, changed where they are of floats."""
        return {name: self._on_array(array) for name, array in arrays.items()}

    def on_rounded(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays of floats, changed relative to their largest number, but for numbers that float16 holds exactly.

        People write such numbers down, and rounding does not change them.
        """
        changed = {}
        for name, array in arrays.items():
            moved = array + (self._on_array(np.full(array.shape, magnitude(array))) - magnitude(array))
            changed[name] = np.where(is_short(array), array, moved)
        return changed

    def on_stored(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """As `on_rounded`, but for arrays that float16 holds as a whole: a number among others may be rounded to 1."""
        size = {name: magnitude(array) for name, array in arrays.items() if not is_short(array).all()}
        return {
            name: arrays[name] + (self._on_array(np.full(arrays[name].shape, most)) - most)
            for name, most in size.items()
        }

    def _on_array(self, array: Array) -> Array:
        if array.dtype.kind != "f":
            return array
        return self.on_tensor(torch.from_numpy(array.astype(np.float64))).numpy()


def moved(model: ir.Model, inputs: Mapping[str, Array], *, seed: int) -> dict[str, Array]:
    """A graph's outputs in float64, with each number on the way moved by up to half a unit of float32.

    Inputs, constants and every result are moved as much as one rounding of each moves them: an estimate of what float32
    does to the network, without any runtime. Constants that float16 holds stay: the square of a negative number has no
    value where its exponent is not quite 2.

    Args:
        model: a float graph.
        inputs: by name.
        seed: which signs are drawn.

    Raises:
        RewriteError: it cannot be evaluated, since a size is decided by these numbers, say.
    """
    signs = Signs(HALF_UNIT, seed)
    stored = {name: value.const_value for name, value in model.graph.initializers.items()}
    constants = {name: tensor.numpy() for name, tensor in stored.items() if tensor is not None}
    constants = {
        name: array for name, array in constants.items() if array.dtype.kind == "f" and not is_short(array).all()
    }
    names = [value.name or "" for value in model.graph.outputs]
    with one_thread():
        return evaluate(
            model, {**signs.on_arrays(inputs), **signs.on_arrays(constants)}, keep=names, altered=signs.on_tensor
        )


def is_short(array: Array) -> Array:
    """Which numbers float16 holds exactly, as it does most that people write down."""
    with np.errstate(over="ignore"):
        return np.asarray(array.astype(np.float16) == array)
