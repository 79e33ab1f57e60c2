"""Reports as the pipeline makes them, built of core types only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeconv.core import (
    Artifact,
    Comparison,
    ErrorPicture,
    Fidelity,
    GraphSummary,
    LayerSteps,
    Metrics,
    NodeSummary,
    SampleResult,
    TensorSpec,
    Tolerance,
    Verdict,
)
from edgeconv.core.verdicts import Coverage, FlipCertificate, LayerUse, Link, LinkResult, PartKind, UnreachedPart
from edgeconv.parity.chain import held_to_links
from edgeconv.report import Report

ROWS = (
    ("", "torch", 0.21),
    ("mobile_dsc.fp32.onnx", "onnxruntime", 0.30),
    ("mobile_dsc.fp32.tflite", "litert", 0.42),
    ("mobile_dsc.fp32.tflite", "litert-reference", 0.35),
    ("mobile_dsc.fp32.tflite", "tflite-runtime", 0.44),
    ("mobile_dsc.fp32.nchw.tflite", "litert", 0.41),
    ("mobile_dsc.fp32.nchw.tflite", "litert-reference", 0.35),
)
SAMPLES = (
    *(f"random-{seed}-scale-{scale}" for seed in range(2) for scale in (1, 10, 1000)),
    "coffee.png",
    "a-photograph-with-quite-a-long-name-from-the-camera-of-somebody.jpeg",
)


def metrics(size: float) -> Metrics:
    """Metrics of a row whose largest error is `size` times 1e-5."""
    return Metrics(
        max_abs=size * 1e-5,
        max_rel=size * 3e-4,
        rel_floor=1e-3,
        max_ulp=round(size * 40, 1),
        mean_abs=size * 4e-7,
        cosine=1 - size * 1e-12,
        sqnr_db=math.inf if size == 0 else 130 - 20 * math.log10(size),
    )


def picture(size: float, *, seed: int, side: int = 64) -> ErrorPicture:
    """An error map with a bright corner and border, as padding faults have it, and its histogram."""
    generator = np.random.default_rng(seed)
    grid = np.abs(generator.normal(0, size * 2e-6, (side, side)))
    grid[0, :] += size * 4e-6
    grid[: side // 4, : side // 5] += size * 5e-6
    counts, edges = np.histogram(np.log10(grid + 1e-12), bins=40, range=(-12, -3))
    return ErrorPicture(
        sample="coffee.png",
        log10_edges=tuple(edges.tolist()),
        counts=tuple((counts * 784).tolist()),
        map=tuple(tuple(row) for row in grid.tolist()),
    )


def comparison(artifact: str, device: str, size: float, *, output: str = "output", image: bool = True) -> Comparison:
    """A row that passes while `size`, its share of the tolerance, is at most 1."""
    verdict = Verdict.PASS if size <= 1 else Verdict.FAIL
    reason = "" if size <= 1 else f"max |a-b| is {size:.3g} times the bound on coffee.png"
    samples = tuple(
        SampleResult(name, metrics(size * part), size * part, Verdict.PASS if size * part <= 1 else Verdict.FAIL)
        for name, part in zip(SAMPLES, np.linspace(0.2, 1, len(SAMPLES)).tolist(), strict=True)
    )
    return Comparison(
        artifact=artifact,
        device=device,
        output=output,
        metrics=metrics(size),
        tolerance=Tolerance(max_abs=1e-4 if image else None),
        verdict=verdict,
        reason=reason,
        samples=samples,
        picture=picture(size, seed=len(device)) if image else replace(picture(size, seed=3), map=()),
        top1={} if image else {"labelled": 8, "correct": 7, "agree": 8},
        latency_ms=2.71 + size,
    )


def skipped(artifact: str, device: str, reason: str, *, output: str = "output") -> Comparison:
    return Comparison(artifact, device, output, None, Tolerance(), Verdict.SKIPPED, reason)


def artifact(name: str, *, size_bytes: int = 1_234_567) -> Artifact:
    layout = "nchw" if name.endswith((".onnx", ".nchw.tflite")) else "nhwc"
    shape = (1, 3, 224, 224) if layout == "nchw" else (1, 224, 224, 3)
    return Artifact(
        path=Path("/home/somebody/artifacts") / name,
        format=name.rsplit(".", 1)[1],
        variant="fp32",
        layout=layout,
        sha256=f"{abs(hash(name)) % 16**8:08x}" * 8,
        inputs=(TensorSpec("input", ("batch", *shape[1:]) if name.endswith(".onnx") else shape, "float32", layout),),
        outputs=(TensorSpec("output", (1, 1000), "float32"),),
        size_bytes=size_bytes,
    )


def graph(stage: str, blocks: int) -> GraphSummary:
    """A chain of depthwise separable blocks; the captured one still has its BatchNormalizations."""
    ops = ("Conv", "BatchNormalization", "LeakyRelu") if stage == "captured" else ("", "Conv", "LeakyRelu")
    nodes: list[NodeSummary] = []
    before = "input"
    for block in range(blocks):
        for half in ("depthwise", "pointwise"):
            for index, op in enumerate(ops):
                if not op:
                    continue
                name = f"features.{block}.{half}.{index}"
                nodes.append(NodeSummary(op, name, (before, f"{name}.weight"), (1, 32, 112, 112)))
                before = name
    return GraphSummary(stage, tuple(nodes))


def passing_report() -> Report:
    """Three artifacts on five devices, all within tolerance."""
    return Report(
        model="mobile_dsc",
        description="MobileNetV1's shape made of depthwise separable blocks, 224x224 photographs.",
        source={"factory": "edgeconv.nn:MobileNetDSC", "recipe": "mobile_dsc.toml", "weights": "seed 7"},
        artifacts=tuple(artifact(name) for name in dict.fromkeys(row[0] for row in ROWS if row[0])),
        comparisons=tuple(comparison(*row) for row in ROWS),
        graphs=(graph("captured", 4), graph("folded", 4)),
        environment={
            "edgeconv": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0+cpu",
            "cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz, 2 cores",
            "seeds": "0, 1",
            "litert": {"version": "2.3.0", "delegate": "XNNPACK"},
            "tflite-runtime": {"version": "2.14.0", "numpy": "1.26.4"},
        },
        notes=("Inputs of scale 1000 are beyond what a camera yields.",),
        golden="mobile_dsc.golden.safetensors",
    )


def failing_report() -> Report:
    """A classifier with everything that can go wrong: failed, crashed and skipped rows, and no number at all."""
    onnx, tflite, nchw = "digits.fp32.onnx", "digits.fp32.tflite", "digits.fp32.nchw.tflite"
    not_a_number = replace(metrics(3), max_abs=math.nan, max_rel=math.inf, max_ulp=math.inf, sqnr_db=-math.inf)
    rows = (
        comparison("", "torch", 0.2, image=False, output="logits"),
        comparison(onnx, "onnxruntime", 0.3, image=False, output="logits"),
        comparison(onnx, "onnxruntime", 0.0, output="features"),
        comparison(tflite, "litert", 17.5, image=False, output="logits"),
        comparison(tflite, "litert", 0.9, output="features"),
        replace(
            comparison(tflite, "litert-reference", 3.0, output="features"),
            metrics=not_a_number,
            reason="NaN at 12 positions where the reference is finite",
        ),
        skipped(tflite, "tflite-runtime", "tflite-runtime 2.14.0 has no build for Python 3.13", output="logits"),
        replace(
            skipped(nchw, "litert", "the runtime was killed by signal 9 (SIGKILL) after 1.2 s", output="logits"),
            verdict=Verdict.FAIL,
        ),
    )
    return replace(
        passing_report(),
        model="digits_dsc",
        description="Digits, 8x8 pixels.",
        artifacts=tuple(artifact(name, size_bytes=41_372) for name in (onnx, tflite, nchw)),
        comparisons=rows,
    )


def hostile_report() -> Report:
    """Names that a careless page would run as code, and characters that XML refuses."""
    bad = '<script>fetch("https://example.org/")</script>&"\'\x07\x00'
    base = passing_report()
    return replace(
        base,
        model=bad,
        description=bad,
        source={bad: bad},
        notes=(bad,),
        environment={bad: bad, "device" + bad: {bad: bad}},
        artifacts=(artifact("a.onnx"),),
        comparisons=(replace(comparison("a.onnx", "onnxruntime", 2, output=bad), reason=bad, device=bad),),
        graphs=(GraphSummary(bad, (NodeSummary(bad, bad, (bad,), (1, bad)),)),),
    )


def large_report() -> Report:
    """A deep network: 600 operators before folding, 400 after."""
    return replace(passing_report(), graphs=(graph("captured", 100), graph("folded", 100)))


def quantized_report() -> Report:
    """An int8 classifier: judged on all samples together, with its distance from the graph's integers."""
    file = "digits.int8.tflite"
    spec = TensorSpec("input", (1, 8, 8, 1), "int8", "nhwc", scale=0.0039, zero_point=-128)
    bound = Fidelity(sqnr_db=20.0, cosine=0.99, agreement=0.85, accuracy_drop=20.0, lsb=2)
    rows = tuple(
        replace(
            comparison(file, device, 3.0, image=False, output="logits"),
            tolerance=bound,
            verdict=Verdict.PASS if excess <= 1 else Verdict.FAIL,
            reason="" if excess <= 1 else "SQNR is 18.20 dB, at least 20 is asked for",
            excess=excess,
            samples=tuple(SampleResult(name, metrics(4e4), excess, Verdict.PASS) for name in SAMPLES),
            top1={"agree": len(SAMPLES) - 1, "labelled": 6, "correct": 5, "reference": 6},
            lsb={-2: 3, -1: 120, 0: 9_000, 1: 117},
        )
        for device, excess in (("litert", 0.6), ("tflite-micro", 1.23))
    )
    layers = (
        LayerSteps("input", (), {0: 64}),
        LayerSteps("stem.2", ("Conv", "LeakyRelu"), {-1: 30, 0: 994}),
        LayerSteps("tanh", ("Tanh",), {-3: 1, 0: 9, 2: 6}, 3, "the kernel draws straight lines"),
        *(LayerSteps(f"block.{index}", ("Conv",), {0: 500 - index, 1: index}) for index in range(20)),
        LayerSteps("logits", ("Gemm",), {0: 8, 2: 2}),
    )
    reference = replace(
        rows[0], device="litert-reference", verdict=Verdict.FAIL, reason="layer logits (Gemm) is 2 steps", layers=layers
    )
    return replace(
        passing_report(),
        model="digits_int8",
        artifacts=(replace(artifact(file), variant="int8", inputs=(spec,)),),
        comparisons=(*rows, reference),
    )


