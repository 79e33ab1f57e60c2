"""What ``parity.json`` says of the proof of a file: its links, their layers, and what the inputs reached."""

from __future__ import annotations

from collections import Counter
from typing import Self

from pydantic import Field, model_validator

from edgeconv import core
from edgeconv.core import verdicts
from edgeconv.report._fields import MOST_LAYERS, CoreNode, Count, Drawn, NotNegative, Number, Several


class LayerUseNode(CoreNode[verdicts.LayerUse]):
    """How much of its bound a layer uses on a device, given the runtime's own operands: the worst of all samples."""

    name: str = Field(description="The value that it gives, named after its torch module.")
    operators: str = Field(description="The file's, since the values that were told before, once each: 'Conv, Clip'.")
    used: Drawn = Field(description="The largest error / bound: above 1 no correct evaluation gives it. 4 digits.")
    likely: Drawn = Field(description="The largest error / likely bound, which correct ones seldom pass. 4 digits.")
    error: Drawn = Field(description="Of the element that uses most, in the value's unit (steps, quantized). 4 digits.")
    sqnr_db: Drawn = Field(description="Signal to error over all of its elements, decibels; 'inf' when equal.")


class LinkNode(CoreNode[verdicts.LinkResult]):
    """How one link of the proof holds; the chain leads from the module to a runtime's outputs."""

    link: verdicts.Link = Field(
        description="'rewrites': the module and the rewritten graph with unrounded constants, in float64; 'rounding': "
        "what rounding the constants once costs, and whether integers are what its numbers and the plan say; "
        "'writing': that graph and the file read back, in float64; 'running': the file and the device, layer by layer "
        "on its own operands; 'end_to_end': the row itself."
    )
    verdict: core.Verdict = Field(description="'pass', 'fail' or 'skipped'.")
    error: Number | None = Field(
        description="The largest |a - b| at the place that uses most of its bound, in its unit; null: not measured."
    )
    bound: Number | None = Field(description="What it may be there; null: it has no bound, and is a cost.")
    used: Number | None = Field(description="The largest error / bound, a ratio: above 1 fails; null: no bound.")
    sqnr_db: Number | None = Field(
        description="Signal to error over all that was compared, decibels; 'inf' when equal; null: not measured."
    )
    where: str = Field(description="The value, node or tensor that uses most of its bound; may be empty.")
    reason: str = Field(description="Why it failed or was skipped, or what to know though it passed; one line.")
    layers: Several[LayerUseNode] = Field(
        default=(),
        description="Of 'running': the layers that were judged, in the file's order.",
        max_length=MOST_LAYERS,
    )


class FlipCertificateNode(CoreNode[verdicts.FlipCertificate]):
    """How many inputs have a class that no correct evaluation of the file in float32 can change."""

    samples: Count = Field(description="How many were judged: the first ones, where there are many.")
    certain: Count = Field(description="Those whose first class is further above the others than rounding moves them.")
    margin: Number = Field(description="The smallest distance of the first two classes, in the output's unit.")
    error: Number = Field(description="The largest that a correct evaluation may be off at the output, in its unit.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.certain > self.samples:
            raise ValueError(f"{self.certain} inputs are certain, of {self.samples}")
        return self


class UnreachedPartNode(CoreNode[verdicts.UnreachedPart]):
    """A part of a graph that no input reached: a fault in it changes nothing that was seen."""

    kind: verdicts.PartKind = Field(description="'clamp', 'branch', 'padding' or 'saturation'.")
    name: str = Field(description="The value that its operator gives, named after its torch module.")
    operator: str = Field(description="The ONNX operator's type, e.g. 'Clip'.")
    part: str = Field(description="Which side, branch or border: 'above 6', 'top', ….")


class CoverageNode(CoreNode[verdicts.Coverage]):
    """What of a graph the inputs of the proof reached."""

    counts: dict[verdicts.PartKind, Count] = Field(
        description="The parts that there are: pieces of clamps, branches of activations, padded borders that windows "
        "reach, ends of the ranges of quantizers."
    )
    unreached: Several[UnreachedPartNode] = Field(
        description="Those that no input reached, in the graph's order.", max_length=MOST_LAYERS
    )
    derived: Several[UnreachedPartNode] = Field(
        default=(),
        description="Those of them that inputs derived from the graph reach, on which link 4 judges runtimes, too.",
        max_length=MOST_LAYERS,
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.derived) > len(self.unreached):
            raise ValueError(f"derived inputs reach {len(self.derived)} parts, of {len(self.unreached)} unreached")
        for kind, count in Counter(part.kind for part in self.unreached).items():
            if count > self.counts.get(kind, 0):
                raise ValueError(f"{count} parts of the kind {kind.value} are unreached, of {self.counts.get(kind, 0)}")
        return self


class GroupNode(CoreNode[verdicts.GroupUse]):
    """How a group of channels of an output, whose numbers are of one magnitude, keeps to its own scale."""

    axis: Count | None = Field(description="Along which the channels lie, as torch has them; null: the whole output.")
    first: Count = Field(description="The first of the channels.")
    channels: Count = Field(description="How many channels the group has.")
    largest: NotNegative = Field(description="The largest |b| in them over all inputs, at input scale 1.")
    float32_error: NotNegative | None = Field(
        description="The largest error of the source's own float32 in them, likewise; null: not known."
    )
    error: Number = Field(description="The largest |a - b| of the input that uses most of the bound.")
    bound: NotNegative = Field(description="What it may be, for that input.")
    used: Number = Field(description="error / bound: above 1, the row fails unless every link of the proof holds.")
    sample: str = Field(description="The input's name.")
