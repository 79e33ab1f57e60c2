"""Modules of integers beside the float module, on the kernels of LiteRT, its reference kernels and onnxruntime.

Members, tables: an Embedding that is summed, averaged, read by a linear layer or a convolution, alone, twice, padded,
with rows that the data never pick; a parameter indexed by an input, along axis 0 and 1, by what an argmax makes; where
of two constants. Norms: one, two and three BatchNorm2d, BatchNorm1d of signals and of rows, BatchNorm3d. Between
layers: grid_sample in int16x8, argmax, a Cast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from crossed import diagonal
from torch import nn

import edgeconv

_KERNELS = (OpResolverType.AUTO, OpResolverType.BUILTIN_REF)
_Args = tuple[torch.Tensor, ...]


class Of(nn.Module):
    """A function of submodules and inputs as a module."""

    def __init__(self, function: Callable[..., torch.Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return self.function(self, *args)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _indices(*shape: int, seed: int = 0, below: int = 20) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(seed))


def worst_db(
    folder: Path,
    module: nn.Module,
    samples: Sequence[_Args],
    variant: str = "int8",
    *,
    other: Sequence[_Args] = (),
    tflite: Sequence[OpResolverType] = _KERNELS,
) -> dict[str, float]:
    """The least SQNR of each file on each kind of kernels against torch, on `other` inputs or the samples."""
    names = [f"x{index}" for index in range(len(samples[0]))]
    batches = [{name: x.numpy() for name, x in zip(names, sample, strict=True)} for sample in samples]
    result = edgeconv.export(
        module.eval(),
        samples[0],
        folder,
        name="m",
        variants=variant,
        input_names=names,
        quantization=edgeconv.Quantization(batches=lambda: batches),
    )
    found: dict[str, float] = {}
    for artifact in result.artifacts:
        for kernels in tflite if artifact.format == "tflite" else ("onnxruntime",):
            found[f"{artifact.format} {kernels}"] = min(
                _db(module, artifact, kernels, sample) for sample in (other or samples)[:4]
            )
    return found


def _db(module: nn.Module, artifact: edgeconv.Artifact, kernels: object, sample: _Args) -> float:
    feed = {spec.name: spec.to_file(x.numpy()) for spec, x in zip(artifact.inputs, sample, strict=True)}
    if artifact.format == "onnx":
        raw = onnxruntime.InferenceSession(artifact.path).run(None, feed)[0]
    else:
        interpreter = Interpreter(str(artifact.path), experimental_op_resolver_type=kernels)
        raw = next(iter(interpreter.get_signature_runner()(**feed).values()))
    made = artifact.outputs[0].from_file(raw).astype(np.float64)
    wanted = module(*sample).detach().numpy().astype(np.float64)
    return float(10 * np.log10((wanted**2).sum() / max(((wanted - made) ** 2).sum(), 1e-30)))


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(_random(*shape, seed=9))


torch.manual_seed(0)  # of the layers below, whatever was imported before
_TABLES: dict[str, tuple[Of, list[_Args]]] = {
    "averaged beside a layer": (
        Of(lambda m, i, x: m.e(i).mean(1) + m.l(x), e=nn.Embedding(20, 8), l=nn.Linear(4, 8)),
        [(_indices(1, 4, seed=i), _random(1, 4, seed=i)) for i in range(8)],
    ),
    "alone": (Of(lambda m, i: m.e(i), e=nn.Embedding(20, 8)), [(_indices(1, 4, seed=i),) for i in range(8)]),
    "read by a layer": (
        Of(lambda m, i: m.l(m.e(i)).relu(), e=nn.Embedding(20, 8, padding_idx=0), l=nn.Linear(8, 4)),
        [(_indices(1, 9, seed=i),) for i in range(8)],
    ),
    "read by a convolution": (
        Of(lambda m, i: m.c(m.e(i).transpose(1, 2)).relu(), e=nn.Embedding(20, 8), c=nn.Conv1d(8, 4, 3)),
        [(_indices(1, 6, seed=i),) for i in range(8)],
    ),
    "two": (
        Of(lambda m, i: m.e(i) + m.g(i), e=nn.Embedding(20, 8), g=nn.Embedding(20, 8)),
        [(_indices(1, 4, seed=i),) for i in range(8)],
    ),
    "a parameter, along axis 1": (
        Of(lambda m, i, x: m.w[:, i] + m.l(x), w=_parameter(8, 20), l=nn.Linear(4, 8)),
        [(_indices(8, seed=i), _random(8, 4, seed=i)) for i in range(8)],
    ),
    "by an argmax": (
        Of(lambda m, x: m.w[m.l(x).argmax(-1)] + x, w=_parameter(6, 8), l=nn.Linear(8, 6)),
        [(_random(2, 8, seed=i),) for i in range(8)],
    ),
    "where of constants": (
        Of(lambda m, x: torch.where(x > 0, m.a, m.b), a=_parameter(1, 8), b=nn.Parameter(_random(1, 8))),
        [(_random(4, 8, seed=i),) for i in range(8)],
    ),
}


@pytest.mark.parametrize(("case", "variant"), diagonal([*_TABLES], ["int8", "int16x8"]))
def test_a_table_is_read_in_integers(case: str, variant: str, tmp_path: Path) -> None:
    module, samples = _TABLES[case]
    found = worst_db(tmp_path, module, samples, variant)
    assert min(found.values()) > 30, found


def test_a_table_has_room_for_rows_that_the_data_do_not_pick(tmp_path: Path) -> None:
    module = Of(lambda m, i: m.e(i), e=nn.Embedding(20, 8))
    with torch.no_grad():
        module.e.weight[7] *= 5
    seen = [(torch.zeros(1, 4, dtype=torch.int64) + i,) for i in range(4)]
    found = worst_db(tmp_path, module, seen, other=[(torch.full((1, 4), 7),)])
    assert min(found.values()) > 35, found


def _norm(kind: Callable[[int], nn.Module], seed: int) -> nn.Module:
    made = kind(4)
    for name, tensor in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.5)):
        drawn = _random(4, seed=seed) / 3 + tensor
        getattr(made, name).data = drawn.abs() if name == "running_var" else drawn
    return made


_NORMS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "two": (
        nn.Sequential(_norm(nn.BatchNorm2d, 1), _norm(nn.BatchNorm2d, 2), nn.ReLU(), nn.Conv2d(4, 8, 3)),
        (1, 4, 8, 8),
    ),
    "three": (nn.Sequential(*(_norm(nn.BatchNorm2d, seed) for seed in (1, 2, 3))), (1, 4, 8, 8)),
    "one of signals": (nn.Sequential(_norm(nn.BatchNorm1d, 1)), (1, 4, 8)),
    "two of rows": (
        nn.Sequential(_norm(nn.BatchNorm1d, 1), _norm(nn.BatchNorm1d, 2), nn.ReLU(), nn.Linear(4, 5)),
        (3, 4),
    ),
    "one of volumes": (nn.Sequential(_norm(nn.BatchNorm3d, 1)), (1, 4, 4, 6, 6)),
    "two of volumes": (nn.Sequential(_norm(nn.BatchNorm3d, 1), _norm(nn.BatchNorm3d, 2), nn.ReLU()), (1, 4, 4, 6, 6)),
}


@pytest.mark.parametrize("case", _NORMS)
def test_norms_that_nothing_absorbs_are_layers(case: str, tmp_path: Path) -> None:
    module, shape = _NORMS[case]
    found = worst_db(tmp_path, module, [(_random(*shape, seed=i),) for i in range(8)])
    assert min(found.values()) > 32, found


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_a_grid_is_sampled_between_layers_of_int16(mode: str, tmp_path: Path) -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        grid = torch.linspace(-1, 1, 50).reshape(1, 5, 5, 2)
        return m.d(nn.functional.grid_sample(m.c(x), grid, mode=mode, align_corners=False))

    module = Of(forward, c=nn.Conv2d(3, 4, 3, padding=1), d=nn.Conv2d(4, 4, 1))
    kernels = _KERNELS if mode == "bilinear" else _KERNELS[:1]  # LiteRT's reference kernels lack ROUND
    samples = [(_random(1, 3, 8, 8, seed=i),) for i in range(8)]
    found = worst_db(tmp_path, module, samples, "int16x8", tflite=kernels)
    assert min(found.values()) > 45, found


def test_an_argmax_reads_integers_and_a_cast_that_stays_float_is_told(tmp_path: Path) -> None:
    module = Of(lambda m, x: m.c(x).argmax(1).float(), c=nn.Conv2d(3, 4, 3))
    batches = [{"x": _random(1, 3, 8, 8, seed=seed).numpy()} for seed in range(4)]
    result = edgeconv.export(
        module.eval(),
        (torch.from_numpy(batches[0]["x"]),),
        tmp_path,
        name="m",
        formats="tflite",
        variants="int8",
        input_names=["x"],
        quantization=edgeconv.Quantization(batches=lambda: batches, io="int8"),
    )
    operators = [one["op_name"] for one in Interpreter(str(result.artifacts[0].path))._get_ops_details()]
    assert operators[: operators.index("ARG_MAX") + 1].count("DEQUANTIZE") == 0
    assert not any("ArgMax" in note for note in result.notes)
    assert any("Cast has no integer form" in note for note in result.notes)
