"""Link 3 of a file of integers of another converter: its constants, its layers, and what its integers stand for.

Whoever wrote it chose scales and zero points, and how to round. What has to be right nevertheless:

1. Each constant stands for one of the module's, rounded ([_weights.py](_weights.py)): to the nearest where the file
   does so throughout; where channels were evened out, but for a factor of each.
2. Each layer computes what the module does, of the module's own values in float64, within what rounding its own
   constants makes of it ([_layers.py](_layers.py)).
3. What is moved, pooled or joined has the scale of what it was, and a bias that of a product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgeconv.core import Array
from edgeconv.parity.writing._half_constants import narrowed_constants
from edgeconv.parity.writing._layers import (
    Ends,
    LayerOff,
    OnValues,
    Walk,
    first_wrong,
    first_wrong_enlarged,
)
from edgeconv.parity.writing._ranges import told_ranges
from edgeconv.parity.writing._real_file import RealFile
from edgeconv.parity.writing._weights import Orders, Rounding

_NEAREST, _LEARNED = 0.5, 1.0  # steps, that constants may be off


class File(Protocol):
    """See `ReadBack`."""

    @property
    def constants(self) -> Mapping[str, Array]: ...
    @property
    def integers(self) -> Mapping[str, tuple[Array, Array]]: ...
    @property
    def misread(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def real(self) -> RealFile | None: ...


@dataclass(frozen=True)
class IntegerFaults:
    """What is wrong with a file.

    Attributes:
        faults: tensor and one line each.
        layers: how many of its tensors were found to be a value of the module.
        used: the largest share of a bound that one of these uses.
        remark: what the ranges of its activations cost.
    """

    faults: Sequence[tuple[str, str]] = field(default_factory=tuple)
    layers: int = 0
    used: float = 0.0
    remark: str = ""


def integer_faults(
    file: File, constants: Sequence[Mapping[str, Array]], samples: Sequence[OnValues], ends: Ends
) -> IntegerFaults:
    """Judges a file of integers beside the module that it should be.

    Args:
        file: read back.
        constants: of the module, for each graph of it, see `Rounding`.
        samples: on which layers are judged; all but the first may be beyond what ranges were chosen for.
        ends: of the file.

    Raises:
        EmitError: the file cannot be evaluated on real numbers.
        RewriteError: likewise.
    """
    real = file.real
    rounding = _rounding(file, real, constants)
    layers: list[LayerOff] = []
    wrong: list[tuple[str, str]] = []
    remark = ""
    if real is not None and samples:
        walk = _walk(file, real, rounding)
        for sample in samples:
            judged = walk.layers_of_sample(sample, ends)
            if not layers:
                remark = told_ranges(judged, real, sample.values)
            first = first_wrong_enlarged(judged, layers) if layers else first_wrong(judged, real.outputs)
            layers += judged
            if first is not None:
                wrong.append((real.names[first.tensor], _told(first, real)))
                break
    orders = {} if real is None else dict(_orders(layers, real))
    faults = [*file.misread, *rounding.faults(orders), *narrowed_constants(file.constants, constants), *wrong]
    holding = [layer for layer in layers if layer.holds]
    used = max((layer.used for layer in holding), default=0.0)
    return IntegerFaults(faults, len({layer.tensor for layer in holding}), used, remark)


def layers_of_integers(
    file: File, real: RealFile, constants: Sequence[Mapping[str, Array]], sample: OnValues, ends: Ends
) -> list[LayerOff]:
    """Each result of a file of integers beside the value of the module that it is; parameters as of `integer_faults`.

    Raises:
        EmitError: the file cannot be evaluated on real numbers.
        RewriteError: likewise.
    """
    return _walk(file, real, _rounding(file, real, constants)).layers_of_sample(sample, ends)


def _rounding(file: File, real: RealFile | None, constants: Sequence[Mapping[str, Array]]) -> Rounding:
    layers_of_weights = () if real is None else (part.factors[1:] for part in real.parts)
    weights = None if real is None else {real.names[key] for keys in layers_of_weights for key in keys}
    return Rounding(file.integers, constants, weights)


def _walk(file: File, real: RealFile, rounding: Rounding) -> Walk:
    nearest = rounding.to_nearest or not file.integers  # halves are rounded to the nearest
    reach, factors = (_NEAREST, False) if nearest else (_LEARNED, real.channels_last)
    return Walk(real, reach=reach, factors=factors, corrected=not nearest or rounding.corrects_biases)


def _orders(layers: Sequence[LayerOff], real: RealFile) -> Iterator[tuple[str, Orders]]:
    """By weight, the order of channels of what its layer makes, and of what it reads."""
    order = {layer.tensor: layer.alike.order for layer in layers if layer.alike is not None}
    for layer in layers:
        if len(layer.part.factors) > 1:
            data, weight = layer.part.factors[:2]
            rows, columns = order.get(layer.tensor), order.get(data)
            if rows is not None or columns is not None:
                yield real.names[weight], (rows, columns)


def _told(layer: LayerOff, real: RealFile) -> str:
    place = f"{layer.part.operator} {real.names[layer.tensor]}"
    if layer.alike is None:
        return f"{place} is no value of the module, nor is what is computed of it"
    return (
        f"{place} is {layer.error:.3g} from the module's {layer.alike.value}, {layer.used:.3g} times what rounding its "
        "constants explains"
    )
