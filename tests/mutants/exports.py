"""What faults are planted in: files of a network in memory, with what a proof compares them with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from mutant_networks import Network
from stand_in import inputs_of

from edgeconv.core import NHWC, Array, Artifact, Run, Sample
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import EdgeconvError
from edgeconv.flow.arguments import checked_call, named_inputs
from edgeconv.flow.source import TorchSource
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.graph.constants import take_exact
from edgeconv.graph.joints import joints_of
from edgeconv.parity import Golden, float32_errors, shaken
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize

VARIANTS: tuple[tuple[str, str], ...] = (
    *(("fp32", "onnx"), ("fp32", "tflite"), ("fp16", "onnx"), ("fp16", "tflite")),
    *(("int8", "onnx"), ("int8", "tflite"), ("int16x8", "tflite")),
)
_CALIBRATION = 32  # images, and as much noise: of three, integers do not reach what is judged


@dataclass(frozen=True)
class Model:
    """A network with its weights, captured and rewritten.

    Attributes:
        network: which.
        weights: of `mutant_networks.WEIGHTS`.
        seed: of the weights and of all inputs.
        source: the module.
        captured: the graph before it was rewritten.
        graph: the rewritten graph, with what its constants were rounded from.
    """

    network: Network
    weights: str
    seed: int
    source: TorchSource
    captured: ir.Model
    graph: ir.Model

    @classmethod
    def of(cls, network: Network, weights: str, seed: int) -> Model:
        """Captures and rewrites; raises EdgeconvError as the flow does."""
        return cls.of_module(network.build(weights, seed), network, weights, seed)

    @classmethod
    def of_module(cls, module: torch.nn.Module, network: Network, weights: str, seed: int) -> Model:
        """The same for a module that was changed."""
        arguments = tuple(torch.zeros(shape) for shape in network.shapes)
        module, tensors, own_names = checked_call(module, arguments, None)
        source = TorchSource(module, tensors, named_inputs(None, own_names), (), network.name)
        graph = source.graph()
        return cls(network, weights, seed, source, graph.clone(), optimize(graph, keep_exact=True))

    @property
    def title(self) -> str:
        """``<network>-<weights>-<seed>``."""
        return f"{self.network.name}-{self.weights}-{self.seed}"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        return tuple(value.name or "" for value in self.graph.graph.outputs)

    def sample(self, name: str, arrays: Sequence[Array], scale: float = 1.0) -> Sample:
        """A sample of these inputs, times ``scale``."""
        scaled = [np.asarray(array * scale, np.float32) for array in arrays]
        return Sample(name, dict(zip(self.source.input_names, scaled, strict=True)), scale)

    def noise(self, index: int, scale: float = 1.0) -> Sample:
        """Standard normal noise, by number, times ``scale``."""
        rng = np.random.default_rng((self.seed, index))
        arrays = [rng.standard_normal(shape) for shape in self.network.shapes]
        return self.sample(f"noise-{index}-scale-{scale:g}", arrays, scale)

    def image(self, index: int) -> Sample:
        """What photographs have: low frequencies, contrasts and colors."""
        tensors = inputs_of(self.network.shapes, 1, torch.Generator().manual_seed(1000 * self.seed + index))
        return self.sample(f"image-{index}", [tensor.numpy() for tensor in tensors])

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """The inputs of a proof."""
        return (self.noise(0), self.image(1))

    @cached_property
    def probes(self) -> tuple[Sample, ...]:
        """Inputs that tell whether a fault changes the function: other ones, of many magnitudes, and borders alone."""
        constant = self.sample("constant", [np.full(shape, 0.7) for shape in self.network.shapes])
        corner = [np.zeros(shape) for shape in self.network.shapes]
        for array in corner:
            array[..., 0, 0], array[..., -1, -1] = 3.0, -2.0
        noises = [self.noise(10 + index, scale) for index, scale in enumerate((1.0, 10.0, 100.0, 0.05))]
        return (noises[0], self.image(11), *noises[1:], constant, self.sample("corners", corner))

    def golden(self, samples: Sequence[Sample]) -> Golden:
        """The module in float64 on samples, and how far its own float32 is off."""
        reference, joints = self._run(samples, "float64"), joints_of(self.graph.graph)
        errors = float32_errors(self.float32(samples), reference, samples, joints)
        again, references = shaken(samples, reference)
        if again:
            more = float32_errors(self.float32(again), references, again, joints)
            errors = {name: np.maximum(array, more[name]) for name, array in errors.items()}
        return Golden(tuple(samples), reference, {}, joints, errors)

    def float32(self, samples: Sequence[Sample]) -> Run:
        """The module as its owner runs it: what other converters' checks compare with."""
        return self._run(samples, "float32")

    def _run(self, samples: Sequence[Sample], precision: str) -> Run:
        run = self.source.run(samples, self.outputs, precision)
        if run.reason:
            raise ValueError(f"{self.title} does not run: {run.reason}")
        return run

    def variants(self, names: Sequence[str]) -> Iterator[Variant]:
        """The graphs of these variants; those that a network does not allow are left out."""
        numbers = range(100, 100 + _CALIBRATION)
        batches = [dict(make(number).inputs) for number in numbers for make in (self.image, self.noise)]
        quantization = Quantization(lambda: batches, rounding="nearest")
        graph = self.graph.clone()
        take_exact(graph)  # which link 1 asks for: variants are made without, as in an export
        for name in names:
            try:
                yield from variants_of(graph, [name], quantization, Silent())
            except EdgeconvError as error:
                print(f"{self.title}: no {name}: {error}", flush=True)


