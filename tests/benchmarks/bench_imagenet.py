"""Probes over 1,000 classes on features in a file: all at once, in waves, and streamed, side by side in one run.

    python tests/benchmarks/bench_imagenet.py --images 4000
    python tests/benchmarks/bench_imagenet.py --images 1281167 --fractions 0.001 0.01 0.05 --ways both
    python tests/benchmarks/bench_imagenet.py --images 1281167 --epochs 25 --device cuda

The grid is that of ResNet50 on ImageNet-1k, 10 fractions x 5 seeds. Features are noise in half precision, in a file
of the feature store; what differs between the ways is where they and the probes are, not what is computed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time

import numpy as np
import torch

from dr_utils import store
from dr_utils.probes import fit_probes, memory
from dr_utils.probes.chains import group_probes
from dr_utils.progress import progress
from dr_utils.subsets import random_subsets

FRACTIONS = [0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0]
SEEDS = range(1, 6)
IMAGENET = 1_281_167
WAYS = ("all at once", "waves of one seed", "features from the host", "both")


def write_features(n: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Fill a file of the store with noise around class means, and open it as a study does."""
    generator = np.random.default_rng(0)
    y, centres = np.arange(n) % classes, generator.normal(size=(classes, width)).astype(np.float32)
    with store.create("features", "benchmark", (n, width), "float16", about={}, arrays={"y": y}) as x:
        for start in progress(range(0, n, 4096), desc="features", unit="batches"):
            part = y[start : start + 4096]
            noise = generator.normal(size=(len(part), width), scale=2).astype(np.float32)
            x[start : start + 4096] = np.maximum(noise + centres[part], 0)
    arrays = store.read("features", "benchmark").arrays
    return arrays["x"], arrays["y"]


class Watched:
    """The most memory of this process that is not pages of files, in bytes, while the block runs (Linux)."""

    def __enter__(self) -> Watched:
        self.peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            with open("/proc/self/status") as file:
                found = next(1024 * int(line.split()[1]) for line in file if line.startswith("RssAnon"))
            self.peak = max(self.peak, found)

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()


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
    groups, on_cuda = group_probes(subsets, seeds), options.device != "cpu"
    store.MAPPED_BYTES = 1
    with tempfile.TemporaryDirectory() as home:
        os.environ["DR_HOME"] = home
        x, y = write_features(options.images, options.width, options.classes)
        parts = [part for group in groups for part in group.split(torch.get_num_threads())]
        single, everything = (
            sum(memory.group_bytes(g, options.classes, 512, torch.float32) for g in chosen)
            for chosen in (groups[0].split(len(SEEDS))[:1], parts)
        )
        budgets = dict(zip(WAYS, (1 << 62, x.nbytes + single, everything, single), strict=True))
        first = None
        for name in options.ways:
            if on_cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            with Watched() as watched:
                fit_probes(
                    x, y, x[: options.classes], y[: options.classes], subsets, seed=seeds, epochs=options.epochs,
                    batch_size=512, device=options.device, memory=budgets[name],
                )  # fmt: skip
            taken = time.perf_counter() - start
            first = first or taken
            device = f", on the device {torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if on_cuda else ""
            told = "" if name == WAYS[0] else f", {budgets[name] / 1e9:.2f} GB allowed"
            print(
                f"{name}{told}: {taken:.1f} s, {taken / first:.2f} times the first; up to {watched.peak / 1e9:.2f} "
                f"GB beside the file's pages{device}"
            )
    whole = memory.plan(groups, IMAGENET * options.width * 2, options.classes, 512, torch.float32, None).n_bytes
    print(
        f"{len(subsets)} probes, {options.classes} classes, {options.images:,} x {options.width} features in half "
        f"precision ({x.nbytes / 1e9:.2f} GB), {options.epochs} epochs, {options.device}. By count, "
        f"{IMAGENET:,} images would take {whole / 1e9:.1f} GB on the device, copies left out."
    )


if __name__ == "__main__":
    main()
