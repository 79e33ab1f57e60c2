"""CenterCropPad: a Slice of each axis that becomes smaller, and a Pad of those that become larger.

Specification: CenterCropPad. The smaller half of an odd difference is at the start.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import stated_input
from edgeconv.graph.steps import Steps, sizes_of


def center_crop_pad(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """The replacement of the node's result; an Identity where no size changes."""
    x, sizes = stated_input(node), sizes_of(node.outputs[0])
    for axis, (before, after) in enumerate(zip(sizes_of(x), sizes, strict=True)):
        if after < before:
            start = (before - after) // 2
            x = steps.slice(x, axis, start, start + after, "cropped")
    if sizes_of(x) != sizes:
        added = np.array(sizes) - sizes_of(x)
        pads = steps.constant(np.concatenate([added // 2, added - added // 2]), "pads")
        x = steps.add("padded", "Pad", [x, pads], sizes)
    return {node.outputs[0]: steps.own(x)}
