"""Which input and output of a file is which of the module's, and in what layout the file has it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from edgeconv.core import NCHW, NHWC, Artifact, Sample, TensorSpec
from edgeconv.errors import ParityError

# Names of a SavedModel's signature, which TensorFlow's converter puts around the argument's: serving_default_x:0.
_DECORATED = re.compile(r"^serving_default_|:\d+$")
Shape = tuple[int | str, ...]


def matched_specs(
    theirs: Sequence[TensorSpec],
    ours: Mapping[str, Shape],
    *,
    side: str,
    titles: Mapping[str, str],
    stated: Mapping[str, str],
    layout: str,
    where: str,
) -> tuple[TensorSpec, ...]:
    """Renames the inputs or the outputs of a file after the module's, and states their layouts and open sizes.

    One is matched as stated; else by its name (TensorFlow's decorations aside) or its signature's name; else it is the
    first of those left over that has its shape.

    Args:
        theirs: of the file, in its order.
        ours: shapes of the module's, by name, in torch's layout.
        side: ``"input"`` or ``"output"``.
        titles: further names of the file's.
        stated: the module's name, by one of the file's.
        layout: where a shape is the same in both layouts; empty where that is not known.
        where: the file.

    Raises:
        ParityError: one has no partner, or a layout cannot be told.
    """
    if len(theirs) != len(ours):
        what = f"it has {len(theirs)} {side}s ({_shown(theirs)}), and the module {len(ours)} ({', '.join(ours)})"
        raise ParityError(what, where=where, hint="give the file and the recipe of one network")
    # 1. By name, as long as the shape allows it; a match that the caller states is not questioned.
    partners: dict[str, str] = {}
    names = {
        spec.name: [stated.get(spec.name, ""), spec.name, _DECORATED.sub("", spec.name), titles.get(spec.name, "")]
        for spec in theirs
    }
    for spec in theirs:
        for name in names[spec.name]:
            if name in ours and name not in partners.values() and (_layouts(spec, ours[name]) or spec.name in stated):
                partners[spec.name] = name
                break
    for spec in theirs:
        # 2. What has no such name is matched by shape, in the file's order.
        if spec.name not in partners:
            fitting = [name for name, shape in ours.items() if name not in partners.values() and _layouts(spec, shape)]
            if not fitting:
                what = f"its {side} {spec.name!r:.80} of shape {_sizes(spec.shape)} is none of the module's: "
                what += ", ".join(f"{name} {_sizes(shape)}" for name, shape in ours.items())
                raise ParityError(what, where=where, hint="say which it is with --match THEIRS=OURS")
            partners[spec.name] = fitting[0]
    matched = []
    for spec in theirs:
        name = partners[spec.name]
        renamed = replace(spec, name=name, layout=_layout(spec, ours[name], layout, side, where))
        matched.append(_sized(renamed, ours[name]) if side == "output" else renamed)
    return tuple(matched)


def _sized(spec: TensorSpec, shape: Shape) -> TensorSpec:
    """An output whose open sizes are the module's: a runtime computes them, and others would be an error."""
    ours = shape if spec.layout != NHWC else (shape[0], *shape[2:], shape[1])
    return replace(spec, shape=tuple(b if isinstance(a, str) else a for a, b in zip(spec.shape, ours, strict=True)))


def match_notes(theirs: Sequence[TensorSpec], matched: Sequence[TensorSpec]) -> Iterator[str]:
    """A few words on each that has another name or layout than the module's."""
    for spec, partner in zip(theirs, matched, strict=True):
        if spec.name != partner.name or partner.layout == NHWC:
            yield f"{spec.name} is {partner.name}" + (f" in {NHWC.upper()}" if partner.layout == NHWC else "")


def _layouts(spec: TensorSpec, shape: Shape) -> list[str]:
    """The layouts in which the file's shape is the module's."""
    layouts = [NCHW] if _fits(spec.shape, shape) else []
    if len(shape) == 4 and _fits(spec.shape, (shape[0], shape[2], shape[3], shape[1])):
        layouts.append(NHWC)
    return layouts


def _fits(theirs: Shape, ours: Shape) -> bool:
    """Whether sizes are equal wherever both are stated."""
    return len(theirs) == len(ours) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(theirs, ours, strict=True)
    )


def _layout(spec: TensorSpec, shape: Shape, stated: str, side: str, where: str) -> str:
    layouts = _layouts(spec, shape)
    if not layouts:
        what = f"its {side} {spec.name!r:.80} has the shape {_sizes(spec.shape)}, the module's is {_sizes(shape)}"
        raise ParityError(what, where=where, hint="match it with another")
    # With one element behind the batch both layouts are the same bytes.
    if len(layouts) == 1 or shape[1:] == (1, 1, 1):
        return layouts[0]
    if not stated:
        what = f"the shape {_sizes(spec.shape)} of its {side} {spec.name!r:.80} fits NCHW and NHWC"
        raise ParityError(what, where=where, hint="say which it is with --layout nhwc or --layout nchw")
    return stated


def takes(artifact: Artifact, sample: Sample) -> bool:
    """Whether a file takes a sample's shapes as they are; sizes that it leaves open may be any."""
    return all(_fits(spec.shape, spec.to_file(sample.inputs[spec.name]).shape) for spec in artifact.inputs)


def _shown(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs)


def _sizes(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
