"""The explorer of notebook 00: fraction and delta on sliders, and at once what they mean for a model and a dataset."""

from __future__ import annotations

import html
import itertools
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
import pandas as pd

from dr_utils.cka import part_whole
from dr_utils.claims.curves import close
from dr_utils.claims.view import View
from dr_utils.explore import readout
from dr_utils.explore.charts import ClassChart, CurveChart, DrawsChart
from dr_utils.explore.sliding import SlidingCurve
from dr_utils.redundancy import RULES
from dr_utils.subsets import random_subsets

MANY = 50  # draws at one press of the second button
FIRST_SEED = 1001  # apart from the seeds of profiles, so that a new draw is not one that the tables hold
Matrix = Callable[[str, str], np.ndarray | None]


class Explorer(SlidingCurve):
    """Sliders over one study's tables: `menu` is the dataset, `slider` the fraction, `chart` shows the accuracy.

    Parameters
    ----------
    tables : dict of DataFrame
        As `dr_utils.study.Study.run` returns them.
    matrix : callable
        (model, dataset) -> Q [D, D] for new draws, from `dr_utils.cka.CKAStatistics.matrix`; None where there is none.
    key : str
        The choices are remembered under it; for example the results folder.
    note : str
        The source of the numbers; shown below.

    Raises
    ------
    ValueError
        The tables hold no probes of random subsets.
    """

    def __init__(self, tables: dict[str, pd.DataFrame], matrix: Matrix, *, key: str = "", note: str = ""):
        self._view, self._matrix, memory = View(tables), matrix, readout.remembered("explorer", key)
        self._q: dict[tuple[str, str], np.ndarray | None] = {}
        self._draws: dict[tuple[str, str, int], list[float]] = {}
        self._gini = self._view.fairness_curves("random")
        self._tasks = {self._view.task_title(name): name for name in self._view.datasets()}
        self._models = {self._view.title(name): name for name in self._view.models()}
        points = self._accuracies()
        networks = [title for title in self._models if title in points.index.unique("hue")]
        chosen = [title for title in memory.get("networks", []) if title in networks] or networks[:1]
        self.networks = widgets.SelectMultiple(
            options=networks, value=chosen, description="networks", rows=min(7, len(networks)),
            tooltip="Ctrl or Shift selects several", **readout.CONTROL,
        )  # fmt: skip
        self.detail = widgets.Dropdown(description="show details for", **readout.CONTROL)
        deltas = readout.stops(set(tables["redundancy"]["delta"].round(9)))
        self.delta = readout.selection(deltas, memory.get("delta", 0.9), "delta")
        self.again = widgets.Button(description="draw again", icon="dice", tooltip="one more random subset")
        self.many = widgets.Button(description=f"draw {MANY}", tooltip=f"{MANY} more random subsets")
        self.similarity, self.classes = DrawsChart(), ClassChart()
        self.similarity.children = [*self.similarity.children, widgets.HBox([self.again, self.many])]
        chart = CurveChart("fraction of the layer's neurons", "test accuracy", log=True)
        heads = ["neurons", "accuracy", "full layer", "kept", *(f"DR, {rule}" for rule in RULES)]
        cells = pd.DataFrame(columns=pd.Index(heads, name="network"))
        super().__init__(points, cells, chart, menu="task", slider="fraction", start=0.2, memory=memory)
        self.controls = [self.slider, self.delta]
        left = widgets.VBox([self.networks, self.menu, self.detail], layout=widgets.Layout(flex="1 1 320px"))
        right = widgets.VBox(self.controls, layout=widgets.Layout(flex="2 1 420px"))
        charts = readout.side_by_side(self.chart, self.similarity, self.classes)
        whose = widgets.HTML(f"<small>{html.escape(note)}</small>")
        self.children = [readout.side_by_side(left, right), self.readout, charts, whose]
        self.networks.observe(lambda _: self._choose(), "value")
        for control in (self.detail, self.delta):
            control.observe(lambda _: self._move(), "value")
        self.again.on_click(lambda _: self._draw(1))
        self.many.on_click(lambda _: self._draw(MANY))

    def _accuracies(self) -> pd.DataFrame:
        """Mean accuracy of random subsets with its band, and n_neurons, by task, network and fraction."""
        found = {}
        for (task, dataset), (title, model) in itertools.product(self._tasks.items(), self._models.items()):
            curve = self._view.accuracy(model, dataset)
            if curve is not None and curve.at(1.0) is not None:
                at = np.round(curve.fractions, 9)  # read from CSV, fractions may miss each other by rounding
                band = {"low": curve.mean - curve.std, "high": curve.mean + curve.std}
                columns = {"x": at, "mean": curve.mean, **band, "n_neurons": curve.n_neurons}
                found[task, title] = pd.DataFrame(columns, index=at)
        if not found:
            raise ValueError("the tables hold no probes of random subsets; run ./run_all.sh or Study(...).run() first.")
        return pd.concat(found, names=["menu", "hue", "at"])

    def _chosen(self) -> pd.DataFrame:
        """Points of the chosen networks, as far as they were measured on the task, by network and fraction."""
        points = super()._chosen()
        return points[points.index.get_level_values("hue").isin(self.networks.value)]

    def _row(self, name: str) -> list[str]:
        """A network's cells of the table at this fraction and delta."""
        found, full = self.values(), self._full.loc[name]
        neurons, accuracy, kept = "–", "not measured at this fraction", ""
        if name in found.index:
            at = found.loc[name]
            neurons, kept = f"{at['n_neurons']:.0f}", readout.per_cent(round(at["mean"] / full["mean"], 3))
            accuracy = readout.with_spread(at["mean"], at["low"], at["high"])
        rules = [readout.with_spread(*self._redundancy[name, rule], interval=True) for rule in RULES]
        return [f"{neurons} of {full['n_neurons']:.0f}", accuracy, f"{full['mean']:.3f}", kept, *rules]

    def _redraw(self) -> None:
        super()._redraw()
        kept = self.detail.value if self.detail.value in self._names else next(iter(self._names), None)
        self.detail.options, self.detail.value = self._names, kept

    def _move(self) -> None:
        """Show everything at another fraction or delta."""
        delta = self.delta.value
        self._memory.update(networks=self.networks.value, delta=delta)
        self._full = self.values(1.0)
        self._redundancy = {  # DR with its interval, NaN where the tables have none
            (name, rule): self._view.redundancy(self._models[name], self._tasks[self.menu.value], delta, rule=rule)
            or (np.nan,) * 3
            for name, rule in itertools.product(self._full.index, RULES)
        }
        falls = [1 - self._redundancy[name, "first"][0] for name in self._full.index]
        super()._move(pd.DataFrame({"height": delta * self._full["mean"], "x": falls}))
        self.chart.head(
            "<b>Accuracy</b> of random subsets, mean over seeds ± 1 std. "
            f"Dashed: {readout.per_cent(delta)} of the full layer's; dotted: the smallest fraction that reaches it."
        )
        if self.detail.value is not None:
            self._compare_classes()
            self._draw(0)

    def _detail(self) -> tuple[str, str, str]:
        """What details are shown for: model, dataset, and the model's title as HTML."""
        return self._models[self.detail.value], self._tasks[self.menu.value], html.escape(self.detail.value)

    def _compare_classes(self) -> None:
        fraction, (model, task, title) = self.slider.value, self._detail()
        part, full = (self._view.per_class(model, task, share) for share in (fraction, 1.0))
        if part is None or full is None:
            self.classes.head(f"<b>Classes</b>, {title}: not measured at this fraction.")
            return
        classes = pd.DataFrame({"part": part.mean(), "full": full.mean()}).dropna()
        shown = self.classes.show(classes)
        text = f"<b>Classes</b>, {title}: diamonds, a subset of {readout.per_cent(fraction)}; bars, the full layer."
        if (model, task) in self._gini:
            gini = self._gini[model, task].set_index("fraction")["gini"]
            at = [gini[close(gini.index, share)] for share in (fraction, 1.0)]
            text += " Gini {:.3f}, full layer {:.3f}.".format(*(v.iloc[0] for v in at)) if all(map(len, at)) else ""
        if shown < len(classes):
            text += f" The {shown} of {len(classes)} classes that lose most."
        self.classes.head(text)

    def _draw(self, times: int) -> None:
        """Draw so many further random subsets, at least one at each size, and show the CKA of all drawn so far.

        Draw i of a size has seed ``FIRST_SEED + i``, so that a reader can draw the same one again.
        """
        at, (*cell, title) = self.values(), self._detail()
        if tuple(cell) not in self._q:
            self._q[tuple(cell)] = self._matrix(*cell)
        q = self._q[tuple(cell)]
        if q is None or self.detail.value not in at.index:
            self.similarity.head("<b>CKA</b>: no features of this network and task are stored.")
            return
        k = int(at.loc[self.detail.value, "n_neurons"])
        draws = self._draws.setdefault((*cell, k), [])
        seeds = range(FIRST_SEED + len(draws), FIRST_SEED + len(draws) + (times or not draws))
        draws.extend(part_whole(q, random_subsets(len(q), k / len(q), seeds)))
        expected = expected_cka(q, k)
        self.similarity.show(draws, expected, draws[-1])
        known = np.asarray(draws)[np.isfinite(draws)]
        many = f"draws, mean {known.mean():.3f} ± {known.std(ddof=1):.3f}" if len(known) > 1 else "draw"
        self.similarity.head(
            f"<b>CKA with the whole layer</b>, {title}, {k} newly drawn neurons: newest draw <b>{draws[-1]:.3f}</b> "
            f"(solid), expected {expected:.3f} (dashed); {len(draws)} {many}."
        )


def expected_cka(q: np.ndarray, k: int) -> float:
    """Return the CKA with the whole layer expected for a random subset of k of the D neurons, to first order.

    With a the subset's mask and 1 the whole layer's, CKA is a'Q1 / sqrt(a'Qa * 1'Q1). Over all subsets a'Q1 is k/D of
    Q's sum on average, and a'Qa is k/D of its trace and k(k-1) / (D(D-1)) of the rest; these means replace the two
    random numbers. Exact at k = D; elsewhere it leaves out what the spread of a'Qa adds. NaN for a silent layer.
    """
    d, total, trace = len(q), float(q.sum()), float(np.trace(q))
    one, two = k / d, k * (k - 1) / (d * (d - 1)) if d > 1 else 1.0
    size = one * trace + two * (total - trace)
    return float(one * total / np.sqrt(size * total)) if size > 0 and total > 0 else float("nan")
