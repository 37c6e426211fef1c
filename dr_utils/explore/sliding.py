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
from dr_utils.explore.charts import CurveChart, strokes
from dr_utils.explore.readout import (
    CONTROL,
    nearest,
    number,
    or_table,
    remembered,
    selection,
    side_by_side,
    stops,
    table,
)


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
    if isinstance(errorbar, tuple):
        points["low"], points["high"] = (groups[name].mean() for name in errorbar)
    else:
        spread = np.nan if errorbar is None else groups[y].std() if errorbar == "sd" else groups[errorbar].mean()
        points["low"], points["high"] = points["mean"] - spread, points["mean"] + spread
    formats = columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "")
    extra = {
        say[name]: (groups[name].mean() if is_float_dtype(rows[name]) else groups[name].first()).map(
            lambda value, spec=spec: format(value, spec) if spec else number(value)
        )
        for name, spec in formats.items()
    }
    widget = SlidingCurve(
        points,
        pd.DataFrame(extra, index=points.index),
        CurveChart(say[x], say[y], log=log, ylim=ylim, height=300),
        words={"menu": menu and say[menu], "slider": say[slider], "value": say[y]},
        interval=isinstance(errorbar, tuple),
        at=at,
        start=start,
        palette=palette,
        memory=remembered(x, y, hue, menu, slider, title, note),
    )
    widget.chart.head(f"<b>{html.escape(title)}</b>" if title else "")
    widget.children = [*widget.children, widgets.HTML(f"<small>{html.escape(note)}</small>")]
    return or_table(widget)


class SlidingCurve(widgets.VBox):
    """What `curve` returns: `menu` (or None) and `slider` are its controls, `chart` and `readout` what they change."""

    def __init__(
        self, points: pd.DataFrame, extra: pd.DataFrame, chart: CurveChart, *, words: Mapping[str, str | None],
        interval: bool, at: Sequence[float] | None, start: float | None,
        palette: Mapping[str, object] | None, memory: dict,
    ):  # fmt: skip
        self._points, self._extra, self.chart, self._memory = points, extra, chart, memory
        self._interval, self._value, self._at = interval, words["value"], at
        self._strokes = strokes(points.index.unique("hue"), palette)
        choices = list(points.index.unique("menu"))
        self.menu = None
        if words["menu"]:
            self.menu = widgets.Dropdown(
                options=[(str(choice), choice) for choice in choices], description=words["menu"],
                value=memory["menu"] if memory.get("menu") in choices else choices[0], **CONTROL,
            )  # fmt: skip
        options = self._stops()
        wanted = options[len(options) // 2][1] if start is None else start
        self.slider = selection(options, memory.get("at", wanted), words["slider"])
        self.controls = [self.slider] if self.menu is None else [self.menu, self.slider]
        self.readout = widgets.HTML()
        left = widgets.VBox([*self.controls, self.readout], layout=widgets.Layout(flex="1 1 360px"))
        super().__init__([side_by_side(left, chart)])
        self._choose()
        self.slider.observe(lambda _: self._move(), "value")
        if self.menu:
            self.menu.observe(lambda _: self._choose(), "value")

    @property
    def shown(self) -> pd.DataFrame:
        """The points of all curves of this choice in the menu, by hue and place of the slider."""
        return self._points.xs(self.menu.value if self.menu else "", level="menu")

    def values(self) -> pd.DataFrame:
        """Return what was measured at the cursor: columns x, mean, low, high, by hue."""
        return self.shown.xs(self.slider.value, level="at")

    def _stops(self) -> list[tuple[str, float]]:
        measured = sorted(self.shown.index.unique("at"))
        chosen = [x for x in measured if self._at is None or np.isclose(x, self._at, rtol=1e-6).any()]
        return stops(chosen or measured)

    def _choose(self) -> None:
        shown = self.shown
        curves = {name: shown.xs(name).sort_values("x") for name in shown.index.unique("hue")}
        self.chart.show(curves, self._strokes)
        options, wanted = self._stops(), self.slider.value
        if list(self.slider.options) != options:
            self.slider.options = options
            self.slider.value = nearest(options, wanted)
        self._move()

    def _move(self) -> None:
        menu, at, found = self.menu.value if self.menu else "", self.slider.value, self.values()
        self._memory.update(menu=menu, at=at)
        # A cursor where all points are above each other; with a slider of its own, each curve has another x.
        self.chart.move(found, at if np.allclose(found["x"], at) else None)
        spread = "" if found["low"].isna().all() else " [interval]" if self._interval else " ± 1 std"
        rows = []
        # Every curve has its row, measured here or not: the table is the chart's legend.
        for name in self.shown.index.unique("hue"):
            cells = ["not measured here"]
            if name in found.index:
                cells = [self._cell(found.loc[name]), *self._extra.loc[menu, name, at]]
            cells += [""] * (1 + self._extra.shape[1] - len(cells))
            rows.append([f"{self._strokes[name].swatch} {html.escape(str(name))}", *map(html.escape, cells)])
        self.readout.value = table(["", *map(html.escape, [self._value + spread, *self._extra.columns])], rows)

    def _cell(self, point: pd.Series) -> str:
        if not point["low"] <= point["high"]:  # NaN: one row, or a published mean
            return number(point["mean"])
        if self._interval:
            return f"{number(point['mean'])} [{point['low']:.2f}, {point['high']:.2f}]"
        return f"{number(point['mean'])} ± {point['high'] - point['mean']:.3f}"
