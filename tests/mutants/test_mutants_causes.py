"""A planted fault is told with its layer and its cause: where the file differs, and why."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from exports import Export, Model, exports_of
from graph_faults import GRAPH_KINDS, wrong_graphs
from kinds import plant
from liveness import LEAST, Clean, function_of, graph_outputs
from mutant_networks import BENIGN, NETWORKS

from edgeconv.core.verdicts import Link
from edgeconv.errors import EdgeconvError
from edgeconv.flow.links import with_links
from edgeconv.parity.rewriting import rewriting
from edgeconv.progress import Silent

CAUSES = {
    "activation-dropped": r"left out",
    "another-arithmetic": r"is computed as (Add|Sub|Mul)|(adds|multiplies by) the mean",
    "bias-in-fp16": r"rounded to float16",
    "bias-missing": r"missing",
    "bias-rolled": r"permuted",
    "clamp": r"the clamp of|\.(min|max) is",
    "concat-order": r"in another order",
    "dilation": r"dilation",
    "filter-scaled": r"times what it should be in channel",
    "flatten-order": r"in another order",
    "gelu": r"Gelu|approximation",
    "groups-interleaved": r"permuted",
    "input-channels-exchanged": r"input channels permuted",
    "kernel-mirrored": r"mirrored",
    "kernel-rotated": r"rotated by 180",
    "kernel-transposed": r"transposed",
    "layer-skipped": r"left out",
    "layout-misread": r"another layout",
    "matrix-transposed": r"transposed \(outputs and inputs|another layout",
    "mean-to-max": r"is computed as (Global|Reduce)Max|takes the largest",
    "nearest-rounding": r"the rounding",
    "norm-eps": r"the eps of",
    "operand-doubled": r"in place of operand|read in its place|by itself",
    "operand-dropped": r"left out",
    "operands-exchanged": r"in another order|multiplies by the deviation",
    "output-channels-exchanged": r"permuted",
    "padding-of-edges": r"padding of .* holds",
    "padding-of-ones": r"padding of .* holds 1",
    "padding-shifted": r"the padding of",
    "pads-counted": r"cells (of|at) its padding",
    "permutation": r"permutation|exchanged|another layout",
    "pool-exchanged": r"is computed as (Max|Average)Pool",
    "prelu-permuted": r"permuted",
    "relu-added": r"clamp|Relu",
    "relu-to-relu6": r"clamp",
    "relu6-to-relu": r"clamp",
    "resize-convention": r"the resize convention",
    "resize-kind": r"the mode",
    "rgb-bgr": r"RGB and BGR",
    "scale-of-a-reader": r"is written with the scale .* and read with",
    "sides-exchanged": r"height and width exchanged",
    "sigmoid-hard": r"is computed as HardSigmoid",
    "sigmoid-tanh": r"is computed as (Sigmoid|Tanh)",
    "slice-shifted": r"are shifted by",
    "slope": r"the slope of|\(slope",
    "softmax-axis": r"along axis",
    "softmax-sharper": r"scaled by 1\.01",
    "stride-phase": r"another phase of its stride",
    "weight-sign": r"changes its sign",
    "weight-zero": r"is zero",
    "weights-clipped": r"is clipped to",
    "weights-cut-off": r"is rounded towards zero",
    "weights-exchanged": r"has the numbers of|has another layer's",
    "weights-in-bf16": r"rounded to bfloat16",
    "weights-in-fp16": r"rounded to float16",
    "weights-misread": r"another layout|transposed",
    "zero-point-of-a-reader": r"is written with the zero point .* and read with",
}
"""What is told of each kind."""
REWRITE_CAUSES = {
    **CAUSES,
    "batch-norm-eps": r"the eps of",
    "batch-norm-missing": r"left out",
    "batch-norm-twice": r"applied twice",
    "batch-norm-without-mean": r"the mean of",
    "bias-missing": r"missing|left out|has another bias",
    "filter-scaled": r"(is|by) 1\.02",
    "output-channels-exchanged": r"permuted",
}
"""The same of rewrites: what is folded is told as what became of the result."""
DEEP = ("mobilenet-dsc", "resnet20", "repghost", "fastvit", "prelu", "yolo-c2f", "mobilevit")
"""Networks of more than 20 layers."""
FILES = (("fp32", "onnx"), ("fp32", "tflite"))
_ROUNDED = (".quantized", ".dequantized")
Told = tuple[str, bool, bool, str]
"""The place and kind of a fault, whether its layer and its cause are told, and the line."""


def told_of(export: Export, kinds: list[str], count: int, folder: Path) -> Iterator[Told]:
    """Plants faults that change the function, of these kinds, until as many as asked for."""
    rng, clean, planted_so_far = random.Random(f"causes {export.title}"), Clean.file(export), 0
    golden = export.model.golden(export.model.samples)
    for kind in rng.sample(kinds, len(kinds)):
        planted = plant(export.data, export.artifact.format, kind, rng)
        if planted is None or planted_so_far == count:
            continue
        try:
            if clean.change(function_of(export, planted.data)) < LEAST:
                continue
        except EdgeconvError:
            continue
        planted_so_far += 1
        artifact = export.renewed(planted.data, folder)
        (linked,) = with_links([artifact], [export.variant], golden, Silent())
        link = next(link for link in linked.links if link.link is Link.WRITING)
        fault, _, cause = link.reason.partition("cause: ")
        is_told = re.search(CAUSES[kind], cause or fault) is not None
        yield (
            f"{export.title} {kind} {planted.where}",
            _names(planted.where, link.where, link.reason) or link.where in _fused_into(export, planted.where),
            is_told,
            link.reason,
        )


def of_rewrites(name: str, count: int) -> list[Told]:
    """Plants faults of the rewrites of a network that change its function, and judges link 1."""
    torch.set_num_threads(1)
    model = Model.of(NETWORKS[name], BENIGN, 7)
    golden, clean = model.golden(model.samples), Clean.graph(model)
    rng, rows = random.Random(f"causes of rewrites {name}"), list[Told]()
    kinds = [kind for kind in rng.sample(GRAPH_KINDS, len(GRAPH_KINDS)) if kind in REWRITE_CAUSES]
    for wrong in wrong_graphs(model, "onnx", kinds, rng):
        if len(rows) == count:
            break
        graph = wrong.export.model.graph
        try:
            if clean.change(partial(graph_outputs, graph, model.outputs)) < LEAST:
                continue
        except EdgeconvError:
            continue
        link = rewriting(model.captured, graph, model.samples[0].inputs, golden.reference.outputs[0])
        cause = link.reason.partition("cause: ")[2]
        is_told = re.search(REWRITE_CAUSES[wrong.kind], cause) is not None
        row = f"{name} {wrong.kind} {wrong.where}"
        rows.append((row, _names(wrong.where, link.where, link.reason), is_told, link.reason))
    return rows


def _names(where: str, told_where: str, reason: str) -> bool:
    """Whether a line names the layer: its result, or, of a tensor that the writer added, the module's."""
    value, _, inner = where.removesuffix(".flat").removesuffix(".gemm").partition("/")
    module = value.rpartition(".")[0] if inner else value
    return (
        where in reason or value in (told_where, *re.findall(r"[\w.]+", reason)) or told_where.startswith(f"{module}.")
    )


