"""``parity.json`` as types: what is written, what is accepted, and the source of ``parity.schema.json``.

Version 1. Keys may be added within a version, so a reader must pass over keys that it does not know; a key is never
removed and never changes its meaning without a new version. Numbers that JSON cannot hold are the strings "inf", "-inf"
and "nan"; null always means "not known" or "not measured".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from edgeconv import core
from edgeconv.report._fields import (
    CoreNode,
    Count,
    Decibels,
    Dimension,
    Drawn,
    Dtype,
    Environment,
    FileName,
    Golden,
    Layout,
    Node,
    NotNegative,
    Number,
    Positive,
    Several,
    Sha256,
    Share,
    Similarity,
    Steps,
    Title,
    Zero,
    checked_picture,
    checked_tensor,
)
from edgeconv.report._proof_schema import CoverageNode, FlipCertificateNode, GroupNode, LinkNode
from edgeconv.report._target_search import TargetPoint, TargetSearch

SCHEMA_VERSION = 1
SCHEMA_URI = "https://json-schema.org/draft/2020-12/schema"


class TensorNode(CoreNode[core.TensorSpec]):
    """One input or output of an artifact, as the file declares it."""

    name: str = Field(description="Its name in the file.")
    shape: Several[Dimension] = Field(
        description="Its dimensions in the file's own layout, in elements; a string is a symbolic dimension.",
        max_length=32,
    )
    dtype: Dtype = Field(description="numpy's name of the element type, e.g. 'float32'.")
    layout: Layout = Field(
        description="'nhwc' when the file holds the tensor channels-last and torch channels-first; otherwise 'nchw'."
    )

    scale: Positive | None = Field(
        default=None,
        description="Of a quantized tensor, one step: real = scale * (stored - zero_point); null: stored as it is.",
    )
    zero_point: Zero = Field(default=0, description="Of a quantized tensor, the stored number that is 0.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        checked_tensor(self.shape, self.dtype, self.layout, self.scale, self.zero_point)
        return self


class ArtifactNode(CoreNode[core.Artifact]):
    """A deployable file that was judged."""

    file: FileName = Field(description="Its file name, without any folder. It lies beside the report.")
    format: core.Format = Field(description="'onnx' or 'tflite'.")
    variant: str = Field(description="Its number format: 'fp32', 'fp16', 'int8', ….")
    layout: Layout = Field(description="'nchw' or 'nhwc': the layout of its rank-4 inputs and outputs.")
    sha256: Sha256 = Field(description="SHA-256 of its bytes, 64 lower-case hexadecimal digits.")
    size_bytes: Count | None = Field(
        description="Its size in bytes, with that of '<file>.data' where it has one; null when not known."
    )
    data_sha256: Sha256 | None = Field(
        default=None,
        description="SHA-256 of '<file>.data' beside it, which holds the weights of a file that cannot hold them "
        "itself; null: there is none.",
    )
    inputs: Several[TensorNode] = Field(description="In the order of the module's arguments.")
    outputs: Several[TensorNode] = Field(description="In the order of the module's results.")
    links: Several[LinkNode] = Field(
        default=(), description="The links of the proof without a device: rewrites, rounding, writing; []: not judged."
    )
    coverage: CoverageNode | None = Field(
        default=None, description="What of its graph the inputs reached; null: not known."
    )
    certificate: FlipCertificateNode | None = Field(
        default=None, description="Of the classes that a classifier gives; null: none."
    )

    @classmethod
    def of(cls, artifact: core.Artifact) -> ArtifactNode:
        """Leaves the folder out: a report says the same on every machine."""
        return cls.model_validate({**vars(artifact), "file": artifact.path.name})

    def core_fields(self) -> dict[str, Any]:
        fields = super().core_fields()
        fields["path"] = Path(fields.pop("file"))
        return fields


class MetricsNode(CoreNode[core.Metrics]):
    """The distance of an output a from its float64 reference b; a number, or 'inf', '-inf', 'nan'."""

    max_abs: Number = Field(description="max |a - b|, in the output's unit.")
    max_rel: Number = Field(description="max |a - b| / max(|b|, rel_floor), a ratio.")
    max_ulp: Number = Field(description="max |a - b| in units of the last place of float32 at b.")
    mean_abs: Number = Field(description="mean |a - b|, in the output's unit.")
    cosine: Number = Field(description="Cosine similarity of a and b, -1 to 1.")
    sqnr_db: Number = Field(description="10*log10(sum b^2 / sum (a - b)^2), decibels; 'inf' when equal.")
    rel_floor: Number = Field(description="The floor of max_rel's denominator, in the output's unit.")


class ToleranceNode(CoreNode[core.Tolerance]):
    """The bound, element by element: |a - b| <= s*atol + rtol*|b|, where s >= 1 is the scale of the sample's input."""

    atol: NotNegative = Field(description="Absolute part at scale 1, in the output's unit.")
    rtol: NotNegative = Field(description="Relative part, a ratio.")
    max_abs: NotNegative | None = Field(description="A further bound on max |a - b| / s, in its unit; null: none.")


