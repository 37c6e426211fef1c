"""Which probes are trained as one masked product, and how many of these a device holds at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

# A probe shares the columns of the longest of its chunk if it has an eighth of them, so that not much is computed only
# to be masked. Below so many columns nothing is gained by a product of its own.
SHARE, NARROW = 8, 64


@dataclass(frozen=True)
class Chunk:
    """Probes [P] of one seed that see the same batches and columns: `columns` [U], ascending, those of the longest."""

    seed: int
    columns: np.ndarray
    probes: tuple[int, ...]

    def n_bytes(self, width: int, n_classes: int, batch_size: int, itemsize: int) -> int:
        """Return what training takes: weights, momentum, gradient and mask, logits, and the batch with its columns."""
        n_columns, n_probes = len(self.columns), len(self.probes)
        parameters = n_probes * (3 * n_classes * (n_columns + 1) + n_columns)
        return itemsize * (parameters + batch_size * (2 * n_probes * n_classes + 2 * width + n_columns))


def first_equal(subsets: Sequence[np.ndarray], seeds: Sequence[int]) -> list[int]:
    """Return for each probe the first one of the same subset and seed: equal ones are trained once."""
    first: dict[tuple[int, bytes], int] = {}
    return [first.setdefault((seed, s.tobytes()), p) for p, (s, seed) in enumerate(zip(subsets, seeds, strict=True))]


def find_chunks(subsets, seeds, fits: Callable[[Chunk], bool] = lambda chunk: True) -> list[Chunk]:
    """Gather probes whose subsets, of one seed, are prefixes of one another, as long as the chunk `fits`."""
    found: list[Chunk] = []
    longest = np.empty(0)
    # In falling lexicographic order a subset is followed by its prefixes.
    for probe in sorted(set(first_equal(subsets, seeds)), key=lambda p: (seeds[p], subsets[p].tolist()), reverse=True):
        subset, k = subsets[probe], len(subsets[probe])
        near = len(longest) <= max(NARROW, SHARE * k) and np.array_equal(longest[:k], subset)
        if near and found[-1].seed == seeds[probe]:
            grown = replace(found[-1], probes=(*found[-1].probes, probe))
            if fits(grown):
                found[-1] = grown
                continue
        longest = subset
        found.append(Chunk(seeds[probe], np.sort(subset), (probe,)))
    return found


def plan_waves(subsets, seeds, feature_bytes: int, budget: float, *sizes: int) -> tuple[bool, list[list[Chunk]]]:
    """Fit training into `budget` bytes of device memory, or raise ValueError where not even one probe fits.

    Return whether the features stay on the device, which they do if they take no more than half, and the chunks that
    are on it at the same time, wave by wave. `sizes` are those of `Chunk.n_bytes`.
    """
    resident = feature_bytes <= budget / 2
    budget -= feature_bytes * resident
    waves: list[list[Chunk]] = []
    free = 0.0
    chunks = find_chunks(subsets, seeds, lambda chunk: chunk.n_bytes(*sizes) <= budget)
    for n_bytes, chunk in sorted(((chunk.n_bytes(*sizes), chunk) for chunk in chunks), key=lambda pair: -pair[0]):
        if n_bytes > budget:
            raise ValueError(
                f"a probe on {len(chunk.columns)} neurons takes {n_bytes / 1e9:.3g} GB of device memory, and "
                f"{budget / 1e9:.3g} GB are to be used; take a smaller batch_size, or device='cpu'."
            )
        if n_bytes > free:
            waves.append([])
            free = budget
        waves[-1].append(chunk)
        free -= n_bytes
    return resident, waves
