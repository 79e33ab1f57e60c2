"""The networks of the bench, and the sets that are run by name.

Imports torch, pytorchcv and edgeconv.nn only, and those when a network is built: every peer's environment builds its
networks with this file and loads the weights that the run made.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

IMAGE = (1, 3, 224, 224)
_DIGITS: dict[str, Any] = {
    "num_classes": 10,
    "in_channels": 1,
    "stem_channels": 24,
    "stem_stride": 1,
    "blocks": [[48, 1], [96, 2], [96, 1], [128, 2]],
    "dropout": 0.2,
}


@dataclass(frozen=True)
class Network:
    """A network of the bench.

    Attributes:
        name: as tables write it.
        module: where its factory is.
        factory: a callable of `module`, which returns an nn.Module.
        arguments: of the factory.
        shape: of its one input, NCHW.
        weights: a .safetensors file of models/; empty for seeded random ones.
        parallel: whether it has parallel linear branches as trained.
    """

    name: str
    module: str
    factory: str
    arguments: dict[str, Any]
    shape: tuple[int, ...] = IMAGE
    weights: str = ""
    parallel: bool = False

    def build(self) -> Any:
        """The nn.Module with whatever weights its constructor gives it."""
        factory: Callable[..., Any] = getattr(importlib.import_module(self.module), self.factory)
        return factory(**self.arguments)


def _zoo(module: str, factory: str) -> Network:
    return Network(factory, f"pytorchcv.models.{module}", factory, {})


def _branched(factory: str) -> Network:
    return Network(factory, "blocks", factory, {}, parallel=True)


NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("dsconv_3x64_224", "edgeconv.nn", "DepthwiseSeparableConv", {"in_channels": 3, "out_channels": 64}),
        _zoo("mobilenet", "mobilenet_w1"),
        _zoo("mobilenetv2", "mobilenetv2_w1"),
        _zoo("mobilenetv3", "mobilenetv3_large_w1"),
        _zoo("mnasnet", "mnasnet_a1"),
        _zoo("efficientnet", "efficientnet_b0"),
        _zoo("shufflenetv2", "shufflenetv2_w1"),
        _zoo("ghostnet", "ghostnet"),
        _zoo("squeezenet", "squeezenet_v1_1"),
        _zoo("resnet", "resnet18"),
        _zoo("densenet", "densenet121"),
        _zoo("vovnet", "vovnet27s"),
        _zoo("hardnet", "hardnet39ds"),
        _zoo("peleenet", "peleenet"),
        _branched("mobileone_s0"),
        _branched("repvgg_a0"),
        _branched("repghost"),
        _branched("fastvit_t8"),
        Network("convnext_atto", "blocks", "convnext_atto", {}),
        Network("pose_decoder", "blocks", "pose_decoder", {}, (1, 3, 256, 192)),
        Network("digits_dsc", "edgeconv.nn", "MobileNetDSC", _DIGITS, (1, 1, 8, 8), "digits_dsc.safetensors"),
    )
}
SETS: dict[str, tuple[str, ...]] = {
    "quick": ("dsconv_3x64_224", "mobilenetv2_w1", "shufflenetv2_w1", "mobileone_s0", "digits_dsc"),
    "full": tuple(NETWORKS),
}


def chosen(words: str) -> tuple[Network, ...]:
    """The networks that ``words`` names, separated by spaces or commas; names of sets stand for what is in them.

    Raises:
        KeyError: a name is unknown; the message names the nearest.
    """
    names: list[str] = []
    for word in words.replace(",", " ").split():
        if word not in SETS and word not in NETWORKS:
            near = difflib.get_close_matches(word, [*SETS, *NETWORKS], n=3, cutoff=0.4)
            raise KeyError(f"no network {word!r}; {'nearest: ' if near else 'known: '}{', '.join(near or NETWORKS)}")
        names += SETS.get(word, (word,))
    return tuple(NETWORKS[name] for name in dict.fromkeys(names))
