"""How far any correct evaluation of one operator, given its own operands, may lie from the exact (float64) value.

Public names
    `of_node`: of an ONNX node on operand arrays: one `Bound` per result, an array of the result's shape.
    `of_tflite`: of an operator of a `.tflite` file, likewise.
    `Bound`: the exact values, the worst and the likely error, and the share of it that a runtime's result uses.
    `Arithmetic`: formats, runtime, fast convolution; `FLOAT32`, `FLOAT16` (sums in float16).
    `NODES`, `TFLITE`: the operators that have a rule.
    `EXACT_NODES`, `EXACT_TFLITE`: those that need none, as they only move, compare or count elements, or have integers
        alone; `STEPS_TFLITE`: those whose results are integers that are counted in steps.
    `WITHOUT_BOUND`: those that have neither, and why; of TFLite's there are none.

Rules. A sum of n products, in any order, with or without fused multiply-add, is off by at most
``u |W| |x| + (n - 1) u max(P, N)`` to first order, where P and N are the sums of its positive and of its negative terms
and u is 2^-24 (float32) or 2^-11 (float16): each addition rounds a partial sum, and none of these is larger (Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 4.2). This is gamma_n |W| |x| for terms of one
sign and half of it for terms that cancel. The likely bound takes sqrt(n) lambda in place of n (Higham and Mary 2019, A
New Approach to Probabilistic Rounding Error Analysis); it is reported, and no verdict rests on it. What is composed of
steps (softmax, normalizations, GELU, LSTM) is bounded by running error analysis (Higham, section 3.3), formula by
formula; where runtimes take several, the largest counts. Every step may also flush what is below the smallest normal
number, and where it may overflow, any value is allowed. Integers are exact, but where a real number is rounded to one
and a tie lies within its error: one step.

What is read at places that are operands (GridSample) is bounded by how far the places may be off, and a determinant by
the backward error of elimination; `_sampling` and `_determinant` derive them. Of running products of a_i gamma_n holds
(Higham, lemma 3.1), and steps of one size, a range, are sums, as runtimes add them up.

Fast convolutions. A 3 x 3 convolution in tiles (Winograd) has a bound of its own, after Barabasz et al. 2020 (Error
Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks, theorem 2), element by element.
XNNPACK multiplies through an indirection buffer (https://arxiv.org/abs/1907.02129, said in its issue 3306) and has no
Winograd in its source; of MLAS the maintainers know im2col and GEMM alone (onnxruntime issue 12834), and a helper for
AVX-512 tiles of F(2 x 2, 3 x 3) lies in one of its branches (intrinsics/avx512/snchwc_winograd.cpp): the tests hold
the installed runtime to no trace of it. GPU delegates (LiteRT's ml_drift, cuDNN) have it.

Functions (exp, tanh, erf and so on) have the accuracies of `_arithmetic.ACCURACY`: what a runtime promises, or twice
what was measured.
"""

from __future__ import annotations

from edgeconv.parity.bounds._arithmetic import FLOAT16, FLOAT32, Arithmetic
from edgeconv.parity.bounds._bound import Bound
from edgeconv.parity.bounds._node import INTEGERS, NOTHING_ROUNDED, of_node
from edgeconv.parity.bounds._node_rules import RULES as NODES
from edgeconv.parity.bounds._node_rules import WITHOUT_BOUND
from edgeconv.parity.bounds._tflite import of_tflite
from edgeconv.parity.bounds._tflite_kinds import NOTHING_ROUNDED as EXACT_TFLITE
from edgeconv.parity.bounds._tflite_rules import RULES as TFLITE

EXACT_NODES = NOTHING_ROUNDED | INTEGERS
STEPS_TFLITE = frozenset({"QUANTIZE"})

__all__ = [
    # Bounds
    "of_node",
    "of_tflite",
    "Bound",
    "NODES",
    "TFLITE",
    "EXACT_NODES",
    "EXACT_TFLITE",
    "STEPS_TFLITE",
    "WITHOUT_BOUND",
    # What is computed in
    "Arithmetic",
    "FLOAT32",
    "FLOAT16",
]
