"""Trains models/digits_dsc on scikit-learn's handwritten digits and writes its weights and held-out images.

    python export_scripts/train_digits.py [--models models] [--epochs 60] [--seed 0]

Needs the extra ``train``. About 20 seconds on two cores. The same seed and package versions give the same weights.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.nn import MobileNetDSC
from edgeconv.recipe import load_recipe

HELD_OUT = 360
CALIBRATION = 128  # training images that int8 variants are calibrated on
BATCH_SIZE = 64
MINIMUM_TOP1 = 0.975


def data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns training images (N, 1, 8, 8) in 0..1 and labels, then the held-out ones; every digit in proportion."""
    digits = load_digits()
    images = (digits.images[:, None] / 16).astype(np.float32)
    labels = digits.target.astype(np.int64)
    split = train_test_split(images, labels, test_size=HELD_OUT, random_state=seed, stratify=labels)
    train_x, test_x, train_y, test_y = (torch.from_numpy(np.ascontiguousarray(part)) for part in split)
    return train_x, train_y, test_x, test_y


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turns by up to 12 degrees, scales by up to 10 % and shifts by up to one pixel, each image on its own."""
    count = len(images)
    angle, scale, shift_x, shift_y = (torch.rand(4, count, generator=generator) * 2 - 1).unbind()
    angle, scale = angle * 12 * torch.pi / 180, 1 + 0.1 * scale
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    pixel = 2 / images.shape[-1]
    rows = [cosine, -sine, shift_x * pixel, sine, cosine, shift_y * pixel]
    grid = functional.affine_grid(torch.stack(rows, dim=1).view(count, 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(module: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, seed: int) -> None:
    """AdamW under a one-cycle schedule; leaves the module in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    steps = len(images) // BATCH_SIZE
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=epochs * steps)
    for epoch in range(epochs):
        module.train()
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for rows in order[: steps * BATCH_SIZE].view(steps, BATCH_SIZE):
            optimizer.zero_grad(set_to_none=True)
            logits = module(augmented(images[rows], generator))
            loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}", flush=True)
    module.eval()


def top1(module: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose largest logit is their label."""
    with torch.no_grad():
        return float((module(images).argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=Path, default=Path(__file__).resolve().parent.parent / "models")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums are then taken in one order, however many cores there are
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    recipe = load_recipe(options.models / "digits_dsc.toml")
    module = MobileNetDSC(**recipe.model.args)
    train_x, train_y, test_x, test_y = data(options.seed)
    train(module, train_x, train_y, epochs=options.epochs, seed=options.seed)
    accuracy = top1(module, test_x, test_y)
    print(f"held-out top-1 {accuracy:.2%} of {len(test_y)} images, {time.perf_counter() - started:.0f} s")
    if accuracy < MINIMUM_TOP1:
        raise SystemExit(f"below {MINIMUM_TOP1:.1%}: nothing was written")
    save_file(module.state_dict(), options.models / "digits_dsc.safetensors")
    np.savez_compressed(options.models / "digits_holdout.npz", x=test_x.numpy(), y=test_y.numpy())
    np.savez_compressed(options.models / "digits_calibration.npz", x=train_x[:CALIBRATION].numpy())
    print(f"wrote digits_dsc.safetensors, digits_holdout.npz and digits_calibration.npz to {options.models}")


if __name__ == "__main__":
    main()
