"""Search targets: the fewest layers in float with which a quantized variant reaches an SQNR or agreement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeconv.core import Array, Artifact, Comparison, Emitted, Fidelity, Sample, Verdict
from edgeconv.core.defaults import ENOUGH_JUDGED, INT8_SQNR_DB, MOST_BESIDE, SQNR_CONFIDENCE
from edgeconv.core.search_target import Target
from edgeconv.core.variants import DEFAULT_FIDELITY, MIXED
from edgeconv.errors import CALIBRATE, QuantizeError, RecipeError
from edgeconv.flow.job import Job
from edgeconv.flow.output import temporary
from edgeconv.flow.proof import Proof
from edgeconv.flow.variant import Variant
from edgeconv.flow.variants import Batches, is_quantized, variants_of
from edgeconv.flow.writing import emit_file
from edgeconv.graph.indices import indices_of
from edgeconv.graph.joints import joints_of
from edgeconv.progress import Progress, Silent
from edgeconv.recipe import Recipe, names_data

if TYPE_CHECKING:
    from edgeconv.parity import Golden

TARGETED = ("int8", "int16x8")
"""Variants that can have a search target: the others compute in float anyway, and differ only in what is stored."""
_HELD_OUT = 4  # one calibration batch in four, where nothing else can judge

Emit = Callable[[Variant, str, str], Emitted]


def with_target(job: Job, recipe: Recipe, target: Target) -> Job:
    """The job with a search target for its first variant, which becomes its only one.

    It is judged on the recipe's parity inputs: neither ranges nor rounding nor the order of the layers depend on
    them, and the report judges every device by them, too. Where these are noise and the calibration data are not, it is
    judged on every fourth calibration batch, which is then held out from calibration.

    Raises:
        QuantizeError: the variant is not of `TARGETED`, or the source is quantized already.
        RecipeError: the recipe names no data to calibrate on.
    """
    from edgeconv.report import TargetSearch

    data, variant = recipe.quantize, job.variants[0]
    if variant not in TARGETED:
        raise QuantizeError(
            f"{variant} has no layers to keep in float", where="target", hint=f"choose of {', '.join(TARGETED)}"
        )
    if job.source.variant:
        raise QuantizeError("the model is quantized already", where="target", hint="give the float model")
    if not names_data(recipe):
        raise RecipeError(
            "it names no calibration data",
            where=f"{recipe.path}: quantize",
            hint=CALIBRATE,
        )
    samples = [sample for sample in (job.proof.samples if job.proof else ()) if sample.is_for(variant)]
    recorded = [item.variants for item in recipe.parity.images] + [item.variants for item in recipe.parity.arrays]
    only_noise = not any(not names or variant in names for names in recorded)  # no names: it is for all variants
    batches = job.quantization.batches
    assert batches is not None  # a recipe's job has them
    if samples and not (only_noise and (data.images or data.arrays or data.generator)):
        judged: Callable[[], Batches] = partial(_inputs, samples)
        words, proof = f"the {len(samples)} parity inputs", _with_threshold(job, variant, target)
    else:
        judged = partial(_every_fourth, batches, held_out=True)
        batches = partial(_every_fourth, batches, held_out=False)
        words, proof = f"every {_HELD_OUT}th calibration batch, held out", job.proof
    quantization = dataclasses.replace(job.quantization, target=target, judged=judged, batches=batches)
    target_search = TargetSearch(variant, target.sqnr_db, target.agreement, words, 0)
    return dataclasses.replace(
        job, variants=(variant,), quantization=quantization, proof=proof, target_search=target_search
    )


def with_thresholds(job: Job, model: ir.Model) -> Job:
    """The job whose variants of int8 know their acceptance thresholds.

    `MIXED` keeps as many layers in float as these need, on the parity inputs for it, or without a proof on every fourth
    calibration batch. A note on int8 tells what would help where it misses its own. A model that is quantized already
    has neither.
    """
    if job.target_search is not None or is_quantized(model):
        return job
    bounds = job.proof.bounds if job.proof is not None else DEFAULT_FIDELITY
    mixed = MIXED in job.variants
    name = MIXED if mixed else "int8"
    batches = job.quantization.batches
    samples = [sample for sample in (job.proof.samples if job.proof else ()) if sample.is_for(name)]
    if name not in job.variants or batches is None or not (mixed or samples):
        return job
    # Without parity inputs the batches that judge also calibrate: a default must not take data from the user's.
    judged: Callable[[], Batches] = partial(_every_fourth, batches, held_out=True)
    words = f"every {_HELD_OUT}th calibration batch"
    if samples:
        judged, words = partial(_inputs, samples), f"the {len(samples)} parity inputs"
    threshold = _targets_of(bounds["int8"])[0] if samples and bounds["int8"].sqnr_db is not None else None
    quantization = dataclasses.replace(job.quantization, judged=judged, threshold=threshold)
    if not mixed:
        return dataclasses.replace(job, quantization=quantization)
    from edgeconv.report import TargetSearch

    target = dataclasses.replace(_targets_of(bounds[MIXED])[0], confidence=SQNR_CONFIDENCE)
    if samples and len(samples) < ENOUGH_JUDGED:
        words += f" and up to {MOST_BESIDE} of the calibration"
    target_search = TargetSearch(MIXED, target.sqnr_db, target.agreement, words, 0)
    quantization = dataclasses.replace(quantization, target=target)
    return dataclasses.replace(job, quantization=quantization, target_search=target_search)


def _targets_of(bound: Fidelity) -> tuple[Target, ...]:
    """The thresholds as targets of a search; one at least."""
    whatever = partial(Target, index_agreement=bound.index_agreement, lost_parts=bound.lost_parts)
    targets = [whatever(sqnr_db=bound.sqnr_db)] if bound.sqnr_db is not None and bound.sqnr_db > 0 else []
    targets += [whatever(agreement=bound.agreement)] if bound.agreement else []
    return tuple(targets) or (whatever(sqnr_db=INT8_SQNR_DB),)


def with_confirmation(job: Job, emit: Emit, graph: ir.Graph) -> Job:
    """The job with a check that the target also holds on its devices, if the report judges these by the same target.

    The graph is the float one that is quantized.

    Kernels round on their own: of digits_dsc with four layers in float, whose graph says 31.6 dB, onnxruntime and
    LiteRT made 31.6 dB, LiteRT's reference kernels 30.9 and tflite-runtime 2.14 30.8.
    """
    proof, target = job.proof, job.quantization.target
    if proof is None or target is None or job.target_search is None:
        return job
    bound = proof.bounds.get(job.target_search.variant)
    if not _judges_by(bound, target):
        return job
    targets = _targets_of(bound) if bound is not None and job.target_search.variant == MIXED else (target,)
    confirmed = partial(_confirmed, job, proof, targets, emit, _Reference(job, proof, graph))
    return dataclasses.replace(job, quantization=dataclasses.replace(job.quantization, confirmed=confirmed))


class _Reference:
    """The source's float64 outputs, computed once, on first use: a search may ask at each of its steps, or never."""

    def __init__(self, job: Job, proof: Proof, graph: ir.Graph) -> None:
        self._job, self._proof = job, proof
        self._joints, self._indices = joints_of(graph), indices_of(graph)
        self._outputs = tuple(value.name or "" for value in graph.outputs)

    @cached_property
    def golden(self) -> Golden:
        """Inputs and outputs."""
        from edgeconv.parity import Golden

        reference = self._job.source.run(self._proof.samples, self._outputs, "float64")
        return Golden(self._proof.samples, reference, joints=self._joints, indices=self._indices)


