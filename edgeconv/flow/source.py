"""What is exported: a torch module, or an ``.onnx`` file. Each gives its graph, and can run itself on samples.

Run in float64 it is the reference of the whole report; run in float32, as its owner would run it, it is a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from edgeconv.capture import capture, give_calls, take_calls, whatever_it_brings
from edgeconv.core import NCHW, Array, Artifact, Run, Sample, TensorSpec, Verdict
from edgeconv.core.defaults import BATCH, DEVICE_TIMEOUT_S
from edgeconv.core.domain import Domain, draw
from edgeconv.core.threads import one_thread
from edgeconv.errors import FIXED_BATCH, CaptureError, EdgeconvError, RewriteError
from edgeconv.flow.output import temporary
from edgeconv.graph.domains import INDICES, domains_of
from edgeconv.recipe.foreign import state_restored
from edgeconv.rewrite import optimize

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from edgeconv.capture import OnnxFile
    from edgeconv.devices import Sessions

CAPTURED_BATCH = 11
"""The batch with which a graph is captured whose batch is freed afterwards: other dimensions seldom have this size.

A capture takes as long with 11 as with 2 (MobileNetV2, ShuffleNetV2: 1.2 to 2.2 s with either): nothing is computed.
"""
OTHER_BATCH = 2
"""The batch of the second capture, which has to give the same graph: small and even, so that a forward which depends
on the size most likely takes another branch."""
_NEGATIVE_IN_TORCH = frozenset({"GatherND"})  # as x[index] is captured; gather, embeddings and scatter refuse -1
Precision = Literal["float64", "float32"]


class Source(Protocol):
    """A module or file to export: gives its graph, and runs itself without any of our rewrites and formats.

    Attributes:
        row: what its own float32 row is called in the report.
        device: the device by whose name that row is asked for.
        title: for progress and messages.
        metadata: what the artifacts say of where they come from.
        batched: the inputs whose first dimension stays open in the files; ``graph`` has `CAPTURED_BATCH` there.
        symbol: the name of that dimension.
        variant: ``"int8"`` where it is quantized already: it is exported and judged as that; empty for float sources.
        is_read: whether its graph is what we read in a file. Its own row then shows whether we read it rightly, and how
            far it is off must not excuse it.
    """

    @property
    def is_read(self) -> bool: ...
    @property
    def row(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def batched(self) -> tuple[str, ...]: ...
    @property
    def symbol(self) -> str: ...
    @property
    def variant(self) -> str: ...

    def graph(self) -> ir.Model:
        """The captured graph: NCHW, every shape static; where the batch is open, proven to be the same at another one.

        Raises:
            CaptureError: there is none.
            RewriteError: it depends on the batch size, or an operator cannot carry the batch.
        """
        ...

    def domains(self) -> Mapping[str, Domain]:
        """The domains of integer inputs, from the operators that read them; open batches are 1.

        Raises:
            CaptureError: there is no graph.
        """
        ...

    def run(
        self,
        samples: Sequence[Sample],
        outputs: Sequence[str],
        precision: Precision,
        *,
        timeout_s: float = DEVICE_TIMEOUT_S,
        sessions: Sessions | None = None,
    ) -> Run:
        """Runs the samples, whose batches may differ where the batch is open; FAIL with a reason where it cannot.

        Args:
            samples: arrays by input name.
            outputs: names for the results, in order.
            precision: float64 for the reference.
            timeout_s: where it runs in a process of its own.
            sessions: where that may be running already.
        """
        ...


@dataclass(frozen=True)
class TorchSource:
    """A module.

    Attributes:
        module: left as it was found.
        args: example inputs.
        input_names: one per argument.
        output_names: one per result; empty for those of `edgeconv.capture.capture`
        origin: where the module comes from, one line.
        batched: see `Source`.
        symbol: see `Source`.
        within: what the module's own code runs in, which may import what lies beside it.
    """

    module: torch.nn.Module
    args: tuple[torch.Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...] = ()
    origin: str = ""
    batched: tuple[str, ...] = ()
    symbol: str = BATCH
    within: Callable[[], AbstractContextManager[object]] = nullcontext
    row = device = title = "torch"
    variant = ""
    is_read = False

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `Source`."""
        return {"source": self.origin}

    def graph(self) -> ir.Model:
        """See `Source`."""
        from edgeconv.capture.torch.repeat import changing

        with state_restored(), self.within():
            # A module whose results depend on earlier calls is refused. It is asked before the capture: tracing may
            # change its state once more.
            difference = changing(self.module, self.args)
        sizes = [len(value) for name, value in zip(self.input_names, self.args, strict=True) if name in self.batched]
        model = _captured(self._graph, self.batched, example=min(sizes, default=1))
        if difference is not None:  # tracing may name the culprit, and comes first
            raise difference
        return model

    def domains(self) -> Mapping[str, Domain]:
        """See `Source`; of operators that torch calls by other names, the captured one's."""
        if all(value.dtype.is_floating_point or str(value.dtype) == "torch.bool" for value in self.args):
            return {}
        return domains_of(self._graph(1), negative=_NEGATIVE_IN_TORCH)

    def _graph(self, batch: int) -> ir.Model:
        args = tuple(
            _with_batch(value, batch) if name in self.batched else value
            for name, value in zip(self.input_names, self.args, strict=True)
        )
        with state_restored(), self.within():
            return capture(self.module, args, input_names=self.input_names, output_names=self.output_names)

    def run(
        self,
        samples: Sequence[Sample],
        outputs: Sequence[str],
        precision: Precision,
        *,
        timeout_s: float = DEVICE_TIMEOUT_S,
        sessions: Sessions | None = None,
    ) -> Run:
        """See `Source`; runs in this process, without a limit."""
        from edgeconv.devices import run_module

        with state_restored(), self.within():
            return run_module(self.module, samples, input_names=self.input_names, output_names=outputs, dtype=precision)

    def values_of_modules(
        self, sample: Sample, precision: Precision = "float32"
    ) -> tuple[tuple[Array, ...], Mapping[str, Array]]:
        """See `edgeconv.devices.values_of_modules`: the results, and those of the modules inside."""
        from edgeconv.devices import values_of_modules

        with state_restored(), self.within():
            return values_of_modules(self.module, sample, input_names=self.input_names, dtype=precision)


