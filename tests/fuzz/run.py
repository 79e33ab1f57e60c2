"""`make fuzz`: mutants of everything that is read, each in a process of its own; counts, and what was found.

Nothing may end in a traceback, a signal, a hang over 10 s or more than 4 GiB, nor in a refusal behind which stands an
exception that nobody meant (`foresight`). What does is saved with what was printed. At the end stand, by reader, how
many inputs there were, how many were accepted, and how many were refused for which reason.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from pool import Outcome, Work, run_all
from readers import READERS, SHARES
from seeds import Seeds

import edgeconv.flow.pipeline  # noqa: F401  (before the forks: each would import it for itself)

_MOST_REASONS = 25
_ACCEPTED = (0, 1)  # 1 is a result: parity failed, or a file is not of integers alone


def _inputs(
    seeds: Seeds, names: tuple[str, ...], seed: int, until: float, kept: dict[str, bytes]
) -> Iterator[tuple[str, Work]]:
    for number in itertools.count(seed):
        if time.monotonic() >= until:
            return
        reader = names[number % len(names)]
        try:
            data, work = READERS[reader](seeds, random.Random(f"{reader} {number}"))
        except Exception as error:  # noqa: BLE001  (a mutant of a mutant, which even its maker cannot read)
            print(f"{reader}-{number}: not made: {type(error).__name__}: {error}", flush=True)
            continue
        name = f"{reader}-{number}"
        kept[name] = data
        yield name, work


def reason_of(told: str) -> str:
    """A refusal's message without the names and numbers of its input."""
    line = told.strip().splitlines()[-1] if told.strip() else "no words"
    line = line.removeprefix("edgeconv: error: ")
    line = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", line)
    line = re.sub(r"\S*/\S*|\bin\.\w+|\bnet\.[\w.]+", "FILE", line)
    return re.sub(r"-?\d[\d,.e+]*", "N", line)[:150]


class Counts:
    """What came of the inputs, by reader."""

    def __init__(self) -> None:
        self._ends: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.faults: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        reader = outcome.name.split("-")[0]
        self._ends[reader]["inputs"] += 1
        if outcome.fault:
            self._ends[reader]["faults"] += 1
            kind = re.sub(r"[0-9.]+ (s|GiB)\b", r"N \1", outcome.fault)
            self.faults[f"{reader}: {kind[:200]}"] += 1
        elif (outcome.code in _ACCEPTED and reader != "answer") or outcome.code == 0:
            self._ends[reader]["accepted"] += 1
        else:
            self._ends[reader]["refused"] += 1
            self._reasons[reader][reason_of(outcome.told) if reader != "answer" else "no frame"] += 1

    def plain(self) -> dict[str, object]:
        return {"readers": self._ends, "refused by reason": self._reasons, "faults": self.faults}

    def lines(self) -> Iterator[str]:
        yield f"{'':10}{'inputs':>10}{'accepted':>10}{'refused':>10}{'faults':>10}"
        ends = {**self._ends, "all": sum(self._ends.values(), Counter())}
        for reader, counts in ends.items():
            yield f"{reader:10}" + "".join(f"{counts[key]:10,}" for key in ("inputs", "accepted", "refused", "faults"))
        for reader, reasons in self._reasons.items():
            yield f"{reader}, refused by reason ({len(reasons)}):"
            for reason, count in reasons.most_common(_MOST_REASONS):
                yield f"{count:8,}  {reason}"
            rest = sum(reasons.values()) - sum(count for _, count in reasons.most_common(_MOST_REASONS))
            if rest:
                yield f"{rest:8,}  for others"
        if self.faults:
            yield "faults:"
        for fault, count in self.faults.most_common():
            yield f"{count:8,}  {fault}"


def _save(out: Path, outcome: Outcome, data: bytes) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / outcome.name).write_bytes(data)
    (out / f"{outcome.name}.txt").write_text(f"{outcome.fault}\n{outcome.told}\n{outcome.hidden}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("artifacts/fuzz"))
    parser.add_argument("--readers", nargs="*", choices=list(READERS), default=SHARES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts, kept = Counts(), dict[str, bytes]()
    with tempfile.TemporaryDirectory(prefix="edgeconv-fuzz-") as folder:
        seeds = Seeds(Path(folder) / "net")
        inputs = _inputs(seeds, tuple(options.readers), options.seed, time.monotonic() + options.seconds, kept)
        for outcome in run_all(inputs, processes=options.processes):
            counts.add(outcome)
            data = kept.pop(outcome.name)
            if outcome.fault:
                _save(options.out, outcome, data)
                print(f"{outcome.name}: {outcome.fault}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "counts.json").write_text(json.dumps(counts.plain(), indent=1))
    print("\n".join(counts.lines()))
    found = counts.faults.total()
    print(f"{found} faults{f', saved in {options.out}' if found else ''}; every reason is in {options.out}/counts.json")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
