"""AdaRound: each weight is rounded up or down, whichever of the two the layer's output wants.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (ICML 2020, arXiv 2004.10568). The soft
rounding of section 3.3 is a rectified sigmoid h(V) in [0, 1] between floor and ceiling, which a regulariser drives to
its ends; V is found by Adam on the layer's output error, layer by layer.

The error of a layer that is linear depends on its inputs by their second moments alone: with E = Ŵ - W and the moments
M, it is the trace of E M Eᵀ, whatever the number of calibration images. M is taken as L Lᵀ + D with the strongest
`_RANK` directions in L and the diagonal of the rest in D, so that a step of a wide layer costs a tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import QuantizeError
from edgeconv.quantize._plan import Plan
from edgeconv.quantize._rounding import moments, rounded_with_feedback
from edgeconv.quantize._tune import tune

if TYPE_CHECKING:
    import torch

_Floats = npt.NDArray[np.float64]

_POSITIONS = 20000
_HIGHEST = 127
_STRETCH_LOW, _STRETCH_HIGH = -0.1, 1.1  # the paper's zeta and gamma
_WARM_UP = 0.2  # of the iterations, without the regulariser
_BETA_FIRST, _BETA_LAST = 20.0, 2.0  # its exponent, annealed
_WEIGHT = 0.01  # of the regulariser against the output error relative to that of rounding to nearest
_RATE = 0.01
_RANK = 128


def adaround(
    model: ir.Model,
    plan: Plan,
    batches: Iterable[Mapping[str, Array]],
    *,
    iterations: int = 1000,
    progress: Callable[[str], None] | None = None,
) -> ir.Model:
    """Learns the rounding of the weights, and corrects the biases, layer by layer on calibration data.

    Args:
        model: the float graph that the plan was made for; not changed.
        plan: says what is quantised, and the grid of each weight.
        batches: calibration data; as many as fit into memory (256 MiB for the largest activation) are used.
        iterations: of Adam per layer.
        progress: is told how far it is, in one line, before every layer.

    Returns:
        A new float model whose weights lie on the plan's grid. A layer for which rounding with feedback or to nearest
        gives less error keeps that.

    Raises:
        QuantizeError: the plan does not fit the model, the batches do not, or ``iterations`` is negative.
    """
    if iterations < 0:
        raise QuantizeError(f"{iterations} is negative", where="iterations", mend="give the steps per layer")

    def rounding(weight: _Floats, scales: _Floats, inputs: Array) -> _Floats:
        second = moments(inputs)
        candidates = [
            np.clip(np.rint(weight / scales), -_HIGHEST, _HIGHEST) * scales,
            rounded_with_feedback(weight, scales, second, _HIGHEST),
            learned(weight, scales, second, iterations),
        ]
        errors = np.array([output_error(one, weight, second) for one in candidates])  # (candidates, groups, channels)
        best = np.argmin(errors, axis=0)
        return np.asarray(np.take_along_axis(np.stack(candidates), best[None, :, :, None], axis=0)[0])

    return tune(
        model, plan, batches, title="adaptive rounding", rounding=rounding, positions=_POSITIONS, progress=progress
    )


def output_error(rounded: _Floats, weight: _Floats, second: _Floats) -> _Floats:
    """The mean square error of each output channel, (groups, channels)."""
    error = rounded - weight
    return np.asarray(np.sum(np.matmul(error, second) * error, axis=2))


def learned(weight: _Floats, scales: _Floats, second: _Floats, iterations: int) -> _Floats:
    """Rounds by AdaRound.

    Args:
        weight: (groups, channels, taps).
        scales: alike.
        second: (groups, taps, taps), the second moments of the layer's inputs.
        iterations: of Adam.

    Returns:
        Multiples of the scales, at most one step from the weight within the range of int8.
    """
    import torch

    parts = (weight, scales, *strongest(second))
    w, s, strong, rest = (torch.from_numpy(np.ascontiguousarray(array, np.float32)) for array in parts)

    def lost(error: torch.Tensor) -> torch.Tensor:
        """Of each channel."""
        made = torch.matmul(error, strong).square().sum(dim=2) + (error.square() * rest).sum(dim=2)
        return made[:, :, None]

    floor = torch.floor(w / s)
    start = (w / s - floor).clamp(1e-4, 1 - 1e-4)
    stretched = (start - _STRETCH_LOW) / (_STRETCH_HIGH - _STRETCH_LOW)
    v = torch.logit(stretched).requires_grad_()
    nearest = torch.round(w / s) * s - w
    unit = lost(nearest).clamp(min=1e-30)
    optimizer = torch.optim.Adam([v], lr=_RATE)
    for step in range(iterations):
        up = _soft(v)
        error = (floor + up).clamp(-_HIGHEST, _HIGHEST) * s - w
        loss = (lost(error) / unit).sum()
        at = step / iterations
        if at >= _WARM_UP:
            beta = _BETA_LAST + (_BETA_FIRST - _BETA_LAST) * (1 - (at - _WARM_UP) / (1 - _WARM_UP))
            loss = loss + _WEIGHT * (1 - (2 * up - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        steps = (floor + (_soft(v) >= 0.5)).clamp(-_HIGHEST, _HIGHEST)
    return np.asarray(steps.double().numpy() * scales)


def strongest(second: _Floats) -> tuple[_Floats, _Floats]:
    """L (groups, taps, rank) and D (groups, 1, taps) of second moments."""
    values, vectors = np.linalg.eigh(second)
    directions = vectors[:, :, -_RANK:] * np.sqrt(np.maximum(values[:, None, -_RANK:], 0.0))
    rest = np.diagonal(second, axis1=1, axis2=2) - np.sum(directions**2, axis=2)
    return directions, np.maximum(rest, 0.0)[:, None, :]


def _soft(v: torch.Tensor) -> torch.Tensor:
    """h(V), the rectified sigmoid."""
    return (v.sigmoid() * (_STRETCH_HIGH - _STRETCH_LOW) + _STRETCH_LOW).clamp(0, 1)
