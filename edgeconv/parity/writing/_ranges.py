"""What the ranges that a converter chose for activations cost: told of a right file, too, and no fault.

No bound follows from a few inputs: right files have ranges of 0.6 to 7.8 times what a sample makes of a value. Twice
the scale is 6 dB of a layer nevertheless, and a range that ends too soon cuts numbers off: the worst of both is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgeconv.core import Array
from edgeconv.parity.writing._layers import LayerOff
from edgeconv.parity.writing._real_file import RealFile

_WIDE = 2.0  # times: a bit of the integers is unused
_CUT = 1e-3  # of the numbers


def told_ranges(layers: Sequence[LayerOff], file: RealFile, values: Mapping[str, Array]) -> str:
    """The widest range of an activation, and the one that cuts most off; empty where both are near to the sample's.

    Args:
        layers: of the first sample.
        file: on real numbers.
        values: what the module makes of that sample, by name, float64.
    """
    wide: list[tuple[float, str]] = []
    cut: list[tuple[float, str]] = []
    for layer in layers:
        steps, alike = file.ranges.get(layer.tensor), layer.alike
        if steps is None or alike is None or alike.factors is not None:
            continue
        due = values[alike.value]
        reach = max(float(due.max(initial=0.0)), 0.0) - min(float(due.min(initial=0.0)), 0.0)
        beyond = (due < steps.least - steps.scale) | (due > steps.greatest + steps.scale)
        cut.append((float(np.mean(beyond)), file.names[layer.tensor]))
        if reach > 0:
            wide.append(((steps.greatest - steps.least) / reach, file.names[layer.tensor]))
    told = []
    if wide and max(wide)[0] >= _WIDE:
        told.append(f"the range of {max(wide)[1]} is {max(wide)[0]:.2g} times what the first sample reaches")
    if cut and max(cut)[0] >= _CUT:
        told.append(f"that of {max(cut)[1]} cuts off {100 * max(cut)[0]:.2g} % of its numbers")
    return ", and ".join(told)