class FidelityNode(CoreNode[core.Fidelity]):
    """The bound of a variant that approximates, on all samples together; null: no such bound."""

    sqnr_db: Decibels | None = Field(description="Least SQNR over all samples, decibels.")
    cosine: Similarity | None = Field(description="Least cosine similarity of any sample.")
    agreement: Share | None = Field(description="Least share of samples whose class is the reference's, 0 to 1.")
    accuracy_drop: NotNegative | None = Field(description="Most percentage points of top-1 lost against the reference.")
    lsb: Count | None = Field(description="Most steps of the output's scale from what the graph's integers say.")
    layer_lsb: Count | None = Field(
        default=None, description="Most steps of a layer from what the graph makes of the layer's own operands."
    )
    lost_parts: Count | None = Field(default=None, description="Most parts of an output that may say nothing.")
    index_agreement: Share | None = Field(
        default=None,
        description="Least share of the elements of an output of indices (class numbers) that are the reference's; it "
        "stands there in place of sqnr_db and cosine.",
    )


class SampleNode(CoreNode[core.SampleResult]):
    """How one parity input fared."""

    sample: str = Field(description="Its name, unique in the report's inputs.")
    verdict: core.Verdict = Field(description="'pass', 'fail' or 'skipped'.")
    reason: str = Field(description="Why it failed or was skipped, one line; empty when it passed.")
    excess: Number = Field(
        description="max(|a - b| / bound), a ratio: above 1 fails. Where the bound is on all samples together, this "
        "one's root mean square error over the allowed one."
    )
    scale: NotNegative = Field(
        default=1.0,
        description="The magnitude of this input: atol and max_abs of the tolerance count max(1, scale) times for it.",
    )
    metrics: MetricsNode | None = Field(description="null when there was nothing to measure.")


