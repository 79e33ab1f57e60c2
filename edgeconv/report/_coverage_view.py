"""The parts of a file's graph that no input reached, in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from edgeconv.core.values import counted
from edgeconv.core.verdicts import Coverage, PartKind, UnreachedPart

_WORDS = {
    PartKind.CLAMP: "pieces of clamps",
    PartKind.BRANCH: "branches of activations",
    PartKind.PADDING: "padded borders",
    PartKind.SATURATION: "ends of integer ranges",
}
_MOST = 12  # parts of a kind, and names of a part


@dataclass(frozen=True)
class PartView:
    """Parts alike: ``"Clip, above 6"``, the first of the values that they belong to, and how many more there are."""

    title: str
    names: tuple[str, ...]
    more: int


@dataclass(frozen=True)
class CoverageView:
    """What was not reached; ``summary`` says how much of what, or what there is where all was reached.

    ``derived`` says what the derived inputs reach of it; empty where that is nothing.
    """

    complete: bool
    summary: str
    derived: str
    kinds: tuple[tuple[str, tuple[PartView, ...], int], ...]


def coverage_view(coverage: Coverage | None) -> CoverageView | None:
    """Puts the coverage of a graph into words; None where it is not known, or has no such parts."""
    if coverage is None or not any(coverage.counts.values()):
        return None
    missed = Counter(part.kind for part in coverage.unreached)
    kinds = [kind for kind in PartKind if (missed if missed else coverage.counts).get(kind)]
    counts = [f"{coverage.counts[kind]:,} {_WORDS[kind]}" for kind in kinds]
    if missed:
        counts = [f"{missed[kind]:,} of {count}" for kind, count in zip(kinds, counts, strict=True)]
    by_kind = [(kind, _parts([part for part in coverage.unreached if part.kind is kind])) for kind in kinds if missed]
    return CoverageView(
        complete=not missed,
        summary=", ".join(counts),
        derived=_derived(coverage),
        kinds=tuple((_WORDS[kind].capitalize(), parts[:_MOST], max(0, len(parts) - _MOST)) for kind, parts in by_kind),
    )


def _derived(coverage: Coverage) -> str:
    if not coverage.derived:
        return ""
    reached, count = len(coverage.derived), counted(len(coverage.unreached), "part")
    return f"Inputs derived from the graph reach {reached:,} of these {count}: link 4 judges each layer on them, too."


def _parts(unreached: Sequence[UnreachedPart]) -> tuple[PartView, ...]:
    """Parts of the same operator and place together, in the order of the graph."""
    names: dict[str, list[str]] = defaultdict(list)
    for part in unreached:
        names[f"{part.operator}, {part.part}"].append(part.name)
    return tuple(PartView(title, tuple(of[:_MOST]), max(0, len(of) - _MOST)) for title, of in names.items())
