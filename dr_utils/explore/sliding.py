"""One sliding curve over tidy rows: it takes seaborn's words, and serves the figure of every notebook."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import HTML, display
from pandas.api.types import is_float_dtype

from dr_utils.explore.charts import CurveChart, strokes

HEADLESS = "DR_HEADLESS"  # set where notebooks are executed without a person
CONTROL = {"style": {"description_width": "8.5em"}, "layout": {"width": "auto", "min_width": "300px"}}
CHOSEN: dict[tuple, dict] = {}  # the choices last made in each widget: a cell run again goes on from there


def per_cent(share: float) -> str:
    """Return a share as people say it: 0.2 is "20 %"."""
    return f"{100 * share:.4g} %"


def with_spread(mean: float, low: float, high: float, interval: bool = False) -> str:
    """Return a mean as HTML, with its standard deviation or the ends of its interval; alone where they are NaN."""
    if np.isnan(mean):
        return ""
    spread = f" [{low:.3f}, {high:.3f}]" if interval else f" ± {high - mean:.3f}"
    return f"<b>{mean:.3f}</b>" + (spread if low < high else "")


def stops(values: Iterable[float]) -> list[tuple[str, float]]:
    """Return labels and values for a slider, rising: per cent where all lie between 0 and 1."""
    values = sorted(values)
    label = per_cent if values[0] >= 0 and values[-1] <= 1 else "{:g}".format
    return [(label(value), value) for value in values]


def nearest(options: Sequence[tuple[str, float]], wanted: float | None) -> float:
    """Return the value of these options that is nearest to `wanted`; of None, the middle one."""
    values = [value for _, value in options]
    return values[len(values) // 2] if wanted is None else min(values, key=lambda value: abs(value - wanted))


def side_by_side(*parts: widgets.Widget) -> widgets.Box:
    """Return a row that wraps where the page is narrow."""
    return widgets.Box(parts, layout=widgets.Layout(display="flex", flex_flow="row wrap", width="100%"))


def table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as HTML; the cells are HTML already."""
    cell = "style='padding:0 10px 0 0;text-align:left;white-space:nowrap;line-height:1.5'"
    heads = "".join(f"<th scope='col' {cell}>{text}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td {cell}>{value}</td>" for value in row) + "</tr>" for row in rows)
    return f"<div style='overflow-x:auto'><table class='dr-readout'><tr>{heads}</tr>{body}</table></div>"


def headless() -> bool:
    """Return whether this notebook is executed without a person in front of it."""
    return os.environ.get(HEADLESS, "") not in ("", "0")


def or_table(widget: widgets.Widget):
    """Return the widget; without a person, its table and where its controls (`widget.controls`) stand."""
    if not headless():
        return widget
    # A widget's own label is empty while it stands at its first option.
    at = ", ".join(f"{w.description} {w.options[w.index][0]}" for w in widget.controls)
    where = "Interactive in JupyterLab (<code>./run_all.sh --lab</code>); initial values:"
    return HTML(f"<p>{where} {at}</p>{widget.readout.value}")


def form(do: Callable, label: str, **fields: widgets.Widget) -> widgets.VBox:
    """Return fields and a button that calls `do` with their values and shows what it returns, or its error."""
    button = widgets.Button(description=label, button_style="primary", icon="play", layout={"width": "auto"})
    shown = widgets.Output()

    @shown.capture(clear_output=True)
    def show(_) -> None:
        button.disabled = True
        try:
            display(do(**{name: field.value for name, field in fields.items()}))
        except (ValueError, RuntimeError, OSError) as error:  # nobody is there to raise to
            display(HTML(f"<b>Error:</b> {html.escape(str(error))}"))
        finally:
            button.disabled = False

    button.on_click(show)
    seen = [field for field in fields.values() if isinstance(field, widgets.DOMWidget)]
    return widgets.VBox([*seen, button, shown])


