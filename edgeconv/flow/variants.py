"""The folded graph -> the graph of each variant: as it is, in halves, or with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeconv import quantize
from edgeconv.core import Array, values
from edgeconv.core.quantization_options import Override, QuantizationOptions
from edgeconv.core.search_target import Target
from edgeconv.core.variants import MIXED
from edgeconv.emit.tflite import check_size
from edgeconv.errors import CALIBRATE, CALIBRATED, PAIR_SAFE, QuantizeError, TargetError
from edgeconv.flow.changes import Changes
from edgeconv.flow.choices import check_choices, check_weights
from edgeconv.flow.variant import Variant
from edgeconv.progress import Progress
from edgeconv.recipe import FORMATS, checked_batches
from edgeconv.rewrite.relu6 import relu6_as_relu
from edgeconv.rewrite.scale_as_conv import scale_as_conv

if TYPE_CHECKING:
    from edgeconv.parity.quantizing import Origin

Batches = Iterable[Mapping[str, Array]]
_OF_INT8 = frozenset({"int8", MIXED})
_NAMED = 3  # layers, in a note about many
_SEEN = 4  # batches that the effect of writing ReLU6 as ReLU is measured on


@dataclass(frozen=True)
class Quantization(QuantizationOptions):
    """How int8, int16x8 and int8-weights variants are made: the options of `QuantizationOptions`, the data, the target.

    Attributes:
        batches: calibration data, read anew at every call: one mapping per inference, input name -> array (NCHW).
        plan: JSON of a plan to use instead of calibration; empty for none. Its own operators stay float, too.
        target: keeps as many of the worst layers in float as it needs; None keeps those of `keep_float` alone. Where
            `MIXED` is among the variants, it is that one's.
        judged: the data that the target is about, read as `batches` are.
        threshold: what int8 must reach on `judged`: a note tells what helps where it is missed.
        confirmed: whether the files of a variant that reaches the target reach it, too.
        places: the files and fields that ``keep_float`` and ``plan`` are from, as errors name them.
        pixels: the range that images have as the module takes them, where inputs of uint8 are to be pixels as they are;
            an `override` of the same input counts more.

    Raises:
        QuantizeError: `batches` cannot be called, `plan` is no text, or an option is not known.
    """

    batches: Callable[[], Batches] | None = None
    _: KW_ONLY
    plan: str = ""
    target: Target | None = None
    judged: Callable[[], Batches] | None = None
    threshold: Target | None = None
    confirmed: Callable[[Variant], bool] | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    pixels: Override | None = None

    def __post_init__(self) -> None:
        if self.batches is not None and not callable(self.batches):
            raise QuantizeError(
                f"it is {values.kind_of(self.batches)}, which cannot be called anew for each pass over the data",
                where="batches",
                hint="give a function: batches=lambda: data",
            )
        super().__post_init__()
        for what, function in (("judged", self.judged), ("confirmed", self.confirmed)):
            if function is not None and not callable(function):
                raise QuantizeError(f"it is {values.kind_of(function)}", where=what, hint="give a function")
        if self.target is not None:
            hint = "give quantize.Target(sqnr_db=…)"
            values.instance(self.target, Target, "target", QuantizeError, hint=hint)
        values.mapping(self.places, "places", QuantizeError, hint="leave it out")
        if not isinstance(self.plan, str):
            hint = "give its text: Path(...).read_text(), or plan.to_json()"
            raise QuantizeError(f"it is {values.kind_of(self.plan)}", where="plan", hint=hint)


def variants_of(
    model: ir.Model,
    names: Sequence[str],
    quantization: Quantization,
    progress: Progress,
    *,
    formats: Sequence[str] = FORMATS,
) -> Iterator[Variant]:
    """Makes the graph of each variant.

    Args:
        model: the folded graph, which stays as it is.
        names: of `edgeconv.core.variants.VARIANTS`.
        quantization: how those of integers are made.
        progress: notified of the stages.
        formats: that are written of them.

    Raises:
        QuantizeError: there is no calibration data, or it or the plan does not fit the graph; the graph is quantized
            already and other variants or options than its own are chosen.
        EmitError: the weights are too large for a .tflite file in float32.
    """
    maker = _Quantizer(model, quantization, progress, formats, names)
    with _naming_places(quantization.places):
        if is_quantized(model):
            check_choices(names, quantization)
        check_weights(model, names)
        if "tflite" in formats and "fp32" in names:  # told before gigabytes are written in the other format
            check_size(model)
        for name in names:
            if name == "fp32":
                yield Variant(name, model)
            elif name == "fp16":
                yield Variant(name, model, weights="float16")
            elif name == "int8-weights":
                yield maker.of_weights(name)
            else:
                yield maker.variant(name)


@contextmanager
def _naming_places(places: Mapping[str, str]) -> Iterator[None]:
    """Makes errors about an option name the file and field that it comes from."""
    try:
        yield
    except QuantizeError as error:
        choice, comma, inside = error.where.partition(",")
        if choice not in places:
            raise
        raise type(error)(error.what, where=f"{places[choice]}{comma}{inside}", hint=error.hint) from error


def is_quantized(model: ir.Model) -> bool:
    """Whether a graph holds integers already: another quantizer's work, or torch's."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph)


