"""One slider for the figure of each notebook: a cursor over its curves, and a table of what it points at."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import ipywidgets as widgets

from dr_utils.explore import old_charts as charts
from dr_utils.explore.old_charts import Series
from dr_utils.explore.shown import table

_CHOSEN: dict[str, dict] = {}


@dataclass(frozen=True)
class Scene:
    """What is drawn for one choice.

    Attributes
    ----------
    series : mapping of str to Series
        By what the table calls them.
    stops : sequence of (str, float)
        Where the slider stops: its label and the x.
    extra : callable, optional
        Given the name of a series and x, further columns of the table by their heading.
    """

    series: Mapping[str, Series]
    stops: Sequence[tuple[str, float]]
    extra: Callable[[str, float], Mapping[str, str]] = field(default=lambda name, x: {})


class CurveSlider(widgets.VBox):
    """Curves, a slider that moves a cursor along them, and the numbers at the cursor.

    Parameters
    ----------
    choices : mapping of str to key
        What can be chosen in the menu, such as the tasks.
    scene : callable
        Given the key of a choice, what to draw; called once for each.
    slider, x_label, y_label : str
        What the slider sets, and the axes.
    wanted : float
        Where the slider stands at first, or at the nearest stop.
    log : bool
        Whether x is logarithmic.
    top : float or None
        Upper end of the vertical axis; None fits the curves.
    value : str
        Heading of the column of values.
    menu : str
        What the menu chooses.
    key : str
        Under which the choices are remembered.
    note : str
        Printed below.

    Raises
    ------
    ValueError
        There is nothing to choose.
    """

    def __init__(
        self, choices: Mapping[str, object], scene: Callable[[object], Scene], *, slider: str, x_label: str,
        y_label: str, wanted: float, log: bool = False, top: float | None = 1.0, value: str = "mean ± 1 std",
        menu: str = "task", key: str = "", note: str = "",
    ):  # fmt: skip
        if not choices:
            raise ValueError("nothing to choose from: the tables lack what this slider shows; run the study first.")
        self._scene, self._scenes, self._value = scene, {}, value
        self._memory = _CHOSEN.setdefault(key, {})
        style, auto = {"description_width": "9em"}, widgets.Layout(width="auto", min_width="300px")
        names = list(choices.items())
        start = self._memory.get("choice", names[0][1])
        start = start if start in [v for _, v in names] else names[0][1]
        self.choice = widgets.Dropdown(options=names, value=start, description=menu, style=style, layout=auto)
        stops = self.scene.stops
        self.slider = widgets.SelectionSlider(
            options=stops,
            value=_nearest(stops, self._memory.get("x", wanted)),
            description=slider,
            style=style,
            layout=auto,
        )
        self.chart = charts.CurveChart(x_label, y_label, log=log, top=top, height=300)
        self.readout = widgets.HTML()
        row = widgets.Layout(display="flex", flex_flow="row wrap", width="100%")
        controls = widgets.VBox([self.choice, self.slider, self.readout], layout=widgets.Layout(flex="1 1 360px"))
        super().__init__(
            [widgets.Box([controls, self.chart], layout=row), widgets.HTML(f"<small>{html.escape(note)}</small>")]
        )
        self._show()
        self.choice.observe(lambda _: self._show(), "value")
        self.slider.observe(lambda _: self._move(), "value")

    @property
    def scene(self) -> Scene:
        """What is drawn now."""
        if self.choice.value not in self._scenes:
            self._scenes[self.choice.value] = self._scene(self.choice.value)
        return self._scenes[self.choice.value]

    def _show(self) -> None:
        scene, wanted = self.scene, self.slider.value
        self._colour = charts.colours(list(scene.series))
        self.chart.show(scene.series, self._colour)
        if list(self.slider.options) != list(scene.stops):
            self.slider.options = scene.stops
            self.slider.value = _nearest(scene.stops, wanted)
        self._move()

    def _move(self) -> None:
        self._memory.update(choice=self.choice.value, x=self.slider.value)
        self.chart.move(self.slider.value)
        self.readout.value = self._table()

    def rows(self) -> dict[str, dict[str, str]]:
        """The table at the cursor: by series, columns by their heading; series without a value there are left out."""
        x, found = self.slider.value, {}
        for name, series in self.scene.series.items():
            at = series.at(x)
            if at is None:
                continue
            mean, low, high = at
            spread = (
                ""
                if series.low is None or not low <= high  # one seed, or a published mean: no spread is known
                else f" [{low:.2f}, {high:.2f}]"
                if "[" in self._value
                else f" ± {high - mean:.3f}"
            )
            found[name] = {self._value: f"{mean:.3f}{spread}", **self.scene.extra(name, x)}
        return found

    def _table(self) -> str:
        rows = self.rows()
        if not rows:
            return "nothing was measured here"
        head = ["", *map(html.escape, next(iter(rows.values())))]
        swatch = {name: f"<span style='color:{self._colour[name]}'>&#9632;</span>" for name in self.scene.series}
        # Every line of the chart has its row, measured here or not: the table is the chart's legend.
        cells = {name: list(rows[name].values()) if name in rows else ["not measured here"] for name in swatch}
        padded = {name: [*found, *[""] * (len(head) - 1 - len(found))] for name, found in cells.items()}
        return table(head, ([f"{swatch[n]} {html.escape(n)}", *map(html.escape, c)] for n, c in padded.items()))


def _nearest(stops, wanted: float) -> float:
    return min((x for _, x in stops), key=lambda x: abs(x - wanted))
