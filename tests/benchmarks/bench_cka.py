"""Subset CKA from one D x D matrix against one CKA call per subset, side by side in one run.

    python tests/benchmarks/bench_cka.py

A study grid: 15 fractions x 5 seeds, each subset with the whole layer, and all 10 pairs of seeds per fraction. The
matrix side is timed in full (median of five), the sums over images apart. The call side is timed on a sample,
every fraction once, and scaled to all seeds and pairs: the cost depends on the fraction only.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import numpy as np

from dr_utils.cka import ESTIMATORS, CKAStatistics, linear_cka, part_part, part_whole
from dr_utils.subsets import random_subsets

FRACTIONS = [0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1]
SEEDS = range(1, 6)


def seconds(function):
    """Wall-clock seconds of one call, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=2048, help="neurons (default: %(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="images (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where the sums over images are made (default: %(default)s)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(64, options.width))
    x = np.maximum(rng.normal(size=(options.images, 64)) @ factors, 0).astype(np.float32)
    by_fraction = [random_subsets(options.width, fraction, SEEDS) for fraction in FRACTIONS]
    everything = [subset for row in by_fraction for subset in row]
    # Starts thread pools and CUDA before anything is timed.
    linear_cka(x[:, :64], x[:, :64]), CKAStatistics(64, device=options.device).update(x[:, :64])
    pairs = list(itertools.combinations(range(len(SEEDS)), 2))
    all_pairs = [(i + f * len(SEEDS), j + f * len(SEEDS)) for f in range(len(FRACTIONS)) for i, j in pairs]
    print(
        f"{options.images} images, {options.width} neurons: {len(everything)} subsets with the whole layer, "
        f"{len(all_pairs)} pairs of subsets; calls timed on {2 * len(FRACTIONS)} of these and scaled"
    )
    for estimator in ESTIMATORS:
        sums_of_images = CKAStatistics(options.width, estimators=[estimator], device=options.device)
        sums, q = seconds(lambda s=sums_of_images, e=estimator: s.update(x).matrix(e))
        repeats = [
            seconds(lambda q=q: (part_whole(q, everything), part_part(q, everything, all_pairs))) for _ in range(5)
        ]
        fast = statistics.median(duration for duration, _ in repeats)
        whole_at_once, pairs_at_once = repeats[0][1]
        whole, one_by_one = seconds(
            lambda e=estimator: [linear_cka(x[:, row[0]], x, estimator=e) for row in by_fraction]
        )
        part, pair_by_pair = seconds(
            lambda e=estimator: [linear_cka(x[:, row[0]], x[:, row[1]], estimator=e) for row in by_fraction]
        )
        slow = whole * len(SEEDS) + part * len(pairs)
        worst = max(
            np.nanmax(np.abs(whole_at_once[:: len(SEEDS)] - one_by_one)),
            np.nanmax(np.abs(pairs_at_once[:: len(pairs)] - pair_by_pair)),
        )
        print(
            f"{estimator}: Q {sums:.2f} s, then everything {fast:.3f} s; one call each {slow:.1f} s; "
            f"ratio {slow / fast:.0f}x from Q, {slow / (sums + fast):.0f}x with Q's own time; "
            f"largest difference {worst:.0e}"
        )


if __name__ == "__main__":
    main()
