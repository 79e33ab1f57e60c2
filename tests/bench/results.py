"""What bench.json says, for people: ratios, geometric means, Markdown tables."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tools import CALIBRATION_BATCHES, INT8, OURS, ROUNDING, TOOLS

from edgeconv.bench import median_ratio

RUNTIMES: Mapping[str, str] = {"tflite": "LiteRT", "onnx": "ONNX Runtime"}
PAIRS: Mapping[str, tuple[str, str]] = {
    "litert-torch + torch.onnx": ("litert-torch", "torch.onnx"),
    "onnx2tf + torch.onnx": ("onnx2tf", "torch.onnx"),
}
"""Who makes both files: edgeconv alone, and these together."""
FLOAT = tuple(name for name, tool in TOOLS.items() if tool.variant == "fp32")
"""The tools whose files compute the same function, so that they can be compared."""


def tools_of(document: Mapping[str, Any], format_: str) -> list[str]:
    """The tools that made float files of a format, in the order of the table of tools."""
    seen = {name for network in document["networks"] for name in network["files"][format_]}
    return [name for name in FLOAT if name in seen]


def ratios(network: Mapping[str, Any], format_: str) -> dict[str, float]:
    """edgeconv's latency over each peer's, turn by turn; a file that computes something else does not count."""
    turns = _turns(network, format_)
    ours = turns.get(OURS)
    peers = [name for name in turns if name in FLOAT and name != OURS]
    return {} if ours is None else {name: median_ratio(ours, turns[name]) for name in peers}


def int8_ratio(network: Mapping[str, Any], format_: str) -> float | None:
    """The latency of edgeconv's int8 file over that of its fp32 file, turn by turn."""
    turns = _turns(network, format_)
    return median_ratio(turns[INT8], turns[OURS]) if INT8 in turns and OURS in turns else None


def _turns(network: Mapping[str, Any], format_: str) -> dict[str, list[float]]:
    return {
        name: item["latency"]["turns_ms"]
        for name, item in network["files"][format_].items()
        if item.get("latency") and item["parity"]["verdict"] != "wrong"
    }


def best_ratio(network: Mapping[str, Any], format_: str) -> tuple[str, float] | None:
    """The peer whose file does best against edgeconv's, and edgeconv's latency over its."""
    found = ratios(network, format_)
    return max(found.items(), key=lambda item: item[1]) if found else None


def export_seconds(network: Mapping[str, Any], tools: Iterable[str]) -> float | None:
    """The median time of the tools together; None where one failed or was not run."""
    results = [network["exports"].get(name, {}) for name in tools]
    if not all(result.get("seconds") for result in results):
        return None
    return sum((float(statistics.median(result["seconds"])) for result in results), 0.0)


def speed_up(network: Mapping[str, Any], pair: str) -> float | None:
    """How many times longer a pair of peers needs for both files."""
    ours, theirs = export_seconds(network, (OURS,)), export_seconds(network, PAIRS[pair])
    return theirs / ours if ours and theirs else None


def geometric_mean(values: Sequence[float]) -> float:
    """exp of the mean of logarithms."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def summarize(document: Mapping[str, Any]) -> str:
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
    for format_, runtime in RUNTIMES.items():
        found = {item["name"]: ratio for item in document["networks"] if (ratio := int8_ratio(item, format_))}
        if found:
            worst = max(found, key=lambda name: found[name])
            lines.append(
                f"{runtime}, int8 latency over fp32: geometric mean {geometric_mean(list(found.values())):.2f} over "
                f"{len(found)} {of_all}, worst {found[worst]:.2f} ({worst})"
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
    """The tables for README.md here and for reading in full."""
    environment = document["environment"]
    machine = f"{environment['cpu']}, {environment['cores']} cores, Python {environment['python']}"
    parts = ["# Bench", summarize(document).replace("\n", "\n\n"), f"Machine: {machine}. {_versions(document)}"]
    for format_, runtime in RUNTIMES.items():
        parts += [f"## Latency on {runtime}: median ms, one thread", _latency(document, format_)]
    if any(INT8 in network["exports"] for network in document["networks"]):
        parts += ["## int8 beside fp32: median µs, one thread", _int8(document)]
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


_INT8 = f"""\
edgeconv's int8 files, with float32 inputs and outputs, beside its fp32 files in the same race: ratios are of latency,
turn by turn. They were calibrated on {CALIBRATION_BATCHES} inputs of seeded noise, with weights rounded in the way
`{ROUNDING}`, which changes no latency; the SQNR is against torch in float64 on another input of noise, and says what
that way of rounding gives (most weights here are random ones) and not what int8 can reach. Pairs are of the .tflite and
the .onnx file. An export makes both files; its time includes capture and calibration. In float: operators that the plan
leaves there. Outside XNNPACK: operators of the .tflite that LiteRT's own kernels compute."""


