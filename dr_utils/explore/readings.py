"""What the sliders show, looked up from a study's tables: no widgets here, and nothing that takes long."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_utils.claims.curves import Curve, close
from dr_utils.claims.view import View
from dr_utils.redundancy import RULES


@dataclass(frozen=True)
class Point:
    """One network on one task, at one fraction and one delta.

    Attributes
    ----------
    n_neurons, width : int
        Neurons kept, and neurons in the layer.
    accuracy, spread : float or None
        Mean and standard deviation over seeds; None at a fraction that this network was not measured at.
    full : float
        Mean accuracy of the full layer.
    redundancy : dict of str to (float, float, float)
        By rule ("first", "nearest"): DR at delta with its 95 % interval. Rules that the tables lack are left out.
    """

    n_neurons: int | None
    width: int
    accuracy: float | None
    spread: float | None
    full: float
    redundancy: dict[str, tuple[float, float, float]]

    @property
    def kept(self) -> float | None:
        """Share of the full layer's accuracy that is kept."""
        return None if self.accuracy is None else self.accuracy / self.full


class Readings:
    """The tables of one study, arranged for looking things up.

    Parameters
    ----------
    tables : dict of DataFrame
        As `Study.run` returns them or `read_tables` reads them.
    """

    def __init__(self, tables: dict[str, pd.DataFrame]):
        self.view = View(tables)
        solver, features = self.view.protocol
        rows = tables["redundancy"].query("task == 'probe' and solver == @solver and features == @features")
        # 17,000 rows are slow to search at every move of a slider, and quick to go through once.
        self._redundancy = {
            (row.model, row.dataset, row.rule, _key(row.delta)): (row.dr, row.low, row.high)
            for row in rows.itertuples()
        }
        self.deltas = sorted(rows["delta"].unique().tolist())
        self._inequality: dict[str, dict[tuple[str, str], pd.DataFrame]] = {}

    @property
    def networks(self) -> dict[str, str]:
        """Names of the networks that have probes, by title, in the order of the profile."""
        return {self.view.title(m): m for m in self.view.models() if any(self.curve(m, d) for d in self.tasks.values())}

    @property
    def tasks(self) -> dict[str, str]:
        """Names of the tasks, by title."""
        return {self.view.task_title(d): d for d in self.view.datasets()}

    def curve(self, model: str, task: str, selection: str = "random") -> Curve | None:
        """Accuracy over fractions [F, seeds]; None where there is none, or none of the full layer."""
        curve = self.view.accuracy(model, task, selection)
        return curve if curve is not None and (selection != "random" or curve.at(1.0) is not None) else None

    def fractions(self, models: Iterable[str], task: str) -> list[float]:
        """Fractions that any of these networks was measured at, rising."""
        curves = [self.curve(model, task) for model in models]
        return sorted({round(float(f), 9) for curve in curves if curve for f in curve.fractions})

    def point(self, model: str, task: str, fraction: float, delta: float) -> Point | None:
        """What is known of a network at this fraction and delta; None if it was not measured on this task."""
        curve = self.curve(model, task)
        if curve is None:
            return None
        hit = np.flatnonzero(close(curve.fractions, fraction))
        values = curve.values[hit[0]] if hit.size else None
        return Point(
            n_neurons=int(curve.n_neurons[hit[0]]) if hit.size else None,
            width=int(curve.n_neurons[-1]),
            accuracy=None if values is None else float(values.mean()),
            spread=None if values is None or len(values) < 2 else float(values.std(ddof=1)),
            full=float(curve.mean[-1]),
            redundancy={
                rule: tuple(map(float, self._redundancy[key]))
                for rule in RULES
                if (key := (model, task, rule, _key(delta))) in self._redundancy
            },
        )

    def classes(self, model: str, task: str, fraction: float) -> pd.DataFrame | None:
        """Accuracy of each class (index), mean over seeds, in columns "part" and "full"; None if not measured."""
        part, full = (self.view.per_class(model, task, f) for f in (fraction, 1.0))
        if part is None or full is None:
            return None
        return pd.DataFrame({"part": part.mean(), "full": full.mean()}).dropna()

    def gini(self, model: str, task: str, fraction: float) -> float | None:
        """Gini index over classes of the random subsets at this fraction, from fairness.csv."""
        if "random" not in self._inequality:
            self._inequality["random"] = self.view.fairness_curves("random")
        rows = self._inequality["random"].get((model, task))
        if rows is None:
            return None
        found = rows.loc[close(rows["fraction"], fraction), "gini"]
        return None if found.empty else float(found.iloc[0])


def _key(delta: float) -> int:
    return round(float(delta) * 1e6)
