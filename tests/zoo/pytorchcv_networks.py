"""Which of pytorchcv's networks the sweep exports, at which input size: small where it is heavy.

Every module of its mobile families is there: mobilenet*, mnasnet, fbnet, proxylessnas*, spnasnet, efficientnet*,
ghostnet, mixnet, shufflenet*, igcv3, peleenet, squeezenet, squeezenext, sqnet, fdmobilenet, hardnet, vovnet, darknet*.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from stand_in import inputs_of, stand_in

IMAGE, CIFAR = (224, 224), (32, 32)

# (module of pytorchcv.models, factory, height and width of an image of three channels, further arguments)
NETWORKS: tuple[tuple[str, str, tuple[int, int], dict[str, Any]], ...] = (
    ("mobilenet", "mobilenet_w1", IMAGE, {}),
    ("mobilenet_cub", "mobilenet_w1_cub", IMAGE, {}),
    ("mobilenetb", "mobilenetb_wd2", IMAGE, {}),
    ("mobilenetv2", "mobilenetv2_w1", IMAGE, {}),
    ("mobilenetv2", "mobilenetv2b_w1", IMAGE, {}),
    ("mobilenetv3", "mobilenetv3_small_w1", IMAGE, {}),
    ("mobilenetv3", "mobilenetv3_large_w1", IMAGE, {}),
    ("mnasnet", "mnasnet_a1", IMAGE, {}),
    ("mnasnet", "mnasnet_b1", IMAGE, {}),
    ("mnasnet", "mnasnet_small", IMAGE, {}),
    ("fbnet", "fbnet_cb", IMAGE, {}),
    ("proxylessnas", "proxylessnas_mobile", IMAGE, {}),
    ("proxylessnas", "proxylessnas_cpu", IMAGE, {}),
    ("proxylessnas_cub", "proxylessnas_mobile_cub", IMAGE, {}),
    ("spnasnet", "spnasnet", IMAGE, {}),
    ("efficientnet", "efficientnet_b0", IMAGE, {}),
    ("efficientnet", "efficientnet_b0b", IMAGE, {}),
    ("efficientnet", "efficientnet_b1", IMAGE, {}),
    ("efficientnetedge", "efficientnet_edge_small_b", IMAGE, {}),
    ("ghostnet", "ghostnet", IMAGE, {}),
    ("mixnet", "mixnet_s", IMAGE, {}),
    ("mixnet", "mixnet_m", IMAGE, {}),
    ("shufflenet", "shufflenet_g1_w1", IMAGE, {}),
    ("shufflenet", "shufflenet_g3_w1", IMAGE, {}),
    ("shufflenetv2", "shufflenetv2_w1", IMAGE, {}),
    ("shufflenetv2b", "shufflenetv2b_w1", IMAGE, {}),
    ("igcv3", "igcv3_w1", IMAGE, {}),
    ("peleenet", "peleenet", IMAGE, {}),
    ("squeezenet", "squeezenet_v1_0", IMAGE, {}),
    ("squeezenet", "squeezenet_v1_1", IMAGE, {}),
    ("squeezenet", "squeezeresnet_v1_1", IMAGE, {}),
    ("squeezenext", "sqnxt23_w1", IMAGE, {}),
    ("squeezenext", "sqnxt23v5_w1", IMAGE, {}),
    ("fdmobilenet", "fdmobilenet_w1", IMAGE, {}),
    ("hardnet", "hardnet39ds", IMAGE, {}),
    ("hardnet", "hardnet68ds", IMAGE, {}),
    ("vovnet", "vovnet27s", IMAGE, {}),
    ("darknet", "darknet_tiny", IMAGE, {}),
    ("darknet", "darknet_ref", IMAGE, {}),
    ("darknet53", "darknet53", IMAGE, {}),
    ("dicenet", "dicenet_w1", IMAGE, {}),
    ("espnetv2", "espnetv2_wd2", IMAGE, {}),
    ("menet", "menet108_8x1_g3", IMAGE, {}),
    ("nasnet", "nasnet_4a1056", IMAGE, {}),
    ("darts", "darts", IMAGE, {}),
    ("alexnet", "alexnet", IMAGE, {}),
    ("zfnet", "zfnet", IMAGE, {}),
    ("vgg", "bn_vgg11", IMAGE, {}),
    ("resnet", "resnet18", IMAGE, {}),
    ("resnet", "resnetbc26b", IMAGE, {}),
    ("preresnet", "preresnet18", IMAGE, {}),
    ("resnext", "resnext26_32x4d", IMAGE, {}),
    ("senet", "senet16", IMAGE, {}),
    ("seresnet", "seresnet18", IMAGE, {}),
    ("sepreresnet", "sepreresnet10", IMAGE, {}),
    ("seresnext", "seresnext50_32x4d", IMAGE, {}),
    ("densenet", "densenet121", IMAGE, {}),
    ("regnet", "regnetx002", IMAGE, {}),
    ("regnet", "regnety002", IMAGE, {}),
    ("airnet", "airnet50_1x64d_r2", IMAGE, {}),
    ("airnext", "airnext50_32x4d_r2", IMAGE, {}),
    ("bamresnet", "bam_resnet18", IMAGE, {}),
    ("cbamresnet", "cbam_resnet18", IMAGE, {}),
    ("bninception", "bninception", IMAGE, {}),
    ("condensenet", "condensenet74_c4_g4", IMAGE, {}),
    ("diapreresnet", "diapreresnet10", IMAGE, {}),
    ("diaresnet", "diaresnet10", IMAGE, {}),
    ("diracnetv2", "diracnet18v2", IMAGE, {}),
    ("dla", "dla34", IMAGE, {}),
    ("dla", "dla46xc", IMAGE, {}),
    ("dpn", "dpn68", IMAGE, {}),
    ("fishnet", "fishnet99", IMAGE, {}),
    ("hrnet", "hrnet_w18_small_v1", IMAGE, {}),
    ("ibndensenet", "ibn_densenet121", IMAGE, {}),
    ("isqrtcovresnet", "isqrtcovresnet18", IMAGE, {}),
    ("msdnet", "msdnet22", IMAGE, {}),
    ("octresnet", "octresnet10_ad2", IMAGE, {}),
    ("resnesta", "resnestabc14", IMAGE, {}),
    ("resneta", "resneta10", IMAGE, {}),
    ("resnet_cub", "resnet10_cub", IMAGE, {}),
    ("seresnet_cub", "seresnet10_cub", IMAGE, {}),
    ("selecsls", "selecsls42", IMAGE, {}),
    ("sharesnet", "sharesnet18", IMAGE, {}),
    ("sparsenet", "sparsenet121", IMAGE, {}),
    ("xdensenet", "xdensenet121_2", IMAGE, {}),
    ("ibnresnet", "ibn_resnet50", IMAGE, {}),
    ("ibnbresnet", "ibnb_resnet50", IMAGE, {}),
    ("ibnresnext", "ibn_resnext50_32x4d", IMAGE, {}),
    ("resnetd", "resnetd50b", (96, 96), {"in_size": (96, 96)}),
    ("sknet", "sknet50", IMAGE, {}),
    ("tresnet", "tresnet_m", (128, 128), {"in_size": (128, 128)}),
    ("inceptionv3", "inceptionv3", (299, 299), {}),
    ("densenet_cifar", "densenet40_k12_cifar10", CIFAR, {}),
    ("diaresnet_cifar", "diaresnet20_cifar10", CIFAR, {}),
    ("msdnet_cifar10", "msdnet22_cifar10", CIFAR, {}),
    ("nin_cifar", "nin_cifar10", CIFAR, {}),
    ("preresnet_cifar", "preresnet20_cifar10", CIFAR, {}),
    ("resnet_cifar", "resnet20_cifar10", CIFAR, {}),
    ("resnext_cifar", "resnext20_16x4d_cifar10", CIFAR, {}),
    ("ror_cifar", "ror3_56_cifar10", CIFAR, {}),
    ("sepreresnet_cifar", "sepreresnet20_cifar10", CIFAR, {}),
    ("seresnet_cifar", "seresnet20_cifar10", CIFAR, {}),
    ("shakeshakeresnet_cifar", "shakeshakeresnet20_2x16d_cifar10", CIFAR, {}),
    ("wrn1bit_cifar", "wrn20_10_1bit_cifar10", CIFAR, {}),
    ("wrn_cifar", "wrn16_10_cifar10", CIFAR, {}),
    ("xdensenet_cifar", "xdensenet40_2_k24_bc_cifar10", CIFAR, {}),
    ("diapreresnet_cifar", "diapreresnet20_cifar10", CIFAR, {}),
    ("pyramidnet_cifar", "pyramidnet110_a48_cifar10", CIFAR, {}),
    ("resdropresnet_cifar", "resdropresnet20_cifar10", CIFAR, {}),
    ("rir_cifar", "rir_cifar10", CIFAR, {}),
    ("shakedropresnet_cifar", "shakedropresnet20_cifar10", CIFAR, {}),
    ("fractalnet_cifar", "fractalnet_cifar10", CIFAR, {}),
    ("bisenet", "bisenet_resnet18_celebamaskhq", (320, 256), {"in_size": (320, 256)}),
    ("cgnet", "cgnet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("contextnet", "ctxnet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("edanet", "edanet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("erfnet", "erfnet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("esnet", "esnet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("espcnet", "espcnet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("fastscnn", "fastscnn_cityscapes", (256, 256), {"in_size": (256, 256)}),
    ("fpenet", "fpenet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("lednet", "lednet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("linknet", "linknet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("dabnet", "dabnet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("unet", "unet_cityscapes", (64, 128), {"in_size": (64, 128)}),
    ("sinet", "sinet_cityscapes", (128, 256), {"in_size": (128, 256)}),
    ("sqnet", "sqnet_cityscapes", (64, 128), {"in_size": (64, 128)}),
    ("icnet", "icnet_resnetd50b_cityscapes", (256, 256), {"in_size": (256, 256)}),
    ("danet", "danet_resnetd50b_cityscapes", (96, 96), {"in_size": (96, 96)}),
    ("deeplabv3", "deeplabv3_resnetd50b_voc", (64, 64), {"in_size": (64, 64)}),
    ("centernet", "centernet_resnet18_voc", (256, 256), {"in_size": (256, 256)}),
    ("lwopenpose_cmupan", "lwopenpose2d_mobilenet_cmupan_coco", (184, 184), {"in_size": (184, 184)}),
    ("lwopenpose_cmupan", "lwopenpose3d_mobilenet_cmupan_coco", (184, 184), {"in_size": (184, 184)}),
    ("prnet", "prnet", (256, 256), {"in_size": (256, 256)}),
    (
        "simpleposemobile_coco",
        "simplepose_mobile_mobilenet_w1_coco",
        (256, 192),
        {"in_size": (256, 192), "return_heatmap": True},
    ),
    (
        "simplepose_coco",
        "simplepose_resnet18_coco",
        (256, 192),
        {"in_size": (256, 192), "return_heatmap": True},
    ),
)

# The same for networks of other inputs; a number stands for an int64 tensor of one element (a length, an index).
OTHERS: tuple[tuple[str, str, tuple[tuple[int, ...] | int, ...], dict[str, Any]], ...] = (
    ("channelnet", "channelnet", ((1, 3, 224, 224),), {}),
    ("pfpcnet", "pfpcnet", ((1, 1, 320, 240),), {}),
    (
        "quartznet",
        "quartznet5x5_en_ls",
        (
            (1, 64, 128),
            128,
        ),
        {"from_audio": False},
    ),
    (
        "jasper",
        "jasper5x3",
        (
            (1, 64, 32),
            32,
        ),
        {"from_audio": False},
    ),
    (
        "voca",
        "voca8flame",
        (
            (1, 1, 16, 29),
            0,
        ),
        {},
    ),
)


def network(module: str, factory: str, size: tuple[int, int], arguments: dict[str, Any]) -> torch.nn.Module:
    """The network with seeded random weights and the statistics of a stand-in for a trained one, in eval mode."""
    return other_network(module, factory, ((1, 3, *size),), arguments)


def other_network(
    module: str, factory: str, shapes: tuple[tuple[int, ...] | int, ...], arguments: dict[str, Any]
) -> torch.nn.Module:
    """The same for inputs of any ``shapes``."""
    return stand_in(_built(module, factory, arguments), shapes)


def sample_of(shapes: tuple[tuple[int, ...] | int, ...]) -> tuple[torch.Tensor, ...]:
    """One seeded input of each shape, of the kind that the statistics were taken from."""
    return inputs_of(shapes, 1, torch.Generator().manual_seed(7))


def _built(module: str, factory: str, arguments: dict[str, Any]) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net: torch.nn.Module = getattr(importlib.import_module(f"pytorchcv.models.{module}"), factory)(**arguments)
    return net
