"""Rows become counts, and counts a page: what is found of live faults, by kind, network, format, variant and link."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kinds import SINGLE_ULP
from rivals import RULES

from edgeconv.core.verdicts import Link

GATE = "edgeconv"
_LINKS = [link.value for link in Link]


@dataclass(frozen=True)
class CleanRow:
    """A right file on a device: which links break, and which rules of others reject it."""

    network: str
    weights: str
    variant: str
    format: str
    seed: int
    device: str
    scale: float
    links: Mapping[str, str]
    rules: Sequence[str]

    @property
    def rejected(self) -> bool:
        """Whether the gate rejects it: a false alarm."""
        return bool(self.links)


@dataclass(frozen=True)
class FaultRow:
    """A fault: where it is, whether it is live, and who finds it.

    Attributes:
        place: ``"file"``, or ``"graph"`` where the graph is wrong and the file follows it.
        kind: of `kinds.KINDS` or `graph_faults.GRAPH_KINDS`.
        where: layer, constant or tensor.
        status: ``"live"``, ``"equivalent"``, or ``"unreadable"`` where the independent reader refuses the file.
        change: of the float64 function, as a part of the output's largest magnitude.
        refusal: why it is unreadable.
        links: that break, with the reason.
        rules: of others that reject it.
        seconds: for planting and judging.
    """

    network: str
    weights: str
    variant: str
    format: str
    seed: int
    place: str
    kind: str
    where: str
    status: str
    change: float
    refusal: str
    links: Mapping[str, str]
    rules: Sequence[str]
    seconds: float

    @property
    def rejected(self) -> bool:
        """Whether the gate rejects it."""
        return bool(self.links)


Key = Callable[[Any], str]
_GROUPS: dict[str, Key] = {
    "place": lambda row: f"in the {row.place}",
    "kind": lambda row: f"{row.kind} (graph)" if row.place == "graph" else str(row.kind),
    "network": lambda row: str(row.network),
    "file": lambda row: f"{row.variant} .{row.format}",
    "weights": lambda row: f"{row.variant} .{row.format}, {row.weights}",
}


def document(clean: Sequence[CleanRow], faults: Sequence[FaultRow], *, seed: int) -> dict[str, Any]:
    """All counts, and the faults that were missed, as plain values."""
    live = [row for row in faults if row.status == "live"]
    ulps = [row for row in faults if row.kind in SINGLE_ULP and row.place == "file" and row.status != "unreadable"]
    return {
        "seed": seed,
        "status": dict(Counter(row.status for row in faults)),
        "kinds": len({row.kind for row in live}),
        "networks": len({row.network for row in live}),
        "all": _counts(clean, live),
        **{f"by {name}": _grouped(clean, live, key, name) for name, key in _GROUPS.items()},
        "first broken link": dict(Counter(_first(row.links) for row in live)),
        "single ulp": {"faults": len(ulps), "named by writing": sum(Link.WRITING.value in row.links for row in ulps)},
        "missed": [asdict(row) for row in live if not row.rejected],
        "false alarms": [asdict(row) for row in clean if row.rejected],
        "unreadable and accepted": [asdict(row) for row in faults if row.status == "unreadable" and not row.rejected],
    }


def _first(links: Mapping[str, str]) -> str:
    return min(links, key=_LINKS.index, default="none")


def _grouped(clean: Sequence[CleanRow], live: Sequence[FaultRow], key: Key, name: str) -> dict[str, Any]:
    if name in ("kind", "place"):
        clean = []  # a right file has none
    titles = sorted({key(row) for row in (*live, *clean)})
    return {
        title: _counts([row for row in clean if key(row) == title], [row for row in live if key(row) == title])
        for title in titles
    }


def _counts(clean: Sequence[CleanRow], live: Sequence[FaultRow]) -> dict[str, Any]:
    """For the gate, each of its links and each rule: live faults found, and clean rows rejected."""
    rejects: dict[str, Callable[[Any], bool]] = {GATE: lambda row: row.rejected}
    rejects |= {f"link {link}": lambda row, link=link: link in row.links for link in _LINKS}
    rejects |= {rule: lambda row, rule=rule: rule in row.rules for rule in RULES}
    return {
        "live": len(live),
        "clean": len(clean),
        "found": {name: sum(map(reject, live)) for name, reject in rejects.items()},
        "rejected": {name: sum(map(reject, clean)) for name, reject in rejects.items()},
    }


def share(part: int, whole: int) -> str:
    """A percentage; "–" of nothing."""
    return f"{100 * part / whole:.1f}" if whole else "–"


def markdown(result: Mapping[str, Any], *, short: bool = False) -> str:
    """The page; ``short`` leaves out what is by kind, network and row."""
    status, total = result["status"], result["all"]
    ulp = result["single ulp"]
    lines = [
        "# Planted faults",
        "",
        f"Seed {result['seed']}: {total['live']} live faults of {result['kinds']} kinds in {result['networks']}"
        f" networks ({status.get('equivalent', 0)} more change nothing, {status.get('unreadable', 0)} are refused by"
        f" the reader), {total['clean']} clean rows. One ulp of one constant, live or not: {ulp['named by writing']} of"
        f" {ulp['faults']} named by link 3.",
        "",
        *_rule_table(result),
        "",
        *_table("fault", result["by place"]),
        "",
        *_table("variant and format", result["by weights"]),
        "",
        f"First broken link: {', '.join(f'{link} {count}' for link, count in result['first broken link'].items())}.",
    ]
    if not short:
        lines += ["", *_table("kind", result["by kind"]), "", *_table("network", result["by network"])]
        lines += ["", "## Missed", "", *_listed(result["missed"]), "", "## False alarms", ""]
        lines += [*_listed(result["false alarms"]), "", "## Refused by the reader, and accepted by the gate", ""]
        lines += _listed(result["unreadable and accepted"])
    return "\n".join(lines) + "\n"


def _rule_table(result: Mapping[str, Any]) -> list[str]:
    total = result["all"]
    lines = ["| rule | live faults found, % | clean rows rejected, % |", "|---|---|---|"]
    for rule in total["found"]:
        found, rejected = total["found"][rule], total["rejected"][rule]
        lines.append(f"| {rule} | {share(found, total['live'])} | {share(rejected, total['clean'])} |")
    return lines


def _table(title: str, groups: Mapping[str, Any]) -> list[str]:
    rules = [GATE, *RULES]
    lines = [
        "Live faults found / clean rows rejected, %:",
        "",
        f"| {title} | live | clean | {' | '.join(rules)} |",
        "|---" * (len(rules) + 3) + "|",
    ]
    for name, counts in groups.items():
        cells = []
        for rule in rules:
            found = share(counts["found"][rule], counts["live"])
            alarms = f" / {share(counts['rejected'][rule], counts['clean'])}" if counts["clean"] else ""
            cells.append(found + alarms)
        lines.append(f"| {name} | {counts['live']} | {counts['clean'] or ''} | {' | '.join(cells)} |")
    return lines


def _listed(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        file = f"{row['network']}-{row['weights']}-{row['seed']}.{row['variant']}.{row['format']}"
        if "kind" in row:
            what = f"{row['kind']} ({row['place']}) at {row['where']}, change {row['change']:.2g} {row['refusal']}"
        else:
            what = f"{row['device']}, scale {row['scale']:g}: " + "; ".join(
                f"{link}: {reason}" for link, reason in row["links"].items()
            )
        lines.append(f"- {file}: {what}".rstrip())
    return lines or ["None."]
