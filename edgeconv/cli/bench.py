"""`edgeconv bench`: what exported files cost on devices."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeconv.cli._console import progress_for
from edgeconv.cli._limits import seconds
from edgeconv.cli._streams import say
from edgeconv.cli._tables import print_table
from edgeconv.cli.exit_codes import FAILED, OK
from edgeconv.core.defaults import DEVICE_TIMEOUT_S
from edgeconv.errors import DeviceError
from edgeconv.flow.output import settle

if TYPE_CHECKING:
    from edgeconv.bench import BenchRow

_COLUMNS = ("artifact", "device", "bytes", "operators", "median ms", "p90 ms", "peak MiB", "of it runtime", "")
_RIGHT = _COLUMNS[2:-1]
_STYLES: Mapping[str, str] = {"fail": "bold red", "skipped": "yellow"}


def command(
    directory: Annotated[Path, typer.Argument(help="An export's folder, or a folder of such folders.", metavar="DIR")],
    device: Annotated[list[str] | None, typer.Option(help="Only on this device; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of every file on every device.")] = 10,
    runs: Annotated[int, typer.Option(min=1, help="Measured inferences of a turn (fewer for slow ones).")] = 5,
    timeout: Annotated[
        float, typer.Option(parser=seconds, metavar="SECONDS", help="Seconds that a turn may take.")
    ] = DEVICE_TIMEOUT_S,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the table only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> int:
    """Size, operators, latency with one thread, and peak memory of exported files, on every device that runs here.

    The files take turns, so that a busy moment of the machine slows all alike. Exits with 1 when a device refuses a
    file, crashes or hangs.
    """
    from edgeconv.bench import Effort, bench, find_files
    from edgeconv.devices import all_devices, find

    devices = [find(name) for name in device] if device else list(all_devices().values())
    settle(directory if directory.is_dir() else directory.parent)
    files = find_files(directory)
    formats = {file.artifact.format for file in files}
    unfit = [item.name for item in devices if device and not formats & set(item.formats)]
    if unfit:
        suffixes = " and ".join(f".{name}" for name in sorted(formats))
        hint = f"leave out --device {unfit[0]}"
        raise DeviceError(f"{unfit[0]} takes none of these files ({suffixes})", where=str(directory), hint=hint)
    effort = Effort(rounds=rounds, runs=runs, timeout_s=timeout)
    rows = bench(files, devices, effort=effort, progress=progress_for(silent=quiet or as_json))
    if as_json:
        say(json.dumps(_document(rows, effort), indent=2))
    else:
        _print_rows(rows)
    return FAILED if any(row.verdict.value == "fail" for row in rows) else OK


def _document(rows: Sequence[BenchRow], effort: Any) -> dict[str, Any]:
    from edgeconv.flow.environment import environment

    return {
        "schema": 1,
        "environment": {**environment(), **{f"device {row.device}": dict(row.environment) for row in rows}},
        "effort": dataclasses.asdict(effort),
        "rows": [
            {
                "artifact": row.file.name,
                "sha256": row.file.artifact.sha256,
                "device": row.device,
                "size_bytes": row.file.size_bytes,
                "operators": row.file.operators,
                "latency": None if row.latency is None else dataclasses.asdict(row.latency),
                "peak_memory_bytes": row.peak_memory_bytes,
                "idle_memory_bytes": row.idle_memory_bytes,
                "verdict": row.verdict.value,
                "reason": row.reason,
            }
            for row in rows
        ],
    }


def _print_rows(rows: Sequence[BenchRow]) -> None:
    styles = [_STYLES.get(row.verdict, "") for row in rows]
    print_table(_COLUMNS, [_cells(row) for row in rows], right=_RIGHT, styles=styles)


def _cells(row: BenchRow) -> tuple[str, ...]:
    times = ("-", "-") if row.latency is None else (f"{row.latency.median_ms:.2f}", f"{row.latency.p90_ms:.2f}")
    memory = (_mebibytes(row.peak_memory_bytes), _mebibytes(row.idle_memory_bytes))
    size = (f"{row.file.size_bytes:,}", str(row.file.operators))
    return (row.file.name, row.device, *size, *times, *memory, row.reason)


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.1f}"