def _fused_into(export: Export, where: str) -> set[str]:
    """What an `.onnx` file of integers or halves computes of a value before it rounds: they are one layer there."""
    if export.artifact.format != "onnx":
        return set()
    names = {where}
    for node in onnx.load_model_from_string(export.data).graph.node:
        if names.intersection(node.input) and not any(name.endswith(_ROUNDED) for name in node.input):
            names.update(node.output)
    return {name for name in names if name.endswith(_ROUNDED)} | {where.removesuffix(".half")}


def of_network(
    name: str, kinds: list[str], count: int, folder: Path, files: Sequence[tuple[str, str]] = FILES
) -> list[Told]:
    torch.set_num_threads(1)
    model = Model.of(NETWORKS[name], BENIGN, 7)
    return [told for export in exports_of(model, files) for told in told_of(export, kinds, count, folder)]


def test_faults_are_told_with_layer_and_cause(tmp_path: Path) -> None:
    rows = of_network("relu6", list(CAUSES), 12, tmp_path)
    assert len(rows) == 24
    assert [row for row in rows if not row[1]] == []
    assert sum(row[2] for row in rows) >= 22, [row for row in rows if not row[2]]


def test_another_resize_of_integers_is_told(tmp_path: Path) -> None:
    """Beside sizes that only the graph has as a constant, and with which a nearest cell jumps when they are rounded."""
    torch.set_num_threads(1)
    (export,) = exports_of(Model.of(NETWORKS["prelu"], BENIGN, 7), [("int8", "tflite")])
    golden, rows = export.model.golden(export.model.samples), dict[str, str]()
    for seed in range(8):
        planted = plant(export.data, "tflite", "resize-kind", random.Random(seed))
        if planted is not None and planted.where not in rows:
            (linked,) = with_links([export.renewed(planted.data, tmp_path)], [export.variant], golden, Silent())
            rows[planted.where] = next(link.reason for link in linked.links if link.link is Link.WRITING)
    assert any("nearest" in where for where in rows)
    assert [row for row in rows.values() if re.search(CAUSES["resize-kind"], row.partition("cause: ")[2]) is None] == []


def test_faults_of_rewrites_are_told_with_layer_and_cause() -> None:
    rows = of_rewrites("mobilenet-dsc", 12)
    assert len(rows) == 12
    assert [row for row in rows if not row[1]] == []
    assert sum(row[2] for row in rows) >= 11, [row for row in rows if not row[2]]


@pytest.mark.slow
def test_faults_of_rewrites_of_deep_networks_are_told() -> None:
    rows = [row for name in DEEP for row in of_rewrites(name, 12)]
    assert len({row[0].split()[1] for row in rows}) >= 15
    layers, causes = (sum(row[at] for row in rows) / len(rows) for at in (1, 2))
    assert layers >= 0.95, [row for row in rows if not row[1]]
    assert causes >= 0.85, [row for row in rows if not row[2]]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8"])
def test_faults_of_deep_networks_are_told(variant: str, tmp_path: Path) -> None:
    """At least 40 faults of 15 kinds: the layer in 95 of 100, the cause in 85."""
    files = [(variant, format_) for format_ in ("onnx", "tflite")]
    rows = [row for name in DEEP for row in of_network(name, list(CAUSES), 6, tmp_path, files)]
    assert len(rows) >= 40
    assert len({row[0].split()[1] for row in rows}) >= 15
    layers, causes = (sum(row[at] for row in rows) / len(rows) for at in (1, 2))
    assert layers >= 0.95, [row for row in rows if not row[1]]
    assert causes >= 0.85, [row for row in rows if not row[2]]