class _Quantizer:
    """Makes integer variants; they share the prepared graph and its calibration."""

    def __init__(
        self,
        model: ir.Model,
        quantization: Quantization,
        progress: Progress,
        formats: Sequence[str],
        names: Sequence[str],
    ) -> None:
        self._model = model
        self._formats = formats
        self._settings = quantization
        self._progress = progress
        self._exponents: Mapping[str, tuple[int, ...]] | None = None  # goes into plans: {} where nothing is equalized
        self._changes = Changes()
        self._names = names
        # Pairs of products matter to onnxruntime alone; without an .onnx file no channel changes place.
        self._reorders = quantization.pair_safe and "onnx" in formats and not _OF_INT8.isdisjoint(names)
        self._orders: Mapping[str, tuple[int, ...]] = {}

    def of_weights(self, name: str) -> Variant:
        """The variant whose activations stay float, which needs no data."""
        plan = self._plan(name)
        origin = self._origin(plan, self._model, self._model, None)
        return Variant(name, quantize.apply(self._model, plan), plan=plan, origin=origin)

    def _options(self, model: ir.Model) -> QuantizationOptions:
        pair_safe = self._settings.pair_safe and "onnx" in self._formats
        overrides = (*filter(None, [self._settings.pixels]), *self._settings.override)
        options = dataclasses.replace(self._settings, pair_safe=pair_safe, override=overrides)
        return quantize.with_names(options, self._model.graph, model.graph)

    def variant(self, name: str) -> Variant:
        if is_quantized(self._model):
            model, notes = quantize.round_between(self._model, always=self._settings.keep_roundings)
            if self._settings.keep_float:
                model = quantize.float_between(model, self._settings.keep_float)
            model = quantize.with_finer_biases(quantize.with_room_for_biases(model))
            notes = (*notes, *self._saturating(name, model, "quantize the float model, or turn"))
            exact = not self._settings.keep_roundings  # else integers alone
            return Variant(name, model, io=self._settings.io, keep_roundings=True, exact=exact, notes=notes)
        # 1. The float graph in the form that quantizes best, and a plan for it.
        prepared, notes = self._prepared
        plan = whole = self._plan(name)
        # 2. Its weights are rounded. With a target, the search makes plan and weights, each time anew; beside
        # `MIXED` the target is that variant's, and int8 is made as the options say.
        search = None
        target = self._settings.target if name == MIXED or MIXED not in self._names else None
        if target is not None:
            try:
                search = self._search(name, prepared, plan, target)
                plan, model, rounded = search.best.plan, search.best.model, search.best.rounded
            except TargetError as unreached:
                if name != MIXED:
                    raise
                notes = (*notes, f"{name}: {unreached}; no further layer stays float")
        if search is None:
            with self._progress.stage(f"{name}: {self._rounding} rounding") as tell:
                rounded = self._rounded(prepared, plan, tell)
            model = quantize.apply(rounded, plan)
        origin = self._origin(plan, prepared, rounded, None if self._settings.plan else whole)
        # 3. What the reader should know of it.
        if self._rounding != self._settings.rounding:
            missed = f"weights are rounded to nearest: rounding with {self._settings.rounding} needs data"
            notes = (*notes, f"{name}: {missed}")
        float_notes = tuple(
            f"{name}: {operator} stays float: {why or 'the plan says so'}"
            for operator, why in plan.kept_float.items()
            if search is None or why != quantize.TARGET  # the report of the search names these
        )
        if name == "int8" and search is None and self._settings.threshold is not None:
            notes = (*notes, *self._advice(name, prepared, plan, model))
        saturating = self._saturating(name, model, f"export with {PAIR_SAFE}, or turn")
        return dataclasses.replace(
            self._variant_of(name, model, plan),
            notes=(*notes, *float_notes, *saturating),
            search=search,
            origin=origin,
        )

    def _saturating(self, name: str, model: ir.Model, hint: str) -> tuple[str, ...]:
        """A note on layers whose int8 sums saturate on x86 processors without VNNI.

        There, onnxruntime (MLAS) adds two products of uint8 and int8 in 16 bits (``vpmaddubsw``).
        """
        layers = quantize.overflowing(model) if name in _OF_INT8 and "onnx" in self._formats else ()
        if not layers:
            return ()
        return (
            f"{name}: on x86 processors without VNNI onnxruntime's sums of two products saturate in "
            f"{values.listed(layers, _NAMED)}: {hint} session.x64quantprecision on there, at several times the latency",
        )

    def _variant_of(self, name: str, model: ir.Model, plan: quantize.Plan) -> Variant:
        formats = ("tflite",) if name == "int16x8" else FORMATS
        io = "int16" if name == "int16x8" and self._settings.io != "float32" else self._settings.io
        if io != "float32":
            model = quantize.round_masks(model, "int16" if name == "int16x8" else "int8")
        return Variant(name, model, io=io, keep_roundings=self._settings.keep_roundings, formats=formats, plan=plan)

    def _search(self, name: str, prepared: ir.Model, plan: quantize.Plan, target: Target) -> quantize.Search:
        """Searches for the fewest layers in float that reach the target.

        Raises:
            TargetError: it is not reached.
        """
        confirmed = self._settings.confirmed
        with self._progress.stage(f"{name}: layers in float for the target") as tell:
            return quantize.search(
                prepared,
                plan,
                target,
                tuned=lambda trial: self._rounded(prepared, trial, tell),
                batches=self._batches,
                judged=self._settings.judged or tuple,
                reference=self._model,
                confirmed=confirmed and (lambda step: confirmed(self._variant_of(name, step.model, step.plan))),
                beside=self._clipped_batches if name == MIXED else None,
                changed=self._settings.relu6_as_relu,
                by_cost=name == MIXED,
                progress=tell,
            )

    def _advice(self, name: str, prepared: ir.Model, plan: quantize.Plan, model: ir.Model) -> Iterator[str]:
        """A note on what would reach the threshold, where the graph misses it."""
        threshold, judged = self._settings.threshold, self._settings.judged
        if threshold is None or judged is None or self._settings.batches is None:
            return
        # Whether int16x8 would reach it: only .tflite files hold that variant, and a given plan is of one scheme.
        sixteen = None if self._settings.plan or "tflite" not in self._formats else lambda: self._plan("int16x8")
        with self._progress.stage(f"{name}: judged by its threshold") as tell:
            words = quantize.advice(
                prepared,
                plan,
                model,
                batches=self._batches,
                judged=judged,
                target=threshold,
                reference=self._model,
                of_16_bits=sixteen,
                progress=tell,
            )
        if words:
            yield f"{name}: {words}"

    @cached_property
    def _prepared(self) -> tuple[ir.Model, tuple[str, ...]]:
        """The float graph that is calibrated, equalized and reordered as the options say, and notes on it."""
        from edgeconv.parity.quantizing import Holds

        # There is no BatchNormalization in integers; one that could not be folded becomes a depthwise convolution.
        model, count = scale_as_conv(self._model)
        if count:
            self._changes.add("a normalization as a convolution", self._model, model)
        notes: tuple[str, ...] = ()
        if self._settings.relu6_as_relu:
            changed, count = relu6_as_relu(model)
            notes = (self._effect(model, changed, count),) if count else ()
            self._changes.add("ReLU6 as ReLU", model, changed, Holds.BELOW_SIX)
            model = changed
        # Two changes in a row are judged at once where it can be: to judge one takes as long as to judge both, and both
        # keep the names of values between.
        start, changes = model, list[str]()
        if self._settings.equalize:
            with self._progress.stage("equalize"):
                self._exponents = self._chosen_exponents(model)
                model = quantize.equalize(model, self._exponents)
            changes.append("equalization")
        holds, batch = None, dict[str, Array]()
        if self._settings.absorb_biases:
            if self._settings.equalize:  # it holds on any data, absorbing biases on the calibration's
                self._changes.add("equalization", start, model)
            with self._progress.stage("absorb biases"):
                start, model = model, quantize.absorb_biases(model, self._batches())
            changes = ["absorbing biases"]
            holds, batch = Holds.ON_DATA, dict(next(iter(self._batches())))
        self._orders = self._chosen_orders(model)
        if self._orders:
            model = quantize.reorder(model, self._orders)
            changes.append("the order of channels")
        if changes:
            self._changes.add(" and ".join(changes), start, model, holds, batch)
        return model, notes

    def _origin(
        self, plan: quantize.Plan, prepared: ir.Model, rounded: ir.Model, ranged: quantize.Plan | None
    ) -> Origin:
        """What a graph of integers was made from; `ranged` has the plan's ranges, where they were chosen for it."""
        from edgeconv.parity.quantizing import Origin

        ranges = {} if ranged is None else quantize.ranges_of(prepared, ranged, self._calibration)
        observed = {} if ranged is None else quantize.observed_of(prepared, ranged, self._calibration)
        changes = () if plan.scheme == "int8-weights" else self._changes.steps
        method = "nearest" if plan.scheme == "int8-weights" else self._rounding
        chosen, corrections = not self._settings.plan, quantize.corrections_of(rounded)
        return Origin(changes, prepared, rounded, method, plan.to_json(), chosen, ranges, corrections, observed)

    def _chosen_orders(self, model: ir.Model) -> Mapping[str, tuple[int, ...]]:
        """The order of channels: the given plan's, else one in which few pairs of weights overflow."""
        if self._settings.plan:
            return quantize.Plan.from_json(self._settings.plan).channel_orders
        return quantize.orders_of(model, per_channel=self._settings.per_channel) if self._reorders else {}

    def _chosen_exponents(self, model: ir.Model) -> Mapping[str, tuple[int, ...]] | None:
        """The equalization exponents: the given plan's, else computed from the calibration data."""
        if self._settings.plan:
            return quantize.Plan.from_json(self._settings.plan).equalization
        return quantize.exponents_of(model, self._batches(), per_channel=self._settings.per_channel)

    @cached_property
    def _calibration(self) -> quantize.Calibration:
        with self._progress.stage("calibrate") as tell:
            model = self._prepared[0]
            options = self._options(model)
            return quantize.calibrate(model, self._batches(), options=options, bounds=self._bounds, progress=tell)

    @cached_property
    def _bounds(self) -> Mapping[str, tuple[float, float]]:
        """The range beyond which numbers of attention masks make no difference, by value name."""
        return quantize.bounds_of(self._prepared[0], self._batches)

    def _plan(self, name: str) -> quantize.Plan:
        """The given plan, else one made from the prepared graph (for int8-weights, from the graph as it is)."""
        by_data = name != "int8-weights"
        scheme = "int8" if name == MIXED else name
        model = self._prepared[0] if by_data else self._model
        if self._settings.plan:
            plan = quantize.Plan.from_json(self._settings.plan)
            if plan.scheme != scheme:
                what = f"it is a plan of {plan.scheme}"
                raise QuantizeError(what, where="plan", hint=f"export the variant {plan.scheme} alone")
            return quantize.keep_operators(model, plan, self._options(model).keep_float)
        options = self._options(model)
        if not by_data:
            return quantize.make_plan(model, None, scheme=scheme, options=options)
        calibration = self._calibration
        plan = quantize.make_plan(model, calibration, scheme=scheme, options=options)
        # What amplifies the noise of its operand (a division by a small number, say) is found by running the plan.
        stage = partial(self._progress.stage, f"{name}: what steep functions read")
        in_float = quantize.fronts(model, plan, self._clipped_batches, stage=stage)
        if in_float:
            plan = quantize.make_plan(model, calibration, scheme=scheme, options=options, in_float=in_float)
        return dataclasses.replace(plan, equalization=self._exponents, channel_orders=self._orders)

    @property
    def _rounding(self) -> str:
        """The rounding method: as chosen, but "nearest" in place of the default where there is no data."""
        default = self._settings.rounding == Quantization.rounding
        return "nearest" if default and self._settings.batches is None else self._settings.rounding

    def _rounded(self, model: ir.Model, plan: quantize.Plan, tell: Callable[[str], None]) -> ir.Model:
        if self._rounding == "nearest":
            return model
        if self._rounding == "corrected":
            return quantize.correct_biases(model, plan, self._clipped_batches(), progress=tell)
        if self._rounding == "feedback":
            return quantize.round_weights(model, plan, self._clipped_batches(), progress=tell)
        return quantize.adaround(
            model, plan, self._clipped_batches(), iterations=self._settings.iterations, progress=tell
        )

    def _clipped_batches(self) -> Batches:
        """The calibration batches, with masks clipped to the same range as in the quantized graph."""
        for batch in self._batches():
            clipped = {
                name: np.clip(array, *self._bounds[name]) for name, array in batch.items() if name in self._bounds
            }
            yield {**batch, **clipped}

    def _batches(self) -> Batches:
        if self._settings.batches is None:
            raise QuantizeError("there is no calibration data", where=CALIBRATED, hint=CALIBRATE)
        return checked_batches(self._settings.batches)

    def _effect(self, model: ir.Model, changed: ir.Model, count: int) -> str:
        """A note on the SQNR that writing ReLU6 as ReLU leaves in the float graph."""
        from edgeconv.parity import metrics
        from edgeconv.reference import evaluate

        written = f"ReLU6 is written as ReLU in {count} places"
        if self._settings.batches is None:
            return f"{written}: what that changes is not measured without data"
        names = [value.name or "" for value in model.graph.outputs]
        worst = float("inf")
        for batch, _ in zip(self._batches(), range(_SEEN), strict=False):
            before, after = (evaluate(graph, batch, keep=names) for graph in (model, changed))
            worst = min(worst, *(metrics(np.asarray(after[name]), before[name]).sqnr_db for name in names))
        return f"{written}: that alone leaves {worst:.1f} dB on the calibration data"