@dataclass(frozen=True)
class OnnxSource:
    """A file.

    Attributes:
        file: read and checked.
        shapes: of its inputs, by name; a str in front is the open batch.
    """

    file: OnnxFile
    shapes: Mapping[str, tuple[int | str, ...]]
    row = "source (onnxruntime)"
    device = "onnxruntime"
    is_read = True

    @property
    def title(self) -> str:
        """See `Source`."""
        return self.file.path.name

    @property
    def metadata(self) -> Mapping[str, str]:
        """See `Source`."""
        return {"source": f"{self.file.path.name}, opset {self.file.opset}, sha256 {self.file.sha256}"}

    @property
    def batched(self) -> tuple[str, ...]:
        """See `Source`."""
        return tuple(name for name, shape in self.shapes.items() if shape and isinstance(shape[0], str))

    @property
    def symbol(self) -> str:
        """See `Source`."""
        return next((str(self.shapes[name][0]) for name in self.batched), BATCH)

    @property
    def variant(self) -> str:
        """See `Source`."""
        return "int8" if self.file.is_quantized else ""

    @property
    def expected(self) -> dict[str, tuple[tuple[int | str, ...], np.dtype[np.generic]]]:
        """Shape (a str is an open batch) and dtype of each input."""
        return {tensor.name: (self.shapes[tensor.name], np.dtype(tensor.dtype)) for tensor in self.file.inputs}

    def noise(self) -> Sample:
        """A seeded sample: standard normal floats, zeros and ones for booleans, integers that their readers take.

        Raises:
            CaptureError: there is no graph.
        """
        generator, domains = np.random.default_rng(0), self.domains()
        inputs: dict[str, Array] = {}
        for at, (name, (shape, dtype)) in enumerate(self.expected.items()):
            static = tuple(1 if isinstance(dim, str) else dim for dim in shape)
            if dtype.kind in "iu":
                inputs[name] = draw(domains.get(name, Domain()), static, dtype, [0, at])
                continue
            drawn = generator.standard_normal(static) if dtype.kind == "f" else generator.integers(0, 2, static)
            inputs[name] = np.asarray(drawn, dtype)
        return Sample("random-0-scale-1", inputs)

    def domains(self) -> Mapping[str, Domain]:
        """See `Source`."""
        if all(dtype.kind not in "iu" for _, dtype in self.expected.values()):
            return {}
        with failing_as_a_file(self):
            return domains_of(self._graph(1), negative=INDICES)

    def graph(self) -> ir.Model:
        """See `Source`."""
        return _captured(self._graph, self.batched)

    def _graph(self, batch: int) -> ir.Model:
        shapes = {
            name: tuple(batch if isinstance(dim, str) else dim for dim in shape) for name, shape in self.shapes.items()
        }
        return self.file.graph(shapes)

    def run(
        self,
        samples: Sequence[Sample],
        outputs: Sequence[str],
        precision: Precision,
        *,
        timeout_s: float = DEVICE_TIMEOUT_S,
        sessions: Sessions | None = None,
    ) -> Run:
        """See `Source`: float64 is the graph before any rewrite, float32 the file itself on onnxruntime."""
        if precision == "float32":
            return self._run_file(samples, outputs, timeout_s, sessions)

        reference = Run("onnx-float64", "", ())
        try:
            graphs = {batch: self._graph(batch) for batch in {self._batch_of(sample) for sample in samples}}
            with one_thread():
                results = [self._evaluated(graphs[self._batch_of(sample)], sample) for sample in samples]
        except EdgeconvError as error:
            return dataclasses.replace(reference, verdict=Verdict.FAIL, reason=str(error))
        return dataclasses.replace(reference, outputs=tuple(results))

    def moved(self, samples: Sequence[Sample]) -> Run:
        """How far float32's rounding moves the graph's outputs: a float64 run in which every value is moved by that.

        A bound for onnxruntime that does not depend on onnxruntime's own results; a graph that was read wrongly is
        further off.
        """
        from edgeconv.parity.rewriting import moved  # torch, as below

        run = Run("onnx-moved", "", ())
        try:
            graphs = {batch: self._graph(batch) for batch in {self._batch_of(sample) for sample in samples}}
            outputs = tuple(
                moved(graphs[self._batch_of(sample)], sample.inputs, seed=at) for at, sample in enumerate(samples)
            )
        except EdgeconvError as error:
            return dataclasses.replace(run, verdict=Verdict.FAIL, reason=str(error))
        return dataclasses.replace(run, outputs=outputs)

    def _batch_of(self, sample: Sample) -> int:
        return len(sample.inputs[self.batched[0]]) if self.batched else CAPTURED_BATCH

    def _evaluated(self, graph: ir.Model, sample: Sample) -> Mapping[str, Array]:
        from edgeconv.reference import evaluate  # torch, which the command line starts without

        names = [tensor.name for tensor in self.file.outputs]
        values = evaluate(graph, sample.inputs, keep=names)
        return {
            tensor.name: values[tensor.name] if tensor.dtype == "float32" else values[tensor.name].astype(tensor.dtype)
            for tensor in self.file.outputs
        }

    def _run_file(
        self, samples: Sequence[Sample], outputs: Sequence[str], timeout_s: float, sessions: Sessions | None
    ) -> Run:
        from edgeconv.devices import find, run_artifact

        run_on = run_artifact if sessions is None else sessions.run
        ranks = {value.name: len(value.shape or ()) for value in self._graph(CAPTURED_BATCH).graph.outputs}
        with temporary() as folder:
            path = folder / self.file.path.name
            path.write_bytes(self.file.comparable)  # with its external data inside, as a device takes one file
            artifact = Artifact(
                path,
                "onnx",
                "source",
                NCHW,
                self.file.sha256,
                tuple(TensorSpec(tensor.name, self.shapes[tensor.name], tensor.dtype) for tensor in self.file.inputs),
                # The shapes are compared with the reference's; here only their rank is known.
                tuple(
                    TensorSpec(name, tuple(f"d{axis}" for axis in range(ranks[name])), tensor.dtype)
                    for name, tensor in zip(outputs, self.file.outputs, strict=True)
                ),
            )
            run = run_on(find(self.device), artifact, samples, timeout_s=timeout_s)
        return dataclasses.replace(run, device=self.row, artifact="")


