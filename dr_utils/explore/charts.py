"""Charts that the browser draws: a move of a slider sends it a few numbers, and nothing is painted from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import bqplot as bq
import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from dr_utils.palette import PALETTE

BLUE, ORANGE, _, RED = PALETTE[:4]
GREY = "#777777"  # seen on white and on black
# Line style, and what a table shows in its colour; each style is for one more curve of the same colour.
STYLES = (("solid", "&#9632;"), ("dashed", "&#9633;"), ("dotted", "&#9670;"), ("dash_dotted", "&#9671;"))
MOST_CLASSES = 16


def strokes(names: Iterable[str], palette: Mapping[str, object] | None = None) -> dict[str, tuple[str, str, str]]:
    """Return colour, line style and sign in a table (HTML) of each name; equal colours differ in style.

    The colour is the name's in `palette`, else the next one of the look of figures.
    """
    names, found = list(names), {}
    colours = {name: PALETTE[i % 10] for i, name in enumerate(names)} | dict(palette or {})
    for name in names:
        colour = to_hex(colours[name])
        style, sign = STYLES[sum(other == colour for other, *_ in found.values()) % len(STYLES)]
        found[name] = colour, style, f"<span style='color:{colour}'>{sign}</span>"
    return found


class Chart(widgets.VBox):
    """Axes with a heading above them; subclasses set `figure.marks`."""

    def __init__(self, x_label: str, y_label: str, x: bq.Scale, *, ylim=(0, 1), height: int = 270, bottom: int = 44):
        self.x, self.y = x, bq.LinearScale(min=float(ylim[0]), max=float(ylim[1])) if ylim else bq.LinearScale(min=0.0)
        self.scales = {"x": self.x, "y": self.y}
        self.x_axis = bq.Axis(scale=self.x, label=x_label, label_color=GREY, grid_lines="none", label_offset="32px")
        self.y_axis = bq.Axis(scale=self.y, label=y_label, label_color=GREY, side="left", label_offset="42px")
        self.figure = bq.Figure(
            axes=[self.x_axis, self.y_axis], padding_x=0.0, padding_y=0.0, animation_duration=0,
            fig_margin={"top": 12, "bottom": bottom, "left": 56, "right": 16},
            layout=widgets.Layout(width="auto", height=f"{height}px", min_width="280px"),
        )  # fmt: skip
        self.heading = widgets.HTML()
        super().__init__([self.heading, self.figure], layout=widgets.Layout(min_width="300px", flex="1 1 340px"))

    def head(self, text: str) -> None:
        """Set the line above the axes (HTML)."""
        self.heading.value = f"<div style='line-height:1.35; padding-right:1.5em'>{text}</div>"

    def line(self, *colours: str, **options) -> bq.Lines:
        """Return a line in these axes, or one for each colour."""
        return bq.Lines(**{"x": [0.0], "y": [np.nan], "scales": self.scales, "colors": colours} | options)


class CurveChart(Chart):
    """Curves with bands, and on each a point that the slider moves; the x axis is logarithmic with `log`."""

    def __init__(self, x_label: str, y_label: str, *, log: bool = False, **options):
        super().__init__(x_label, y_label, bq.LogScale() if log else bq.LinearScale(), **options)
        self._log = log

    def show(self, curves: pd.DataFrame, strokes: Mapping[str, tuple]) -> None:
        """Draw other curves: columns mean, low, high, by hue and x; low and high are NaN where not known."""
        self._names, marks = list(curves.index.unique("hue")), []
        if not self._names:
            self.figure.marks = []
            return
        at = curves.index.get_level_values("at")
        low, high, margin = at.min(), at.max(), 0.02 * np.ptp(at)
        # Space for a marker at either end.
        self.x.min, self.x.max = (low * 0.9, high * 1.08) if self._log else (low - margin, high + margin)
        if self._log:
            ticks = [digit * 10.0**power for power in range(-5, 6) for digit in (1, 2, 5)]
            ticks = [tick for tick in ticks if self.x.min <= tick <= self.x.max]
            # More than eight labels would touch each other.
            self.x_axis.tick_values = ticks if len(ticks) <= 8 else [t for t in ticks if f"{t:e}"[0] == "1"]
            self.x_axis.tick_format = "~g"
        self._top = self.y.max if self.y.max is not None else 1.05 * curves[["mean", "high"]].max(axis=None)
        for name in self._names:
            c, (colour, style, _) = curves.xs(name).sort_index(), strokes[name]
            if c["low"].notna().any():
                marks.append(self.line(colour, colour, x=c.index, y=[c["low"], c["high"]], opacities=[0.0, 0.0],
                                       fill="between", fill_colors=[colour], fill_opacities=[0.18, 0.18]))  # fmt: skip
            marks.append(self.line(colour, x=c.index, y=c["mean"], line_style=style))
        colours = [strokes[name][0] for name in self._names]
        self._cursor = self.line(GREY, stroke_width=1)
        self._bars = self.line(*colours)
        self._levels = self.line(*colours, stroke_width=1.2, line_style="dashed")
        self._points = bq.Scatter(x=[0.0], y=[np.nan], scales=self.scales, colors=colours, default_size=70,
                                  stroke="white")  # fmt: skip
        self.figure.marks = [self._cursor, *marks, self._levels, self._bars, self._points]

    def move(self, x: float, values: pd.DataFrame, levels: pd.DataFrame | None = None) -> None:
        """Put the cursor and the curves' points at an x: mean, low, high by name; no point without a row.

        `levels` (height, x by name) adds a horizontal line at this height that falls to the axis at x.
        """
        if not self._names:
            return
        values = values.assign(x=x).reindex(self._names)
        _set(self._cursor, [x, x], [0.0, self._top])
        _set(self._points, values["x"], values["mean"])
        _set(self._bars, values[["x", "x"]], values[["low", "high"]])
        if levels is not None:
            levels = levels.reindex(self._names).assign(left=self.x.min, zero=0.0)
            _set(self._levels, levels[["left", "x", "x"]], levels[["height", "height", "zero"]])


class DrawsChart(Chart):
    """Histogram of the similarities drawn so far, with the newest draw and the expectation."""

    def __init__(self) -> None:
        super().__init__("linear CKA of part and whole", "draws", bq.LinearScale(min=0.0, max=1.0), ylim=None)
        self.x_axis.num_ticks, self.y_axis.tick_format = 5, "d"
        self._bars = bq.Bars(x=[0.5], y=[0.0], scales=self.scales, colors=[BLUE], opacities=[0.6], padding=0.05)
        self._expected = self.line(ORANGE, stroke_width=2.5, line_style="dashed")
        self._newest = self.line(RED, stroke_width=2.5)
        self.figure.marks = [self._bars, self._expected, self._newest]

    def show(self, values: list[float], expected: float) -> None:
        """Draw the histogram of `values`, the newest last, without NaN, the CKA of silent neurons."""
        around = [*values, expected]
        if np.isnan(around).all():
            return
        low, high = np.nanmin(around) - 0.01, min(1.0, np.nanmax(around) + 0.01)
        counts, edges = np.histogram(values, bins=24, range=(low, high))
        most = max(1, int(counts.max()))
        self.x.min, self.x.max, self.y.max = low, high, most * 1.15
        self.y_axis.tick_values = sorted({0, most // 2, most})
        _set(self._bars, (edges[:-1] + edges[1:]) / 2, counts)
        for mark, x in ((self._expected, expected), (self._newest, values[-1])):
            _set(mark, [x, x], [0.0, most * 1.15])


class ClassChart(Chart):
    """Accuracy of each class: the full layer's as bars, and in front of it the subset's."""

    def __init__(self) -> None:
        super().__init__("", "accuracy of the class", bq.OrdinalScale(), height=300, bottom=84)
        self.x_axis.tick_rotate, self.x_axis.tick_style = -35, {"text-anchor": "end"}
        self._full = bq.Bars(x=[""], y=[0.0], scales=self.scales, colors=[GREY], opacities=[0.45], padding=0.15)
        self._part = bq.Scatter(x=[""], y=[np.nan], scales=self.scales, colors=[ORANGE], default_size=80,
                                marker="diamond")  # fmt: skip
        self.figure.marks = [self._full, self._part]

    def show(self, classes: pd.DataFrame) -> int:
        """Draw accuracies (columns part, full), of many classes those that lose most; return how many are shown."""
        if len(classes) > MOST_CLASSES:
            classes = classes.loc[(classes["full"] - classes["part"]).nlargest(MOST_CLASSES).index]
        for mark, column in ((self._full, "full"), (self._part, "part")):
            _set(mark, classes.index.astype(str), classes[column])
        return len(classes)


def _set(mark: bq.Mark, x, y) -> None:
    """Move a mark with one message to the browser."""
    with mark.hold_sync():
        mark.x, mark.y = np.asarray(x), np.asarray(y, dtype=float)
