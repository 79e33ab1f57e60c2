"""How much of its bound each layer of a file uses on a device: a column per layer, and the worst of them in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeconv.core import Verdict
from edgeconv.core.values import counted
from edgeconv.core.verdicts import LayerUse, LinkResult
from edgeconv.report import _format as fmt

DECADES = 4  # below the bound, that bars and columns show
_MOST_ABOVE = 6  # decades above it
_FEW = 12  # layers that a table shows whole, where columns would tell less
_SHOWN = 5  # the worst layers in words, where there are more
_MOST_COLUMNS = 600  # a screen has not many more pixels


@dataclass(frozen=True)
class ColumnView:
    """One column: its heights in percent of the plot's, for the bound and the likely bound, and a title to hover."""

    used: float
    likely: float
    beyond: bool
    title: str


@dataclass(frozen=True)
class LayerView:
    """One layer in words; ``fill`` and ``likely_at`` are percentages of a bar that ends at the bound."""

    name: str
    operators: str
    verdict: Verdict
    used: str
    fill: float
    likely_at: float
    likely: str
    error: str
    sqnr: str


@dataclass(frozen=True)
class ProfileView:
    """The layers of a file on a device.

    ``columns`` are in the file's order, none where `layers` shows all; ``ticks`` are the marks of the axis with their
    heights in percent, ``bound_at`` that of the bound. ``peak_at`` is where the worst column stands, in percent.
    """

    device: str
    verdict: Verdict
    count: str
    most: float
    worst: str
    reason: str
    columns: tuple[ColumnView, ...]
    ticks: tuple[tuple[str, float], ...]
    bound_at: float
    peak_at: float
    first: str
    last: str
    layers: tuple[LayerView, ...]


def log_height(share: float, above: int = 0) -> float:
    """Where a share of a bound stands on a logarithmic scale, in percent of its length.

    Args:
        share: of the bound; NaN counts as infinite, and what is beyond either end stands there.
        above: decades that the scale has above the bound, besides `DECADES` below.
    """
    if share == 0:
        return 0.0
    exponent = math.log10(share) if 0 < share < math.inf else math.inf
    return round(100 * min(max((exponent + DECADES) / (DECADES + above), 0.0), 1.0), 1)


def profile_view(device: str, link: LinkResult) -> ProfileView:
    """Puts the layers of a link into columns and words; there is at least one."""
    layers = link.layers
    worst = max(layers, key=_by_use)
    above = _above(layers)
    bins = _bins(layers)
    peak = next(at for at, part in enumerate(bins) if worst in part)
    ranked = layers if len(layers) <= _FEW else sorted(layers, key=_by_use, reverse=True)[:_SHOWN]
    return ProfileView(
        device=device,
        verdict=link.verdict,
        count=counted(len(layers), "layer"),
        most=_by_use(worst)[0],
        worst=f"{worst.name}, {fmt.used_of(worst.used, 'its bound')}",
        reason=link.reason,
        columns=() if len(layers) <= _FEW else tuple(_column(part, above) for part in bins),
        ticks=tuple(_ticks(above)),
        bound_at=log_height(1.0, above),
        peak_at=round(100 * (peak + 0.5) / len(bins), 1),
        first=layers[0].name,
        last=layers[-1].name,
        layers=tuple(_layer(layer) for layer in ranked),
    )


def _by_use(layer: LayerUse) -> tuple[float, float]:
    """The used shares of both bounds, to rank by; NaN is the worst."""
    used, likely = (math.inf if math.isnan(share) else share for share in (layer.used, layer.likely))
    return used, likely


def _above(layers: Sequence[LayerUse]) -> int:
    """How many decades above the bound the layers reach, on the likely one too."""
    highest = max(share for layer in layers for share in _by_use(layer))
    if highest <= 1:
        return 0
    return min(_MOST_ABOVE, math.ceil(math.log10(highest))) if highest < math.inf else _MOST_ABOVE


def _ticks(above: int) -> list[tuple[str, float]]:
    """Every decade, or every second one where there are many; the bound is always among them."""
    step = 1 if above <= 2 else 2
    return [(_tick(exponent), log_height(10.0**exponent, above)) for exponent in range(step - DECADES, above + 1, step)]


def _tick(exponent: int) -> str:
    return "bound" if exponent == 0 else fmt.used(10.0**exponent).replace(" times", "×")


def _bins(layers: Sequence[LayerUse]) -> list[Sequence[LayerUse]]:
    """The layers of each column: one, or some neighbors where there are more layers than columns."""
    size = math.ceil(len(layers) / _MOST_COLUMNS)
    return [layers[at : at + size] for at in range(0, len(layers), size)]


def _column(layers: Sequence[LayerUse], above: int) -> ColumnView:
    worst = max(layers, key=_by_use)
    more = f", and {len(layers) - 1} beside it that use less" if len(layers) > 1 else ""
    return ColumnView(
        used=log_height(worst.used, above),
        likely=log_height(worst.likely, above),
        beyond=not worst.used <= 1,
        title=f"{worst.name} ({worst.operators}): {fmt.used_of(worst.used, 'its bound')}, "
        f"{fmt.used_of(worst.likely, 'the likely one')}, "
        f"error {fmt.number(worst.error)}, {fmt.decibel(worst.sqnr_db)} dB{more}",
    )


def _layer(layer: LayerUse) -> LayerView:
    return LayerView(
        name=layer.name,
        operators=layer.operators,
        verdict=Verdict.PASS if layer.used <= 1 else Verdict.FAIL,
        used=fmt.used(layer.used),
        fill=log_height(layer.used),
        likely_at=log_height(layer.likely),
        likely=fmt.used(layer.likely),
        error=fmt.number(layer.error),
        sqnr=fmt.decibel(layer.sqnr_db),
    )
