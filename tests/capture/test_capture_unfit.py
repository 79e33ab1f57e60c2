"""Modules of every make are exported, or named for what they are with what to do about it.

Refused by name: fake quantization that still observes, observers, modules of packed integers (tables, dynamic),
scripted submodules, lazy modules without weights, the meta device, sparse weights, sparse and nested tensors inside,
two devices, complex inputs and outputs, packed sequences inside and as inputs, torch.cond, sizes that depend on values
(masks as indices, nonzero, unique), arguments by keyword only, float8, objects, operators without a form (all at once,
as the module called them). Exported: frozen fake quantization (as int8), weight and spectral norm of either kind,
pruned weights, DataParallel, traced submodules, FX graphs, replaced forwards, hooks, checkpoints, autograd functions,
vmap, functional_call, autocast that is off.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.ao.quantization as quantization
from right_in_both import assert_right_in_both
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.nn.utils import parametrizations, prune, rnn
from torch.utils.checkpoint import checkpoint

import edgeconv
from edgeconv.errors import CaptureError

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.ao and weight_norm say that they are old

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def _conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3)


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def _trained_aware(config: Any) -> nn.Module:
    net: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).train()
    net.qconfig = config
    prepared: nn.Module = quantization.prepare_qat(net)  # type: ignore[no-untyped-call]
    prepared(IMAGE)
    return prepared


def _frozen(config: Any) -> nn.Module:
    prepared = _trained_aware(config)
    prepared.apply(quantization.disable_observer)  # type: ignore[no-untyped-call]
    return prepared.eval()


def _observed(*, converted: bool) -> nn.Module:
    net: Any = nn.Sequential(quantization.QuantStub(), _net(), quantization.DeQuantStub()).eval()
    net.qconfig = quantization.get_default_qconfig("x86")
    prepared: nn.Module = quantization.prepare(net)  # type: ignore[no-untyped-call]
    prepared(IMAGE)
    return quantization.convert(prepared) if converted else prepared  # type: ignore[no-any-return,no-untyped-call]


def _of_fx(*, converted: bool) -> nn.Module:
    prepared = prepare_fx(_net().eval(), quantization.get_default_qconfig_mapping("x86"), (IMAGE,))
    prepared(IMAGE)
    return convert_fx(prepared) if converted else prepared


def _of_tables() -> nn.Module:
    net: Any = nn.Sequential(nn.EmbeddingBag(5, 4)).eval()
    net.qconfig = quantization.float_qparams_weight_only_qconfig
    return quantization.convert(quantization.prepare(net))  # type: ignore[no-any-return,no-untyped-call]


def _on_meta() -> nn.Module:
    with torch.device("meta"):
        return _net()


def _fake() -> nn.Module:
    with FakeTensorMode():
        return _net()


def _sparse() -> nn.Module:
    net = Net(lambda self, x: torch.sparse.mm(self.table, x.flatten(1).t()))
    net.table = torch.eye(192).to_sparse()
    return net


def _packed(self: Net, x: Tensor) -> Tensor:
    packed = rnn.pack_padded_sequence(x[:, 0], torch.tensor([8, 5]), batch_first=True)
    return rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]


def _quantizer_of(package: str) -> nn.Module:
    """A stand-in for a quantizer of a package that is not installed: its class says where it is from."""
    quantizer = type("Quantizer", (nn.Identity,), {"__module__": package})
    return nn.Sequential(_conv(), quantizer())


class ByKeyword(nn.Module):
    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
        return x * mask


def _in_four_bits() -> nn.Module:
    net = Net(lambda self, x: x * self.table.view(torch.uint8).float().sum())
    net.register_buffer("table", torch.zeros(3, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2))
    return net


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "observing": (
        lambda: _trained_aware(quantization.get_default_qat_qconfig("x86")),
        r"^0.weight_fake_quant: .*still observes.*disable_observer",
    ),
    "observers": (lambda: _observed(converted=False), "activation_post_process: .*Observer, which torch.ao put there"),
    "converted": (_of_tables, r"^0: .*EmbeddingBag\), and what that computes on floats is not known; export the"),
    "dynamic": (
        lambda: quantization.quantize_dynamic(_net(), {nn.Linear}, dtype=torch.qint8),
        r"^3: .*nn.quantized.dynamic.Linear\), which rounds each input by .* own range",
    ),
    "observers of FX": (lambda: _of_fx(converted=False), "activation_post_process_0: .*put there to calibrate"),
    "brevitas": (
        lambda: _quantizer_of("brevitas.proxy.runtime_quant"), r"^1: it is a quantizer of brevitas .*export_onnx_qcdq"
    ),
    "aimet": (
        lambda: _quantizer_of("aimet_torch.quantization.affine.quantizer"), r"^1: .* of AIMET .*aimet_torch.onnx.export"
    ),
    "script": (
        lambda: Net(lambda self, x: self.part(x), part=torch.jit.script(_conv())),
        "^part: it is a scripted module",
    ),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "^0: it is a LazyConv2d that has no weights yet; run"),
    "meta": (_on_meta, "no values: 0.weight, 0.bias, 3.weight, …; call module.to_empty"),
    "fake": (_fake, "fake ones, have no values: 0.weight, 0.bias, 3.weight, …; call module.to_empty"),
    "sparse weight": (_sparse, r"table is a sparse tensor \(sparse_coo\); make it dense"),
    "sparse": (lambda: Net(lambda self, x: torch.sparse.mm(x[0, 0].to_sparse(), x[0, 1])), "with sparse tensors"),
    "nested": (
        lambda: Net(lambda self, x: torch.nested.nested_tensor([x[0], x[1]]).to_padded_tensor(0)), "with nested tensors"
    ),
    "two devices": (
        lambda: Net(lambda self, x: x + torch.ones(8, device="meta")), r"two devices; .*\(device=x.device\)"
    ),
    "complex output": (lambda: Net(lambda self, x: torch.complex(x, x)), "returns a complex tensor.*view_as_real"),
    "packed inside": (
        lambda: Net(_packed, layer=nn.LSTM(8, 4, batch_first=True)), "^layer: the forward packs sequences of several"
    ),
    "object": (lambda: Net(lambda self, x: SimpleNamespace(y=x * 2)), "that torch cannot take apart; return a dict"),
    "cond": (
        lambda: Net(lambda self, x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))), "forward uses torch's cond"
    ),
    "mask": (lambda: Net(lambda self, x: x[x > 0]), "the size of what index gives depends on values"),
    "comparison": (
        lambda: Net(lambda self, x: x if torch.equal(x, x.abs()) else -x), "aten.equal looks at the values of a tensor"
    ),
    "program that trains": (
        lambda: torch.export.export(nn.Sequential(_conv(), nn.Dropout()).train(), (IMAGE,)),  # type: ignore[dict-item]
        r"^1: dropout draws .* export module\.eval\(\)",
    ),
    "nonzero": (lambda: Net(lambda self, x: x.flatten().nonzero()), "the size of what nonzero gives"),
    "unique": (lambda: Net(lambda self, x: torch.unique(x)), "the size of what unique2 gives"),
    "combinations": (
        lambda: Net(lambda self, x: torch.combinations(x[0, 0, 0])), "whose size depends on values inside of it"
    ),
    "by keyword": (ByKeyword, "by keyword only in kwargs={'mask': …}"),
    "float8": (lambda: Net(lambda self, x: x.to(torch.float8_e4m3fn).float()), "computes in float8_e4m3fn"),
    "float8 of a weight": (
        lambda: Net(lambda self, x: x * self.part.weight.to(torch.float8_e5m2).float().sum(), part=_conv()),
        "computes in float8_e5m2, whose rounding",
    ),
    "float4": (_in_four_bits, "stored in float4_e2m1fn_x2, two numbers in one element"),
    "operators": (
        lambda: Net(lambda self, x: torch.special.bessel_j0(x) + torch.erfc(x)),
        "torch operators aten.special_bessel_j0, aten.erfc have no ONNX form",
    ),
    "module": (lambda: functools.partial(_conv()), "module: it is a partial, not a torch.nn.Module"),  # type: ignore[dict-item]
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    build, told = REFUSED[name]
    with pytest.raises(CaptureError, match=told) as caught:
        edgeconv.export(build(), (IMAGE,), tmp_path, name="net", formats="onnx")
    assert not any(word in str(caught.value) for word in ("check the declared input", "Error:", "\n"))


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        (torch.randn(2, 3, dtype=torch.complex64), r"args\[0\]: it is complex"),
        (torch.eye(3).to_sparse(), r"args\[0\]: it is a sparse tensor"),
        (rnn.pack_padded_sequence(torch.randn(5, 2, 8), torch.tensor([5, 3])), r"args\[0\]: it is a packed sequence"),
    ],
    ids=["complex", "sparse", "packed"],
)
def test_arguments_that_no_file_takes(argument: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=told):
        edgeconv.export(Net(lambda self, x: x), (argument,), tmp_path, name="net")


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def _autocast_off(self: Net, x: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        return self.part(x)


def _replaced() -> nn.Module:
    net = _net().eval()
    own = net.forward
    vars(net)["forward"] = lambda x: own(x) * 2
    return net


def _hooked() -> nn.Module:
    net = _net().eval()
    net.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    net[0].register_forward_hook(lambda module, args, result: result * 3)
    return net


def _pruned() -> nn.Module:
    conv = _conv()
    prune.l1_unstructured(conv, "weight", 0.5)  # type: ignore[no-untyped-call]
    return nn.Sequential(conv)


def _per_tensor() -> Any:
    observer = quantization.FakeQuantize.with_args(observer=quantization.MovingAverageMinMaxObserver)
    return quantization.QConfig(activation=observer, weight=quantization.default_weight_fake_quant)  # type: ignore[no-untyped-call]


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(_conv())),
    "old weight norm": lambda: nn.Sequential(torch.nn.utils.weight_norm(_conv())),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(_conv())).eval(),
    "old spectral norm": lambda: nn.Sequential(torch.nn.utils.spectral_norm(_conv())).eval(),
    "pruned": _pruned,
    "data parallel": lambda: nn.DataParallel(_net()),
    "traced part": lambda: Net(lambda self, x: self.part(x) * 2, part=torch.jit.trace(_conv(), IMAGE)),
    "FX": lambda: torch.fx.symbolic_trace(_net().eval()),
    "replaced forward": _replaced,
    "hooks": _hooked,
    "checkpoint": lambda: Net(lambda self, x: checkpoint(self.part, x, use_reentrant=False), part=_conv()),
    "autograd function": lambda: Net(lambda self, x: Swish.apply(self.part(x)), part=_conv()),
    "vmap": lambda: Net(lambda self, x: torch.vmap(lambda row: row.sum(0) * 2)(x)),
    "vmap of a product": lambda: Net(lambda self, x: torch.vmap(torch.matmul)(x, x.transpose(-1, -2))),
    "functional call": lambda: Net(
        lambda self, x: torch.func.functional_call(
            self.part, {name: value * 2 for name, value in self.part.named_parameters()}, (x,)
        ),
        part=_conv(),
    ),
    "autocast off": lambda: Net(_autocast_off, part=_conv()),
}


@pytest.mark.parametrize("name", RIGHT)
def test_modules_of_every_make_come_out_right(name: str, tmp_path: Path) -> None:
    module = RIGHT[name]()
    before = {key: copy.copy(value) for key, value in vars(module).items() if key == "forward"}
    assert_right_in_both(module, (IMAGE,), tmp_path)
    assert {key: value for key, value in vars(module).items() if key == "forward"} == before


@pytest.mark.parametrize("config", [quantization.get_default_qat_qconfig("x86"), _per_tensor()], ids=["fused", "plain"])
def test_frozen_fake_quantization_becomes_the_integers_that_it_stands_for(config: Any, tmp_path: Path) -> None:
    module: Any = _frozen(config)
    result = edgeconv.export(module, (IMAGE,), tmp_path, name="net", variants="int8", formats="onnx", input_names="x")
    session = onnxruntime.InferenceSession(result.artifacts[0].path.read_bytes())
    (output,) = session.run(None, {"x": IMAGE.numpy()})
    step = float(module[0].activation_post_process.scale)
    distance = np.abs(output - module(IMAGE).detach().numpy()) / step
    assert distance.max() < 1.01
    assert (distance < 0.01).mean() > 0.95