class PictureNode(CoreNode[core.ErrorPicture]):
    """The error of the worst sample, to be drawn."""

    sample: str = Field(description="The sample's name.")
    log10_edges: Several[Drawn] = Field(
        description="Ascending bin edges of log10 |a - b|; the first bin also holds exact zeros. 4 digits."
    )
    counts: Several[Count] = Field(description="Elements per bin: one fewer than edges.")
    map: Several[Several[Drawn]] = Field(
        description="Rows of max |a - b| over batch and channels on a grid over the image; empty: not rank 4. 4 digits."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        checked_picture(self.log10_edges, self.counts, self.map)
        return self


class LayerNode(CoreNode[core.LayerSteps]):
    """How far a layer of a device is from the graph, both given the operands that the device has."""

    name: str = Field(description="The value that it makes, named after its torch module.")
    operators: Several[str] = Field(description="The graph's, between quantized values; []: it quantizes only.")
    lsb: dict[Steps, Count] = Field(description="How many elements are how many steps from the graph's integers.")
    most: Count = Field(description="Steps that its kernel may be off whatever the tolerance says; 0: none.")
    reason: str = Field(description="Why; empty where none is.")


class ComparisonNode(CoreNode[core.Comparison]):
    """One output of one artifact on one device, against float64 torch, over all samples."""

    artifact: str = Field(description="The artifact's file name; empty for torch's own float32 run.")
    device: Title = Field(description="The device's name, e.g. 'litert'.")
    output: str = Field(description="The output's name, as torch has it.")
    metrics: MetricsNode | None = Field(
        description="The worst over the samples (mean_abs: the mean; sqnr_db: of all together where the bound is on "
        "all together); null when there was nothing to measure."
    )
    tolerance: ToleranceNode | FidelityNode = Field(
        description="The bound that was applied: on every element, or on all samples of an approximation together."
    )
    verdict: core.Verdict = Field(description="'pass', 'fail' or 'skipped'.")
    reason: str = Field(description="Why it failed or was skipped, or what to know though it passed; one line.")
    latency_ms: NotNegative | None = Field(description="Wall time of one inference, milliseconds; null: not measured.")
    top1: dict[str, Count] = Field(
        description="Counts of samples: 'labelled', 'correct' of those, 'reference' of those right in the reference, "
        "'agree' with the reference's class. May be {}."
    )
    excess: Number | None = Field(
        default=None, description="The used share of a bound on all samples together: above 1 fails; null: see samples."
    )
    lsb: dict[Steps, Count] = Field(
        default_factory=dict,
        description="Quantized outputs: how many elements are how many steps from what the graph's integers say.",
    )
    arena_bytes: Count | None = Field(
        default=None, description="Memory that a microcontroller's runtime needs for the artifact; null: not known."
    )
    layers: Several[LayerNode] = Field(
        default=(),
        description="The quantized layers of the whole artifact, in the row of its first output, in the graph's order; "
        "[] where the device does not tell what is inside.",
    )
    layer_lsb: dict[Steps, Count] = Field(default_factory=dict, description="The counts of all `layers` together.")
    parts: dict[str, Count] = Field(
        default_factory=dict,
        description="Counts of the parts that are judged for themselves, operands of a join and channels: 'all', and "
        "those 'lost', whose error has more than half of the energy of what they vary; and the channels that are "
        "'unjudged', as there are fewer than 16 numbers of each. {}: none, or a bound on every element.",
    )
    indices: dict[str, Count] = Field(
        default_factory=dict,
        description="Counts of the elements of an output of indices: 'all', those 'equal' to the reference's, and "
        "'constant', those that one number everywhere would have right. {}: numbers, or a bound on every element.",
    )
    sqnr_bound_db: Number | None = Field(
        default=None,
        description="The SQNR that data like the parity inputs have at least, with 95 % confidence, dB, where a bound "
        "on all samples together asks for one; null: fewer than two inputs, or none is asked for.",
    )
    links: Several[LinkNode] = Field(
        default=(),
        description="The links of the proof that the device takes part in (running), of the whole artifact, in the row "
        "of its first output; []: not judged.",
    )
    groups: Several[GroupNode] = Field(
        default=(),
        description="How each group of channels keeps to its own scale, beside the tolerance; []: not judged.",
    )
    samples: Several[SampleNode] = Field(description="One entry per parity input, in their order.")
    picture: PictureNode | None = Field(description="null when there was nothing to draw.")

    def core_fields(self) -> dict[str, Any]:
        fields = super().core_fields()
        del fields["layer_lsb"]  # it follows from the layers
        return fields


class OperatorNode(CoreNode[core.NodeSummary]):
    """One operator of a graph."""

    op: str = Field(description="The ONNX operator's type, e.g. 'Conv'.")
    name: str = Field(description="Its first output's name: the torch module whose output it equals.")
    inputs: Several[str] = Field(description="The names of its inputs.")
    shape: Several[Dimension] = Field(description="The shape of its first output, in elements, as torch has it.")


class GraphNode(CoreNode[core.GraphSummary]):
    """The graph at one point of the flow."""

    stage: str = Field(description="'captured' before folding, 'folded' after.")
    nodes: Several[OperatorNode] = Field(description="In topological order.")


# "frontier" is the name of version 1 for what the code calls a target search.
class FrontierPointNode(CoreNode[TargetPoint]):
    """A number of layers in float, and what it costs."""

    kept: Count = Field(description="How many layers are in float.")
    layers: Several[str] = Field(description="Which, the worst first.")
    sqnr_db: Number = Field(description="Of the quantized graph against the float one, decibels.")
    agreement: Number | None = Field(description="Share of the data whose class is the float graph's; null: none.")
    chosen: bool = Field(description="Whether the report's files are made of it.")
    size_bytes: dict[str, Count] = Field(description="Of its files, by format.")
    latency_ms: dict[str, NotNegative] = Field(description="Median of one inference, milliseconds, by device.")
    sqnr_bound_db: Number | None = Field(
        default=None, description="What the SQNR is at least on other inputs like these, decibels; null: not asked for."
    )
    index_agreement: Number | None = Field(
        default=None,
        description="Share of equal elements of outputs of indices, which have no SQNR; null: there are none.",
    )


class FrontierNode(CoreNode[TargetSearch]):
    """What was tried for a target."""

    variant: str = Field(description="What was quantized: 'int8', ….")
    sqnr_db: Number | None = Field(description="The target, decibels; null: it is an agreement.")
    agreement: Number | None = Field(description="The target, 0 to 1; null: it is an SQNR.")
    judged_on: str = Field(description="The data that the target is about.")
    layers: Count = Field(description="How many layers there are.")
    points: Several[FrontierPointNode] = Field(description="From the fewest layers in float to all.")


class ReportNode(Node):
    """What one export proved: may these files be shipped?"""

    model_config = ConfigDict(title="parity.json", validate_by_name=True, validate_by_alias=True)

    schema_version: Literal[1] = Field(alias="schema", description="The version of this format.")
    verdict: Literal["pass", "fail"] = Field(
        description="'fail' when a comparison failed or no artifact passed one; 'pass' otherwise."
    )
    reason: str = Field(description="Why, one line.")
    model: Title = Field(description="The recipe's name.")
    description: str = Field(description="What the model is; may be empty.")
    source: dict[str, str] = Field(description="Where the model came from: factory, weights, …")
    artifacts: Several[ArtifactNode] = Field(description="The files that were judged.")
    comparisons: Several[ComparisonNode] = Field(description="One per artifact, device and output.")
    graphs: Several[GraphNode] = Field(description="The graph along the flow, the captured one first.")
    environment: Environment = Field(
        description="Versions, CPU, seeds; a nested object is a group, e.g. what a device tells about itself. "
        "'rewrites left out' names those of --no-rewrite, joined by commas, which `edgeconv parity --recipe` repeats; "
        "'variants that the source quantized' names those that have no plan of edgeconv's."
    )
    notes: Several[str] = Field(description="What the reader should know, one line each.")
    golden: Golden = Field(description="Name of the file with the inputs and reference values; empty: none.")
    frontier: FrontierNode | None = Field(default=None, description="What was tried for a target; null: nothing.")


class _Untitled(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # "Max Abs" beside "max_abs" tells nobody anything


def json_schema() -> JsonSchemaValue:
    """The JSON Schema (2020-12) of ``parity.json``, which is shipped as ``parity.schema.json``."""
    schema = ReportNode.model_json_schema(mode="serialization", schema_generator=_Untitled)
    rules = " ".join(str(__doc__).split("\n\n", 1)[1].split())
    return {"$schema": SCHEMA_URI, "$comment": rules, **schema}


def schema_text() -> str:
    """The content of ``parity.schema.json``."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