def layers(count: int, *, beyond: int | None = None) -> tuple[LayerUse, ...]:
    """A profile of a deep network; the layer at `beyond` is 341 times its bound off."""
    generator = np.random.default_rng(count)
    shares = 10 ** generator.uniform(-4.5, -0.25, count)
    names = [f"features.{at // 3}.conv.{at % 3}" for at in range(count)]
    uses = [
        LayerUse(name, "Conv, Clip", share, min(3 * share, 1.2), 1e-6 * share, 130 - 20 * math.log10(share))
        for name, share in zip(names, shares.tolist(), strict=True)
    ]
    if beyond is not None:
        uses[beyond] = replace(uses[beyond], used=341.0, likely=1200.0, error=0.3, sqnr_db=21.0)
    return tuple(uses)


def running(count: int, *, beyond: int | None = None) -> LinkResult:
    """A link of a runtime that was judged layer by layer."""
    uses = layers(count, beyond=beyond)
    worst = max(uses, key=lambda layer: layer.used)
    verdict = Verdict.PASS if worst.used <= 1 else Verdict.FAIL
    reason = f"layer {worst.name} (Conv, Clip), input coffee.png, uses {worst.used:.2g} of its bound"
    return LinkResult(Link.RUNNING, verdict, worst.error, 1e-6, worst.used, 140.0, worst.name, reason, uses)