def _int8(document: Mapping[str, Any]) -> str:
    titles = ["network"]
    for runtime in RUNTIMES.values():
        titles += [f"{runtime} fp32", "int8", "int8 / fp32"]
    titles += ["SQNR dB", "size int8 / fp32", "export s", "in float", "outside XNNPACK"]
    networks = [network for network in document["networks"] if INT8 in network["exports"]]
    parts = [_INT8, _table(titles, [_int8_row(network) for network in networks])]
    for title, counted in (("What stays in float", _kept_float), ("What stays outside XNNPACK", _outside)):
        listed = [f"- {_name(network)}: {_listed(counts)}" for network in networks if (counts := counted(network))]
        parts += [f"{title}:", "\n".join(listed)] if listed else []
    return "\n\n".join(parts)


def _kept_float(network: Mapping[str, Any]) -> Mapping[str, int]:
    return Counter(network["exports"][INT8].get("kept_float", {}).values())


def _outside(network: Mapping[str, Any]) -> Mapping[str, int]:
    found: Mapping[str, int] = network["files"]["tflite"].get(INT8, {}).get("delegation", {}).get("outside", {})
    return found


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {_escaped(what)}" for what, count in Counter(counts).most_common())


def _int8_row(network: Mapping[str, Any]) -> list[str]:
    cells, sqnr, sizes = [], [], []
    for format_ in RUNTIMES:
        float_, int8 = (network["files"][format_].get(name, {}) for name in (OURS, INT8))
        ratio = int8_ratio(network, format_)
        cells += [_microseconds(float_), _microseconds(int8), f"**{ratio:.2f}**" if ratio else "-"]
        decibels = int8.get("parity", {}).get("sqnr_db")
        sqnr.append("-" if decibels is None else f"{decibels:.1f}")
        both = "size_bytes" in float_ and "size_bytes" in int8
        sizes.append(f"{int8['size_bytes'] / float_['size_bytes']:.2f}" if both else "-")
    seconds = export_seconds(network, (INT8,))
    cells += [", ".join(sqnr), ", ".join(sizes), "-" if seconds is None else f"{seconds:.1f}"]
    return [_name(network), *cells, *(str(sum(counts(network).values())) for counts in (_kept_float, _outside))]


def _microseconds(item: Mapping[str, Any]) -> str:
    return _digits(item["latency"]["median_ms"] * 1000) if item.get("latency") else "-"


def _exports(document: Mapping[str, Any]) -> str:
    tools = [name for name in FLOAT if any(name in network["exports"] for network in document["networks"])]
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
            for format_, reason in result.get("refusals", {}).items():
                notes.append(f"{network['name']}: {name} makes no .{format_}: {_escaped(reason)}")
        for format_, runtime in RUNTIMES.items():
            for name, item in network["files"][format_].items():
                if "error" in item:
                    reason = f"does not run on {runtime}: {_escaped(item['error'])}"
                    notes.append(f"{network['name']}: the .{format_} of {name} {reason}")
                elif item["parity"]["verdict"] in ("loose", "wrong"):
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
    return f"{network['name']}{' †' if network['parallel_branches'] else ''}"


def _escaped(text: str) -> str:
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable.replace("|", "\\|").replace("<", "\\<")


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return text + ("\n\n† parallel branches, as trained" if "†" in text else "")
