"""`edgeconv devices`: where artifacts can run, and what is missing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from edgeconv.cli._streams import say
from edgeconv.cli._tables import print_table
from edgeconv.cli.exit_codes import OK
from edgeconv.errors import DeviceError

if TYPE_CHECKING:
    from edgeconv.devices import Device


def command(
    install_name: Annotated[
        str | None, typer.Option("--install", help="Make the isolated environment of this runtime.", metavar="RUNTIME")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> int:
    """List the devices, their runtimes' versions, and what to do about missing ones."""
    from edgeconv.devices import all_devices, install

    if install_name is not None:
        fresh = install(install_name)
        if as_json:
            say(json.dumps({"runtime": install_name, "installed_now": fresh}, indent=2))
        else:
            say(f"{install_name}: {'installed' if fresh else 'was installed already'}")
        return OK
    devices = all_devices()
    with ThreadPoolExecutor() as pool:  # each probe waits for a process of its own
        states = dict(zip(devices, pool.map(_state, devices.values()), strict=True))
    if as_json:
        rows = [
            {"name": name, "title": device.title, "formats": list(device.formats), **states[name]}
            for name, device in devices.items()
        ]
        say(json.dumps(rows, indent=2))
        return OK
    cells = [
        (name, ", ".join(device.formats), device.title, states[name]["problem"] or states[name]["version"])
        for name, device in devices.items()
    ]
    print_table(("device", "takes", "what", "state"), cells)
    return OK


def _state(device: Device) -> dict[str, str]:
    try:
        environment = device.probe()
    except DeviceError as error:
        return {"version": "", "problem": str(error)}
    return {"version": f"{environment.get('runtime', '')} {environment.get('version', '')}".strip(), "problem": ""}
