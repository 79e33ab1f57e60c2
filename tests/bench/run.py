"""edgeconv beside its peers: export time and memory, size, operators, latency of each one's file on one runtime.

``make bench``, or ``python tests/bench/run.py --networks quick``. Every exporter runs in a process and an environment
of its own; every file is compared with torch in float64; latencies are taken in turns in one process per runtime.
edgeconv's int8 files run in the same race, beside its fp32 files and not among the peers' (`--tools` leaves them out).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from environments import ENVIRONMENTS, UnavailableError, make
from networks import SETS, Network, chosen
from results import markdown, summarize
from tools import TOOLS, Tool

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent))  # as pytest has it
EXPORT_TIMEOUT_S = 1200
RUNTIME_TIMEOUT_S = 900


from processors.hidden import PROCESSORS, environment_of, missing  # noqa: E402


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="full", help=f"names, or sets: {', '.join(SETS)} (default: full)")
    parser.add_argument("--tools", default=",".join(TOOLS), help=f"of {', '.join(TOOLS)} (default: all)")
    parser.add_argument("--out", type=Path, default=Path("artifacts/bench"), help="where everything goes")
    parser.add_argument("--rounds", type=int, default=30, help="turns of every file (default: 30)")
    parser.add_argument("--race-seconds", type=float, default=60, help="no further rounds after this (default: 60)")
    parser.add_argument("--repeats", type=int, default=3, help="exports of each network by each tool (default: 3)")
    parser.add_argument("--repeat-seconds", type=float, default=10, help="no further export after this (default: 10)")
    parser.add_argument("--processor", choices=PROCESSORS, help="run files as on an x86-64 processor without AMX, VNNI")
    options = parser.parse_args()
    options.out = options.out.resolve()
    if options.processor and (reason := missing()):
        parser.error(f"--processor: {reason}")
    try:
        options.networks = chosen(options.networks)
        options.tools = [TOOLS[name] for name in options.tools.replace(",", " ").split()]
    except KeyError as error:
        parser.error(str(error.args[0]))
    return options


def _prepare(network: Network, folder: Path) -> None:
    """Writes what every tool needs: weights, an input, and torch's float64 output for it."""
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file

    from edgeconv.recipe.schema import Input, Warmup
    from edgeconv.recipe.warmup import warm_up

    torch.manual_seed(0)
    module = network.build()
    if network.weights:
        module.load_state_dict(load_file(ROOT / "models" / network.weights))
    elif any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in module.modules()):
        warm_up(module, [Input(name="input", shape=network.shape)], Warmup(batches=1, batch_size=4))
    module.eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone() for name, tensor in module.state_dict().items()}, folder / "weights.safetensors")
    x = torch.randn(network.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = module.double()(x.double())
    np.savez(folder / "values.npz", x=x.numpy(), y=y.numpy())


def _process(
    command: list[str], job: dict[str, Any], folder: Path, timeout_s: float, hidden: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs a worker and returns its result; a crash or a time-out is a result too.

    `hidden` are the variables of a processor with fewer instructions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job_path, result_path, log_path = (folder / f"{command[-1]}.{end}" for end in ("job.json", "result.json", "log"))
    result_path.unlink(missing_ok=True)
    job_path.write_text(json.dumps(job))
    # A peer's own commands (onnx2tf calls onnxsim) must be found, and nothing of ours but the networks.
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    hidden = hidden or {}
    modules = os.pathsep.join([*filter(None, [hidden.get("PYTHONPATH")]), str(ROOT), str(HERE)])
    variables = {**os.environ, **hidden, "PATH": path, "PYTHONPATH": modules}
    with log_path.open("wb") as log:
        try:
            worker = [*command[:-1], str(job_path), str(result_path)]
            done = subprocess.run(
                worker, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done within {timeout_s:g} s"}
    if not result_path.exists():
        return {"error": f"the process ended with status {done.returncode}"}
    result: dict[str, Any] = json.loads(result_path.read_text())
    return result


def _export(tool: Tool, network: Network, done: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    folder = options.out / "work" / network.name
    job: dict[str, Any] = {
        "tool": tool.name,
        "network": network.name,
        "weights": str(folder / "weights.safetensors"),
        "out": str(folder / tool.name),
        "repeats": options.repeats,
        "repeat_budget_s": options.repeat_seconds,
    }
    if tool.source:
        source = done.get(tool.source, {"error": "was not run"})
        if "error" in source:
            return {"error": f"needs the file of {tool.source}: {source['error']}"}
        job |= {"source": source["files"]["onnx"], "small_source": source["small_files"]["onnx"]}
    python = ENVIRONMENTS[tool.environment].interpreter if tool.environment else Path(sys.executable)
    return _process([str(python), str(HERE / "tools.py"), tool.name], job, folder, EXPORT_TIMEOUT_S)


def _measure(network: Network, options: argparse.Namespace) -> dict[str, Any]:
    """All there is to know of one network."""
    folder = options.out / "work" / network.name
    _prepare(network, folder)
    values = str(folder / "values.npz")
    tools: dict[str, Any] = {}
    for tool in options.tools:
        tools[tool.name] = _export(tool, network, tools, options)
        _tell(f"  {tool.name}: {_outcome(tools[tool.name])}")
    worker = [sys.executable, str(HERE / "runtimes.py")]
    hidden = environment_of(options.processor, options.out / "runtimes") if options.processor else None
    files: dict[str, dict[str, Any]] = {"onnx": {}, "tflite": {}}
    races: dict[str, Any] = {}
    for format_, found in files.items():
        for name, result in tools.items():
            if path := result.get("files", {}).get(format_):
                job = {"file": path, "values": values, "variant": TOOLS[name].variant}
                found[name] = {"file": path} | _process(
                    [*worker, "check", f"{name}.{format_}"], job, folder, RUNTIME_TIMEOUT_S, hidden
                )
        job = {
            "files": {name: item["file"] for name, item in found.items() if "error" not in item},
            "values": values,
            "rounds": options.rounds,
            "seconds": options.race_seconds,
        }
        races[format_] = _process([*worker, "race", f"race.{format_}"], job, folder, RUNTIME_TIMEOUT_S, hidden)
        for name, item in found.items():
            item["file"] = str(Path(item["file"]).relative_to(options.out))
            item["latency"] = races[format_].get(name)
    for result in tools.values():
        for key in ("files", "small_files"):
            result.pop(key, None)
    return {"name": network.name, "parallel_branches": network.parallel, "exports": tools, "files": files}


def _outcome(result: dict[str, Any]) -> str:
    if "error" in result:
        return str(result["error"])
    refused = "".join(f"; no .{format_}: {reason}" for format_, reason in result["refusals"].items())
    return f"{min(result['seconds']):.2f} s{refused}"


def main() -> int:
    """Measures, and writes bench.json, bench.md and bench.svg."""
    options = _arguments()
    from edgeconv.flow.environment import environment

    began_s = time.monotonic()
    try:
        for name in {tool.environment for tool in options.tools if tool.environment}:
            make(ENVIRONMENTS[name], _tell)
    except UnavailableError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    set_up_s = time.monotonic() - began_s
    networks = []
    for index, network in enumerate(options.networks, 1):
        _tell(f"{network.name} ({index} of {len(options.networks)})")
        networks.append(_measure(network, options))
        document = {
            "schema": 1,
            "environment": {
                **environment(),
                "cores": str(os.cpu_count()),
                **({"kernels": f"of a processor with {options.processor}"} if options.processor else {}),
            },
            "seconds": time.monotonic() - began_s - set_up_s,
            "effort": {key: getattr(options, key) for key in ("rounds", "race_seconds", "repeats", "repeat_seconds")},
            "networks": networks,
        }
        _write(document, options.out)  # after every network: a long run that is stopped has shown something
    print(summarize(document))
    print(f"{options.out}: bench.json, bench.md, bench.svg")
    return 0


def _write(document: dict[str, Any], out: Path) -> None:
    from plot import svg

    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    (out / "bench.md").write_text(markdown(document))
    (out / "bench.svg").write_text(svg(document))


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
