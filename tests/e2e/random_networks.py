"""Networks by chance: branches, constants, shared values, several outputs and odd names; the same for a seed.

A network is a list of steps over the values so far, so that any value may be read again, by several steps or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

Tensor = torch.Tensor
_MOST_ELEMENTS = 1 << 15
_NAMES = (
    "x0",
    "c1",
    "output",
    "input",
    "x",
    "c0",
    "x_scale",
    "x_zero_point",
    "x0_quantized",
    "conv",
    "1",
    "y_half",
    "N",
    "层",
)
"""Of submodules and buffers: what edgeconv, runtimes and other exporters call values themselves."""


@dataclass(frozen=True)
class Step:
    """One operation: what it computes of which of the values so far."""

    name: str
    operands: tuple[int, ...]
    run: Callable[..., Tensor]


class RandomNetwork(nn.Module):
    """Its outputs are the values that no step reads, up to three of them, and at times one that is read.

    They come as a tensor, a tuple, a list, a dict, or a dict of tuples.
    """

    def __init__(self, seed: int, shape: Sequence[int], *, steps: int) -> None:
        super().__init__()
        self._rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self._steps: list[Step] = []
        values = [torch.randn(*shape)]
        while len(self._steps) < steps:
            step = self._drawn(values)
            if step is None:
                continue
            try:
                with torch.no_grad():
                    made = step.run(*(values[index] for index in step.operands))
            except RuntimeError:  # a window or a padding that torch does not take at this size
                continue
            if 0 < made.numel() <= _MOST_ELEMENTS and bool(made.isfinite().all()) and made.std(correction=0) > 1e-4:
                self._steps.append(step)
                values.append(made)
        read = {index for step in self._steps for index in step.operands}
        self._outputs = [index for index in range(1, len(values)) if index not in read][-3:]
        if self._one(True, False, False, False):
            self._outputs = list(dict.fromkeys([int(self._rng.integers(1, len(values))), *self._outputs]))
        self._kind = str(self._one("tuple", "tuple", "list", "dict", "nested"))
        self.described = ", ".join(step.name for step in self._steps)
        self.eval()

    def forward(self, x: Tensor, rounded: Callable[[Tensor], Tensor] = lambda value: value) -> Any:
        """The outputs; with every value ``rounded`` as soon as it is there."""
        values = [rounded(x)]
        for step in self._steps:
            values.append(rounded(step.run(*(values[index] for index in step.operands))))
        outputs = tuple(values[index] for index in self._outputs)
        if self._kind == "dict":
            return {f"{_NAMES[index]}": value for index, value in enumerate(outputs)}
        if self._kind == "nested" and len(outputs) > 1:
            return {"x0": outputs[0], "output": outputs[1:]}
        if self._kind == "list":
            return list(outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _drawn(self, values: Sequence[Tensor]) -> Step | None:
        """A step that fits one of the values, most likely a late one; None where the chosen kind fits none."""
        at = len(values) - 1 - min(int(self._rng.geometric(0.5)) - 1, len(values) - 1)
        kind = self._rng.choice(list(_KINDS), p=_WEIGHTS)
        return _KINDS[kind](self, values, at)

    def _kept(self, part: nn.Module) -> nn.Module:
        name = self._name("part")
        self.add_module(name, part)
        for norm in (module for module in part.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 2.0)
        return part

    def _constant(self, tensor: Tensor) -> Callable[[], Tensor]:
        alike = [name for name, buffer in self.named_buffers(recurse=False) if buffer.shape == tensor.shape]
        if alike and self._one(True, False):
            name = str(self._one(*alike))
        else:
            name = self._name("constant")
            self.register_buffer(name, tensor)
        return lambda: getattr(self, name)

    def _name(self, usual: str) -> str:
        """One that is free, of `_NAMES` or plain."""
        free = [name for name in _NAMES if not hasattr(self, name)]
        plain = f"{usual}{len(self._modules) + len(self._buffers)}"
        return str(self._one(plain, *free[:1], *self._rng.permutation(free)[:1]))

    def _one(self, *choices: Any) -> Any:
        return choices[int(self._rng.integers(len(choices)))]

    # the kinds of steps

    def _conv(self, values: Sequence[Tensor], at: int) -> Step | None:
        x = values[at]
        if x.ndim != 4:
            return None
        channels = x.shape[1]
        groups = int(self._one(1, 1, 1, channels, *[g for g in (2, 4) if channels % g == 0]))
        made = groups * int(self._rng.integers(1, 1 + max(1, 12 // groups)))
        kernel = tuple(int(k) for k in self._rng.choice([1, 1, 2, 3, 3, 5], 2))
        dilation = int(self._one(1, 1, 1, 2))
        padding = tuple(int(self._rng.integers(0, 1 + (k - 1) * dilation)) for k in kernel)
        conv = nn.Conv2d(
            channels,
            made,
            kernel,
            stride=int(self._one(1, 1, 2, 3)),
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bool(self._one(True, True, False)),
            padding_mode=self._one("zeros", "zeros", "zeros", "reflect", "replicate"),
        )
        if any((k - 1) * dilation + 1 > size + 2 * p for k, size, p in zip(kernel, x.shape[2:], padding, strict=True)):
            return None
        if conv.padding_mode != "zeros" and any(p >= size for p, size in zip(padding, x.shape[2:], strict=True)):
            return None
        parts = [conv, nn.BatchNorm2d(made)] if self._one(True, False) else [conv]
        return Step("conv", (at,), self._kept(nn.Sequential(*parts).eval()))

    def _transposed(self, values: Sequence[Tensor], at: int) -> Step | None:
        x = values[at]
        if x.ndim != 4 or x.shape[2] * x.shape[3] > 300:
            return None
        stride, kernel = int(self._one(1, 2, 2)), int(self._one(2, 3, 4))
        padding = int(self._rng.integers(0, kernel // 2 + 1))
        part = nn.ConvTranspose2d(x.shape[1], int(self._rng.integers(1, 8)), kernel, stride, padding)
        return Step("convT", (at,), self._kept(part))

    def _activation(self, values: Sequence[Tensor], at: int) -> Step | None:
        part = self._one(
            nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.1), nn.SiLU(), nn.Hardswish(), nn.GELU(), nn.Sigmoid(), nn.Tanh(),
            nn.ELU(), nn.Softplus(), nn.Mish(), nn.Hardsigmoid(), nn.Hardtanh(-0.5, 1.5), nn.PReLU(),
        )  # fmt: skip
        return Step(type(part).__name__, (at,), self._kept(part))

    def _pool(self, values: Sequence[Tensor], at: int) -> Step | None:
        x = values[at]
        if x.ndim != 4 or min(x.shape[2:]) < 3:
            return None
        kernel, stride = int(self._one(2, 3)), int(self._one(1, 2))
        padding, ceil = int(self._rng.integers(0, kernel // 2 + 1)), bool(self._one(True, False, False))
        pools = (
            nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil),
            nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil, count_include_pad=bool(self._one(True, False))),
            nn.AdaptiveAvgPool2d(int(self._rng.integers(1, 4))),
        )
        return Step("pool", (at,), self._kept(self._one(*pools)))

    def _pair(self, values: Sequence[Tensor], at: int) -> Step | None:
        x = values[at]
        others = [index for index, value in enumerate(values) if value.shape == x.shape]
        other = int(self._rng.choice(others))
        name = str(self._one("add", "sub", "mul", "maximum", "minimum"))
        return Step(name, (at, other), getattr(torch, name))

    def _join(self, values: Sequence[Tensor], at: int) -> Step | None:
        x = values[at]
        axis = int(self._rng.integers(1, x.ndim)) if x.ndim > 1 else 0
        rest = [size for index, size in enumerate(x.shape) if index != axis]
        others = [
            index for index, value in enumerate(values)
            if value.ndim == x.ndim and [size for at_axis, size in enumerate(value.shape) if at_axis != axis] == rest
        ]  # fmt: skip
        picked = (at, *(int(index) for index in self._rng.choice(others, int(self._rng.integers(1, 3)))))
        return Step("cat", picked, lambda *parts: torch.cat(parts, axis))

    def _scaled(self, values: Sequence[Tensor], at: int) -> Step | None:
        x = values[at]
        shape = [size if self._one(True, False) else 1 for size in x.shape]
        constant = self._constant(torch.rand(shape) + 0.5)
        if self._one(True, False):
            return Step("times", (at,), lambda x: x * constant())
        return Step("plus", (at,), lambda x: constant() + x)

    def _resize(self, values: Sequence[Tensor], at: int) -> Step | None:
        x = values[at]
        if x.ndim != 4 or x.shape[2] * x.shape[3] > 400:
            return None
        size = tuple(int(self._rng.integers(1, 2 * side + 2)) for side in x.shape[2:])
        mode = str(self._one("nearest", "bilinear"))
        corners = bool(self._one(True, False)) if mode == "bilinear" else None
        return Step(mode, (at,), lambda x: functional.interpolate(x, size=size, mode=mode, align_corners=corners))

    def _moved(self, values: Sequence[Tensor], at: int) -> Step | None:
        x = values[at]
        if x.ndim == 4:
            channels = x.shape[1]
            moves: list[tuple[str, Callable[[Tensor], Tensor]]] = [
                ("flatten", lambda x: x.flatten(2)),
                ("transpose", lambda x: x.transpose(2, 3)),
                ("flip", lambda x: x.flip(1)),
                ("roll", lambda x: x.roll(1, 3)),
                ("slice", lambda x: x[:, :: 2 if channels > 2 else 1, : max(1, x.shape[2] - 1)]),
                ("pad", lambda x: functional.pad(x, (1, 2, 0, 1))),
                ("mean", lambda x: x.mean((2, 3), keepdim=True)),
                ("softmax", lambda x: x.softmax(1)),
                ("normalize", lambda x: functional.normalize(x, dim=1)),
            ]
            if channels % 2 == 0:
                moves += [
                    ("chunk", lambda x: x.chunk(2, 1)[0]),
                    ("shuffle", lambda x: functional.channel_shuffle(x, 2)),
                ]
            if channels % 4 == 0:
                moves.append(("pixel_shuffle", lambda x: functional.pixel_shuffle(x, 2)))
            if all(side % 2 == 0 for side in x.shape[2:]):
                moves.append(("pixel_unshuffle", lambda x: functional.pixel_unshuffle(x, 2)))
        elif x.ndim == 3:
            moves = [
                ("transpose", lambda x: x.transpose(1, 2)),
                ("softmax", lambda x: x.softmax(-1)),
                ("product", lambda x: x @ x.transpose(1, 2)),
                ("mean", lambda x: x.mean(1)),
                ("unsqueeze", lambda x: x.unsqueeze(2)),
            ]
        else:
            moves = [("stack", lambda x: torch.stack([x, x * 0.5], 1)), ("tanh", torch.tanh)]
        name, run = moves[int(self._rng.integers(len(moves)))]
        return Step(name, (at,), run)

    def _linear(self, values: Sequence[Tensor], at: int) -> Step | None:
        x = values[at]
        if x.shape[-1] > 200:
            return None
        return Step("linear", (at,), self._kept(nn.Linear(x.shape[-1], int(self._rng.integers(1, 12)))))

    def _chosen(self, values: Sequence[Tensor], at: int) -> Step | None:
        kinds: list[tuple[str, Callable[[Tensor], Tensor]]] = [
            ("where", lambda x: torch.where(x > 0.1, x, x * 0.25)),
            ("clamp", lambda x: x.clamp(-0.75, 1.25)),
            ("abs", torch.abs),
            ("square", torch.square),
            ("exp", lambda x: torch.exp(-x.abs())),
            ("div", lambda x: x / (x.abs() + 1.0)),
        ]
        name, run = kinds[int(self._rng.integers(len(kinds)))]
        return Step(name, (at,), run)


_KINDS: dict[str, Callable[[RandomNetwork, Sequence[Tensor], int], Step | None]] = {
    "conv": RandomNetwork._conv,
    "transposed": RandomNetwork._transposed,
    "activation": RandomNetwork._activation,
    "pool": RandomNetwork._pool,
    "pair": RandomNetwork._pair,
    "join": RandomNetwork._join,
    "scaled": RandomNetwork._scaled,
    "resize": RandomNetwork._resize,
    "moved": RandomNetwork._moved,
    "linear": RandomNetwork._linear,
    "chosen": RandomNetwork._chosen,
}
_SHARES = np.array([6, 1, 5, 2, 3, 2, 2, 1, 4, 1, 2], float)
_WEIGHTS = _SHARES / _SHARES.sum()


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors among what a network returns, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [
        tensor for part in (outputs.values() if isinstance(outputs, dict) else outputs) for tensor in tensors_of(part)
    ]


def drawn(seed: int) -> tuple[RandomNetwork, Tensor]:
    """A network and one input for it."""
    rng = np.random.default_rng(10_000 + seed)
    shape = (1, int(rng.choice([1, 3, 4, 8])), *(int(side) for side in rng.integers(6, 18, 2)))
    network = RandomNetwork(seed, shape, steps=int(rng.integers(4, 16)))
    return network, torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
