"""How numbers are shown, and what a widget becomes where nobody is there to move it: the table that it shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import ipywidgets as widgets
from IPython.display import HTML

HEADLESS = "DR_HEADLESS"  # set by the runner


def per_cent(fraction: float) -> str:
    """A share as people say it: 0.2 is "20 %"."""
    return f"{100 * fraction:.4g} %"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as HTML; the cells are HTML already."""
    cell = "style='padding:0 10px 0 0;text-align:left;white-space:nowrap;line-height:1.5'"
    heads = "".join(f"<th scope='col' {cell}>{name}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td {cell}>{value}</td>" for value in row) + "</tr>" for row in rows)
    return f"<div style='overflow-x:auto'><table class='dr-readout'><tr>{heads}</tr>{body}</table></div>"


def headless() -> bool:
    """Whether this notebook is executed without a person in front of it."""
    return os.environ.get(HEADLESS, "") not in ("", "0")


def shown(widget: widgets.Widget | str):
    """Return the widget, or, executed without a person, its table and a line on where the slider is; text as it is."""
    if isinstance(widget, str):
        return HTML(f"<p>{widget}</p>")
    if not headless():
        return widget
    where = "In JupyterLab (<code>./run_all.sh --lab</code>) this is a slider. Where it starts, it says:"
    named = (getattr(widget, name, None) for name in ("choice", "slider", "fraction", "delta"))
    # A widget's own label is empty while it stands at its first option.
    at = ", ".join(f"{w.description} {w.options[w.index][0]}" for w in named if w is not None)
    return HTML(f"<p>{where}</p><p>{at}</p>{widget.readout.value}")