def curve(
    rows: pd.DataFrame,
    *,
    x: str,
    y: str,
    hue: str,
    menu: str | None = None,
    errorbar: str | tuple[str, str] | None = "sd",
    columns: Sequence[str] | Mapping[str, str] = (),
    at: Sequence[float] | None = None,
    start: float | None = None,
    labels: Mapping[str, str] | None = None,
    log: bool = False,
    ylim: tuple[float, float] | None = (0, 1),
    palette: Mapping[str, object] | None = None,
    note: str = "",
):
    """Draw curves with a slider that moves a cursor along them, and a table of the values at the cursor.

    - x, y, hue, menu: columns of tidy rows: the axes, the name of each curve, and what a menu offers. Several rows at
      one place, such as one per seed, are averaged.
    - errorbar: "sd" over the rows at each place; the column that holds one; or the two columns of an interval.
    - columns: further columns of the table, in a mapping with a format such as ".1%".
    - at, start: where the slider stops, by default wherever there are rows, and where it begins, the middle by default.
    - labels, palette: what columns are called, and the colours of curves, by name.
    - log: a logarithmic x axis; ylim: limits of y, None to fit the values; note: a text below everything.

    Without a person in front of the notebook, the table alone is returned; without rows, a sentence.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"fraction": [0.1, 0.1, 1.0, 1.0], "accuracy": [0.5, 0.7, 0.9, 0.9], "dataset": "digits"})
    >>> shown = curve(rows, x="fraction", y="accuracy", hue="dataset", start=0.1)
    >>> shown.values().loc["digits", ["mean", "low", "high"]].round(3).to_list()
    [0.6, 0.459, 0.741]
    """
    rows = rows.dropna(subset=[x, y])
    if rows.empty:
        return HTML("<p>This profile has no rows for this slider.</p>")
    say = {name: name for name in rows} | dict(labels or {})
    keys = [
        (rows[menu] if menu else pd.Series("", rows.index)).rename("menu"),
        rows[hue].rename("hue"),
        rows[x].astype(float).round(9).rename("at"),  # fractions read from CSV may miss each other by rounding
    ]
    groups = rows.groupby(keys, sort=False)
    points = groups[y].mean().to_frame("mean")
    interval = isinstance(errorbar, tuple)
    if interval:
        points["low"], points["high"] = (groups[name].mean() for name in errorbar)
    else:
        spread = np.nan if errorbar is None else groups[y].std() if errorbar == "sd" else groups[errorbar].mean()
        points["low"], points["high"] = points["mean"] - spread, points["mean"] + spread
    head = say[y] + ("" if points["low"].isna().all() else " [interval]" if interval else " ± 1 std")
    cells = pd.DataFrame(index=points.index, columns=pd.Index([], name=say[hue]))
    cells[head] = [with_spread(*point, interval) for point in points.to_numpy()]
    for name, spec in (columns if isinstance(columns, Mapping) else dict.fromkeys(columns, "")).items():
        values = groups[name].mean() if is_float_dtype(rows[name]) else groups[name].first()
        spec = spec or (".3f" if is_float_dtype(values) else "")
        cells[say[name]] = ["" if pd.isna(value) else html.escape(f"{value:{spec}}") for value in values]
    chart = CurveChart(say[x], say[y], log=log, ylim=ylim, height=300)
    widget = SlidingCurve(points, cells, chart, (x, y, hue, menu, note), menu=say[menu] if menu else "", slider=say[x],
                          at=at, start=start, palette=palette)  # fmt: skip
    widget.children = [*widget.children, widgets.HTML(f"<small>{html.escape(note)}</small>")]
    return or_table(widget)


class SlidingCurve(widgets.VBox):
    """A menu and a slider over curves: `controls` are what a person moves, `chart` and `readout` what follows.

    `points` has columns mean, low and high by menu, hue (the curve's name) and at (x, where the slider stops); `cells`
    has the table's cells (HTML) by the same keys. Choices are remembered under `key`; the rest is as in `curve`.
    """

    def __init__(self, points, cells, chart, key: tuple, *, menu, slider, at=None, start=None, palette=None):
        self._points, self._cells, self._at, self.chart = points, cells, at, chart
        self._memory = memory = CHOSEN.setdefault(key, {})
        self._strokes = strokes(points.index.unique("hue"), palette)
        choices = list(points.index.unique("menu"))
        chosen = memory["menu"] if memory.get("menu") in choices else choices[0]
        options = [(str(choice), choice) for choice in choices]
        self.menu = widgets.Dropdown(options=options, value=chosen, description=menu, **CONTROL)
        self._shown = self._chosen()
        options = self._stops()
        value = nearest(options, memory.get("at", start))
        self.slider = widgets.SelectionSlider(options=options, value=value, description=slider, **CONTROL)
        self.controls = [self.menu, self.slider] if menu else [self.slider]
        for control in self.controls:  # wide enough for the longer name
            control.style.description_width = f"{max(8.5, 0.55 * max(len(menu), len(slider)) + 1):g}em"
        self.readout = widgets.HTML()
        left = widgets.VBox([*self.controls, self.readout], layout=widgets.Layout(flex="1 1 360px"))
        super().__init__([side_by_side(left, chart)])
        self._choose()
        self.slider.observe(lambda _: self._move(), "value")
        self.menu.observe(lambda _: self._choose(), "value")

    def values(self, at: float | None = None) -> pd.DataFrame:
        """Return what was measured at the cursor, or at another stop: columns mean, low, high, by hue."""
        at = self.slider.value if at is None else at
        return self._shown[self._shown.index.get_level_values("at") == at].droplevel("at")

    def _chosen(self) -> pd.DataFrame:
        """Points of the curves to draw, by hue and at."""
        return self._points.xs(self.menu.value, level="menu")

    def _row(self, name: str) -> list[str]:
        """A curve's cells of the table at the cursor."""
        key = self.menu.value, name, self.slider.value
        return list(self._cells.loc[key]) if key in self._cells.index else ["not measured here"]

    def _stops(self) -> list[tuple[str, float]]:
        measured = list(self._shown.index.unique("at"))
        return stops([x for x in measured if self._at is None or np.isclose(x, self._at).any()] or measured or [1.0])

    def _choose(self) -> None:
        """Draw what is chosen, and let the slider stop where it was measured."""
        self._shown = self._chosen()
        self.chart.show(self._shown, self._strokes)
        options, wanted = self._stops(), self.slider.value
        if list(self.slider.options) != options:
            self.slider.options = options
            self.slider.value = nearest(options, wanted)
        self._move()

    def _move(self, levels: pd.DataFrame | None = None) -> None:
        """Show the values at another stop."""
        found, at = self.values(), self.slider.value
        self._memory.update(menu=self.menu.value, at=at)
        self.chart.move(at, found, levels)
        # Every curve has its row, measured here or not: the table is the chart's legend.
        names = self._shown.index.unique("hue")
        rows = [[f"{self._strokes[name][2]} {html.escape(str(name))}", *self._row(name)] for name in names]
        self.readout.value = table(map(html.escape, [self._cells.columns.name, *self._cells.columns]), rows)
