"""The explorer of notebook 00: fraction and delta on sliders, and at once what they mean for a model and a dataset."""

from __future__ import annotations

import html
from collections.abc import Callable

import ipywidgets as widgets
import numpy as np
import pandas as pd

from dr_utils.cka import part_whole
from dr_utils.claims.curves import close
from dr_utils.claims.view import View
from dr_utils.explore.charts import ClassChart, CurveChart, DrawsChart, strokes
from dr_utils.explore.readout import CONTROL, nearest, per_cent, remembered, selection, side_by_side, stops, table
from dr_utils.redundancy import RULES
from dr_utils.subsets import random_subsets

MANY = 50  # draws at one press of the second button
FIRST_SEED = 1001  # apart from the seeds of profiles, so that a new draw is not one that the tables hold


class Explorer(widgets.VBox):
    """Sliders over one study's tables.

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

    def __init__(
        self,
        tables: dict[str, pd.DataFrame],
        matrix: Callable[[str, str], np.ndarray | None],
        *,
        key: str = "",
        note: str = "",
    ):
        self.view, self._matrix, self._memory = View(tables), matrix, remembered("explorer", key)
        self._q: dict[tuple[str, str], np.ndarray | None] = {}
        self._draws: dict[tuple[str, str, int], list[float]] = {}
        self._gini = self.view.fairness_curves("random")
        tasks = {self.view.task_title(name): name for name in self.view.datasets()}
        networks = {
            self.view.title(name): name
            for name in self.view.models()
            if any(self._curve(name, task) is not None for task in tasks.values())
        }
        if not networks:
            raise ValueError(
                "the tables hold no probes of random subsets; run ./run_all.sh (or Study(...).run()) first."
            )
        chosen = [name for name in self._memory.get("networks", []) if name in networks.values()]
        self.networks = widgets.SelectMultiple(
            options=list(networks.items()), value=chosen or list(networks.values())[:1], description="networks",
            rows=min(7, len(networks)), tooltip="Ctrl or Shift selects several", **CONTROL,
        )  # fmt: skip
        task = self._memory.get("task")
        self.task = widgets.Dropdown(
            options=list(tasks.items()), value=task if task in tasks.values() else next(iter(tasks.values())),
            description="task", **CONTROL,
        )  # fmt: skip
        self.detail = widgets.Dropdown(description="show details for", **CONTROL)
        self.fraction = selection([("100 %", 1.0)], 1.0, "fraction")
        deltas = stops(set(tables["redundancy"]["delta"].round(9)))
        self.delta = selection(deltas, self._memory.get("delta", 0.9), "delta")
        self.again = widgets.Button(description="draw again", icon="dice", tooltip="one more random subset")
        self.many = widgets.Button(description=f"draw {MANY}", tooltip=f"{MANY} more random subsets")
        self.controls, self.readout = [self.fraction, self.delta], widgets.HTML()
        self.accuracy = CurveChart("fraction of the layer's neurons", "test accuracy", log=True)
        self.similarity, self.classes = DrawsChart(), ClassChart()
        self.similarity.children = [*self.similarity.children, widgets.HBox([self.again, self.many])]
        left = widgets.VBox([self.networks, self.task, self.detail], layout=widgets.Layout(flex="1 1 320px"))
        right = widgets.VBox(self.controls, layout=widgets.Layout(flex="2 1 420px"))
        charts = side_by_side(self.accuracy, self.similarity, self.classes)
        whose = widgets.HTML(f"<small>{html.escape(note)}</small>")
        super().__init__([side_by_side(left, right), self.readout, charts, whose])
        self._choose(self._memory.get("fraction", 0.2))
        for control, react in (
            (self.networks, self._choose), (self.task, self._choose), (self.detail, self._move),
            (self.fraction, self._move), (self.delta, self._move),
        ):  # fmt: skip
            control.observe(lambda _, react=react: react(), "value")
        self.again.on_click(lambda _: self._draw(1))
        self.many.on_click(lambda _: self._draw(MANY))

    def _curve(self, model: str, task: str) -> pd.DataFrame | None:
        """Accuracy of random subsets by fraction: x, mean, low, high, n_neurons; None without the whole layer's."""
        curve = self.view.accuracy(model, task)
        if curve is None or curve.at(1.0) is None:
            return None
        x = np.round(curve.fractions, 9)  # read from CSV, fractions may miss each other by rounding
        bands = {"low": curve.mean - curve.std, "high": curve.mean + curve.std}
        return pd.DataFrame({"x": x, "mean": curve.mean, **bands, "n_neurons": curve.n_neurons}, index=x)

    def _choose(self, fraction: float | None = None) -> None:
        """Draw the curves of the chosen networks, as far as they were measured on the task."""
        found = {model: self._curve(model, self.task.value) for model in self.networks.value}
        self._curves = {model: curve for model, curve in found.items() if curve is not None}
        self._strokes = strokes(self._curves)
        self.accuracy.show(self._curves, self._strokes)
        measured = [(self.view.title(model), model) for model in self._curves]
        kept = self.detail.value if self.detail.value in self._curves else next(iter(self._curves), None)
        wanted = self.fraction.value if fraction is None else fraction
        options = stops({x for curve in self._curves.values() for x in curve.index} or {1.0})
        with self.hold_trait_notifications():
            self.detail.options, self.detail.value = measured, kept
        if list(self.fraction.options) != options:
            self.fraction.options = options
            self.fraction.value = nearest(options, wanted)
        self._move()

    def _move(self) -> None:
        """Show everything at another fraction or delta."""
        fraction, delta = self.fraction.value, self.delta.value
        self._memory.update(networks=self.networks.value, task=self.task.value, fraction=fraction, delta=delta)
        levels, rows = {}, []
        for model, curve in self._curves.items():
            full, width = curve.loc[1.0, "mean"], int(curve.loc[1.0, "n_neurons"])
            neurons, accuracy, kept = "–", "not measured at this fraction", ""
            if fraction in curve.index:
                point = curve.loc[fraction]
                spread = point["high"] - point["mean"]
                neurons, kept = f"{point['n_neurons']:.0f}", per_cent(round(point["mean"] / full, 3))
                accuracy = f"<b>{point['mean']:.3f}</b>" + ("" if np.isnan(spread) else f" ± {spread:.3f}")
            dr = {rule: self.view.redundancy(model, self.task.value, delta, rule=rule) for rule in RULES}
            if dr["first"]:
                levels[model] = delta * full, 1 - dr["first"][0]
            rules = ["<b>{:.3f}</b> [{:.2f}, {:.2f}]".format(*dr[rule]) if dr[rule] else "" for rule in RULES]
            name = f"{self._strokes[model].swatch} {html.escape(self.view.title(model))}"
            rows.append([name, f"{neurons} of {width}", accuracy, f"{full:.3f}", kept, *rules])
        head = ["network", "neurons", "accuracy", "full layer", "kept", *(f"DR, {rule}" for rule in RULES)]
        self.readout.value = table(head, rows)
        if not self._curves:
            return
        at = pd.concat(self._curves).xs(fraction, level=1)
        self.accuracy.move(at, fraction, pd.DataFrame.from_dict(levels, "index", columns=["height", "x"]))
        self.accuracy.head(
            f"<b>Accuracy</b> of random subsets, mean over seeds ± 1 std. Dashed: {per_cent(delta)} of the full "
            "layer's; dotted: the smallest fraction that reaches it."
        )
        self._compare_classes()
        self._draw(0)

    def _compare_classes(self) -> None:
        model, task, fraction = self.detail.value, self.task.value, self.fraction.value
        title = html.escape(self.view.title(model))
        part, full = (self.view.per_class(model, task, share) for share in (fraction, 1.0))
        if part is None or full is None:
            self.classes.head(f"<b>Classes</b>, {title}: not measured at this fraction.")
            return
        classes = pd.DataFrame({"part": part.mean(), "full": full.mean()}).dropna()
        shown = self.classes.show(classes)
        text = f"<b>Classes</b>, {title}: diamonds, a subset of {per_cent(fraction)}; bars, the full layer."
        rows = self._gini.get((model, task))
        gini = [] if rows is None else [rows.loc[close(rows["fraction"], f), "gini"].squeeze() for f in (fraction, 1.0)]
        if all(isinstance(value, float) for value in gini) and gini:
            text += f" Gini {gini[0]:.3f}, full layer {gini[1]:.3f}."
        if shown < len(classes):
            text += f" The {shown} of {len(classes)} classes that lose most."
        self.classes.head(text)

    def _draw(self, times: int) -> None:
        """Draw so many further random subsets, at least one at each size, and show the CKA of all drawn so far.

        Draw i of a size has seed ``FIRST_SEED + i``, so that a reader can draw the same one again.
        """
        key = model, task = self.detail.value, self.task.value
        if key not in self._q:
            self._q[key] = self._matrix(model, task)
        q, curve = self._q[key], self._curves[model]
        if q is None or self.fraction.value not in curve.index:
            self.similarity.head("<b>CKA</b>: no features of this network and task are stored.")
            return
        k = int(curve.loc[self.fraction.value, "n_neurons"])
        draws = self._draws.setdefault((*key, k), [])
        seeds = range(FIRST_SEED + len(draws), FIRST_SEED + len(draws) + (times or not draws))
        draws.extend(part_whole(q, random_subsets(len(q), k / len(q), seeds)))
        expected = expected_cka(q, k)
        self.similarity.show(draws, expected, draws[-1])
        known = np.asarray(draws)[np.isfinite(draws)]
        many = f"draws, mean {known.mean():.3f} ± {known.std(ddof=1):.3f}" if len(known) > 1 else "draw"
        self.similarity.head(
            f"<b>CKA with the whole layer</b>, {html.escape(self.view.title(model))}, {k} newly drawn neurons: newest "
            f"draw <b>{draws[-1]:.3f}</b> (solid), expected {expected:.3f} (dashed); {len(draws)} {many}."
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