def of_shapes(source: Source, sample: Sample) -> Source:
    """The source for the shapes of a sample: an open batch has the sample's size."""
    if isinstance(source, OnnxSource):
        return dataclasses.replace(source, shapes={name: sample.inputs[name].shape for name in source.shapes})
    if isinstance(source, TorchSource) and source.batched:
        import torch

        args = tuple(torch.tensor(sample.inputs[name]) for name in source.input_names)
        return dataclasses.replace(source, args=args, batched=())
    return source


def failing_as_a_file(source: Source) -> AbstractContextManager[None]:
    """Wraps all stages: an unforeseen error is blamed on an exported file; with a module, it is a bug of ours."""
    return whatever_it_brings(source.file.path) if isinstance(source, OnnxSource) else nullcontext()


def with_other_batch(samples: Sequence[Sample], batched: Sequence[str]) -> tuple[Sample, ...]:
    """The samples, and one of another batch where all have the same: only that proves that a batch is open.

    Its rows are those of the first samples, shifted where a sample comes again: they differ, so that a file that mixes
    them up is found out, and their values are the samples' own.
    """
    sizes = {len(sample.inputs[name]) for sample in samples for name in batched}
    if len(sizes) != 1:
        return tuple(samples)
    size = 3 if sizes != {3} else 2  # more than one row, and another number than the samples have
    first = samples[:size]
    inputs: dict[str, Array] = dict(samples[0].inputs)
    for name in batched:
        rows = [row for sample in first for row in sample.inputs[name]]
        inputs[name] = np.stack([_shifted(rows[index % len(rows)], index // len(rows)) for index in range(size)])
    return (*samples, Sample(f"batch of {size}", inputs, scale=max(sample.scale for sample in first)))


def _shifted(row: Array, count: int) -> Array:
    return np.roll(row, count, axis=-1) if row.ndim else row


def _captured(graph_of: Callable[[int], ir.Model], batched: Collection[str], example: int = 1) -> ir.Model:
    """Captures with `CAPTURED_BATCH`, and with `OTHER_BATCH` to check that the graph does not depend on the batch.

    The second capture is what it costs, whatever the size of an image: MobileNetV2 on one core takes 0.45 s of CPU
    time for it and 0.03 s to compare, beside 2.1 s for the first, in which torch.export is imported (ResNet-50 0.6 s,
    DenseNet-121 1.3 s); a file of the same network takes 0.1 s, torch's own exporter, where it is needed, 3 s. What
    else was weighed:

    - The freed graph and the source on noise in float64, 0.3 s for MobileNetV2 and 1.0 s for ResNet-50. A bound that
      noise does not reach (``x.clamp(max=x.shape[0])``) or a result that argmax hides is not seen, and weights that
      the rewrites round blur the rest.
    - One trace with torch.export's symbolic sizes: 1.2 s, where two of fixed sizes take 0.6 s each, for MobileNetV2;
      2.8 s beside 1.6 s for DenseNet-121. Nothing is saved, and expressions in the place of sizes would need a
      translation of their own.

    What stays unseen: a forward that branches between a batch of 1 and `OTHER_BATCH`, or beyond both sizes.
    """
    if not batched:
        return graph_of(CAPTURED_BATCH)
    from edgeconv.rewrite.open_batch import free_batch

    try:
        model = graph_of(CAPTURED_BATCH)
    except CaptureError as error:
        _blame_the_batch(error, graph_of, CAPTURED_BATCH, example)
        raise
    try:
        other = graph_of(OTHER_BATCH)
    except CaptureError as error:
        _blame_the_batch(error, graph_of, OTHER_BATCH, CAPTURED_BATCH)
        raise
    give_calls(model, take_calls(other), other.clone())  # of the smaller batch, as a proof runs every call
    try:
        free_batch(model.clone(), inputs=batched, beside=other.clone())
    except RewriteError:  # some operators have no rule because the rewrites leave none of them
        free_batch(optimize(model.clone()), inputs=batched, beside=optimize(other))
    return model


def _blame_the_batch(error: CaptureError, graph_of: Callable[[int], ir.Model], batch: int, other: int) -> None:
    """Raises an error that names the batch size, if the capture works with the other one."""
    try:
        graph_of(other)
    except CaptureError:
        return
    what = f"a batch of {other} works, and with one of {batch} {error.what}"
    raise CaptureError(what, where=error.where, hint=FIXED_BATCH) from error


def _with_batch(value: torch.Tensor, batch: int) -> torch.Tensor:
    """An example input with its first row repeated to the given batch."""
    return value.detach()[:1].expand(batch, *value.shape[1:]).clone()
