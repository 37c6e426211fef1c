"""Which probes are trained as one masked product, and how many of these a device holds at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# A probe shares the columns of the longest of its chunk if it has a quarter of them, so that little is computed only
# to be masked. Below so many columns nothing is gained by a product of its own.
SHARE, NARROW = 4, 64


@dataclass(frozen=True)
class Chunk:
    """Probes [P] of one seed that see the same batches and columns: `columns` [U], ascending, those of the longest."""

    seed: int
    columns: np.ndarray
    probes: tuple[int, ...]

    def n_bytes(self, width: int, n_classes: int, batch_size: int, itemsize: int, n_probes: int | None = None) -> int:
        """Return what training takes: weights, momentum, gradient and mask, logits, and the batch with its columns."""
        n_columns, n_probes = len(self.columns), len(self.probes) if n_probes is None else n_probes
        parameters = n_probes * (3 * n_classes * (n_columns + 1) + n_columns)
        return itemsize * (parameters + 2 * batch_size * n_probes * n_classes + batch_size * (2 * width + n_columns))


def first_equal(subsets: Sequence[np.ndarray], seeds: Sequence[int]) -> list[int]:
    """Return for each probe the first one of the same subset and seed: equal ones are trained once."""
    first: dict[tuple[int, bytes], int] = {}
    return [first.setdefault((seed, s.tobytes()), p) for p, (s, seed) in enumerate(zip(subsets, seeds, strict=True))]


def find_chunks(subsets: Sequence[np.ndarray], seeds: Sequence[int]) -> list[Chunk]:
    """Gather probes whose subsets, of one seed, are prefixes of one another; other probes are chunks of their own."""
    found: list[Chunk] = []
    longest = np.empty(0)
    # In falling lexicographic order a subset is followed by its prefixes.
    for probe in sorted(set(first_equal(subsets, seeds)), key=lambda p: (seeds[p], subsets[p].tolist()), reverse=True):
        subset, k = subsets[probe], len(subsets[probe])
        near = len(longest) <= max(NARROW, SHARE * k)
        if found and found[-1].seed == seeds[probe] and near and np.array_equal(longest[:k], subset):
            found[-1] = replace(found[-1], probes=(*found[-1].probes, probe))
        else:
            longest = subset
            found.append(Chunk(seeds[probe], np.sort(subset), (probe,)))
    return found


def plan_waves(
    chunks: Sequence[Chunk], feature_bytes: int, budget: float, *sizes: int
) -> tuple[bool, list[list[Chunk]]]:
    """Fit training into `budget` bytes of device memory; `sizes` are those of `Chunk.n_bytes`.

    Returns
    -------
    resident : bool
        Whether the features stay on the device; if not, each batch comes from the host.
    waves : list of lists of Chunk
        Probes that are on the device at the same time; a chunk that is too large is cut into smaller ones.

    Raises
    ------
    ValueError
        Not even one probe fits.
    """
    chunks = sorted(chunks, key=lambda chunk: -chunk.n_bytes(*sizes))
    resident = feature_bytes + chunks[0].n_bytes(*sizes) <= budget
    budget -= feature_bytes * resident
    waves: list[list[Chunk]] = []
    free = 0.0
    for chunk in chunks:
        base, single = (chunk.n_bytes(*sizes, n_probes=n) for n in (0, 1))
        fitting = int(min((budget - base) / (single - base), len(chunk.probes)))
        if fitting < 1:
            raise ValueError(
                f"one probe on {len(chunk.columns)} neurons takes {single / 1e9:.3g} GB of device memory, and "
                f"{budget / 1e9:.3g} GB are to be used; take a smaller batch_size, or device='cpu'."
            )
        for start in range(0, len(chunk.probes), fitting):
            part = replace(chunk, probes=chunk.probes[start : start + fitting])
            if part.n_bytes(*sizes) > free:
                waves.append([])
                free = budget
            waves[-1].append(part)
            free -= part.n_bytes(*sizes)
    return resident, waves
