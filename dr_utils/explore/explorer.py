"""The explorer of notebook 00: fraction and delta on sliders, and at once what they mean for a network and a task."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping

import ipywidgets as widgets
import numpy as np

from dr_utils.explore import old_charts as charts
from dr_utils.explore.draws import Draws
from dr_utils.explore.readings import Point, Readings
from dr_utils.explore.shown import per_cent, table

# What was last chosen, by the results folder: a cell that is run again goes on from there.
_CHOSEN: dict[str, dict] = {}
MANY = 50  # draws at one press of the second button
FIRST = {"fraction": 0.2, "delta": 0.9}


def select(options, wanted, **settings) -> widgets.SelectionSlider:
    """A slider over these numbers, at the one nearest to `wanted`."""
    options = [(per_cent(value), value) for value in options]
    value = min((value for _, value in options), key=lambda v: abs(v - wanted))
    style = {"description_width": "7.5em"}
    return widgets.SelectionSlider(options=options, value=value, style=style,
                                   layout=widgets.Layout(width="auto", min_width="300px"), **settings)  # fmt: skip


class Explorer(widgets.VBox):
    """Sliders over one study's tables.

    Parameters
    ----------
    readings : Readings
    matrix : callable
        (network, task) -> Q [D, D] for fresh draws, or None where there is none.
    key : str
        Under which the choices are remembered, such as the results folder.
    note : str
        Whose numbers these are; shown below.

    Raises
    ------
    ValueError
        The tables hold no probes.
    """

    def __init__(self, readings: Readings, matrix: Callable[[str, str], np.ndarray | None], *, key: str = "", note=""):
        self.readings, self._matrix, self._draws = readings, matrix, {}
        self._memory = _CHOSEN.setdefault(key, {})
        networks, tasks = readings.networks, readings.tasks
        if not networks:
            raise ValueError(
                "the tables hold no probes of random subsets; run ./run_all.sh (or Study(...).run()) first."
            )
        self._titles = {name: title for title, name in networks.items()}
        chosen = [n for n in self._memory.get("networks", []) if n in self._titles] or list(networks.values())[:1]
        wide = {"description_width": "7.5em"}
        self.networks = widgets.SelectMultiple(
            options=list(networks.items()), value=chosen, description="networks", rows=min(7, len(networks)),
            tooltip="Ctrl or Shift selects several", style=wide, layout=widgets.Layout(width="auto", min_width="300px"),
        )  # fmt: skip
        task = self._memory.get("task")
        self.task = widgets.Dropdown(
            options=list(tasks.items()), description="task", style=wide, layout=widgets.Layout(width="auto"),
            value=task if task in tasks.values() else next(iter(tasks.values())),
        )  # fmt: skip
        self.detail = widgets.Dropdown(description="details of", style=wide, layout=widgets.Layout(width="auto"))
        self.fraction = select(
            self._fractions(), self._memory.get("fraction", FIRST["fraction"]), description="fraction"
        )
        self.delta = select(readings.deltas, self._memory.get("delta", FIRST["delta"]), description="delta")
        self.again = widgets.Button(description="draw again", icon="dice", tooltip="one more random subset")
        self.many = widgets.Button(description=f"draw {MANY}", tooltip=f"{MANY} more random subsets")
        self.readout = widgets.HTML()
        self.accuracy = charts.CurveChart("fraction of the layer's neurons", "test accuracy", log=True)
        self.similarity = charts.DrawsChart()
        self.classes = charts.ClassChart()
        self._compose(note)
        self._choose_networks()
        self.networks.observe(lambda _: self._choose_networks(), "value")
        self.task.observe(lambda _: self._choose_networks(), "value")
        self.detail.observe(lambda _: self._details(), "value")
        self.fraction.observe(lambda _: self._move(), "value")
        self.delta.observe(lambda _: self._move(), "value")
        self.again.on_click(lambda _: self._draw(1))
        self.many.on_click(lambda _: self._draw(MANY))

    def _compose(self, note: str) -> None:
        self.similarity.children = [*self.similarity.children, widgets.HBox([self.again, self.many])]
        left = widgets.VBox([self.networks, self.task, self.detail], layout=widgets.Layout(flex="1 1 320px"))
        right = widgets.VBox([self.fraction, self.delta], layout=widgets.Layout(flex="2 1 420px"))
        row = widgets.Layout(display="flex", flex_flow="row wrap", width="100%")
        rows = [widgets.Box([left, right], layout=row), self.readout]
        rows.append(widgets.Box([self.accuracy, self.similarity, self.classes], layout=row))
        super().__init__([*rows, widgets.HTML(f"<small>{html.escape(note)}</small>")])

    # ---- what is chosen

    def _fractions(self) -> list[float]:
        return self.readings.fractions(self.networks.value, self.task.value) or [1.0]

    def _choose_networks(self) -> None:
        """Other curves: of the networks that were measured on this task."""
        shown = [m for m in self.networks.value if self.readings.curve(m, self.task.value)]
        colour = charts.colours([self._titles[m] for m in shown])
        series = {self._titles[m]: charts.Series.of(self.readings.curve(m, self.task.value)) for m in shown}
        self._shown = shown
        self.accuracy.show(series, colour, levels=True)
        self._colour = colour
        wanted = self.detail.value if self.detail.value in shown else next(iter(shown), None)
        with self.hold_trait_notifications():
            self.detail.options = [(self._titles[m], m) for m in shown]
            self.detail.value = wanted
        self._set_fractions()
        self._details()

    def _set_fractions(self) -> None:
        wanted, options = self.fraction.value, self._fractions()
        if [value for _, value in self.fraction.options] != options:
            self.fraction.options = [(per_cent(value), value) for value in options]
            self.fraction.value = min(options, key=lambda value: abs(value - wanted))

    def points(self) -> Mapping[str, Point]:
        """What the readout says, by network."""
        found = {m: self.readings.point(m, self.task.value, self.fraction.value, self.delta.value) for m in self._shown}
        return {m: point for m, point in found.items() if point}

    # ---- what a move changes

    def _move(self) -> None:
        self._memory.update(networks=list(self.networks.value), task=self.task.value, fraction=self.fraction.value,
                            delta=self.delta.value)  # fmt: skip
        points = self.points()
        levels = {
            self._titles[m]: (self.delta.value * p.full, 1 - p.redundancy["first"][0])
            for m, p in points.items() if "first" in p.redundancy
        }  # fmt: skip
        self.accuracy.move(self.fraction.value, levels)
        self.accuracy.head(
            f"<b>Accuracy</b> of random subsets, mean over seeds ± 1 std. Dashed: {per_cent(self.delta.value)} of the "
            "full layer's; dotted: the smallest fraction that reaches it."
        )
        self.readout.value = self._table(points)
        self._part()

    def _details(self) -> None:
        self._move()

    def _table(self, points: Mapping[str, Point]) -> str:
        cells = []
        for model, p in points.items():
            swatch = f"<span style='color:{self._colour[self._titles[model]]}'>&#9632;</span>"
            measured = "not measured at this fraction"
            if p.accuracy is not None:
                spread = "" if p.spread is None else f" ± {p.spread:.3f}"
                measured = f"<b>{p.accuracy:.3f}</b>{spread}"
            kept = "" if p.kept is None else per_cent(round(p.kept, 3))
            rules = [
                "" if rule not in p.redundancy else "<b>{:.3f}</b> [{:.2f}, {:.2f}]".format(*p.redundancy[rule])
                for rule in ("first", "nearest")
            ]
            neurons = f"{p.n_neurons or '–'} of {p.width}"
            title = f"{swatch} {html.escape(self._titles[model])}"
            cells.append([title, neurons, measured, f"{p.full:.3f}", kept, *rules])
        head = ["network", "neurons", "accuracy", "full layer", "kept", "DR, first", "DR, nearest"]
        return table(head, cells)

    def _part(self) -> None:
        """The two charts of one network."""
        model, task, fraction = self.detail.value, self.task.value, self.fraction.value
        if model is None:
            return
        classes = self.readings.classes(model, task, fraction)
        title = html.escape(self._titles[model])
        if classes is None:
            self.classes.head(f"<b>Classes</b>, {title}: not measured at this fraction.")
        else:
            n = self.classes.show(classes)
            part, full = self.readings.gini(model, task, fraction), self.readings.gini(model, task, 1.0)
            many = "" if n == len(classes) else f" The {n} of {len(classes)} that lose most."
            numbers = "" if part is None or full is None else f" Gini {part:.3f} against {full:.3f} of the full layer."
            self.classes.head(
                f"<b>Classes</b>, {title}: diamonds, a subset of {per_cent(fraction)}; bars, the full layer."
                f"{numbers}{many}"
            )
        self._draw(0)

    def _draw(self, times: int) -> None:
        model, task = self.detail.value, self.task.value
        draws, point = self._draws_of(model, task), self.points().get(model)
        if draws is None or point is None or point.n_neurons is None:
            self.similarity.head("<b>CKA</b>: no features of this network and task are stored.")
            return
        k = point.n_neurons
        values = draws.draw(k, times or (0 if draws.past.get(k) else 1))
        expected, newest = draws.expected(k), values[-1]
        self.similarity.show(values, expected, newest)
        finite = np.asarray(values)[np.isfinite(values)]
        many = f"draws, mean {finite.mean():.3f} ± {finite.std(ddof=1):.3f}" if len(finite) > 1 else "draw"
        self.similarity.head(
            f"<b>CKA with the whole layer</b>, {html.escape(self._titles[model])}, {k} fresh neurons: newest draw "
            f"<b>{newest:.3f}</b> (solid), expected {expected:.3f} (dashed); {len(values)} {many}."
        )

    def _draws_of(self, model: str | None, task: str) -> Draws | None:
        if model is None:
            return None
        if (model, task) not in self._draws:
            q = self._matrix(model, task)
            self._draws[model, task] = None if q is None else Draws(q)
        return self._draws[model, task]
