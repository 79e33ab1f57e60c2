"""`make mutants`: faults are planted into exported files and graphs, and the gate is asked whether it rejects them.

For each network, with benign and with plain random weights, files of every variant and format are made. Clean ones are
judged at several input scales: what is rejected is a false alarm. Then faults are planted, one in a file; those that
change the file's float64 function are live, and what passes is a miss. The rules of other tools are asked on the same
runs. The faults follow from the seed alone: another seed draws others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import product
from multiprocessing import get_context
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / room) for room in ("zoo", "bench")]
sys.path.insert(0, str(Path(__file__).resolve().parent))

from kinds import KINDS  # noqa: E402
from mutant_networks import NETWORKS, WEIGHTS  # noqa: E402
from mutant_plot import svg  # noqa: E402
from mutant_rows import CleanRow, FaultRow, document, markdown  # noqa: E402
from trials import Plan, tried  # noqa: E402


def _all_tried(names: Sequence[str], plan: Plan, processes: int) -> Iterator[tuple[list[CleanRow], list[FaultRow]]]:
    pairs = list(product(names, WEIGHTS))
    if processes == 1:
        yield from (tried(name, weights, plan) for name, weights in pairs)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(tried, *zip(*pairs, strict=True), [plan] * len(pairs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("artifacts/mutants"))
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=5, help="live ones in each file")
    parser.add_argument("--graph-faults", type=int, default=3, help="in the graph of each float32 file")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    plan = Plan(options.seed, options.faults, options.graph_faults, tuple(options.kinds))
    options.out.mkdir(parents=True, exist_ok=True)
    clean_rows, fault_rows = list[CleanRow](), list[FaultRow]()
    started = time.perf_counter()
    for clean, faults in _all_tried(options.networks, plan, options.processes):
        clean_rows += clean
        fault_rows += faults
        live = [row for row in fault_rows if row.status == "live"]
        missed, alarms = sum(not row.rejected for row in live), sum(row.rejected for row in clean_rows)
        last = f"{clean[-1].network} {clean[-1].weights}" if clean else "no rows"
        numbers = f"{len(live)} live faults, {missed} missed; {len(clean_rows)} clean rows, {alarms} rejected"
        print(f"{time.perf_counter() - started:6.0f} s  {last}: {numbers}", flush=True)
        (options.out / "rows.json").write_text(json.dumps([asdict(row) for row in (*clean_rows, *fault_rows)]))
    result = document(clean_rows, fault_rows, seed=options.seed)
    (options.out / "mutants.json").write_text(json.dumps(result, indent=1))
    (options.out / "mutants.md").write_text(markdown(result))
    (options.out / "mutants.svg").write_text(svg(result))
    print(markdown(result, short=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
