"""The values of a proof: what is run, by which bounds it is judged, and how far off it is. Frozen.

Arrays that leave a device are always in torch's layout (NCHW for rank 4), whatever the layout inside the artifact, so
that `parity` never has to know about layouts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeconv.core import values
from edgeconv.core.defaults import INDEX_AGREEMENT, INT8_SQNR_DB, TOLERANCE
from edgeconv.core.precision import Array
from edgeconv.core.verdicts import GroupUse, LinkResult, Verdict
from edgeconv.errors import ParityError


@dataclass(frozen=True)
class Sample:
    """One set of parity inputs, with what the report must know of it.

    Attributes:
        name: unique in the recipe: ``"random-0-scale-1"``, ``"coffee.png"``, ``"holdout[17]"``.
        inputs: one array per module input, by name, in torch's layout.
        scale: the largest magnitude that float error grows with (1.0 for images and standard normal noise).
        label: the class index that is right, where one is known.
        variants: those that are judged on it; empty for all. Inputs of a magnitude that a quantized variant was never
            calibrated for say nothing of it.
    """

    name: str
    inputs: Mapping[str, Array]
    scale: float = 1.0
    label: int | None = None
    variants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"sample {self.name!r:.80}"
        if not isinstance(self.name, str) or not self.name:
            raise ParityError(f"its name is {self.name!r:.80}", where="Sample", hint="give a text that is not empty")
        hint = "give a dict of arrays by the names of the inputs"
        values.mapping(self.inputs, f"{where}, inputs", ParityError, hint=hint)
        values.settle(
            self,
            scale=values.number(self.scale, f"{where}, scale", ParityError),
            label=values.maybe_count(self.label, f"{where}, label", ParityError),
            variants=values.names(self.variants, f"{where}, variants", ParityError),
        )

    def is_for(self, variant: str) -> bool:
        """Whether a variant is judged on it."""
        return not self.variants or variant in self.variants


@dataclass(frozen=True)
class Run:
    """The result of one artifact on one device.

    Attributes:
        device: the device's name.
        artifact: the artifact's file name; ``""`` for torch, which runs the module itself.
        outputs: one mapping (output name -> array in torch's layout) per sample, in their order; empty on failure.
        verdict: PASS when it ran to the end (nothing is said of parity), FAIL or SKIPPED with a reason.
        reason: why it failed or was skipped, one line.
        environment: runtime name, version and whatever else the device tells about itself.
        latency_ms: wall time of each sample's inference, milliseconds.
        arena_bytes: of a runtime that computes in one arena of memory: what it needed for this artifact.
    """

    device: str
    artifact: str
    outputs: tuple[Mapping[str, Array], ...]
    verdict: Verdict = Verdict.PASS
    reason: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    latency_ms: tuple[float, ...] = ()
    arena_bytes: int | None = None


@dataclass(frozen=True)
class Tolerance:
    """The bound of a comparison: ``|a - b| <= scale * atol + rtol * |b|`` element by element, b in float64.

    ``scale`` is the sample's (never below 1): rounding errors are proportional to the magnitude of what is summed. The
    default stands for "none was stated": it gives way where the source's own float32 is that far off.

    Attributes:
        atol: absolute part, for inputs of scale 1.
        rtol: relative part.
        max_abs: a further bound on ``max|a - b| / scale``; none when None.
    """

    atol: float = TOLERANCE
    rtol: float = TOLERANCE
    max_abs: float | None = None

    def __post_init__(self) -> None:
        values.settle(
            self,
            atol=values.number(self.atol, "Tolerance, atol", ParityError),
            rtol=values.number(self.rtol, "Tolerance, rtol", ParityError),
            max_abs=values.maybe_number(self.max_abs, "Tolerance, max_abs", ParityError),
        )


@dataclass(frozen=True)
class Fidelity:
    """The bound of a variant that is an approximation (fp16, int8, …): on all samples together, None for no bound.

    Attributes:
        sqnr_db: least signal-to-quantization-noise ratio, decibels: 10·log10(sum b² / sum (a - b)²) over all samples.
        cosine: least cosine similarity of any sample.
        agreement: least share of the samples whose largest element is where the reference has it (rank-2 outputs),
            0 to 1.
        accuracy_drop: most percentage points of top-1 accuracy lost against the reference (labeled samples).
        lsb: most steps of the output's own scale between a device and what the graph's integers say exactly
            (quantized outputs).
        layer_lsb: most steps between what a layer of a runtime's reference kernels makes and what the graph makes of
            the same operands exactly; see `LayerSteps`.
        lost_parts: most parts of an output that may say nothing, as their error has more than half of the energy of
            what they vary: channels, and operands of a join (see `edgeconv.core.variation`).
        index_agreement: least share of the elements of an output of indices (class numbers of an ArgMax) that are equal
            to the reference's, 0 to 1; it stands in place of the SQNR and the cosine, which mean nothing there.
    """

    sqnr_db: float | None = INT8_SQNR_DB
    cosine: float | None = None
    agreement: float | None = None
    accuracy_drop: float | None = None
    lsb: int | None = None
    layer_lsb: int | None = 1
    lost_parts: int | None = 0
    index_agreement: float | None = INDEX_AGREEMENT

    def __post_init__(self) -> None:
        values.settle(
            self,
            sqnr_db=values.maybe_number(self.sqnr_db, "Fidelity, sqnr_db", ParityError, least=-math.inf),
            cosine=values.maybe_number(self.cosine, "Fidelity, cosine", ParityError, least=-1.0, most=1.0),
            agreement=values.maybe_number(self.agreement, "Fidelity, agreement", ParityError, most=1.0),
            accuracy_drop=values.maybe_number(self.accuracy_drop, "Fidelity, accuracy_drop", ParityError),
            lsb=values.maybe_count(self.lsb, "Fidelity, lsb", ParityError),
            layer_lsb=values.maybe_count(self.layer_lsb, "Fidelity, layer_lsb", ParityError),
            lost_parts=values.maybe_count(self.lost_parts, "Fidelity, lost_parts", ParityError),
            index_agreement=values.maybe_number(
                self.index_agreement, "Fidelity, index_agreement", ParityError, most=1.0
            ),
        )


@dataclass(frozen=True)
class Parts:
    """An output of parts, such as boxes beside scores.

    Attributes:
        axis: along which, in torch's layout.
        sizes: of the parts that are joined along it, in their order; a single one where one layer makes all as its
            channels, and what parts they are can only be told by their ranges.
    """

    axis: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Metrics:
    """The distance of an output ``a`` from its float64 reference ``b``, over all elements.

    Attributes:
        max_abs: max |a - b|.
        max_rel: max |a - b| / max(|b|, rel_floor).
        rel_floor: the floor of ``max_rel``'s denominator.
        max_ulp: max |a - b| in units of the last place of float32 at b (rounded to float32).
        mean_abs: mean |a - b|.
        cosine: cosine similarity, 1.0 when both are all zero.
        sqnr_db: 10·log10(sum b² / sum (a - b)²), decibels; ``inf`` when equal.
    """

    max_abs: float
    max_rel: float
    rel_floor: float
    max_ulp: float
    mean_abs: float
    cosine: float
    sqnr_db: float


@dataclass(frozen=True)
class SampleResult:
    """How one sample fared in a comparison; ``excess`` is max(|a-b| / bound): above 1 fails.

    ``scale`` is the sample's: the absolute parts of the tolerance were multiplied by it where it is above 1. Under a
    `Fidelity` the samples are judged together: ``excess`` is this one's error over the allowed one (root mean square),
    and one of them alone may be above 1.
    """

    sample: str
    metrics: Metrics | None
    excess: float
    verdict: Verdict
    reason: str = ""
    scale: float = 1.0


@dataclass(frozen=True)
class ErrorPicture:
    """Histogram and map of the worst sample's errors, as the report draws them.

    Attributes:
        sample: its name.
        log10_edges: ascending bin edges of log10|a - b|; the first bin also holds exact zeros.
        counts: elements per bin, ``len(log10_edges) - 1`` of them.
        map: max |a - b| over batch and channels, on a grid of at most 64x64 (rows of an image output); empty
            when the output is not rank 4.
    """

    sample: str
    log10_edges: tuple[float, ...]
    counts: tuple[int, ...]
    map: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class LayerSteps:
    """A layer's distance from the graph in steps, both given the runtime's own operands, so that errors do not add up.

    Attributes:
        name: the value that it makes, named after its torch module.
        operators: the graph's, from the integers that go in to those that come out, QuantizeLinear and
            DequantizeLinear left out; empty where it is these alone.
        lsb: counts of elements by their distance in steps (negative: the runtime is below).
        most: steps allowed for these operators whatever the threshold, as their kernels are specified so; 0: none.
        reason: why; empty for nothing.
    """

    name: str
    operators: tuple[str, ...]
    lsb: Mapping[int, int]
    most: int = 0
    reason: str = ""

    @property
    def largest(self) -> int:
        """The largest distance of an element, in steps."""
        return max(map(abs, self.lsb), default=0)


@dataclass(frozen=True)
class Comparison:
    """One row of the report: one output of one artifact on one device, over all samples.

    ``metrics`` are the worst over the samples (largest error, smallest cosine and SQNR; ``mean_abs`` is the mean);
    None when there was nothing to measure. Under a `Fidelity`, ``sqnr_db`` is that of all samples together. ``top1``
    holds ``labelled``/``correct`` counts where labels exist, ``agree`` (argmax equal to the reference's) for rank-2
    outputs, and under a `Fidelity` ``reference`` (labeled samples that the reference has right). ``parts`` holds
    ``all`` and ``lost`` counts of the parts that were judged for themselves, under a `Fidelity`, and how many channels
    are ``unjudged``, as there are too few numbers of each; ``indices``, of an output of indices, counts of its
    elements: ``all``, ``equal`` to the reference's, and ``constant``, those that one number everywhere would have
    right. ``excess`` is the used share of a bound on all samples together, None where each sample has its own. ``lsb``
    counts the elements by how many steps of the output's scale they are from what the graph's integers say (quantized
    variants). ``arena_bytes`` is the memory that a microcontroller's runtime needs for the artifact. ``layers`` are
    those of the whole artifact, in the row of its first output, where the device tells what is inside; ``links`` are
    the links of the proof that the device takes part in (running), there too. ``groups`` are those of the output's
    channels, under a `Tolerance`. ``sqnr_bound_db`` is the SQNR that data like the samples have at least, where one is
    asked for: a one-sided bound of 95 % confidence (`core.confidence`); None of fewer than two samples.
    """

    artifact: str
    device: str
    output: str
    metrics: Metrics | None
    tolerance: Tolerance | Fidelity
    verdict: Verdict
    reason: str = ""
    samples: tuple[SampleResult, ...] = ()
    picture: ErrorPicture | None = None
    top1: Mapping[str, int] = field(default_factory=dict)
    latency_ms: float | None = None
    excess: float | None = None
    lsb: Mapping[int, int] = field(default_factory=dict)
    arena_bytes: int | None = None
    layers: tuple[LayerSteps, ...] = ()
    parts: Mapping[str, int] = field(default_factory=dict)
    links: tuple[LinkResult, ...] = ()
    groups: tuple[GroupUse, ...] = ()
    indices: Mapping[str, int] = field(default_factory=dict)
    sqnr_bound_db: float | None = None

    @property
    def layer_lsb(self) -> Mapping[int, int]:
        """The counts of all layers together."""
        counts: Counter[int] = Counter()
        for layer in self.layers:
            counts.update(layer.lsb)
        return dict(sorted(counts.items()))
