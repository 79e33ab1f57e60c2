"""The chain of the proof as a picture: five links per artifact, and how much of its bound each layer uses."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeconv.core import Artifact, Comparison, Verdict
from edgeconv.core.values import counted
from edgeconv.core.verdicts import Coverage, FlipCertificate, Link, LinkResult, PartKind, UnreachedPart
from edgeconv.parity.chain import diagnosis, states
from edgeconv.report import _format as fmt
from edgeconv.report._profile_view import ProfileView, log_height, profile_view

_TITLES = {
    Link.REWRITES: "Rewrites",
    Link.ROUNDING: "Rounding",
    Link.WRITING: "Writing",
    Link.RUNNING: "Running",
    Link.END_TO_END: "End to end",
}
_NOT_JUDGED = "not judged"


@dataclass(frozen=True)
class LinkView:
    """One link.

    ``text`` says how it stands in a few words, and ``of`` of which bound; ``fill`` is the used share of its bound on a
    logarithmic scale, in percent of the bar's length; None where it has no bound, or was not judged.
    """

    number: int
    title: str
    verdict: Verdict
    text: str
    of: str
    fill: float | None
    where: str


@dataclass(frozen=True)
class ChainView:
    """One artifact: its links, what is to be said of those that broke or were not judged, its layers, its coverage."""

    title: str
    subtitle: str
    links: tuple[LinkView, ...]
    end_to_end: LinkView
    broken: tuple[str, ...]
    remarks: tuple[str, ...]
    profiles: tuple[ProfileView, ...]
    worst_layer: str
    coverage: CoverageView | None
    certificate: str
    opened: bool


def chain_view(artifact: Artifact, subtitle: str, rows: Sequence[Comparison], *, opened: bool) -> ChainView:
    """Puts the proof of one artifact into words.

    Args:
        artifact: with its links.
        subtitle: what file it is.
        rows: its own, on all devices.
        opened: whether its layers are shown from the start.
    """
    results = states(artifact, rows)
    *links, end_to_end = (_link(result) for result in results)
    judged = [(row.device, link) for row in rows for link in row.links if link.link is Link.RUNNING and link.layers]
    profiles = tuple(profile_view(device, link) for device, link in judged)
    return ChainView(
        title=artifact.path.name,
        subtitle=subtitle,
        links=tuple(links),
        end_to_end=end_to_end,
        broken=_broken(results),
        remarks=tuple(_remarks(results, rows)),
        profiles=profiles,
        worst_layer=max(profiles, key=lambda profile: profile.most).worst if profiles else "",
        coverage=coverage_view(artifact.coverage),
        certificate=_certified(artifact.certificate),
        opened=opened or any(link.verdict is Verdict.FAIL for _, link in judged),
    )


def _certified(certificate: FlipCertificate | None) -> str:
    """What a certificate says of the classes of the inputs; nothing without one."""
    if certificate is None or not certificate.samples:
        return ""
    error, margin = fmt.number(certificate.error), fmt.number(certificate.margin)
    if not certificate.certain:
        return (
            f"No class is certified: carried through all layers by its worst bound, rounding may move the outputs by "
            f"{error}, and the first two classes are {margin} apart at the least."
        )
    return (
        f"No correct runtime can change the class of {certificate.certain:,} of "
        f"{counted(certificate.samples, 'input')}: rounding moves the outputs by {error} at the most, and the first "
        f"two classes are {margin} apart at the least."
    )


def _broken(results: Sequence[LinkResult]) -> tuple[str, ...]:
    """One line for each link that broke; the last, which all others go into, is listed only where it broke alone."""
    *links, end_to_end = results
    broken = [result for result in links if result.verdict is Verdict.FAIL]
    if not broken and end_to_end.verdict is Verdict.FAIL:
        broken = [end_to_end]
    return tuple(diagnosis(result) for result in broken)


def _remarks(results: Sequence[LinkResult], rows: Sequence[Comparison]) -> Iterator[str]:
    """One line for each link that was not judged, on some device or on all, and on what holds with a reservation."""
    for result in results:
        if result.verdict is Verdict.PASS and result.reason and result.link not in (Link.RUNNING, Link.END_TO_END):
            yield f"Link {result.link.number}, {_TITLES[result.link].lower()}: {result.reason}"
        # A link that is judged per device (running) may have been skipped on some of them, and is no skipped link then.
        skipped = result.verdict is Verdict.SKIPPED
        places = [("", result)] if skipped else [(f" on {row.device}", link) for row in rows for link in row.links]
        for place, link in places:
            if link.link is result.link and link.verdict is Verdict.SKIPPED and _why(link):
                title = f"Link {link.link.number}, {_TITLES[link.link].lower()}"
                yield f"{title}, was not judged{place}: {_why(link)}"


def _why(result: LinkResult) -> str:
    """Why a link was not judged; nothing where no more is known than that."""
    return result.reason.removeprefix(_NOT_JUDGED).removeprefix(": ")


def _link(result: LinkResult) -> LinkView:
    judged = result.verdict is not Verdict.SKIPPED
    used = result.used if judged and _used_explains(result) else None
    bound = "the tolerance" if result.link is Link.END_TO_END else "its bound"
    return LinkView(
        number=result.link.number,
        title=_TITLES[result.link],
        verdict=result.verdict,
        text=_state(result),
        of="" if not used else f"of {bound}" if used <= 1 else bound,
        fill=None if used is None else log_height(used),
        where=result.where if judged else "",
    )


def _used_explains(result: LinkResult) -> bool:
    """Whether the used share explains the verdict: a link may also break for what is no number, as a wrong shape."""
    if result.used is None:
        return False
    return result.verdict is Verdict.PASS or not result.used <= 1 or result.link is Link.END_TO_END


def _state(result: LinkResult) -> str:
    """``"37 %"``, ``"148.2 dB"`` where there is no bound, or what else there is to say."""
    if result.verdict is Verdict.SKIPPED:
        return _NOT_JUDGED
    if result.used is not None and _used_explains(result):
        text = fmt.used(result.used)
        return f"fails at {text}" if result.verdict is Verdict.FAIL and result.used <= 1 else text
    if result.verdict is Verdict.FAIL:
        return "broken"
    if result.sqnr_db is None:
        return "holds"
    return "nothing lost" if result.sqnr_db == math.inf else f"{fmt.decibel(result.sqnr_db)} dB"


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
