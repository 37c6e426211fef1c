"""A curve over the grid of fractions, one column per seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd


def close(fractions, wanted: float) -> np.ndarray:
    """Which fractions are `wanted`; fractions read from CSV may miss it by rounding."""
    return np.abs(np.asarray(fractions, dtype=float) - wanted) <= 1e-6 * abs(wanted)


@dataclass(frozen=True)
class Curve:
    """Performance over the grid of fractions, rising, the whole layer (1) included where it was measured.

    `values` has shape [F, S], one column per seed in `seeds`. `stated` [F] is a standard deviation that was published
    with a mean, NaN where none was; None for what was measured.
    """

    fractions: np.ndarray
    values: np.ndarray
    seeds: tuple[int, ...]
    n_neurons: np.ndarray
    stated: np.ndarray | None = None

    def at(self, fraction: float) -> pd.Series | None:
        """Performance per seed at one fraction; None where the grid lacks it."""
        hit = np.flatnonzero(close(self.fractions, fraction))
        return pd.Series(self.values[hit[0]], index=list(self.seeds)) if hit.size else None

    def keep(self, seeds) -> Curve:
        """The same curve with only these seeds, in this order."""
        columns = [self.seeds.index(seed) for seed in seeds]
        return Curve(self.fractions, self.values[:, columns], tuple(seeds), self.n_neurons)

    @cached_property
    def mean(self) -> np.ndarray:
        return self.values.mean(axis=1)

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviation over the seeds [F]; with one seed the stated one, or NaN."""
        if len(self.seeds) > 1:
            return self.values.std(axis=1, ddof=1)
        return np.full(len(self.values), np.nan) if self.stated is None else self.stated


def curve_from(rows: pd.DataFrame, value: str, seed: str) -> Curve | None:
    """Rows to a Curve, keeping the seeds that have every fraction."""
    grid = rows.pivot_table(index="fraction", columns=seed, values=value).sort_index().dropna(axis=1)
    if grid.empty:
        return None
    neurons = rows.groupby("fraction")["n_neurons"].first().reindex(grid.index)
    return Curve(
        grid.index.to_numpy(float),
        grid.to_numpy(float),
        tuple(int(s) for s in grid.columns),
        neurons.to_numpy(),
    )


def with_whole(curve: Curve | None) -> Curve | None:
    if curve is None or close(curve.fractions, 1.0).any():
        return curve
    return Curve(
        np.append(curve.fractions, 1.0),
        np.vstack([curve.values, np.ones(len(curve.seeds))]),
        curve.seeds,
        np.append(curve.n_neurons, round(curve.n_neurons[-1] / curve.fractions[-1])),
    )
