"""The coordinates that AffineGrid multiplies the columns of its matrices with.

Specification: AffineGrid; torch's ``affine_grid`` is the same. They run from -1 to 1, from the middle of the first
element to that of the last with ``align_corners``, and else from edge to edge.

The grid is written as products and sums, axis by axis, and not as a product of matrices: a file of float16 computes
these in float32 where GridSample reads them as places (`edgeconv.emit.half_precision`), and one axis at a time is
little work until the last sum.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def coordinates(sizes: list[int], axis: int, *, align_corners: bool) -> npt.NDArray[np.float32]:
    """The coordinates of the elements along an axis of an image, to be broadcast to [batch, *sizes, coordinates]."""
    size = sizes[axis]
    end = float(size > 1) if align_corners else 1 - 1 / size
    shape = [1, *(size if at == axis else 1 for at in range(len(sizes))), 1]
    return np.linspace(-end, end, size).astype(np.float32).reshape(shape)
