"""``torch.cov`` and ``torch.corrcoef`` as the products that they are.

torch's own forms look at numbers on the way, whether weights add up to anything, and cannot be traced. While a module
is traced again, these stand in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Covariances(TorchFunctionMode):
    """While it is active, ``torch.cov``, ``torch.corrcoef`` and the methods of these names can be traced."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Calls the form that can be traced, or the function itself."""
        return _FORMS.get(func, func)(*args, **(kwargs or {}))


def _cov(
    input: Tensor,  # noqa: A002 torch's name
    *,
    correction: int = 1,
    fweights: Tensor | None = None,
    aweights: Tensor | None = None,
) -> Tensor:
    """The covariances of variables (rows) among observations (columns), each one counted `fweights` times.

    ``torch.cov``'s formula: with w the product of both weights and v their sum, the sum of w·x·xᵀ about the weighted
    means, divided by v - correction, or by v - correction · Σ(w · aweights) / v where there are `aweights`.
    """
    rows = input if input.dim() > 1 else input.reshape(1, -1)
    rows = rows if rows.is_floating_point() else rows.float()
    weights = [weight for weight in (fweights, aweights) if weight is not None]
    factor = weights[0] * weights[1] if len(weights) == 2 else weights[0] if weights else torch.ones(rows.shape[1])
    total = factor.sum()
    centered = rows - (rows * factor).sum(1, keepdim=True) / total
    lost = correction if aweights is None else correction * (factor * aweights).sum() / total
    covariances: Tensor = centered @ (centered * factor).mT / (total - lost).clamp(min=0)
    return covariances.squeeze()


def _corrcoef(input: Tensor) -> Tensor:  # noqa: A002 torch's name
    """Covariances divided by both standard deviations, within -1 and 1."""
    covariances = _cov(input)
    if not covariances.dim():
        return covariances / covariances
    deviations = covariances.diagonal().sqrt()
    return (covariances / deviations[:, None] / deviations).clamp(-1, 1)


_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.cov: _cov,
    Tensor.cov: _cov,
    torch.corrcoef: _corrcoef,
    Tensor.corrcoef: _corrcoef,
}
