"""The explorer of notebook 00: fraction and delta on sliders, and at once what they mean for a model and a dataset."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from itertools import product

import ipywidgets as widgets
import numpy as np
import pandas as pd

from dr_utils.cka import CKAStatistics, part_whole, subset_cka_law
from dr_utils.claims.view import View
from dr_utils.explore import sliding
from dr_utils.explore.charts import ClassChart, CurveChart, DrawsChart
from dr_utils.explore.sliding import CONTROL, per_cent, side_by_side, with_spread
from dr_utils.features import stored
from dr_utils.redundancy import RULES
from dr_utils.study import Study
from dr_utils.subsets import random_subsets

MANY = 50  # draws at one press of the second button
FIRST_SEED = 1001  # of the first draw; no profile has it, so that a new draw is not one that the tables hold


class Explorer(sliding.SlidingCurve):
    """Sliders over one study's tables: `menu` is the dataset, `slider` the fraction, `chart` shows the accuracy.

    `matrix` returns, for a model and a dataset, the Q [D, D] of new draws, from `dr_utils.cka.CKAStatistics.matrix`, or
    None where that takes a while and its third argument is false: then the tables' draws are shown until somebody asks
    for new ones. The choices are remembered under `key`. `note`, the source of the numbers, is shown below.
    """

    def __init__(
        self, tables: dict[str, pd.DataFrame], matrix: Callable[[str, str, bool], np.ndarray | None], *, key="", note=""
    ):
        self._view, self._matrix = View(tables), matrix
        memory = sliding.CHOSEN.get(("explorer", key), {})
        self._q: dict[tuple[str, str], np.ndarray | None] = {}
        self._draws: dict[tuple[str, str, int], tuple[list[float], float]] = {}  # drawn so far, and expected
        self._tasks = {self._view.about_task(name, "title") or name: name for name in self._view.datasets()}
        self._models = {self._view.title(name): name for name in self._view.models()}
        points = self._accuracies()
        networks = [title for title in self._models if title in points.index.unique("hue")]
        chosen = [title for title in memory.get("networks", []) if title in networks] or networks[:1]
        self.networks = widgets.SelectMultiple(
            options=networks, value=chosen, description="networks", rows=min(7, len(networks)),
            tooltip="Ctrl or Shift selects several", **CONTROL,
        )  # fmt: skip
        self.detail = widgets.Dropdown(description="show details for", **CONTROL)
        deltas = sliding.stops(set(tables["redundancy"]["delta"].round(9)))
        delta = sliding.nearest(deltas, memory.get("delta", 0.9))
        self.delta = widgets.SelectionSlider(options=deltas, value=delta, description="delta", **CONTROL)
        self.again = widgets.Button(description="draw again", icon="dice", tooltip="one more random subset")
        self.many = widgets.Button(description=f"draw {MANY}", tooltip=f"{MANY} more random subsets")
        self.similarity, self.classes = DrawsChart(), ClassChart()
        self.similarity.children = [*self.similarity.children, widgets.HBox([self.again, self.many])]
        chart = CurveChart("fraction of the layer's neurons", "test accuracy", log=True)
        heads = ["neurons", "accuracy", "full layer", "kept", *(f"DR, {rule}" for rule in RULES)]
        cells = pd.DataFrame(columns=pd.Index(heads, name="network"))
        super().__init__(points, cells, chart, ("explorer", key), menu="task", slider="fraction", start=0.2)
        self.controls = [self.slider, self.delta]
        left = widgets.VBox([self.networks, self.menu, self.detail], layout=widgets.Layout(flex="1 1 320px"))
        right = widgets.VBox(self.controls, layout=widgets.Layout(flex="2 1 420px"))
        charts = side_by_side(self.chart, self.similarity, self.classes)
        source = widgets.HTML(f"<small>{html.escape(note)}</small>")
        self.children = [side_by_side(left, right), self.readout, charts, source]
        self.networks.observe(lambda _: self._choose(), "value")
        for control in (self.detail, self.delta):
            control.observe(lambda _: self._move(), "value")
        self.again.on_click(lambda _: self._draw(1))
        self.many.on_click(lambda _: self._draw(MANY))

    def _accuracies(self) -> pd.DataFrame:
        """Mean accuracy of random subsets with its band, and n_neurons, by task, network and fraction."""
        found = {}
        for (network, model), (task, dataset) in product(self._models.items(), self._tasks.items()):
            if curve := self._view.accuracy(model, dataset):
                at = np.round(curve.fractions, 9)  # read from CSV, fractions may miss each other by rounding
                band = {"low": curve.mean - curve.std, "high": curve.mean + curve.std, "n_neurons": curve.n_neurons}
                found[task, network] = pd.DataFrame({"mean": curve.mean, **band}, index=at)
        if not found:
            raise ValueError("the tables hold no probes of random subsets; run ./run_all.sh or Study(...).run() first.")
        return pd.concat(found, names=["menu", "hue", "at"])

    def _chosen(self) -> pd.DataFrame:
        points = super()._chosen()
        return points[points.index.get_level_values("hue").isin(self.networks.value)]

    def _row(self, name: str) -> list[str]:
        found, full = self.values(), self._full.loc[name]
        neurons, accuracy, kept = "–", "not measured at this fraction", ""
        if name in found.index:
            at = found.loc[name]
            neurons, kept = f"{at['n_neurons']:.0f}", per_cent(round(at["mean"] / full["mean"], 3))
            accuracy = with_spread(at["mean"], at["low"], at["high"])
        rules = [with_spread(*found, interval=True) for found in self._redundancy[name].values()]
        return [f"{neurons} of {full['n_neurons']:.0f}", accuracy, f"{full['mean']:.3f}", kept, *rules]

    def _move(self) -> None:
        """Show everything at another fraction or delta."""
        delta, task = self.delta.value, self._tasks[self.menu.value]
        self._memory.update(networks=self.networks.value, delta=delta)
        self._full = self.values(1.0)
        names = tuple(self._full.index)
        found = self._view.redundancy
        self._redundancy = {n: {rule: found(self._models[n], task, delta, rule) for rule in RULES} for n in names}
        falls = [1 - rules["first"][0] for rules in self._redundancy.values()]
        super()._move(pd.DataFrame({"height": delta * self._full["mean"], "x": falls}))
        self.chart.head(
            "<b>Accuracy</b> of random subsets, mean over seeds ± 1 std. "
            f"Dashed: {per_cent(delta)} of the full layer's, as far as the smallest fraction that reaches it."
        )
        if self.detail.options != names:
            kept = self.detail.value if self.detail.value in names else next(iter(names), None)
            self.detail.options, self.detail.value = names, kept
        if names:
            self._cell = self._models[self.detail.value], task
            self._compare_classes(self.slider.value, html.escape(self.detail.value))
            self._draw(0)

    def _compare_classes(self, fraction: float, title: str) -> None:
        part, full = (self._view.per_class(*self._cell, share) for share in (fraction, 1.0))
        if part.empty or full.empty:
            self.classes.head(f"<b>Classes</b>, {title}: not measured at this fraction.")
            return
        classes = pd.DataFrame({"part": part, "full": full}).dropna()
        shown, rows = self.classes.show(classes), self._view.rows("fairness", *self._cell, "random")
        gini = dict(zip(rows["fraction"].round(9), rows["gini"], strict=True))
        text = f"<b>Classes</b>, {title}: diamonds, a subset of {per_cent(fraction)}; bars, the full layer."
        if fraction in gini and 1.0 in gini:
            text += f" Gini {gini[fraction]:.3f}, full layer {gini[1.0]:.3f}."
        if shown < len(classes):
            text += f" The {shown} of {len(classes)} classes that lose most."
        self.classes.head(text)

    def _draw(self, times: int) -> None:
        """Draw so many further random subsets, at least one at each size, and show the CKA of all drawn so far."""
        at, name = self.values(), self.detail.value
        if name not in at.index:
            self.similarity.head("<b>CKA</b>: not measured at this fraction.")
            return
        k, cell = int(at.loc[name, "n_neurons"]), self._cell
        if cell not in self._q or (times and self._q[cell] is None):
            if times:
                self.similarity.head("<b>CKA</b>: computing the features of some test images …")
            try:
                self._q[cell] = self._matrix(*cell, times > 0)
            except (ValueError, RuntimeError, OSError) as error:  # a button has nobody to raise to
                self.similarity.head(f"<b>Error:</b> {html.escape(str(error))}")
                return
        q = self._q[cell]
        if q is None:
            return self._tabled(k)
        if (*cell, k) not in self._draws:
            self._draws[*cell, k] = [], subset_cka_law(q, [k])[0].item()
        draws, expected = self._draws[*cell, k]
        seeds = range(FIRST_SEED + len(draws), FIRST_SEED + len(draws) + (times or not draws))
        draws.extend(part_whole(q, random_subsets(len(q), k / len(q), seeds)))
        self.similarity.show(draws, expected)
        known = np.asarray(draws)[np.isfinite(draws)]
        many = f"draws, mean {known.mean():.3f} ± {known.std(ddof=1):.3f}" if len(known) > 1 else "draw"
        self.similarity.head(
            f"<b>CKA with the whole layer</b>, {html.escape(name)}, {k} newly drawn neurons: newest draw "
            f"<b>{draws[-1]:.3f}</b> (solid), expected {expected:.3f} (dashed); {len(draws)} {many}."
        )

    def _tabled(self, k: int) -> None:
        """Show the CKA of k neurons that the tables hold."""
        rows, text = self._view.rows("cka", *self._cell, "part_whole"), "not measured for this network and task."
        rows = rows[rows["n_neurons"].eq(k)].dropna(subset=["cka"]).drop_duplicates("seed_a")
        if len(rows):
            values, mean = rows["cka"].tolist(), rows["cka"].mean()
            self.similarity.show(values, mean)
            text = (
                f"{html.escape(self.detail.value)}, {k} neurons: the {len(values)} subsets of the tables, mean "
                f"{mean:.3f} (dashed). “Draw again” first computes features of some images, in a minute or so."
            )
        self.similarity.head(f"<b>CKA with the whole layer</b>, {text}")


def start(study: Study):
    """Return the explorer; where cells are missing, a button that computes them; without a person, its table."""
    missing = study.missing()
    networks = {network: ", ".join(task for n, task in missing if n == network) for network, _ in missing}
    names = "".join(f"<li>{html.escape(network)}: {html.escape(tasks)}</li>" for network, tasks in networks.items())
    text = widgets.HTML(
        f"<b>{len(missing)} of {len(study.profile.cells())} cells (network and task) of the profile "
        f"{html.escape(study.profile.name)} are still to be computed.</b> Finished cells are kept, also if you "
        f"interrupt the kernel.<ul>{names}</ul>"
    )

    def explorer() -> Explorer:
        tables, text.value = study.run(), ""
        return Explorer(tables, partial(cka_matrix, study), key=str(study.folder), note=study.note)

    if sliding.headless() or not missing:
        return sliding.or_table(explorer())
    return widgets.VBox([text, sliding.form(explorer, f"compute {len(missing)} cells")])


def cka_matrix(study: Study, network: str, task: str, compute: bool) -> np.ndarray | None:
    """Return the biased Q [D, D] of a finished cell, over the test images that its CKA was measured on.

    Where their features are not stored, as for tables that came with the suite, `compute` says whether to compute them.
    """
    about, n = study.about(network, task), study.profile.cka.images
    features = stored(about["features"]["test"]) if about else None
    if features is None and compute:
        features = study.features(network, task, "test", images=n)
    if features is None:
        return None
    return CKAStatistics(features.x.shape[1], estimators=("biased",)).update(features.x[:n]).matrix()
