"""The recipe of the digits, judged on some of its 360 held-out images: on all of them a variant takes ten seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

import edgeconv

MODELS = Path(edgeconv.__file__).parents[1] / "models"
RECIPE = MODELS / "digits_dsc.toml"
_HELD_OUT = "digits_holdout.npz"


def written(folder: Path, count: int) -> Path:
    """The recipe and its files in a new folder; it is judged on `count` images (a divisor of 360), as shipped else."""
    folder.mkdir()
    for name in (RECIPE.name, "digits_dsc.safetensors", "digits_calibration.npz"):
        shutil.copy(MODELS / name, folder)
    with np.load(MODELS / _HELD_OUT) as arrays:
        some = {name: array[:: len(array) // count] for name, array in arrays.items()}
    np.savez_compressed(folder / _HELD_OUT, **some)
    return folder / RECIPE.name
