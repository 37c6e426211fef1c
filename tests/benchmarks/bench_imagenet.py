"""Probes over 1,000 classes on features in a file: all at once, and with ever less memory, side by side in one run.

    python tests/benchmarks/bench_imagenet.py --images 4000
    python tests/benchmarks/bench_imagenet.py --images 1281167 --fractions 0.001 0.01 0.05 --ways "an eighth"
    python tests/benchmarks/bench_imagenet.py --images 1281167 --epochs 25 --device cuda

The grid is that of ResNet50 on ImageNet-1k, 10 fractions x 5 seeds. Features are noise in half precision in a mapped
file. What differs between the ways is where they and the probes are, not what is computed.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dr_utils.probes import fit_probes
from dr_utils.probes.masked import find_chunks
from dr_utils.progress import progress
from dr_utils.subsets import random_subsets

FRACTIONS = [0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0]
SEEDS = range(1, 6)
# Memory for training, as a share of what all probes take; on a GPU that of the features comes on top for the first two.
WAYS = {"all at once": (1.0, True), "in waves": (0.25, True), "features from the host": (1.0, False),
        "an eighth": (0.125, False)}  # fmt: skip


def write_features(path: Path, n: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Fill a file with noise around class means, and open it read-only."""
    generator = np.random.default_rng(0)
    y, centres = np.arange(n) % classes, generator.normal(size=(classes, width)).astype(np.float32)
    x = np.lib.format.open_memmap(path, "w+", np.float16, (n, width))
    for start in progress(range(0, n, 4096), desc="features", unit="batches"):
        part = y[start : start + 4096]
        noise = generator.normal(size=(len(part), width), scale=2).astype(np.float32)
        x[start : start + 4096] = np.maximum(noise + centres[part], 0)
    return np.load(path, mmap_mode="r"), y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4000, help="train images (default: %(default)s)")
    parser.add_argument("--width", type=int, default=2048, help="neurons (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--fractions", type=float, nargs="+", default=FRACTIONS, help="(default: %(default)s)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="(default: all four)")
    options = parser.parse_args()
    subsets = [subset for fraction in options.fractions for subset in random_subsets(options.width, fraction, SEEDS)]
    seeds = [seed for _ in options.fractions for seed in SEEDS]
    sizes = (options.width, options.classes, 512, 4)
    probes = sum(chunk.n_bytes(*sizes) for chunk in find_chunks(subsets, seeds))
    on_cuda, first = options.device != "cpu", None
    with tempfile.TemporaryDirectory() as folder:
        x, y = write_features(Path(folder) / "x.npy", options.images, options.width, options.classes)
        for name in options.ways:
            share, resident = WAYS[name]
            budget = int(share * probes) + resident * on_cuda * x.nbytes
            if on_cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            fit_probes(
                x, y, x[: options.classes], y[: options.classes], subsets, seed=seeds, epochs=options.epochs,
                batch_size=512, device=options.device, memory=budget,
            )  # fmt: skip
            taken = time.perf_counter() - start
            first = first or taken
            device = f"; on the device {torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if on_cuda else ""
            print(f"{name}, {budget / 1e9:.2f} GB allowed: {taken:.1f} s, {taken / first:.2f} times the first{device}")
        print(
            f"{len(subsets)} probes, {options.classes} classes, {x.shape[0]:,} x {options.width} features in half "
            f"precision ({x.nbytes / 1e9:.2f} GB), {options.epochs} epochs, {options.device}; the process held up to "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, pages of the file included"
        )


if __name__ == "__main__":
    main()
