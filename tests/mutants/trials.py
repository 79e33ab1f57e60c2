"""What is done with each network: right files and files with faults are put to the gate."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from exports import VARIANTS, Export, Model, exports_of
from gate import DEVICES, Gate, Judged, Reference
from graph_faults import GRAPH_KINDS, wrong_graphs
from kinds import KINDS, SINGLE_ULP, plant
from liveness import LEAST, Clean, function_of, graph_outputs
from mutant_networks import NETWORKS
from mutant_rows import CleanRow, FaultRow
from rivals import rejected_by

from edgeconv.core import Sample
from edgeconv.errors import EdgeconvError

_SCALES = {"fp32": (0.1, 1.0, 10.0), "fp16": (1.0,), "int8": (1.0,), "int16x8": (1.0,)}


@dataclass(frozen=True)
class Plan:
    """What is asked of each model.

    Attributes:
        seed: of everything that is drawn.
        faults: live ones in each file.
        graph_faults: in the graph of each float32 file.
        kinds: of faults in files.
        variants: (variant, format) of the files.
        devices: names.
    """

    seed: int
    faults: int
    graph_faults: int
    kinds: tuple[str, ...] = KINDS
    variants: tuple[tuple[str, str], ...] = VARIANTS
    devices: tuple[str, ...] = DEVICES


class _Trial:
    """A model with a gate, and what is needed to judge its files."""

    def __init__(self, model: Model, gate: Gate, plan: Plan) -> None:
        self._model, self._gate, self._plan = model, gate, plan
        self._golden, self._torch = model.golden(model.samples), model.float32(model.samples)

    def clean(self, export: Export) -> Iterator[CleanRow]:
        """The right file at each scale, on each device."""
        for scale in _SCALES[export.variant.name]:
            samples = [_scaled(sample, scale) for sample in self._model.samples]
            golden, torch_run = self._golden, self._torch
            if scale != 1.0:
                golden, torch_run = self._model.golden(samples), self._model.float32(samples)
            judged = self._gate.judge(export, export.data, Reference.of(export, samples, golden))
            for run in judged.runs:
                links = {link.value: reason for link, reason in judged.links_on(run.device).items()}
                rules = rejected_by(run, torch_run)
                yield CleanRow(*_named(export), self._plan.seed, run.device, scale, links, rules)

    def faults(self, export: Export) -> Iterator[FaultRow]:
        """Faults in the file, until as many live ones as asked for were planted."""
        reference, clean, live = Reference.of(export, export.model.samples, self._golden), Clean.file(export), 0
        rng = random.Random(f"{self._plan.seed} {export.title}")
        kinds = rng.sample(self._plan.kinds, len(self._plan.kinds))
        kinds.sort(key=lambda kind: kind not in SINGLE_ULP)  # these first, of which few move an output
        for kind in kinds:
            if live >= self._plan.faults and kind not in SINGLE_ULP:
                return
            started = time.perf_counter()
            planted = plant(export.data, export.artifact.format, kind, rng)
            if planted is None:
                continue
            row = partial(FaultRow, *_named(export), self._plan.seed, "file", kind, planted.where)
            try:
                moved = clean.change(function_of(export, planted.data))
            except EdgeconvError as error:
                judged = self._gate.judge(export, planted.data, reference)
                yield row("unreadable", 0.0, str(error), *self._answers(judged), _since(started))
                continue
            if moved < LEAST:
                judged = self._gate.judge(export, planted.data, reference) if kind in SINGLE_ULP else None
                answers = ({}, []) if judged is None else self._answers(judged)
                yield row("equivalent", moved, "", *answers, _since(started))
                continue
            judged = self._gate.judge(export, planted.data, reference)
            live += kind not in SINGLE_ULP
            yield row("live", moved, "", *self._answers(judged), _since(started))

    def wrong_graphs(self, export: Export) -> Iterator[FaultRow]:
        """Faults in the graph, which the file follows."""
        rng = random.Random(f"{self._plan.seed} graph {export.title}")
        kinds, live, clean = rng.sample(GRAPH_KINDS, len(GRAPH_KINDS)), 0, Clean.graph(self._model)
        for wrong in wrong_graphs(self._model, export.artifact.format, kinds, rng):
            if live == self._plan.graph_faults:
                return
            started = time.perf_counter()
            row = partial(FaultRow, *_named(export), self._plan.seed, "graph", wrong.kind, wrong.where)
            try:
                moved = clean.change(partial(graph_outputs, wrong.export.model.graph, self._model.outputs))
            except EdgeconvError:
                continue  # a graph that no reference evaluates is refused by the flow, too
            if moved < LEAST:
                yield row("equivalent", moved, "", {}, [], _since(started))
                continue
            reference = Reference.of(wrong.export, self._model.samples, self._golden)
            judged = self._gate.judge(wrong.export, wrong.export.data, reference)
            live += 1
            yield row("live", moved, "", *self._answers(judged), _since(started))

    def _answers(self, judged: Judged) -> tuple[dict[str, str], list[str]]:
        """The links that break, and the rules of others that reject what any device computed."""
        rules = [rule for run in judged.runs for rule in rejected_by(run, self._torch)]
        return {link.value: reason for link, reason in judged.broken.items()}, list(dict.fromkeys(rules))


def _named(export: Export) -> tuple[str, str, str, str]:
    model = export.model
    return model.network.name, model.weights, export.variant.name, export.artifact.format


def _scaled(sample: Sample, scale: float) -> Sample:
    arrays = {name: np.asarray(array * np.float32(scale), array.dtype) for name, array in sample.inputs.items()}
    return Sample(f"{sample.name}-times-{scale:g}", arrays, scale)


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 3)


def tried(name: str, weights: str, plan: Plan) -> tuple[list[CleanRow], list[FaultRow]]:
    """All rows of a network with one kind of weights."""
    torch.set_num_threads(1)
    model = Model.of(NETWORKS[name], weights, plan.seed)
    clean_rows, fault_rows = list[CleanRow](), list[FaultRow]()
    with tempfile.TemporaryDirectory(prefix="edgeconv-mutants-") as folder, Gate(Path(folder), plan.devices) as gate:
        trial = _Trial(model, gate, plan)
        for export in exports_of(model, plan.variants):
            clean_rows += trial.clean(export)
            fault_rows += trial.faults(export)
            if export.variant.name == "fp32":
                fault_rows += trial.wrong_graphs(export)
    return clean_rows, fault_rows
