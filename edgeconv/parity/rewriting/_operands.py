"""What both graphs of link 1 are computed on: the sample's values, and others that reach what these do not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having_any
from edgeconv.parity.writing import Beside, Graph, filled, past_kinks, reach_of_graph

# Products and sums: what they make of some operands tells them apart, and larger operands tell no more.
POLYNOMIAL = having_any((Trait.AFFINE, Trait.SIGNED_SUM, Trait.LAYER, Trait.MOVES, Trait.AVERAGES)) | {
    "BatchNormalization",
    "ReduceSum",
}


@dataclass(frozen=True)
class Operands:
    """What both graphs are computed on.

    Attributes:
        inputs: by name.
        held: arrays that the readers of inner values get in place of what was computed, by name.
        names: the values that are compared.
        all_finite: whether a number that is not finite on one side alone is a fault: it is, for a user's sample.
    """

    inputs: Mapping[str, Array]
    held: Mapping[str, Array]
    names: Sequence[str]
    all_finite: bool = True


def other_operands(
    before: Graph, after: Graph, inputs: Mapping[str, Array], held: Mapping[str, Array], names: Sequence[str]
) -> Iterator[Operands]:
    """Operands for what the sample's do not reach, where both graphs compute a value from the same ones.

    What clamps, saturates or has a slope on one side gets larger ones, of the same signs and of the others, and
    without zeros. Products and sums are told apart by any operands but zeros: they get others where a channel has
    nothing else, and the weights behind it would change nothing. Where the graphs read different values (one has left
    a node out, and reads what that node reads), those that are computed from others are not held, until both read the
    same.

    Args:
        before: the captured graph, of floats.
        after: the rewritten one.
        inputs: the sample's.
        held: what the captured graph computes of the sample, by the names that both graphs have.
        names: the values to compare.
    """
    free = held.keys() - before.moved - after.moved  # nothing else has the same elements
    reaches = [reach_of_graph(graph.model.graph) for graph in (before, after)]
    for unheld, group in _groups(Beside(before.model, after.model, free), names):
        values = {name: held[name] for name in free - unheld}
        beside = Beside(before.model, after.model, values)
        linear = [name for name in group if POLYNOMIAL.issuperset(beside.operators(name))]
        kinked = [name for name in group if name not in linear]
        if kinked:
            for larger, beyond in past_kinks(inputs, values, reaches, before.never_negative):
                yield Operands(larger, beyond, kinked, all_finite=False)
        empty = {name for name in values if linear and has_empty_channel(values[name])}
        unseen = [name for name in linear if beside.read(name) & empty]
        if unseen:
            yield Operands(inputs, {name: filled(array) for name, array in values.items()}, unseen, all_finite=False)


def _groups(beside: Beside, names: Sequence[str]) -> list[tuple[frozenset[str], list[str]]]:
    """The values by what has to be let go of for them; those that do not read what others let go of share a group."""
    groups: list[tuple[frozenset[str], frozenset[str], list[str]]] = []
    for name in names:
        unheld = beside.in_the_way(name)
        read = beside.read(name, unheld)
        for at, (gone, taken, group) in enumerate(groups):
            if _is_apart(unheld, read, gone, taken):
                groups[at] = (gone | unheld, taken | read, [*group, name])
                break
        else:
            groups.append((unheld, read, [name]))
    return [(gone, group) for gone, _, group in groups]


def _is_apart(gone: Collection[str], read: Collection[str], others: frozenset[str], taken: frozenset[str]) -> bool:
    return others == gone or (others.isdisjoint(read) and taken.isdisjoint(gone))


def has_empty_channel(array: Array) -> bool:
    """Whether all is zero at one place of an axis other than the batch's, channels or features among them."""
    if array.dtype.kind != "f" or array.ndim < 2 or not array.size:
        return False
    taken = array != 0
    return any(
        not taken.any(axis=tuple(other for other in range(array.ndim) if other != axis)).all()
        for axis in range(1, array.ndim)
    )
