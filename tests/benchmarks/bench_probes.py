"""Batched probes against one loop per probe on the same cached features, side by side in one run.

    python tests/benchmarks/bench_probes.py
    python tests/benchmarks/bench_probes.py --images 45000 --epochs 50 --loop-epochs 1 --device cuda

The loops are the ordinary way: a DataLoader over a TensorDataset, nn.Linear, autograd, optim.SGD. They are
timed on a sample of the probes, every fraction once, and scaled to all seeds (and epochs, with --loop-epochs): the
cost does not depend on them. A second, leaner loop slices shuffled tensors, to show what the DataLoader itself costs.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from dr_utils.probes import fit_probes
from dr_utils.subsets import random_subsets

# The published grid of ResNet50 on CIFAR-10.
FRACTIONS = [0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3,
             0.4, 0.5, 0.8, 0.9, 1]  # fmt: skip
SEEDS = range(1, 6)


def one_loop(x, y, subset, n_classes, epochs, device, loader: bool) -> None:
    """Train one probe the ordinary way."""
    x, y = torch.as_tensor(x[:, subset], device=device), torch.as_tensor(y, device=device)
    layer = torch.nn.Linear(x.shape[1], n_classes, device=device)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=256, shuffle=True)
    for _ in range(epochs):
        batches = data if loader else ((x[r], y[r]) for r in torch.randperm(len(x), device=device).split(256))
        for features, labels in batches:
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(layer(features), labels).backward()
            optimiser.step()
    if device != "cpu":
        torch.cuda.synchronize()


def seconds(function) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=2048, help="neurons (default: %(default)s)")
    parser.add_argument("--images", type=int, default=2000, help="train images (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of both sides (default: %(default)s)")
    parser.add_argument("--loop-epochs", type=int, help="epochs that the loops are timed on, 0 for none (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options = parser.parse_args()
    rng, n_classes = np.random.default_rng(0), options.classes
    y = rng.permutation(np.arange(options.images) % options.classes)
    shift = y[:, None] / n_classes * 0.1
    x = np.maximum(rng.normal(size=(options.images, options.width)) + shift, 0).astype(np.float32)
    grid = [random_subsets(options.width, fraction, SEEDS) for fraction in FRACTIONS]
    subsets = [subset for row in grid for subset in row]
    seeds = [seed for _ in FRACTIONS for seed in SEEDS]

    def batched(epochs=options.epochs):
        fit_probes(x, y, x[:1000], y[:1000], subsets, seed=seeds, epochs=epochs, device=options.device)

    batched(1)  # starts thread pools and CUDA before anything is timed
    fast = seconds(batched)
    print(
        f"{len(subsets)} probes, {options.images} x {options.width} features, {n_classes} classes, "
        f"{options.epochs} epochs, {options.device}; batched, all probes: {fast:.2f} s"
    )
    if options.device == "cuda":
        print(f"peak memory on the device: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
    epochs = options.epochs if options.loop_epochs is None else options.loop_epochs
    if not epochs:
        return
    for name, loader in (("a DataLoader loop", True), ("a loop over sliced tensors", False)):
        sample = sum(
            seconds(lambda row=row, loader=loader: one_loop(x, y, row[0], n_classes, epochs, options.device, loader))
            for row in grid
        )
        slow = sample * len(SEEDS) * options.epochs / epochs
        print(f"{name} per probe: {slow:.1f} s ({sample:.1f} s timed); ratio {slow / fast:.1f}x")


if __name__ == "__main__":
    main()
