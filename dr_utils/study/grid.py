"""All probes of a cell over one matrix: the neurons, and beside them the components of every projection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dr_utils.subsets import PROJECTIONS, first_subset, fit_projection, n_neurons, random_subsets

if TYPE_CHECKING:
    from dr_utils.study.cell import CellSpec


@dataclass
class GridProbe:
    """One probe of the grid: its key columns in the tables, and its columns of the feature matrix."""

    selection: str
    fraction: float
    n_neurons: int
    seed: int
    columns: np.ndarray = field(repr=False)


class Grid:
    """What the probes of a cell look at, fitted on its train features.

    Parameters
    ----------
    x_train : float array of shape [n, D]
    spec : CellSpec

    Attributes
    ----------
    probes : list of GridProbe
        Their columns are those of `matrix`.
    notes : list of str
        What the reader of the tables should know, such as how many components exist.
    """

    def __init__(self, x_train: np.ndarray, spec: CellSpec):
        self.probes: list[GridProbe] = []
        self.notes: list[str] = []
        self._projections: list[tuple] = []
        self._scale = None
        # Sums over many samples want more digits than half precision has; where nothing is summed, nothing is copied.
        if spec.standardise or set(PROJECTIONS) & set(spec.selections):
            x_train = x_train.astype(np.float32, copy=False)
        if spec.standardise:
            mean, std = x_train.mean(axis=0, dtype=np.float64), x_train.std(axis=0, dtype=np.float64)
            # A neuron that is silent on train stays at zero instead of becoming NaN.
            self._scale = mean, np.where(std > 0, std, 1.0)
        x_train = self._scaled(x_train)
        width = x_train.shape[1]
        offset = width
        for selection, fractions in spec.selections.items():
            if selection not in PROJECTIONS:
                self._add_neurons(selection, fractions, width, spec.seeds)
                continue
            for seeds in [[s] for s in spec.seeds] if selection.startswith("projection") else [spec.seeds]:
                fitted = fit_projection(selection, x_train, seed=seeds[0])
                wanted = min(n_neurons(width, max(fractions)), fitted.n_components)
                self._projections.append((fitted, wanted))
                for seed in seeds:
                    for fraction in fractions:
                        k = min(n_neurons(width, fraction), wanted)
                        self.probes.append(GridProbe(selection, fraction, k, seed, np.arange(offset, offset + k)))
                offset += wanted
            if fitted.note:
                self.notes.append(f"{selection}: {fitted.note}; larger fractions use all of them")

    def _add_neurons(self, selection: str, fractions, width: int, seeds) -> None:
        for fraction in fractions:
            picks = (
                random_subsets(width, fraction, seeds)
                if selection == "random"
                else [first_subset(width, fraction)] * len(seeds)
            )
            self.probes += [
                GridProbe(selection, fraction, len(columns), seed, columns)
                for seed, columns in zip(seeds, picks, strict=True)
            ]

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return x if self._scale is None else ((x - self._scale[0]) / self._scale[1]).astype(np.float32)

    def matrix(self, x: np.ndarray) -> np.ndarray:
        """Columns for all probes from features [n, D]: the neurons, then each projection's components."""
        x = self._scaled(x)
        blocks = [x, *(fitted.transform(x, wanted) for fitted, wanted in self._projections)]
        return np.concatenate(blocks, axis=1) if len(blocks) > 1 else x
