"""What bench.json says, for people: ratios, geometric means, Markdown tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tools import OURS, TOOLS

from edgeconv.bench import median_ratio

RUNTIMES: Mapping[str, str] = {"tflite": "LiteRT", "onnx": "ONNX Runtime"}
PAIRS: Mapping[str, tuple[str, str]] = {
    "litert-torch + torch.onnx": ("litert-torch", "torch.onnx"),
    "onnx2tf + torch.onnx": ("onnx2tf", "torch.onnx"),
}
"""Who makes both files: edgeconv alone, and these together."""


def tools_of(document: Mapping[str, Any], format_: str) -> list[str]:
    """The tools that made files of a format, in the order of the table of tools."""
    seen = {name for network in document["networks"] for name in network["files"][format_]}
    return [name for name in TOOLS if name in seen]


def ratios(network: Mapping[str, Any], format_: str) -> dict[str, float]:
    """edgeconv's latency over each peer's, turn by turn; a file that computes something else does not count."""
    turns = {
        name: item["latency"]["turns_ms"]
        for name, item in network["files"][format_].items()
        if item.get("latency") and item["parity"]["verdict"] != "wrong"
    }
    ours = turns.pop(OURS, None)
    return {} if ours is None else {name: median_ratio(ours, theirs) for name, theirs in turns.items()}


def best_ratio(network: Mapping[str, Any], format_: str) -> tuple[str, float] | None:
    """The peer whose file does best against edgeconv's, and edgeconv's latency over its."""
    found = ratios(network, format_)
    return max(found.items(), key=lambda item: item[1]) if found else None


def export_seconds(network: Mapping[str, Any], tools: Iterable[str]) -> float | None:
    """The median time of the tools together; None where one failed or was not run."""
    results = [network["exports"].get(name, {}) for name in tools]
    if not all(result.get("seconds") for result in results):
        return None
    return sum(statistics.median(result["seconds"]) for result in results)


def speed_up(network: Mapping[str, Any], pair: str) -> float | None:
    """How many times longer a pair of peers needs for both files."""
    ours, theirs = export_seconds(network, (OURS,)), export_seconds(network, PAIRS[pair])
    return theirs / ours if ours and theirs else None


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean of logarithms."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def summarise(document: Mapping[str, Any]) -> str:
    """One line per figure that matters."""
    lines, of_all = [], f"of {len(document['networks'])} networks"
    for format_, runtime in RUNTIMES.items():
        found = {item["name"]: best[1] for item in document["networks"] if (best := best_ratio(item, format_))}
        if found:
            worst = max(found, key=lambda name: found[name])
            lines.append(
                f"{runtime}, latency over the best peer's: geometric mean {geometric_mean(list(found.values())):.2f} "
                f"over {len(found)} {of_all}, worst {found[worst]:.2f} ({worst})"
            )
    for pair in PAIRS:
        times = [value for item in document["networks"] if (value := speed_up(item, pair))]
        if times:
            lines.append(
                f"Export of both files, times faster than {pair}: geometric mean {geometric_mean(times):.1f} over "
                f"{len(times)} {of_all}, least {min(times):.1f}"
            )
    lines.append(f"The run took {document['seconds'] / 60:.0f} minutes.")
    return "\n".join(lines)


def markdown(document: Mapping[str, Any]) -> str:
    """The tables for the README and for reading in full."""
    environment = document["environment"]
    machine = f"{environment['cpu']}, {environment['cores']} cores, Python {environment['python']}"
    parts = ["# Bench", summarise(document).replace("\n", "\n\n"), f"Machine: {machine}. {_versions(document)}"]
    for format_, runtime in RUNTIMES.items():
        parts += [f"## Latency on {runtime}: median ms, one thread", _latency(document, format_)]
    parts += ["## Export: both files, seconds and peak memory", _exports(document)]
    for format_ in RUNTIMES:
        parts += [f"## .{format_} files", _files(document, format_)]
    notes = _notes(document)
    if notes:
        parts += ["## Refusals and wrong files", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _versions(document: Mapping[str, Any]) -> str:
    found: dict[str, str] = {}
    for network in document["networks"]:
        for result in network["exports"].values():
            found |= result.get("versions", {})
    runtimes = {name: document["environment"][name] for name in ("onnxruntime", "ai-edge-litert")}
    return ", ".join(f"{name} {version}" for name, version in sorted({**found, **runtimes}.items())) + "."


def _latency(document: Mapping[str, Any], format_: str) -> str:
    tools = tools_of(document, format_)
    rows = []
    for network in document["networks"]:
        best = best_ratio(network, format_)
        cells = [_latency_cell(network["files"][format_].get(name)) for name in tools]
        rows.append([_name(network), *cells, f"**{best[1]:.2f}**" if best else "-"])
    return _table(["network", *tools, "edgeconv / best"], rows)


def _latency_cell(item: Mapping[str, Any] | None) -> str:
    if not item or not item.get("latency"):
        return "-"
    wrong = " (wrong)" if item["parity"]["verdict"] == "wrong" else ""
    return f"{_digits(item['latency']['median_ms'])}{wrong}"


def _exports(document: Mapping[str, Any]) -> str:
    tools = [name for name in TOOLS if any(name in network["exports"] for network in document["networks"])]
    rows = []
    for network in document["networks"]:
        times = [export_seconds(network, names) for names in ((OURS,), *PAIRS.values())]
        faster = speed_up(network, next(iter(PAIRS)))
        memory = [network["exports"].get(name, {}).get("peak_memory_bytes") for name in tools]
        rows.append(
            [
                _name(network),
                *("-" if value is None else f"{value:.2f}" for value in times),
                f"**{faster:.1f}x**" if faster else "-",
                *("-" if value is None else f"{value / 2**20:.0f}" for value in memory),
            ]
        )
    titles = ["network", "edgeconv s", *(f"{pair} s" for pair in PAIRS), "faster than the first"]
    return _table([*titles, *(f"{name} MiB" for name in tools)], rows)


def _files(document: Mapping[str, Any], format_: str) -> str:
    tools = tools_of(document, format_)
    rows = [
        [_name(network), *(_file_cell(network["files"][format_].get(name)) for name in tools)]
        for network in document["networks"]
    ]
    what = "operators, MB"
    if format_ == "tflite":
        what += ", delegate partitions (operators outside of them)"
    return f"Each cell: {what}.\n\n" + _table(["network", *tools], rows)


def _file_cell(item: Mapping[str, Any] | None) -> str:
    if not item or "operators" not in item:
        return "-"
    cell = f"{item['operators']}, {_digits(item['size_bytes'] / 1e6)}"
    if item.get("delegation"):
        cell += f", {item['delegation']['partitions']} ({item['delegation']['operators_outside']})"
    return cell


def _notes(document: Mapping[str, Any]) -> list[str]:
    notes = []
    for network in document["networks"]:
        for name, result in network["exports"].items():
            if "error" in result:
                notes.append(f"{network['name']}: {name} failed: {_escaped(result['error'])}")
        for format_, runtime in RUNTIMES.items():
            for name, item in network["files"][format_].items():
                if "error" in item:
                    reason = f"does not run on {runtime}: {_escaped(item['error'])}"
                    notes.append(f"{network['name']}: the .{format_} of {name} {reason}")
                elif item["parity"]["verdict"] != "ok":
                    notes.append(f"{network['name']}: the .{format_} of {name} is {_parity(item['parity'])}")
    return notes


def _parity(parity: Mapping[str, Any]) -> str:
    if parity.get("reason"):
        return f"wrong: {parity['reason']}"
    numbers = f"max |error| {parity['max_abs']:.1e} where outputs reach {parity['max_output']:.1e}"
    return f"wrong: {numbers}" if parity["verdict"] == "wrong" else f"beyond the default tolerance: {numbers}"


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(max(value, 1e-6))))}f}"


def _name(network: Mapping[str, Any]) -> str:
    return network["name"] + (" †" if network["parallel_branches"] else "")


def _escaped(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable.replace("|", "\\|").replace("<", "\\<")


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return text + ("\n\n† parallel branches, as trained" if "†" in text else "")
