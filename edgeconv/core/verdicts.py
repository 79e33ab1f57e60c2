"""What the proof says: the verdict of a comparison, and of each link of the chain from the module to a runtime.

The chain. (1) The module computes what the rewritten graph computes with unrounded constants. (2) Its constants are
rounded once: integers are those that its numbers and the plan say. (3) The file, read back by an independent reader,
computes what that graph computes. (4) A runtime computes what the file says, layer by layer on its own operands. (5)
The runtime's outputs are the module's, within the bounds that the user accepts. The first link that breaks is the
diagnosis.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    """The outcome of one comparison, or of a whole report."""

    PASS = "pass"
    FAIL = "fail"
    SKIPPED = "skipped"


class Link(enum.StrEnum):
    """A link of the proof, in the order of the chain."""

    REWRITES = "rewrites"
    ROUNDING = "rounding"
    WRITING = "writing"
    RUNNING = "running"
    END_TO_END = "end_to_end"

    @property
    def number(self) -> int:
        """Its place in the chain, from 1."""
        return list(Link).index(self) + 1


class PartKind(enum.StrEnum):
    """Parts of a graph that a fault may hide in where no input of the proof reaches them."""

    CLAMP = "clamp"
    BRANCH = "branch"
    PADDING = "padding"
    SATURATION = "saturation"


@dataclass(frozen=True)
class UnreachedPart:
    """A part of a graph that no input reached.

    Attributes:
        kind: what it is.
        name: the value that its operator gives, named after its torch module.
        operator: ONNX's name.
        part: which side, branch or border: ``"above 6"``, ``"top"``.
    """

    kind: PartKind
    name: str
    operator: str
    part: str


@dataclass(frozen=True)
class Coverage:
    """What of a graph the inputs of a proof reached.

    Attributes:
        counts: the parts that there are, by kind.
        unreached: those that no input reached, in the graph's order.
        derived: those of them that inputs derived from the graph reach, on which link 4 judges runtimes, too.
    """

    counts: Mapping[PartKind, int]
    unreached: tuple[UnreachedPart, ...] = ()
    derived: tuple[UnreachedPart, ...] = ()


@dataclass(frozen=True)
class FlipCertificate:
    """How many samples have a class that no correct evaluation of a file in float32 can change.

    Attributes:
        samples: how many were judged.
        certain: those whose first class is further above the others than rounding may move them.
        margin: the smallest distance of the first two classes among the samples, in the output's unit.
        error: the largest that correct evaluations may be off at the output, in its unit; infinite for no bound.
    """

    samples: int
    certain: int
    margin: float
    error: float


@dataclass(frozen=True)
class GroupUse:
    """How a group of channels, whose numbers are of one magnitude, keeps to its own scale: the worst of all samples.

    Attributes:
        axis: along which the channels lie, in torch's layout; None where the output has none.
        first: the first of the channels.
        channels: how many there are in the group.
        largest: the largest |b| in them, over all samples, at input scale 1.
        float32_error: the largest error that the source's own float32 makes in them, likewise; None: not known.
        error: the largest |a - b| of the sample that uses most of the bound, in the output's unit.
        bound: what it may be, for that sample.
        used: error / bound; above 1, some link of the proof has to say why, or the row fails.
        sample: its name.
    """

    axis: int | None
    first: int
    channels: int
    largest: float
    float32_error: float | None
    error: float
    bound: float
    used: float
    sample: str


@dataclass(frozen=True)
class LayerUse:
    """How much of its bound a layer uses on a device, given the runtime's own operands: the worst of all samples.

    Attributes:
        name: the value that it gives, named after its torch module.
        operators: the file's, since the values that the runtime told before: each kind once, joined by commas.
        used: the largest error / bound; above 1, no correct evaluation gives it.
        likely: the largest error / likely bound, which correct evaluations seldom pass.
        error: of the element that uses most, in the value's unit (steps of quantized ones).
        sqnr_db: signal to error over all of its elements, decibels.
    """

    name: str
    operators: str
    used: float
    likely: float
    error: float
    sqnr_db: float


@dataclass(frozen=True)
class LinkResult:
    """How one link of the proof holds: of an artifact, or (running) of an artifact on a device.

    Attributes:
        link: which.
        verdict: SKIPPED where it could not be judged, which `reason` explains.
        error: the largest |a - b| there is, at the place that uses most of its bound; None where nothing was measured.
        bound: what it may be at that place; None for a link that has no bound, but is a cost that is stated: that of
            rounding, but where an integer is not what was stated.
        used: the largest error / bound; above 1 fails. None without a bound.
        sqnr_db: signal to error over everything that was compared, decibels; None where nothing was measured.
        where: the value (named after its torch module), node or tensor that uses most of its bound.
        reason: one line: why it fails or was skipped, what to know though it passed; else empty.
        layers: of a link that is judged layer by layer (running), in the file's order.
    """

    link: Link
    verdict: Verdict
    error: float | None = None
    bound: float | None = None
    used: float | None = None
    sqnr_db: float | None = None
    where: str = ""
    reason: str = ""
    layers: tuple[LayerUse, ...] = ()
