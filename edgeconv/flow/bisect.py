"""Cuts the first broken layer out of an export: a model, its arrays and a script that needs nothing but a runtime."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeconv.capture import whatever_it_brings
from edgeconv.core import Array, Artifact, Sample
from edgeconv.core.named_files import read_named
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.devices import file_inputs
from edgeconv.errors import ParityError
from edgeconv.flow.beside_module import BesideModule, is_of_other_converter
from edgeconv.flow.cut import Layers, open_layers
from edgeconv.flow.output import staged
from edgeconv.flow.prove import require_own_values
from edgeconv.flow.record import read_report
from edgeconv.flow.source import Source
from edgeconv.flow.variant import Variant
from edgeconv.parity import load_golden
from edgeconv.parity.chain import diagnosis
from edgeconv.report import Report

Rebuild = Callable[[Sequence[Artifact], Report], Sequence[Variant]]
"""The variants that files of an earlier report were written from."""
_FOLLOWED = (Link.WRITING, Link.RUNNING)  # links that name a layer of a file; those before are about the graph
_QUANTIZED = ".quantized"  # how `edgeconv.quantize.apply` names the integers of a value
_TAIL = """\
expected = arrays["expected"]
error = np.abs(actual.astype(float) - expected.astype(float))
at = np.unravel_index(np.nanargmax(error), error.shape)
print(f"largest error {error[at]:.6g} at {tuple(map(int, at))}: actual {actual[at]}, expected {expected[at]}")
"""
_SCRIPTS: Mapping[str, str] = {
    "onnx": """\
from pathlib import Path
import numpy as np
import onnxruntime

here = Path(__file__)
arrays = np.load(here.with_suffix(".npz"))
session = onnxruntime.InferenceSession(here.with_suffix(".onnx"), providers=["CPUExecutionProvider"])
feeds = {value.name: arrays[f"input_{at}"] for at, value in enumerate(session.get_inputs())}
(actual,) = session.run(None, feeds)
"""
    + _TAIL,
    "tflite": """\
from pathlib import Path
import numpy as np
from ai_edge_litert.interpreter import Interpreter  # or: from tflite_runtime.interpreter import Interpreter

here = Path(__file__)
arrays = np.load(here.with_suffix(".npz"))
interpreter = Interpreter(str(here.with_suffix(".tflite")))
interpreter.allocate_tensors()
for at, detail in enumerate(interpreter.get_input_details()):
    interpreter.set_tensor(detail["index"], arrays[f"input_{at}"])
