"""Each number of a graph of integers is what the float graph and the plan say: link 2 of a variant of integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.graph.edit import constant
from edgeconv.parity.quantizing._activations import read_faults, shared_by
from edgeconv.parity.quantizing._alongside import Alongside, Operand
from edgeconv.parity.quantizing._changes import change_fault
from edgeconv.parity.quantizing._floats import Floats
from edgeconv.parity.quantizing._integers import bias_faults, is_weight, named, operand_faults, stored, weight_faults
from edgeconv.parity.quantizing._observed import observed_faults
from edgeconv.parity.quantizing._origin import Numbers, Origin
from edgeconv.parity.quantizing._place import Place
from edgeconv.parity.quantizing._rounded import rounding_faults
from edgeconv.parity.quantizing._scales import scale_faults
from edgeconv.parity.quantizing._stated import StatedRounding, stated_faults


def changing(origin: Origin, inputs: Mapping[str, Array]) -> LinkResult | None:
    """Judges how the float graph was changed before it was quantized; None where it computes what it did.

    Args:
        origin: of a graph of integers.
        inputs: of one sample, by name, in torch's layout.

    Raises:
        RewriteError: a float graph cannot be evaluated.
    """
    return _broken(fault for change in origin.changes if (fault := change_fault(change, inputs)) is not None)


def quantizing(origin: Origin, integers: ir.Model) -> LinkResult | None:
    """Judges the numbers of a graph of integers; None where all are what was stated.

    In the order in which they were made: the plan's, those that a rounding made of weights and biases, the integers.

    Args:
        origin: what it was made from.
        integers: the graph, with QuantizeLinear and DequantizeLinear nodes; not changed.
    """
    return _broken(
        chain(observed_faults(origin), scale_faults(origin), rounding_faults(origin), _integer_faults(origin, integers))
    )


def keeping(
    stated: Sequence[StatedRounding],
    captured: ir.Model | None,
    rewritten: ir.Model,
    integers: ir.Model,
    inputs: Mapping[str, Array],
) -> LinkResult | None:
    """Judges the numbers of a graph whose source rounds by itself; None where each is the source's.

    Args:
        stated: by the source.
        captured: the source's graph; None where there is none to compare.
        rewritten: made of that.
        integers: made of that, what files are written from; none of the three is changed.
        inputs: of one sample, by name: roundings that give the same integers may have become one.
    """
    return _broken(stated_faults(stated, captured, rewritten, integers, inputs))


def _broken(places: Iterator[Place]) -> LinkResult | None:
    """Link 2 where it breaks: at the first of the faults."""
    place = next(places, None)
    if place is None:
        return None
    return LinkResult(
        Link.ROUNDING,
        Verdict.FAIL,
        error=place.error,
        bound=place.bound,
        used=None if place.error is None or not place.bound else place.error / place.bound,
        where=place.where,
        reason=place.reason,
    )


def _integer_faults(origin: Origin, integers: ir.Model) -> Iterator[Place]:
    floats = Floats(origin)
    for operand in Alongside(origin.rounded, integers).operands():
        if isinstance(operand, Place):
            yield operand
        elif (mark := floats.other_mark(operand)) is not None:
            yield mark
        elif constant(operand.value) is None:
            yield from read_faults(operand, floats)
        elif not operand.is_added and (operand.stored is not None) != floats.is_integer(operand):
            yield _other_kind(operand)
        elif operand.stored is not None:
            yield from _constant_faults(operand, origin.numbers)
        elif operand.is_changed or operand.is_added:
            yield Place(operand.name, f"constant {operand.value.name} of {operand.name} is not the float graph's")


def _other_kind(operand: Operand) -> Place:
    """Of a constant of integers that is to be one of floats, or the other way round."""
    what = named(operand)
    if operand.stored is not None:
        return Place(operand.name, f"{what} is of integers, and {operand.name} stays float by the plan")
    return Place(operand.name, f"{what} is of floats, and {operand.name} does not stay float by the plan")


def _constant_faults(operand: Operand, numbers: Numbers) -> Iterator[Place]:
    item = stored(operand)
    if isinstance(item, Place):
        yield item
    elif is_weight(operand):
        yield from weight_faults(item, numbers)
    elif item.integers.dtype.name == "int32":
        yield from bias_faults(item)
    else:
        yield from operand_faults(item, shared_by(operand, numbers) or numbers.tensors.get(operand.value.name or ""))
