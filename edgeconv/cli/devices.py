"""`edgeconv devices`: where artifacts can run, and what is missing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer
from rich.table import Table

from edgeconv.cli._console import print_table
from edgeconv.devices import Device, all_devices, install
from edgeconv.errors import DeviceError


def command(
    install_name: Annotated[
        str | None, typer.Option("--install", help="Make the isolated environment of this runtime.", metavar="RUNTIME")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> int:
    """List the devices, their runtimes' versions, and what to do about missing ones."""
    if install_name is not None:
        print(f"{install_name}: {'installed' if install(install_name) else 'was installed already'}")
        return 0
    devices = all_devices()
    with ThreadPoolExecutor() as pool:  # each probe waits for a process of its own
        states = dict(zip(devices, pool.map(_state, devices.values()), strict=True))
    if as_json:
        rows = [
            {"name": name, "title": device.title, "formats": list(device.formats), **states[name]}
            for name, device in devices.items()
        ]
        print(json.dumps(rows, indent=2))
        return 0
    table = Table(box=None, pad_edge=False)
    for title in ("device", "takes", "what", "state"):
        table.add_column(title, overflow="fold")
    for name, device in devices.items():
        state = states[name]
        table.add_row(name, ", ".join(device.formats), device.title, state["problem"] or state["version"])
    print_table(table)
    return 0


def _state(device: Device) -> dict[str, str]:
    try:
        found = device.probe(timeout_s=60.0)
    except DeviceError as error:
        return {"version": "", "problem": str(error)}
    return {"version": f"{found.get('runtime', '')} {found.get('version', '')}".strip(), "problem": ""}
