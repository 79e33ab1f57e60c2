"""Link 4 of an artifact on a device, from the judged layers of all samples; and what it says of other rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from edgeconv.core import Artifact, Comparison, Tolerance, Verdict
from edgeconv.core.affine import decibels
from edgeconv.core.values import counted
from edgeconv.core.verdicts import LayerUse, Link, LinkResult
from edgeconv.parity._fidelity import failed
from edgeconv.parity.running._layers import Judged
from edgeconv.parity.running._step import Layer


def running_link(judged: Mapping[str, Judged], cause: str = "") -> LinkResult:
    """The link of an artifact on a device.

    Args:
        judged: what the walk over each sample tells, by the sample's name.
        cause: why the first layer is beyond its bound, where a hypothesis explains it.
    """
    layers = [(layer, sample) for sample, walk in judged.items() for layer in walk.layers]
    unjudged = {name: why for walk in judged.values() for name, why in walk.unjudged.items()}
    if not layers:
        why = next(iter(unjudged.values()), "no value is computed")
        return LinkResult(Link.RUNNING, Verdict.SKIPPED, reason=f"no layer can be judged: {why}")
    beyond = [(layer, sample) for layer, sample in layers if not layer.used <= 1]
    # The first in the file's order is where it begins; all others read what the runtime itself had.
    layer, sample = beyond[0] if beyond else max(layers, key=lambda item: item[0].used)
    return LinkResult(
        Link.RUNNING,
        Verdict.FAIL if beyond else Verdict.PASS,
        error=layer.error,
        bound=layer.bound,
        used=layer.used,
        sqnr_db=_decibels(layer for layer, _ in layers),
        where=layer.name,
        reason=_reason(layer, sample, len({layer.name for layer, _ in beyond}), unjudged, cause),
        layers=_profile([layer for layer, _ in layers]),
    )


def _profile(layers: Sequence[Layer]) -> tuple[LayerUse, ...]:
    """Each layer once: the worst of its samples."""
    by_name: dict[str, list[Layer]] = {}
    for layer in layers:
        by_name.setdefault(layer.name, []).append(layer)
    profile = []
    for name, of_samples in by_name.items():
        worst = max(of_samples, key=lambda layer: layer.used)
        likely = max(layer.likely for layer in of_samples)
        operators = ", ".join(dict.fromkeys(worst.operators))
        profile.append(LayerUse(name, operators, worst.used, likely, worst.error, _decibels(of_samples)))
    return tuple(profile)


def _decibels(layers: Iterable[Layer]) -> float:
    energies = [(layer.signal, layer.noise) for layer in layers]
    return decibels(sum(signal for signal, _ in energies), sum(noise for _, noise in energies))


def _reason(layer: Layer, sample: str, beyond: int, unjudged: Mapping[str, str], cause: str) -> str:
    place = f"layer {layer.name} ({', '.join(layer.operators)}), input {sample}"
    parts = [f"{place}, uses {layer.used:.2g} of its bound"]
    if beyond:
        parts = [
            f"{place}: {layer.error:.3g} from what the file says of its operands, {layer.used:.3g} times its bound"
        ]
        if beyond > 1:
            parts.append(f"and {counted(beyond - 1, 'further layer')} beyond theirs")
    if unjudged:
        name, why = next(iter(unjudged.items()))
        parts.append(f"{counted(len(unjudged), 'value')} could not be judged: {name}, {why}")
    if beyond and cause:
        parts.append(f"cause: {cause}")
    return "; ".join(parts)


def told_as_runtimes_own(rows: Sequence[Comparison], artifacts: Sequence[Artifact]) -> list[Comparison]:
    """The rows; where link 4 of one breaks, of a file that says what its graph says, the fault is the runtime's own.

    Args:
        rows: of all devices.
        artifacts: with their links.
    """
    read_back = {item.path.name for item in artifacts if _verdict(item.links, Link.WRITING) is Verdict.PASS}
    holding: dict[str, list[str]] = {}
    for row in rows:
        if _verdict(row.links, Link.RUNNING) is Verdict.PASS:
            holding.setdefault(row.artifact, []).append(row.device)
    return [_as_its_own(row, holding.get(row.artifact, [])) if row.artifact in read_back else row for row in rows]


def _as_its_own(row: Comparison, others: Sequence[str]) -> Comparison:
    """The row with what tells its device's fault from the file's, where its link 4 breaks."""
    devices = list(dict.fromkeys(others))
    agree = f", and {' and '.join(devices)} compute{'s' if len(devices) == 1 else ''} it" if devices else ""
    links = []
    for link in row.links:
        if link.link is Link.RUNNING and link.verdict is Verdict.FAIL:
            own = f"the fault is {row.device}'s own: the file says what the graph says{agree}"
            link = replace(link, reason=f"{link.reason}; {own}")
        links.append(link)
    return replace(row, links=tuple(links))


def _verdict(links: Sequence[LinkResult], link: Link) -> Verdict | None:
    return next((item.verdict for item in links if item.link is link), None)


def told_as_precision(
    rows: Sequence[Comparison],
    artifacts: Sequence[Artifact],
    run_source: Callable[[], Sequence[Comparison]] = tuple,
    beyond_rounding: Callable[[Comparison], str] = lambda row: "",
) -> tuple[Comparison, ...]:
    """The rows; one of float32 that is beyond its bound while every link holds says so, with torch's own figure.

    One that is further off than rounding explains says that instead, as does the source's own row.

    Args:
        rows: of all devices, the source's own float32 among them where it was run.
        artifacts: with their links.
        run_source: gives the rows of the source's own float32, where they are none of these and a row asks for them.
        beyond_rounding: what a row is beyond all that rounding to float32 explains, in words; empty for nothing.
    """
    precise = {
        at: is_read_back for at, is_read_back in enumerate(_of_precision(rows, artifacts)) if is_read_back is not None
    }
    own = [row for row in rows if not row.artifact] or (list(run_source()) if precise else [])
    by_bound = {(row.output, row.tolerance): row for row in own}  # one from before may be of another bound
    told = []
    for at, row in enumerate(rows):
        reason = ""
        if at in precise:
            source = by_bound.get((row.output, row.tolerance))
            reason = _precision(source, beyond_rounding(row), is_read_back=precise[at])
        elif not row.artifact and row.verdict is Verdict.FAIL and row.metrics is not None:
            reason = beyond_rounding(row)
        told.append(failed(row, reason) if reason else row)
    return tuple(told)


def _of_precision(rows: Sequence[Comparison], artifacts: Sequence[Artifact]) -> Iterator[bool | None]:
    """Whether the file of each row was read back; None where the row passes, or is no float32, or a link is broken."""
    links = {artifact.path.name: artifact.links for artifact in artifacts}
    running = {(row.artifact, row.device): row.links for row in rows if row.links}
    for row in rows:
        judged = (*links.get(row.artifact, ()), *running.get((row.artifact, row.device), ()))
        verdicts = {link.link: link.verdict for link in judged}
        holds = verdicts.get(Link.RUNNING) is Verdict.PASS and Verdict.FAIL not in verdicts.values()
        fails = row.verdict is Verdict.FAIL and row.metrics is not None and isinstance(row.tolerance, Tolerance)
        yield verdicts.get(Link.WRITING) is Verdict.PASS if fails and holds else None


def _precision(own: Comparison | None, beyond_rounding: str, *, is_read_back: bool) -> str:
    if beyond_rounding:
        does = "the file says what the graph says, and is computed" if is_read_back else "the file is computed"
        return f"{does} as it says; {beyond_rounding}"
    right = "the file is right" if is_read_back else "every layer computes what the file says"
    if own is None or not own.samples or own.metrics is None:
        return f"{right}; float32 itself is this far off for this network"
    excess = max(sample.excess for sample in own.samples)
    order = "" if excess > 1 else ", where it adds up in another order"
    figure = f"{own.device} in float32 uses {excess:.3g} of this bound, {own.metrics.sqnr_db:.0f} dB"
    return f"{right}; float32 itself is this far off for this network{order} ({figure})"
