"""One sliding curve over tidy rows: it takes seaborn's words, and serves the figure of every notebook."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import HTML
from pandas.api.types import is_float_dtype

from dr_utils.checks import unknown
from dr_utils.explore import readout
from dr_utils.explore.charts import COLOURS, CurveChart, strokes


def curve(
    rows: pd.DataFrame,
    *,
    x: str,
    y: str,
    hue: str,
    menu: str | None = None,
    slider: str | None = None,
    errorbar: str | tuple[str, str] | None = "sd",
    columns: Sequence[str] | Mapping[str, str] = (),
    at: Sequence[float] | None = None,
    start: float | None = None,
    labels: Mapping[str, str] | None = None,
    log: bool = False,
    ylim: tuple[float, float] | None = (0, 1),
    palette: Mapping[str, object] | None = None,
    title: str = "",
    note: str = "",
):
    """Draw curves with a slider that moves a cursor along them, and a table of the values at the cursor.

    Parameters
    ----------
    rows : DataFrame
        Tidy: one row per fact. Several rows at one place of the slider, such as one per seed, are averaged.
    x, y : str
        Columns of numbers: the axes. The x axis is logarithmic with ``log=True``; `ylim` None fits the values.
    hue : str
        Column that names the curves. Without a `palette` of colours by name, they follow the order of the rows.
    menu : str, optional
        Column whose values can be chosen from a menu, such as the model; each shows its own rows.
    slider : str, optional
        Column that the slider runs through; x by default. With another one, such as the fraction over an x of neurons,
        every curve has its own point.
    errorbar : "sd", str, (str, str) or None
        Band and spread: one standard deviation over the rows at each place; or the column that holds one; or two
        columns with the lower and the upper end. No band where it is not known, as with a single row.
    columns : sequence of str, or mapping of str to str
        Further columns of the table, with a format such as ".1%" in a mapping. Floats are averaged, of everything else
        the first is shown.
    at : sequence of float, optional
        Where the slider stops; by default wherever the rows have a value.
    start : float, optional
        Where the slider begins, or at the stop nearest to it; the middle stop by default.
    labels : mapping of str to str, optional
        What columns are called on axes, controls and in the table; their own names by default.
    title, note : str
        Above the chart, and below everything.

    Returns
    -------
    SlidingCurve or HTML
        The table alone where a notebook is executed without a person; a sentence where there are no rows.

    Raises
    ------
    ValueError
        A column that the rows lack.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = pd.DataFrame({"fraction": [0.1, 0.1, 1.0, 1.0], "accuracy": [0.5, 0.7, 0.9, 0.9], "dataset": "digits"})
    >>> shown = curve(rows, x="fraction", y="accuracy", hue="dataset", start=0.1)
    >>> shown.values().loc["digits", ["mean", "low", "high"]].round(3).to_list()
    [0.6, 0.459, 0.741]
    """
    slider = slider or x
    used = [x, y, hue, slider, *filter(None, [menu]), *columns]
    used += [errorbar] if isinstance(errorbar, str) and errorbar != "sd" else []
    used += list(errorbar) if isinstance(errorbar, tuple) else []
    for name in used:
        if name not in rows:
            raise unknown("column", name, rows.columns)
    rows = rows.dropna(subset=[x, y])
    if rows.empty:
        return HTML("<p>This profile has no rows for this slider.</p>")
    say = {name: name for name in used} | dict(labels or {})
    keys = [
        (pd.Series("", rows.index) if menu is None else rows[menu]).rename("menu"),
        rows[hue].rename("hue"),
        rows[slider].astype(float).round(9).rename("at"),  # fractions read from CSV may miss each other by rounding
    ]
    groups = rows.groupby(keys, sort=False)
    points = pd.DataFrame({"x": groups[x].mean(), "mean": groups[y].mean()})
    interval = isinstance(errorbar, tuple)
    if interval:
        points["low"], points["high"] = (groups[name].mean() for name in errorbar)
    else:
        spread = np.nan if errorbar is None else groups[y].std() if errorbar == "sd" else groups[errorbar].mean()
        points["low"], points["high"] = points["mean"] - spread, points["mean"] + spread
    head = say[y] + ("" if points["low"].isna().all() else " [interval]" if interval else " ± 1 std")
    cells = pd.DataFrame(index=points.index, columns=pd.Index([], name=say[hue]))
    cells[head] = [readout.with_spread(*point, interval) for point in points[["mean", "low", "high"]].to_numpy()]
    formats = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "")
    for name, spec in formats.items():
        values = groups[name].mean() if is_float_dtype(rows[name]) else groups[name].first()
        cells[say[name]] = [html.escape(readout.number(value, spec)) for value in values]
    names = points.index.unique("hue")
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}  # the same for each choice of the menu
    chart = CurveChart(say[x], say[y], log=log, ylim=ylim, height=300)
    chart.head(f"<b>{html.escape(title)}</b>" if title else "")
    memory = readout.remembered(x, y, hue, menu, slider, title, note)
    widget = SlidingCurve(points, cells, chart, palette=colours | dict(palette or {}), at=at, memory=memory,
                          start=start, menu=say[menu] if menu else "", slider=say[slider])  # fmt: skip
    widget.children = [*widget.children, widgets.HTML(f"<small>{html.escape(note)}</small>")]
    return readout.or_table(widget)


class SlidingCurve(widgets.VBox):
    """A menu and a slider over curves: `controls` are what a person moves, `chart` and `readout` what follows.

    Parameters
    ----------
    points : DataFrame
        Columns x, mean, low and high, by menu, hue (the curve's name) and at (the place of the slider).
    cells : DataFrame
        The table's cells (HTML) by the same keys.
    chart : CurveChart
    menu, slider : str
        What the controls are called; no menu is shown without a name.
    at, start, palette
        As `curve` takes them.
    memory : dict
        Where choices are kept, from `dr_utils.explore.readout.remembered`.
    """

    def __init__(self, points, cells, chart, *, menu: str, slider: str, at=None, start=None, palette=None, memory):
        self._points, self._cells, self._at, self._memory = points, cells, at, memory
        self._palette, self.chart = palette, chart
        choices = list(points.index.unique("menu"))
        chosen = memory["menu"] if memory.get("menu") in choices else choices[0]
        options = [(str(choice), choice) for choice in choices]
        self.menu = widgets.Dropdown(options=options, value=chosen, description=menu, **readout.CONTROL)
        self._shown = self._chosen()
        options = self._stops()
        wanted = options[len(options) // 2][1] if start is None else start
        self.slider = readout.selection(options, memory.get("at", wanted), slider)
        self.controls = [self.menu, self.slider] if menu else [self.slider]
        for control in self.controls:  # wide enough for the longer name
            control.style.description_width = f"{max(8.5, 0.55 * max(len(menu), len(slider)) + 1):g}em"
        self.readout = widgets.HTML()
        left = widgets.VBox([*self.controls, self.readout], layout=widgets.Layout(flex="1 1 360px"))
        super().__init__([readout.side_by_side(left, chart)])
        self._choose()
        self.slider.observe(lambda _: self._move(), "value")
        self.menu.observe(lambda _: self._choose(), "value")

    def values(self, at: float | None = None) -> pd.DataFrame:
        """Return what was measured at the cursor, or at another stop: columns x, mean, low, high, by hue."""
        at = self.slider.value if at is None else at
        return self._shown[self._shown.index.get_level_values("at") == at].droplevel("at")

    def _chosen(self) -> pd.DataFrame:
        """Points of the curves to draw, by hue and at."""
        return self._points.xs(self.menu.value, level="menu")

    def _row(self, name) -> list[str]:
        """A curve's cells of the table at the cursor."""
        key = self.menu.value, name, self.slider.value
        if key in self._cells.index:
            return list(self._cells.loc[key])
        return ["not measured here"] + [""] * (self._cells.shape[1] - 1)

    def _stops(self) -> list[tuple[str, float]]:
        measured = sorted(self._shown.index.unique("at")) or [1.0]
        chosen = [x for x in measured if self._at is None or np.isclose(x, self._at, rtol=1e-6).any()]
        return readout.stops(chosen or measured)

    def _choose(self) -> None:
        self._redraw()
        self._move()

    def _redraw(self) -> None:
        """Draw what is chosen."""
        self._shown = self._chosen()
        self._names = list(self._shown.index.unique("hue"))
        self._strokes = strokes(self._names, self._palette)
        self.chart.show({name: self._shown.xs(name).sort_values("x") for name in self._names}, self._strokes)
        options, wanted = self._stops(), self.slider.value
        if list(self.slider.options) != options:
            self.slider.options = options
            self.slider.value = readout.nearest(options, wanted)

    def _move(self, levels: pd.DataFrame | None = None) -> None:
        found, at = self.values(), self.slider.value
        self._memory.update(menu=self.menu.value, at=at)
        # A cursor where all points are above each other; with a slider of its own, each curve has another x.
        self.chart.move(found, at if np.allclose(found["x"], at) else None, levels)
        # Every curve has its row, measured here or not: the table is the chart's legend.
        rows = [[f"{self._strokes[name].swatch} {html.escape(str(name))}", *self._row(name)] for name in self._names]
        self.readout.value = readout.table(map(html.escape, [self._cells.columns.name, *self._cells.columns]), rows)
