"""What a Sigmoid, Softmax or Tanh makes stays float where the scale that TFLite prescribes says too little of it.

Steps of 1/256 are fine for gates and for masks. Scores of a detector that finds little, heat maps and softmax over many
are a few steps high, or all zero: what the integers leave of them is measured, on the histogram of what was seen. Where
it is too little the operator stays float; at the graph's end so does what follows, a join with boxes for one, and
within the graph its readers have a scale of their own for it.

It costs no time: what was converted behind the operator is converted before it. Least times with and without the
operator in float, in ms, of two convolutions before 80 classes of 80x80 and of attention over 196 tokens (one thread of
an EPYC with AVX-512 VNNI; XNNPACK has no integer softmax):

=========== ============== ==============
..          LiteRT         onnxruntime
=========== ============== ==============
Sigmoid     1.76 and 1.78  1.98 and 1.94
Softmax     1.81 and 2.66  12.1 and 12.4
attention   1.46 and 1.64  0.607 and 0.604
=========== ============== ==============
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.core.affine import decibels, dequantized, quantized
from edgeconv.graph.integer_rules import FIXED, MOVING
from edgeconv.quantize._calibrate import Calibration
from edgeconv.quantize._channels import tail_of
from edgeconv.quantize._graph import name_of
from edgeconv.quantize._histogram import Histogram
from edgeconv.quantize._plan import TensorParameters
from edgeconv.quantize._steep import LEAST_DB
from edgeconv.quantize._structure import Structure, layer_of

_FACTORED = frozenset({"Div", "MatMul", "Mul"})
_LEAST_VARIATION = 1e-6  # of the size: less is float32's own rounding, and tells nothing apart


def coarse_results(
    graph: ir.Graph, structure: Structure, calibration: Calibration, tensors: Mapping[str, TensorParameters], dtype: str
) -> Iterator[tuple[str, str]]:
    """Operators that stay float because their prescribed scale says too little: their names, and why.

    The parameters are as of `edgeconv.quantize._steep.steep_operands`.
    """
    tail, behind = tail_of(graph), dict[ir.Node, str]()
    for node in graph:
        name = name_of(node)
        if name in structure.kept_float or node in structure.spelled:
            continue
        reason = next((behind[maker] for value in node.inputs if value and (maker := value.producer()) in behind), None)
        if node not in tail or layer_of(node) is not None:
            reason = None
        if node.op_type in FIXED and name in calibration.histograms and name in tensors:
            left = _left_db(calibration.histograms[name], tensors[name], centered=not _is_factor(node.outputs[0]))
            if left < LEAST_DB[dtype]:
                reason = f"steps of {tensors[name].scale:.3g} say too little of what {node.op_type} makes"
        if reason is not None:
            if node in tail:
                behind[node] = reason
            yield name, reason


def _is_factor(result: ir.Value) -> bool:
    """Whether a result is only multiplied with or divided by: its size counts then, not its differences."""
    if result.is_graph_output():
        return False
    return all(
        use.node.op_type in _FACTORED or (use.node.op_type in MOVING and _is_factor(use.node.outputs[0]))
        for use in result.uses()
    )


def _left_db(seen: Histogram, parameters: TensorParameters, *, centered: bool) -> float:
    """Signal over error of quantized numbers, by how often each was seen; about their mean where differences count."""
    numbers, counts = np.append(seen.centers(), 0.0), np.append(seen.counts, seen.zeros)
    if not counts.any():
        return np.inf
    grid = parameters.scale, parameters.zero_point
    weights = counts / counts.sum()
    errors = numbers - dequantized(quantized(numbers, *grid, parameters.dtype), *grid)
    energy = float((weights * np.square(numbers)).sum())
    signal = energy - float((weights * numbers).sum()) ** 2 if centered else energy
    if signal <= _LEAST_VARIATION**2 * energy:
        return np.inf  # always the same
    return decibels(signal, float((weights * np.square(errors)).sum()))