interpreter.invoke()
actual = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
"""
    + _TAIL,
}


@dataclass(frozen=True)
class Reproduction:
    """What was written of one artifact.

    Attributes:
        artifact: its file name.
        layer: the value, in the file's own name.
        why: one line on what breaks there; empty where nothing does.
        expected: whose result the expected one is.
        script: path of the script; file and arrays lie beside it under the same name.
    """

    artifact: str
    layer: str
    why: str
    expected: str
    script: Path


@dataclass(frozen=True)
class _Place:
    artifact: Artifact
    layer: str
    link: LinkResult | None


def bisect(
    folder: Path,
    out: Path,
    *,
    layer: str | None = None,
    rebuild: Rebuild | None = None,
    source: Source | None = None,
) -> tuple[Reproduction, ...]:
    """Cuts the first broken layer, or a named one, out of each file of an export that has it.

    Args:
        folder: with a report, its artifacts and golden values.
        out: where the files go: for each artifact a model, arrays (.npz) and a script.
        layer: in place of the first broken one: the name of a value, or of its torch module.
        rebuild: makes the graphs that the files were written from; their results are the expected ones then, else those
            of the file itself, read back.
        source: of the recipe that `rebuild` goes by; it has to give the stored values.

    Raises:
        ParityError: the report cannot be read or a file changed; no link of a layer is broken; no file has the layer;
            link 3 is broken, and the graph is not at hand; the source gives other values.
        CaptureError: a file is damaged.
        EmitError: the files cannot be written.
    """
    report = read_report(folder)
    artifacts = [replace(item, path=folder / item.path.name) for item in report.artifacts]
    places = [_Place(item, layer, None) for item in artifacts] if layer is not None else _broken(artifacts, report)
    if not places:
        what = "no layer of its files is broken, by links 3 and 4 of its report"
        raise ParityError(what, where=str(folder), hint="name one with --layer")
    golden = load_golden(folder / report.golden)
    own = [artifact for artifact in artifacts if source is None or not is_of_other_converter(artifact.path)]
    graphs = {variant.name: variant for variant in rebuild(own, report)} if rebuild is not None and own else {}
    if source is not None:
        graph = next((variant.model.graph for variant in graphs.values()), None)
        require_own_values(source, graph, golden, folder / report.golden)
    # All files appear at once, or none: a crash in the middle leaves no half of a reproduction.
    written = []
    with staged(out) as staging:
        for place in places:
            with whatever_it_brings(place.artifact.path):
                samples = (*golden.samples, *golden.probes(place.artifact.variant))
                beside = source if place.artifact not in own else None
                cut = _cut(place, samples, graphs.get(place.artifact.variant), beside)
            if cut is None:
                continue
            data, arrays, reproduction = cut
            stem, suffix = f"{place.artifact.path.stem}.{place.artifact.format}-layer", place.artifact.path.suffix
            staging.write(f"{stem}{suffix}", data)
            staging.write(f"{stem}.npz", _packed(arrays))
            staging.write(f"{stem}.py", _SCRIPTS[place.artifact.format].encode())
            written.append(replace(reproduction, script=out / f"{stem}.py"))
        if not written:
            hint = "see the report's page for the names of layers"
            if source is None and any(is_of_other_converter(item.path) for item in artifacts):
                hint = f"{hint}, or name the recipe with --recipe: a file of another converter has names of its own"
            raise ParityError(f"no file has a layer {layer or places[0].layer!r}", where=str(folder), hint=hint)
    return tuple(written)


def _broken(artifacts: Sequence[Artifact], report: Report) -> list[_Place]:
    """The first broken link of each artifact, where it names a layer."""
    places = []
    for artifact in artifacts:
        rows = [link for row in report.comparisons if row.artifact == artifact.path.name for link in row.links]
        links = [link for link in (*artifact.links, *rows) if link.verdict is Verdict.FAIL and link.link in _FOLLOWED]
        first = min(links, key=lambda link: link.link.number, default=None)
        if first is not None and first.where:
            places.append(_Place(artifact, first.where, first))
    return places


def _cut(
    place: _Place, samples: Sequence[Sample], variant: Variant | None, source: Source | None
) -> tuple[bytes, dict[str, Array], Reproduction] | None:
    """The layer's file, its arrays, and what they show; None where this file has no such layer.

    Args:
        place: artifact and layer.
        samples: of the golden values.
        variant: that the file was written from, where it is known.
        source: that another converter wrote the file of, where it is known.
    """
    # 1. The layer in the file, and the input that shows the fault.
    artifact = place.artifact
    file = open_layers(artifact.path, read_named(artifact.path, kind=artifact.path.suffix, error=ParityError))
    if len(file.inputs) != len(artifact.inputs):
        what = f"the report states {len(artifact.inputs)} inputs, and the file has {len(file.inputs)}"
        raise ParityError(what, where=str(artifact.path), hint="export it again")
    sample = _sample(samples, artifact, place.link)
    # A runtime that computes a layer otherwise is shown beside the file, which says what it has to compute.
    is_runtimes = place.link is not None and place.link.link is Link.RUNNING
    beside = BesideModule(artifact, source, sample) if source is not None and not is_runtimes else None
    layer = _resolved(place.layer, file) or (None if beside is None else beside.tensor_of(place.layer))
    if layer is None:
        return None
    if beside is not None and place.link is not None and layer == place.layer and not beside.is_wrong(layer):
        layer = _reader(layer, file, _varying(file)) or layer  # which reads it as other numbers than it is
    if place.link is not None and place.link.link is Link.WRITING and variant is None and beside is None:
        what = f"the file does not say what the graph says at {layer}, and only its recipe tells that"
        raise ParityError(what, where=artifact.path.name, hint="name the recipe with --recipe")
    # 2. What the layer reads there, and what it should make of that.
    if beside is not None:
        operands, expected = beside.layer(file, layer)
        data, whose = file.cut(layer, operands), "the module's"
    elif variant is not None:
        operands, expected = _by_graph(file, artifact, variant, layer, sample)
        data, whose = file.cut(layer, operands), "the graph's"
    else:
        # The file's layers are evaluated with a batch of one where it is open.
        inputs = [
            array[:1] if _is_open(artifact, at) else array
            for at, (_, array) in enumerate(file_inputs(artifact, sample))
        ]
        names = file.operands(layer, [name for name in file.returned if name != layer])
        values = file.values(inputs, names)
        operands = {name: file.stored(name, values[name]) for name in names}
        data, whose = file.cut(layer, operands), "the file's own, in float64 or exact integers"
        # Of the layer's own file, on the operands that are written: they were rounded as the file stores them.
        alone = open_layers(artifact.path, data)
        expected = alone.values(list(operands.values()), [layer])[layer]
    # 3. The arrays as the scripts read them.
    arrays = {f"input_{at}": array for at, array in enumerate(operands.values())} | {"expected": expected}
    why = diagnosis(place.link) if place.link is not None else ""
    return data, arrays, Reproduction(artifact.path.name, layer, why, whose, artifact.path)


def _is_open(artifact: Artifact, at: int) -> bool:
    shape = artifact.inputs[at].shape
    return bool(shape) and isinstance(shape[0], str)


def _resolved(layer: str, file: Layers) -> str | None:
    """The value of a file that has a layer's name, with or without what says that it is quantized.

    Of a constant, and of what is computed of constants alone, the first layer that reads it.
    """
    names = (layer + _QUANTIZED, layer, layer.removesuffix(_QUANTIZED))
    exact = next((name for name in names if name in file.results), layer)
    varying = _varying(file)
    if exact in varying:
        return exact
    if reader := _reader(exact, file, varying):
        return reader
    # Else the last value that is named below it: a torch module's own result comes last. Or what link 3 calls so of an
    # operator that it reads as several.
    below = (name for name in reversed(file.results) if name.startswith(f"{layer}."))
    return next(below, None) or next((name for name in file.results if layer.startswith(f"{name}/")), None)


def _varying(file: Layers) -> frozenset[str]:
    """What a file computes of its inputs."""
    varying = set(file.inputs)
    for name in file.results:
        if not varying.isdisjoint(file.reads(name)):
            varying.add(name)
    return frozenset(varying - set(file.inputs))


def _reader(value: str, file: Layers, varying: Collection[str]) -> str | None:
    """The first layer that is computed of a value, and of the file's inputs."""
    constants = {value}
    for name in file.results:
        if not constants.isdisjoint(file.reads(name)):
            if name in varying:
                return name
            constants.add(name)
    return None


