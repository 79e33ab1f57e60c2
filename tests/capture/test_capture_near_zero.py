"""Functions that vanish at zero, or far below it, keep the digits of a small operand in the files of both formats.

torch has special forms for them; a file that adds 1 to 1e-6, or takes 1 from its exponential, has lost 5 of 7 digits.

Members thought of: log1p, expm1, each of a negative operand, with its sign apart, spelled out by a module, behind a
convolution and before one; logarithms of 1 - exp(-x); softplus and log-sigmoid far below zero and above it; the sum of
two exponentials of which one is small; ELU, SELU and CELU (in TFLite: ONNX has operators of them); infinities, NaN,
-1, both zeros, numbers without a logarithm; two infinities in a logaddexp; of all that in float16, too. Hyperbolic
functions and their inverses, of very large numbers and beyond their domain.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from right_in_both import Of
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Artifact

_Function = Callable[[Tensor], Tensor]
_WEIGHT = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(1))

SMALL: dict[str, _Function] = {
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "sign apart": lambda x: x.sign() * torch.log1p(x.abs()) + x.sign() * torch.expm1(x.abs()),
    "spelled out by a module": lambda x: torch.log1p(-x) - torch.expm1(2 * x),
    "behind a convolution": lambda x: torch.log1p(F.conv2d(x, _WEIGHT.to(x.dtype))),
    "before a convolution": lambda x: F.conv2d(torch.expm1(x), _WEIGHT.to(x.dtype)),
    "logarithm of a probability": lambda x: torch.log(-torch.expm1(-x.abs())),
    "softplus": lambda x: F.softplus(x * 1e6 - 15),
    "sharp softplus": lambda x: F.softplus(x * 1e5 - 3, 5.0, 20.0),
    "log-sigmoid": lambda x: F.logsigmoid(x * 1e6 + 15),
    "two exponentials": lambda x: torch.logaddexp(x, x - 12),
}
ELUS: dict[str, _Function] = {
    "elu": F.elu,
    "elu of another slope": lambda x: F.elu(x, 2.0),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.3),
}
_ORDINARY = (0.0, -0.0, 1e-8, -1e-8, -0.3, -0.5, -0.75, 0.5, 15.0, -15.0, -80.0, 88.0, 0.9999999)
_ENDS = torch.tensor([[*_ORDINARY, -1.0, 1.0, -1.5, 2.0, -2.0, 1e4, -1e4, 1e20, torch.inf, -torch.inf, torch.nan]])
AT_THE_ENDS: dict[str, _Function] = {
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "softplus": F.softplus,
    "log-sigmoid": F.logsigmoid,
    "elu": F.elu,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
}
AS_LARGE_AS_THE_OPERAND: dict[str, _Function] = {
    "two exponentials": lambda x: torch.logaddexp(x, x.flip(1)),
    "the same exponential twice": lambda x: torch.logaddexp(x, x * 1),
    "finite": lambda x: torch.nan_to_num(x, 0.5),
}
"""What float16 ends before, and the reference kernels make finite."""


def _export(functions: dict[str, _Function], x: Tensor, folder: Path, variant: str) -> tuple[Artifact, ...]:
    """One file per format for all functions of x, each an output of it."""
    module = Of(lambda x: tuple(function(x) for function in functions.values()))
    options = {"input_names": ["x"], "output_names": list(functions), "variants": (variant,)}
    return edgeconv.export(module, (x,), folder, name="net", **options).artifacts


def _runs(artifact: Artifact, x: Tensor) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    """The outputs, in torch's layout and by name, of onnxruntime or of both of LiteRT's kernels."""
    feed = {"x": artifact.inputs[0].to_file(x.numpy())}
    names = [spec.name for spec in artifact.outputs]
    if artifact.format == "onnx":
        outputs = onnxruntime.InferenceSession(artifact.path).run(names, feed)
        return {"onnxruntime": dict(zip(names, outputs, strict=True))}
    runs = {}
    for runtime, resolver in {"xnnpack": OpResolverType.AUTO, "reference": OpResolverType.BUILTIN_REF}.items():
        interpreter = Interpreter(str(artifact.path), experimental_op_resolver_type=resolver)
        outputs = interpreter.get_signature_runner()(**feed)
        runs[runtime] = {spec.name: spec.from_file(outputs[spec.name]) for spec in artifact.outputs}
    return runs


def _decibels(actual: npt.NDArray[np.float32], exact: npt.NDArray[np.float64]) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(actual - exact).sum()))


def test_small_operands_keep_their_digits(tmp_path: Path) -> None:
    functions = {**SMALL, **ELUS}
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for artifact in _export(functions, x, tmp_path, "fp32"):
        for size in (1e-6, 1e-4):
            small = x * size
            for runtime, outputs in _runs(artifact, small).items():
                for case, function in functions.items():
                    if runtime == "onnxruntime" and case in ELUS:
                        continue  # its own kernel takes 1 from an exponential
                    assert _decibels(outputs[case], function(small.double()).numpy()) > 110, (case, runtime, size)


@pytest.mark.parametrize("variant", ["fp32", "fp16"])
def test_the_ends_of_the_domain_are_those_of_torch(variant: str, tmp_path: Path) -> None:
    functions = {**AT_THE_ENDS, **AS_LARGE_AS_THE_OPERAND} if variant == "fp32" else AT_THE_ENDS
    rtol = 1e-5 if variant == "fp32" else 1e-2
    for artifact in _export(functions, torch.zeros_like(_ENDS), tmp_path, variant):
        for runtime, outputs in _runs(artifact, _ENDS).items():
            # The sums and products of the reference kernels end at the largest number of float32.
            places = (_ENDS.isfinite() & (_ENDS.abs() != 1)).numpy() if runtime == "reference" else ...
            limit = 80.0 if runtime == "reference" else np.inf
            for case, function in functions.items():
                if runtime == "reference" and case in AS_LARGE_AS_THE_OPERAND:
                    continue
                pair = [np.clip(array[places], -limit, limit) for array in (outputs[case], function(_ENDS).numpy())]
                np.testing.assert_allclose(*pair, rtol=rtol, atol=1e-7, err_msg=f"{case} {runtime}")


def test_the_official_exporter_writes_a_log_sigmoid_by_a_softplus_too() -> None:
    module = Of(lambda x: F.logsigmoid(x) + torch.special.erfc(x))
    graph = capture(module, (_ENDS,), input_names=["x"], output_names=["y"], path="official").graph
    operators = [node.op_type for node in graph]
    assert "Softplus" in operators
    assert "Log" not in operators


def test_integers_take_them_for_two_operators_each(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), Of(lambda x: torch.log1p(x.abs()) - torch.expm1(-x.abs()))).eval()
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    quantization = edgeconv.Quantization(batches=lambda: [{"x": x.numpy()}])
    names = {"input_names": ["x"], "output_names": ["y"]}
    result = edgeconv.export(module, (x,), tmp_path, name="net", variants=("int8",), quantization=quantization, **names)
    exact = module.double()(x.double()).detach().numpy()
    for artifact in result.artifacts:
        for runtime, outputs in _runs(artifact, x).items():
            assert _decibels(outputs["y"], exact) > 30, runtime
