"""float graph -> the graph with QuantizeLinear and DequantizeLinear nodes: int8, int16x8, or int8 weights.

Calibration
    `bounds_of`: beyond which numbers of a value its readers cannot tell them apart.
    `calibrate`: what range every activation has on the user's data. `Calibration`, `OBSERVERS`.
Weights for every processor
    `overflowing`: the layers whose sums of two products saturate on some.
Before the plan
    `equalize`: neighboring layers with ranges alike; `exponents_of`: how, by what their channels hold on data.
    `absorb_biases`: channels without a constant part.
    `reorder`: channels in an order in which few pairs of weights can overflow; `orders_of`: which.
The plan
    `make_plan`: which numbers quantize which tensor, as the options say. `Plan`: a frozen value, JSON and back.
    `ranges_of`: the range that was chosen of each value by itself; `observed_of`: what of.
    `fronts`: what else stays float because a steep function further on amplifies its errors.
    What is joined of parts with ranges of their own stays float (`edgeconv.quantize._apart`).
    `apply`: the plan as nodes in a new graph. `keep_operators`: the plan with more operators in float;
    `matching`, `with_names`: which ones patterns mean.
    `round_between`: what a graph that is quantized already leaves unrounded in front of its layers.
    `float_between`: which of its operators are computed in floats. `with_integer_biases`: with the biases of kernels.
    `with_room_for_biases`: whose biases all fit into 32 bits.
    `with_finer_biases`: of weights of few bits, whose biases are rounded less.
    `round_masks`: outputs of zeros and ones, among outputs of integers.
After the plan, in the order of what they cost; each gives a float model that the same plan fits
    `correct_biases`: no layer's mean is shifted any more. `corrections_of`: by how much each bias was moved.
    `round_weights`: that, and weights rounded so that later ones make up for earlier ones.
    `adaround`: that, and the rounding learned by gradient descent.
Mixed precision
    `sensitivity`: the order of the layers by the noise that goes with them.
    `keep_in_float`: the plan with some layers left in float.
    `advice`: what helps where int8 falls short of a threshold.
    `search`: as many of the worst layers in float as a `Target` needs. `Search`, `Step`, `Measured`, `TARGET`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.core.search_target import Measured, Target
    from edgeconv.quantize._absorb import absorb_biases
    from edgeconv.quantize._adaround import adaround
    from edgeconv.quantize._advice import advice
    from edgeconv.quantize._apply import apply
    from edgeconv.quantize._bias import correct_biases
    from edgeconv.quantize._bounds import bounds_of
    from edgeconv.quantize._calibrate import Calibration, calibrate
    from edgeconv.quantize._equalize import equalize
    from edgeconv.quantize._exponents import exponents_of
    from edgeconv.quantize._fronts import fronts
    from edgeconv.quantize._integer_biases import with_finer_biases, with_integer_biases, with_room_for_biases
    from edgeconv.quantize._kept_float import keep_in_float
    from edgeconv.quantize._make_plan import keep_operators, make_plan, observed_of, ranges_of
    from edgeconv.quantize._mask_outputs import round_masks
    from edgeconv.quantize._observers import OBSERVERS
    from edgeconv.quantize._pairs import overflowing
    from edgeconv.quantize._patterns import matching, with_names
    from edgeconv.quantize._plan import SCHEMES, Plan, TensorParameters, WeightParameters
    from edgeconv.quantize._reorder import orders_of, reorder
    from edgeconv.quantize._rounding import round_weights
    from edgeconv.quantize._search import TARGET, Search, Step, search
    from edgeconv.quantize._sensitivity import Sensitivity, sensitivity
    from edgeconv.quantize._tune import corrections_of
    from edgeconv.quantize._unrounded import float_between, round_between

__all__ = [
    # Calibration
    "bounds_of",
    "calibrate",
    "Calibration",
    "OBSERVERS",
    # Weights for every processor
    "observed_of",
    "overflowing",
    # Before the plan
    "equalize",
    "exponents_of",
    "absorb_biases",
    "orders_of",
    "reorder",
    # The plan
    "float_between",
    "fronts",
    "make_plan",
    "apply",
    "keep_operators",
    "ranges_of",
    "matching",
    "with_names",
    "round_between",
    "with_finer_biases",
    "with_integer_biases",
    "with_room_for_biases",
    "round_masks",
    "Plan",
    "SCHEMES",
    "TensorParameters",
    "WeightParameters",
    # After the plan
    "correct_biases",
    "corrections_of",
    "round_weights",
    "adaround",
    # Mixed precision
    "sensitivity",
    "Sensitivity",
    "keep_in_float",
    "search",
    "advice",
    "Search",
    "Step",
    "Measured",
    "Target",
    "TARGET",
]

# Each comes on first use: an export of floats quantizes nothing.
_PLACES = {
    "_absorb": ("absorb_biases",),
    "_adaround": ("adaround",),
    "_advice": ("advice",),
    "_apply": ("apply",),
    "_bias": ("correct_biases",),
    "_bounds": ("bounds_of",),
    "_calibrate": ("Calibration", "calibrate"),
    "_equalize": ("equalize",),
    "_exponents": ("exponents_of",),
    "_fronts": ("fronts",),
    "_integer_biases": ("with_finer_biases", "with_integer_biases", "with_room_for_biases"),
    "_kept_float": ("keep_in_float",),
    "_make_plan": ("keep_operators", "make_plan", "observed_of", "ranges_of"),
    "_mask_outputs": ("round_masks",),
    "_observers": ("OBSERVERS",),
    "_pairs": ("overflowing",),
    "_patterns": ("matching", "with_names"),
    "_plan": ("SCHEMES", "Plan", "TensorParameters", "WeightParameters"),
    "_reorder": ("orders_of", "reorder"),
    "_rounding": ("round_weights",),
    "_search": ("TARGET", "Measured", "Search", "Step", "Target", "search"),
    "_sensitivity": ("Sensitivity", "sensitivity"),
    "_tune": ("corrections_of",),
    "_unrounded": ("float_between", "round_between"),
}
__getattr__ = on_first_use(__name__, _PLACES)
