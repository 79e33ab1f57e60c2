"""Link 3 of the proof, writing: a file, read back by an independent reader, computes what the graph computes.

This is translation validation. The graph is evaluated in float64 on a sample, with its constants rounded as the file
has them. The file is read from its bytes and evaluated, too, held at every value that both have (see `_held`): each
part of the file between two such values answers for itself, on the graph's own operands, so that nothing adds up and
the first part that differs is where the fault lies. What is compared besides: the numbers of all constants, scales and
zero points, and whether every constant is read.

The bound of a part is float64's own rounding: `GAMMA` times what is summed, which is at least the largest magnitude of
the result, and, where that is not enough, the response of the part to a relative change of GAMMA in each operand
(measured with changes of random signs, 2^14 times as large). A constant that only one side has is rounded once from
what only the writer knows (a reciprocal, a product); such may have moved by half a unit in the last place, and what
that makes of the result is measured by moving them.
"""

from __future__ import annotations

from edgeconv.parity.writing._beside import Beside
from edgeconv.parity.writing._caches import OperandCache
from edgeconv.parity.writing._constants import Matching, half_steps
from edgeconv.parity.writing._contents import Changes
from edgeconv.parity.writing._cut import Cut
from edgeconv.parity.writing._ends import (
    GAMMA,
    HALF_UNIT,
    UNDERFLOW,
    errors,
    filled,
    lowered,
    magnitude,
    share,
    signed,
)
from edgeconv.parity.writing._file import File
from edgeconv.parity.writing._file_layers import FileLayers
from edgeconv.parity.writing._float_layers import first_float_fault
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._integer_borders import border_scales, real_inputs, with_real_borders
from edgeconv.parity.writing._integers import IntegerFaults, integer_faults
from edgeconv.parity.writing._interface import interface_faults
from edgeconv.parity.writing._judge import both_sides, matched, writing
from edgeconv.parity.writing._kinks import reach_of_graph
from edgeconv.parity.writing._layers import Ends, OnValues
from edgeconv.parity.writing._on_demand import OnDemand
from edgeconv.parity.writing._onnx import OnnxFile
from edgeconv.parity.writing._operands import past_kinks
from edgeconv.parity.writing._outputs import outputs_link, rounding_bound, told_constants, with_faults
from edgeconv.parity.writing._read_back import ReadBack, read_back
from edgeconv.parity.writing._tflite import TfliteFile

__all__ = [
    "GAMMA",
    "HALF_UNIT",
    "UNDERFLOW",
    "Beside",
    "Changes",
    "Cut",
    "Ends",
    "File",
    "FileLayers",
    "Graph",
    "IntegerFaults",
    "Matching",
    "OnDemand",
    "OnValues",
    "OnnxFile",
    "ReadBack",
    "OperandCache",
    "TfliteFile",
    "border_scales",
    "both_sides",
    "errors",
    "filled",
    "first_float_fault",
    "half_steps",
    "integer_faults",
    "interface_faults",
    "lowered",
    "magnitude",
    "matched",
    "outputs_link",
    "past_kinks",
    "reach_of_graph",
    "read_back",
    "real_inputs",
    "rounding_bound",
    "share",
    "signed",
    "told_constants",
    "with_faults",
    "with_real_borders",
    "writing",
]