def chained_report() -> Report:
    """Links in every state: of the first file all hold, of the second two break, of the third none was judged."""
    rewrites = LinkResult(Link.REWRITES, Verdict.PASS, 2e-14, 1e-12, 0.021, 300.0, "classifier.1")
    rounding = LinkResult(Link.ROUNDING, Verdict.PASS, 3e-7, None, None, 141.3, "output")
    writing = LinkResult(Link.WRITING, Verdict.PASS, 3e-16, 1e-12, 2.8e-4, 322.0, "features.3.conv.1")
    writing = replace(writing, reason="1 of 106 constants is within 1e-06 of the module's")
    what = "CONV_2D features.0.0 is 2.1e-07 from what the graph computes of the same, 2.3e+06 times its bound"
    broken = LinkResult(Link.WRITING, Verdict.FAIL, 2e-7, 1e-13, 2.3e6, None, "features.0.weight", what)
    unknown = LinkResult(Link.WRITING, Verdict.SKIPPED, reason="not judged: the reference does not compute GRU")
    report = passing_report()
    links = ((rewrites, rounding, writing), (rewrites, rounding, broken), (unknown,))
    counts = {PartKind.CLAMP: 60, PartKind.BRANCH: 8, PartKind.PADDING: 24}
    parts = [UnreachedPart(PartKind.CLAMP, f"features.{at}.conv.2", "Clip", "above 6") for at in range(20)]
    parts += [UnreachedPart(PartKind.BRANCH, "act", "PRelu", "below 0, in 3 of 64 channels")]
    coverages = (Coverage(counts), Coverage(counts, tuple(parts), tuple(parts[:1])), None)
    certificates = (FlipCertificate(100, 98, 0.25, 0.5), FlipCertificate(3, 0, 0.0113, 107.6), None)
    artifacts = tuple(
        replace(item, links=own, coverage=coverage, certificate=certificate)
        for item, own, coverage, certificate in zip(report.artifacts, links, coverages, certificates, strict=True)
    )
    rows = list(report.comparisons)
    for at, link in {1: running(8), 2: running(65), 3: running(300, beyond=200), 4: running(700)}.items():
        rows[at] = replace(rows[at], links=(link,))
    untold = LinkResult(Link.RUNNING, Verdict.SKIPPED, reason="whatever value it tells, it computes otherwise")
    rows[5], rows[6] = (replace(rows[at], links=(link,)) for at, link in ((5, untold), (6, running(3))))
    return replace(report, artifacts=artifacts, comparisons=held_to_links(rows, artifacts))


REPORTS: dict[str, Callable[[], Report]] = {
    "passing": passing_report,
    "failing": failing_report,
    "hostile": hostile_report,
    "large": large_report,
    "quantized": quantized_report,
    "chained": chained_report,
    "empty": lambda: Report(model="empty"),
}
