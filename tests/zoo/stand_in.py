"""Stand-ins for trained networks: random weights, but statistics as well conditioned as those of training.

The bound of a comparison holds for networks as users have them. Random weights with the BatchNorm statistics of a few
images of white noise are worse: a ReLU around zero makes much of its output a mean that all images share, the next
BatchNorm subtracts that mean and magnifies the rest, rounding errors too, 1.2 times for each such layer:
sqrt(P(z > 0) / Var(relu(z))). After 105 layers (SqueezeNext) torch's own float32 keeps 61 dB, after 28 (MobileNet)
105 dB. EfficientNet-Lite0 with its ImageNet weights keeps 117 to 125 dB over 49 layers. One rule for all networks:

1. BatchNorm biases lie between 0 and 2 weights, so that most of the signal passes its activation: the factor is 1.06
   (those of EfficientNet-Lite0 reach from -2 to 2 weights; below zero, channels that never fire in the batch but
   do for another image would be magnified up to 300 times, which training prevents by shrinking their weights).
2. The images have what photographs have and white noise lacks: spectra that fall with the frequency, and contrasts,
   colors and smoothness of their own. Noise alone looks the same to a network once it is averaged (global pooling,
   squeeze-and-excite), and what differs is then magnified, 10 times in GhostNet's classifier.
3. There are 16 of them: a variance over fewer values, as after a global pooling, is too small for other images.

With it torch's float32 keeps 115 to 131 dB. BatchNorm weights are such that the outputs have the magnitudes that they
have with white noise, weights of about one and biases of about zero (standard deviations of 0.1 to 1), so that the
absolute part of the bound is as hard to keep; a file in which one filter is wrong by 1 % is outside of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

IMAGES = 16


def stand_in(network: nn.Module, shapes: Sequence[tuple[int, ...] | int]) -> nn.Module:
    """Sets the BatchNorm layers of ``network`` in place by one pass in training mode and returns it in eval mode.

    Args:
        network: its weights stay; one without BatchNorm stays whole.
        shapes: of its inputs; a number stands for an int64 tensor of one element.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of Dropout and its like
        for layer in norms:
            if layer.affine:
                layer.weight.copy_(torch.rand(layer.num_features, generator=generator) * 0.3 + 0.15)
                layer.bias.copy_(torch.rand(layer.num_features, generator=generator) * 2 * layer.weight)
            layer.reset_running_stats()
            layer.momentum = None  # the statistics of the pass, not a mixture with the initial ones
        if norms:
            network.train()(*inputs_of(shapes, IMAGES, generator))
    return network.eval()


def inputs_of(shapes: Sequence[tuple[int, ...] | int], count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """``count`` images of each shape, whose first dimension they replace; of a number, as many of it."""
    return tuple(
        torch.full((count,), shape) if isinstance(shape, int) else _images((count, *shape[1:]), generator)
        for shape in shapes
    )


def _images(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise whose amplitudes fall with the frequency to the power of 0 to 2, each with its contrast and its color."""
    count, channels, *size = shape
    each = (count, *[1] * (len(size) + 1))
    slopes = torch.rand(each, generator=generator) * 2
    contrasts = 0.25 * 8 ** torch.rand(each, generator=generator)
    colors = torch.randn((count, channels, *[1] * len(size)), generator=generator)
    amplitudes = _frequencies(size) ** -slopes
    axes = tuple(range(2, len(shape)))
    noise = torch.fft.rfftn(torch.randn(shape, generator=generator), dim=axes) * amplitudes
    images = torch.fft.irfftn(noise, s=size, dim=axes)
    images -= images.mean(axes, keepdim=True)
    return images / images.std(tuple(range(1, len(shape))), keepdim=True) * contrasts + colors


def _frequencies(size: Sequence[int]) -> Tensor:
    """Of the real Fourier transform over axes of ``size``, in cycles per element; 1 for the mean."""
    axes = [torch.fft.fftfreq(length) for length in size[:-1]] + [torch.fft.rfftfreq(size[-1])]
    found = torch.stack([axis**2 for axis in torch.meshgrid(*axes, indexing="ij")]).sum(0).sqrt()
    return found.masked_fill(found == 0, 1.0)
