"""How sliders show numbers, and what replaces a widget where nobody can move it: the table that it shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import ipywidgets as widgets
import numpy as np
import pandas as pd
from IPython.display import HTML

HEADLESS = "DR_HEADLESS"  # set where notebooks are executed without a person
CONTROL = {"style": {"description_width": "8.5em"}, "layout": {"width": "auto", "min_width": "300px"}}


_CHOSEN: dict[tuple, dict] = {}


def remembered(*key) -> dict:
    """Return the choices last made under this key, to be read and updated: a cell run again goes on from there."""
    return _CHOSEN.setdefault(key, {})


def per_cent(share: float) -> str:
    """Return a share as people say it: 0.2 is "20 %"."""
    return f"{100 * share:.4g} %"


def number(value, spec: str = "") -> str:
    """Return a value for a cell of a table: by `spec`, else three decimals of a float; "" for NaN."""
    if pd.isna(value):
        return ""
    return f"{value:{spec}}" if spec else f"{value:.3f}" if isinstance(value, float) else str(value)


def with_spread(mean: float, low: float, high: float, interval: bool = False) -> str:
    """Return a mean as HTML, with its standard deviation or the ends of its interval; alone where they are NaN."""
    if np.isnan(mean):
        return ""
    spread = f" [{low:.2f}, {high:.2f}]" if interval else f" ± {high - mean:.3f}"
    return f"<b>{mean:.3f}</b>" + (spread if low <= high else "")


def stops(values: Iterable[float]) -> list[tuple[str, float]]:
    """Return labels and values for a slider, rising: per cent where all lie between 0 and 1."""
    values = sorted(values)
    label = per_cent if values and values[0] >= 0 and values[-1] <= 1 else "{:g}".format
    return [(label(value), value) for value in values]


def nearest(options: Sequence[tuple[str, float]], wanted: float) -> float:
    """Return the value of these options that is nearest to `wanted`."""
    return min((value for _, value in options), key=lambda value: abs(value - wanted))


def selection(options: Sequence[tuple[str, float]], wanted: float, description: str) -> widgets.SelectionSlider:
    """Return a slider over these options, at the one nearest to `wanted`."""
    return widgets.SelectionSlider(options=options, value=nearest(options, wanted), description=description, **CONTROL)


def side_by_side(*parts: widgets.Widget) -> widgets.Box:
    """Return a row that wraps where the page is narrow."""
    return widgets.Box(parts, layout=widgets.Layout(display="flex", flex_flow="row wrap", width="100%"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], name: str = "dr-readout") -> str:
    """Return a table as HTML; the cells are HTML already."""
    cell = "style='padding:0 10px 0 0;text-align:left;white-space:nowrap;line-height:1.5'"
    heads = "".join(f"<th scope='col' {cell}>{text}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td {cell}>{value}</td>" for value in row) + "</tr>" for row in rows)
    return f"<div style='overflow-x:auto'><table class='{name}'><tr>{heads}</tr>{body}</table></div>"


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