def _sample(samples: Sequence[Sample], artifact: Artifact, link: LinkResult | None) -> Sample:
    """The input that a link names, else the first.

    Raises:
        ParityError: none is for this variant.
    """
    own = [sample for sample in samples if sample.is_for(artifact.variant)]
    if not own:
        raise ParityError("no golden values are for it", where=artifact.path.name, hint="export again")
    named = (sample for sample in own if link is not None and f"input {sample.name}" in link.reason)
    return next(named, own[0])


def _by_graph(
    file: Layers, artifact: Artifact, variant: Variant, layer: str, sample: Sample
) -> tuple[dict[str, Array], Array]:
    """What the layer reads, and what the graph computes of it, as the file stores both.

    Raises:
        ParityError: the graph has no such value.
    """
    from edgeconv.flow.links import one_row, opened
    from edgeconv.parity.writing import Graph, both_sides

    artifact = replace(artifact, intermediates=variant.intermediates.get(artifact.path.name, ()))
    graph = Graph(variant.model)
    sides = both_sides(graph, opened(artifact, graph), one_row(graph, sample.inputs))
    if layer not in sides:
        what = f"the graph has no value {layer}, or none of that shape"
        raise ParityError(what, where=artifact.path.name, hint="name another layer with --layer")
    names = file.operands(layer, [name for name in sides if name != layer])
    own = dict(
        zip((spec.name for spec in artifact.inputs), (array for _, array in file_inputs(artifact, sample)), strict=True)
    )
    read = {name: file.stored(name, sides[name][0]) if name in sides else own[name] for name in names}
    expected = sides[layer][1]
    stored = file.stored(layer, expected)
    return read, stored if stored.dtype.kind in "iu" else expected


def _packed(arrays: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