def _confirmed(
    job: Job, proof: Proof, targets: Sequence[Target], emit: Emit, reference: _Reference, variant: Variant
) -> bool:
    """Whether the variant's files reach the targets on every device that can run them."""
    from edgeconv.flow.judge import judge  # the runtimes, as below: few exports search for a target

    with temporary() as folder:
        artifacts = []
        for format_, layout in job.files(variant):
            emitted = emit(variant, format_, layout)
            path = folder / f"{layout}.{format_}"
            path.write_bytes(emitted.data)
            # Without a checksum: nobody else can write this folder, and nobody reads the file later.
            artifacts.append(Artifact(path, format_, variant.name, layout, "", emitted.inputs, emitted.outputs))
        rows, _ = judge(artifacts, reference.golden, proof, None, Silent(), running=False)
    return all(reached(rows, target) for target in targets)


def reached(rows: Sequence[Comparison], target: Target) -> bool:
    """Whether every row reaches the target; failed rows do not, skipped ones are passed over."""
    holds = []
    for row in rows:
        if _says_nothing(row):
            holds.append(False)
        elif row.indices:
            continue
        elif row.metrics is None:
            holds.append(row.verdict is not Verdict.FAIL)
        elif target.sqnr_db is not None:
            holds.append(row.metrics.sqnr_db >= target.sqnr_db)
        elif target.agreement is not None and "agree" in row.top1:
            holds.append(row.top1["agree"] >= target.agreement * len(row.samples))
    return all(holds)


def _says_nothing(row: Comparison) -> bool:
    """Whether parts, or indices, miss their own thresholds, whatever the whole output's distance."""
    from edgeconv.parity import used_share

    if not isinstance(row.tolerance, Fidelity):
        return False
    own = Fidelity(sqnr_db=None, lost_parts=row.tolerance.lost_parts, index_agreement=row.tolerance.index_agreement)
    return used_share(dataclasses.replace(row, lsb={}), own) > 1.0


def _judges_by(bound: Fidelity | None, target: Target) -> bool:
    """Whether a row of the report fails exactly where it misses the target."""
    if bound is None:
        return False
    return bound.sqnr_db == target.sqnr_db if target.sqnr_db is not None else bound.agreement == target.agreement


def _with_threshold(job: Job, variant: str, target: Target) -> Proof | None:
    """The proof with the target as a threshold on every device; the recipe's other thresholds stay."""
    if job.proof is None:
        return None
    bound = job.proof.bounds.get(variant, Fidelity())
    if target.sqnr_db is not None:
        bound = dataclasses.replace(bound, sqnr_db=target.sqnr_db)
    else:
        # The default SQNR is dropped beside a target of agreement; one that the recipe states stays.
        least = None if bound.sqnr_db == DEFAULT_FIDELITY[variant].sqnr_db else bound.sqnr_db
        bound = dataclasses.replace(bound, agreement=target.agreement, sqnr_db=least)
    return dataclasses.replace(job.proof, bounds={**job.proof.bounds, variant: bound})


def _inputs(samples: Sequence[Sample]) -> Iterator[Mapping[str, Array]]:
    return (sample.inputs for sample in samples)


def _every_fourth(batches: Callable[[], Batches], *, held_out: bool) -> Iterator[Mapping[str, Array]]:
    """Every fourth calibration batch if `held_out`, else the other three."""
    return (batch for index, batch in enumerate(batches()) if (index % _HELD_OUT == _HELD_OUT - 1) == held_out)


def variants_of_job(job: Job, model: ir.Model, progress: Progress) -> tuple[Job, tuple[Variant, ...]]:
    """The job's variants; with a target, the job gets a check that the files reach it on the devices, too."""
    job = with_thresholds(job, model)
    job = with_confirmation(job, partial(emit_file, job, {}), model.graph)
    return job, tuple(variants_of(model, job.variants, job.quantization, progress, formats=job.formats))
