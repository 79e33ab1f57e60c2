"""The coordinates of the elements of an image, for AffineGrid of files and ``affine_grid`` of modules.

Specification: AffineGrid. -1 and 1 are the centers of the first and the last element with ``align_corners``, and the
outer edges of these elements otherwise.

The grid is written as products and sums, one axis at a time, not as a matrix product: a float16 file computes these in
float32, as GridSample reads them as positions (`edgeconv.emit.half_precision`), and only the last sum has the size of
the whole grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def coordinates(sizes: list[int], axis: int, *, align_corners: bool) -> npt.NDArray[np.float32]:
    """The coordinates along one axis of an image of these sizes, of a shape that broadcasts to (N, *sizes, rank)."""
    size = sizes[axis]
    end = float(size > 1) if align_corners else 1 - 1 / size
    shape = [1, *(size if at == axis else 1 for at in range(len(sizes))), 1]
    return np.linspace(-end, end, size).astype(np.float32).reshape(shape)
