"""Nested subsets of neurons, found and grouped so that the probes of a grid are trained together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chain:
    """Subsets of one seed that are prefixes of one another.

    Attributes
    ----------
    seed : int
    columns : int array of shape [K]
        The longest subset.
    lengths : tuple of F ints, strictly increasing
        The prefixes that occur; the last is K.
    places : tuple of F tuples of ints
        Which of the given subsets each prefix is (equal subsets share one).
    """

    seed: int
    columns: np.ndarray
    lengths: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """S chains with the same F lengths: their arrays stack, so they are trained as one batch."""

    lengths: tuple[int, ...]
    seeds: list[int]
    columns: list[np.ndarray]
    places: list[tuple[tuple[int, ...], ...]]

    def split(self, n_parts: int) -> list[Group]:
        """Deal the chains into at most `n_parts` groups of nearly equal size."""
        parts = [slice(start, None, n_parts) for start in range(min(n_parts, len(self.seeds)))]
        return [Group(self.lengths, self.seeds[p], self.columns[p], self.places[p]) for p in parts]


def find_chains(subsets: Sequence[np.ndarray], seeds: Sequence[int]) -> list[Chain]:
    """Sort subsets into chains of prefixes, seed by seed.

    Each subset joins the first chain (longest first) whose columns begin with it, else starts its own.
    """
    by_seed = defaultdict(list)
    for place, seed in enumerate(seeds):
        by_seed[seed].append(place)
    chains = []
    for seed, places in by_seed.items():
        open_chains: list[tuple[np.ndarray, dict[int, list[int]]]] = []
        for place in sorted(places, key=lambda p: (-len(subsets[p]), p)):
            subset = subsets[place]
            for columns, members in open_chains:
                if np.array_equal(columns[: len(subset)], subset):
                    members.setdefault(len(subset), []).append(place)
                    break
            else:
                open_chains.append((subset, {len(subset): [place]}))
        for columns, members in open_chains:
            lengths = tuple(sorted(members))
            chains.append(Chain(seed, columns, lengths, tuple(tuple(members[k]) for k in lengths)))
    return chains


def group_probes(subsets: Sequence[np.ndarray], seeds: Sequence[int]) -> list[Group]:
    """Group the chains of `subsets` by their lengths, so that each group is one batched computation."""
    by_lengths: dict[tuple[int, ...], list[Chain]] = defaultdict(list)
    for chain in find_chains(subsets, seeds):
        by_lengths[chain.lengths].append(chain)
    return [
        Group(lengths, [c.seed for c in group], [c.columns for c in group], [c.places for c in group])
        for lengths, group in by_lengths.items()
    ]