@dataclass(frozen=True)
class Export:
    """One file, and what it was written from.

    Attributes:
        model: the network.
        variant: the graph that the file was written from.
        artifact: the file's interface; nothing lies at its path until a gate writes it there.
        data: the file.
    """

    model: Model
    variant: Variant
    artifact: Artifact
    data: bytes

    @property
    def title(self) -> str:
        """``<network>-<weights>-<seed>.<variant>.<format>``."""
        return self.artifact.path.name

    def renewed(self, data: bytes, folder: Path) -> Artifact:
        """The artifact with other bytes, written into a folder."""
        path = folder / self.artifact.path.name
        path.write_bytes(data)
        old = self.artifact
        sha256 = hashlib.sha256(data).hexdigest()
        return Artifact(
            path, old.format, old.variant, old.layout, sha256, old.inputs, old.outputs, len(data), None,
            old.intermediates,
        )  # fmt: skip


def exports_of(model: Model, kinds: Sequence[tuple[str, str]] = VARIANTS) -> Iterator[Export]:
    """Writes the files of a network: (variant, format) each."""
    for variant in model.variants(list(dict.fromkeys(name for name, _ in kinds))):
        for format_ in (format_ for name, format_ in kinds if name == variant.name):
            if format_ not in variant.formats:
                continue
            try:
                yield written(model, variant, format_)
            except EdgeconvError as error:
                print(f"{model.title}: no {variant.name} {format_}: {error}", flush=True)


def written(model: Model, variant: Variant, format_: str) -> Export:
    """The file of a variant, as the flow writes it.

    Raises:
        EmitError: the format has no form for it.
    """
    encoding = {"weights": variant.weights, "io": variant.io}
    if format_ == "onnx":
        emitted = to_onnx(variant.model, metadata={}, opset=18, **encoding)
    else:
        emitted = to_tflite(variant.model, layout=NHWC, metadata={}, **encoding)
    layout = "nchw" if format_ == "onnx" else NHWC
    path = Path(f"{model.title}.{variant.name}.{format_}")
    artifact = Artifact(
        path, format_, variant.name, layout, "", emitted.inputs, emitted.outputs, len(emitted.data), None,
        emitted.intermediates,
    )  # fmt: skip
    return Export(model, variant, artifact, emitted.data)
