"""Which of pytorchcv's networks the sweep exports, at which input size (224x224 unless the network needs another)."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from edgeconv.recipe.schema import Input, Warmup
from edgeconv.recipe.warmup import warm_up

# (module of pytorchcv.models, factory, height and width, further arguments of the factory)
NETWORKS: tuple[tuple[str, str, tuple[int, int], dict[str, Any]], ...] = (
    ("mobilenet", "mobilenet_w1", (224, 224), {}),
    ("mobilenetb", "mobilenetb_wd2", (224, 224), {}),
    ("mobilenetv2", "mobilenetv2_w1", (224, 224), {}),
    ("mobilenetv3", "mobilenetv3_small_w1", (224, 224), {}),
    ("mobilenetv3", "mobilenetv3_large_w1", (224, 224), {}),
    ("mnasnet", "mnasnet_a1", (224, 224), {}),
    ("fbnet", "fbnet_cb", (224, 224), {}),
    ("proxylessnas", "proxylessnas_mobile", (224, 224), {}),
    ("spnasnet", "spnasnet", (224, 224), {}),
    ("efficientnet", "efficientnet_b0", (224, 224), {}),
    ("efficientnet", "efficientnet_b0b", (224, 224), {}),
    ("ghostnet", "ghostnet", (224, 224), {}),
    ("mixnet", "mixnet_s", (224, 224), {}),
    ("shufflenet", "shufflenet_g3_w1", (224, 224), {}),
    ("shufflenetv2", "shufflenetv2_w1", (224, 224), {}),
    ("shufflenetv2b", "shufflenetv2b_w1", (224, 224), {}),
    ("igcv3", "igcv3_w1", (224, 224), {}),
    ("peleenet", "peleenet", (224, 224), {}),
    ("squeezenet", "squeezenet_v1_1", (224, 224), {}),
    ("squeezenet", "squeezeresnet_v1_1", (224, 224), {}),
    ("squeezenext", "sqnxt23_w1", (224, 224), {}),
    ("fdmobilenet", "fdmobilenet_w1", (224, 224), {}),
    ("hardnet", "hardnet39ds", (224, 224), {}),
    ("vovnet", "vovnet27s", (224, 224), {}),
    ("darknet", "darknet_tiny", (224, 224), {}),
    ("darknet53", "darknet53", (224, 224), {}),
    ("resnet", "resnet18", (224, 224), {}),
    ("resnet", "resnetbc26b", (224, 224), {}),
    ("preresnet", "preresnet18", (224, 224), {}),
    ("resnext", "resnext26_32x4d", (224, 224), {}),
    ("senet", "senet28", (224, 224), {}),
    ("seresnet", "seresnet18", (224, 224), {}),
    ("densenet", "densenet121", (224, 224), {}),
    ("bisenet", "bisenet_resnet18_celebamaskhq", (320, 256), {"in_size": (320, 256)}),
    ("unet", "unet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("fastscnn", "fastscnn_cityscapes", (256, 256), {"in_size": (256, 256)}),
    ("lednet", "lednet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("sqnet", "sqnet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("vgg", "bn_vgg11", (224, 224), {}),
    ("regnet", "regnetx002", (224, 224), {}),
)


def network(module: str, factory: str, size: tuple[int, int], arguments: dict[str, Any]) -> torch.nn.Module:
    """The network with seeded random weights and the BatchNorm statistics of seeded noise, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: torch.nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{module}"), factory)(**arguments)
    has_norms = any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in net.modules())
    if has_norms:
        warm_up(net, [Input(name="x", shape=(1, 3, *size))], Warmup(batches=1, batch_size=8), where=factory)
    return net.eval()
