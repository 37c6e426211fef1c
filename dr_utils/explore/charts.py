"""Charts that the browser draws: a move of a slider sends it a few numbers, and nothing is painted from scratch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import bqplot as bq
import ipywidgets as widgets
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from dr_utils.plots import PALETTE

COLOURS = [to_hex(colour) for colour in PALETTE]
# Line style, and what a table shows in its colour; each style is for one more curve of the same colour.
STYLES = (("solid", "&#9632;"), ("dashed", "&#9633;"), ("dotted", "&#9670;"), ("dash_dotted", "&#9671;"))
GREY = "#777777"  # seen on white and on black
MARGIN = {"top": 12, "bottom": 44, "left": 56, "right": 16}
LOG_TICKS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MOST_CLASSES = 16


@dataclass(frozen=True)
class Stroke:
    """Colour and line style of one curve, and `swatch`, the sign of both in a table (HTML)."""

    colour: str
    style: str
    swatch: str


def strokes(names: Iterable[str], palette: Mapping[str, object] | None = None) -> dict[str, Stroke]:
    """Return a stroke for each name: its colour in `palette`, else the palette's next one in the order given."""
    names, drawn = list(names), []
    for i, name in enumerate(names):
        colour = to_hex(palette[name]) if palette and name in palette else COLOURS[i % len(COLOURS)]
        style, sign = STYLES[sum(stroke.colour == colour for stroke in drawn) % len(STYLES)]
        drawn.append(Stroke(colour, style, f"<span style='color:{colour}'>{sign}</span>"))
    return dict(zip(names, drawn, strict=True))


class Chart(widgets.VBox):
    """Axes with a heading above them; `figure.marks` are set by subclasses."""

    def __init__(self, x_label: str, y_label: str, *, x: bq.Scale | None = None, ylim=(0, 1), height: int = 270):
        self.x = bq.LinearScale() if x is None else x
        self.y = bq.LinearScale(min=0.0) if ylim is None else bq.LinearScale(min=float(ylim[0]), max=float(ylim[1]))
        self.scales = {"x": self.x, "y": self.y}
        self.x_axis = bq.Axis(scale=self.x, label=x_label, label_color=GREY, grid_lines="none", label_offset="32px")
        self.y_axis = bq.Axis(scale=self.y, label=y_label, label_color=GREY, side="left", label_offset="42px")
        if ylim and tuple(ylim) == (0, 1):
            self.y_axis.tick_values, self.y_axis.tick_format = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], ".1f"
        self.figure = bq.Figure(
            axes=[self.x_axis, self.y_axis], fig_margin=MARGIN, padding_x=0.0, padding_y=0.0, animation_duration=0,
            layout=widgets.Layout(width="auto", height=f"{height}px", min_width="280px"),
        )  # fmt: skip
        self.heading = widgets.HTML()
        super().__init__([self.heading, self.figure], layout=widgets.Layout(min_width="300px", flex="1 1 340px"))

    def head(self, text: str) -> None:
        """Set the line above the axes (HTML)."""
        self.heading.value = f"<div style='line-height:1.35; padding-right:1.5em'>{text}</div>"

    def line(self, *colours: str, **options) -> bq.Lines:
        """Return a line in these axes, or one for each colour."""
        empty = {"x": [0.0], "y": [np.nan], "scales": self.scales, "colors": list(colours), "stroke_width": 2}
        return bq.Lines(**empty | options)

    def ticks(self, x: Sequence[float]) -> None:
        """Set limits and round tick values for these x."""
        low, high = float(np.min(x)), float(np.max(x))
        logarithmic = isinstance(self.x, bq.LogScale)
        # Space for a marker at either end.
        margin = 0.02 * (high - low)
        self.x.min, self.x.max = (low * 0.9, high * 1.08) if logarithmic else (low - margin, high + margin)
        if logarithmic:
            ticks = [t for t in LOG_TICKS if low * 0.9 <= t <= high] if high <= 1 else sorted({float(v) for v in x})
            shown = ticks[-1:]
            for tick in ticks[::-1]:  # about eight labels fit
                if tick * (high / low) ** (1 / 9) <= shown[-1] and tick < shown[-1]:
                    shown.append(tick)
            self.x_axis.tick_values, self.x_axis.tick_format = shown, "~g"


class CurveChart(Chart):
    """Curves with bands, and on each a point that the slider moves; the x axis is logarithmic with `log`."""

    def __init__(self, x_label: str, y_label: str, *, log: bool = False, **options):
        super().__init__(x_label, y_label, x=bq.LogScale() if log else None, **options)

    def show(self, curves: Mapping[str, pd.DataFrame], strokes: Mapping[str, Stroke]) -> None:
        """Draw other curves: columns x, mean, low, high, rising in x; low and high are NaN where not known."""
        nothing = pd.DataFrame({"x": [0.01, 1.0], "high": 1.0, "mean": 1.0})
        everything = pd.concat(curves.values()) if curves else nothing
        self.ticks(everything["x"])
        self._top = self.y.max if self.y.max is not None else 1.05 * everything[["mean", "high"]].max(axis=None)
        self._names, marks = list(curves), []
        for name, c in curves.items():
            colour = strokes[name].colour
            if c["low"].notna().any():
                marks.append(self.line(colour, colour, x=c["x"], y=[c["low"], c["high"]], opacities=[0.0, 0.0],
                                       fill="between", fill_colors=[colour], fill_opacities=[0.18, 0.18]))  # fmt: skip
            marks.append(self.line(colour, x=c["x"], y=c["mean"], line_style=strokes[name].style))
        colours = [strokes[name].colour for name in curves] or [GREY]
        self._cursor = self.line(GREY, stroke_width=1)
        self._bars = self.line(*colours)
        self._levels = self.line(*colours, stroke_width=1.2, line_style="dashed")
        self._falls = self.line(*colours, stroke_width=1.2, line_style="dotted")
        self._points = bq.Scatter(x=[0.0], y=[np.nan], scales=self.scales, colors=colours, default_size=70,
                                  stroke="white")  # fmt: skip
        self.figure.marks = [self._cursor, *marks, self._levels, self._falls, self._bars, self._points]

    def move(self, at: pd.DataFrame, cursor: float | None, levels: pd.DataFrame | None = None) -> None:
        """Put points on the curves (`at`: x, mean, low, high by name; no point without a row) and the cursor at an x.

        `levels` (height, x by name) adds a horizontal line at this height, and one that falls from there at x.
        """
        if not self._names:
            return
        at = at.reindex(self._names)
        _set(self._cursor, [np.nan if cursor is None else cursor] * 2, [0.0, self._top])
        _set(self._points, at["x"], at["mean"])
        _set(self._bars, _pairs(at["x"], at["x"]), _pairs(at["low"], at["high"]))
        if levels is not None:
            levels = levels.reindex(self._names)
            ends = np.full(len(levels), self.x.min), np.full(len(levels), self.x.max)
            _set(self._levels, _pairs(*ends), _pairs(levels["height"], levels["height"]))
            _set(self._falls, _pairs(levels["x"], levels["x"]), _pairs(0 * levels["height"], levels["height"]))


def _pairs(start, end) -> np.ndarray:
    """Two ends for each of n lines, [n, 2]."""
    return np.stack([np.asarray(start, dtype=float), np.asarray(end, dtype=float)], axis=1)


def _set(mark: bq.Mark, x, y) -> None:
    """Move a mark with one message to the browser."""
    with mark.hold_sync():
        mark.x, mark.y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)


class DrawsChart(Chart):
    """Histogram of the similarities drawn so far, with the newest draw and the expectation."""

    def __init__(self) -> None:
        super().__init__("linear CKA of part and whole", "draws", ylim=None)
        self.x.min, self.x.max = 0.0, 1.0
        self.x_axis.num_ticks, self.y_axis.tick_format = 5, "d"
        self._bars = bq.Bars(x=[0.5], y=[0.0], scales=self.scales, colors=[COLOURS[0]], opacities=[0.6], padding=0.05)
        self._expected = self.line(COLOURS[1], stroke_width=2.5, line_style="dashed")
        self._newest = self.line(COLOURS[3], stroke_width=2.5)
        self.figure.marks = [self._bars, self._expected, self._newest]

    def show(self, values: Sequence[float], expected: float, newest: float) -> None:
        """Draw the histogram of `values`; NaN is left out."""
        values = np.asarray(values, dtype=float)
        values = values[np.isfinite(values)]
        around = np.append(values, [v for v in (expected, newest) if np.isfinite(v)])
        if not len(around):
            return
        middle, half = (around.min() + around.max()) / 2, max(0.012, 0.6 * np.ptp(around))
        low, high = float(middle - half), float(min(1.0, middle + half))
        counts, edges = np.histogram(values, bins=24, range=(low, high))
        most = int(counts.max(initial=1))
        with self.x.hold_sync(), self.y.hold_sync():
            self.x.min, self.x.max, self.y.max = low, high, most * 1.15
        self.y_axis.tick_values = sorted({0, most // 2, most})
        _set(self._bars, (edges[:-1] + edges[1:]) / 2, counts)
        for mark, x in ((self._expected, expected), (self._newest, newest)):
            _set(mark, [x, x], [0.0, most * 1.15])


class ClassChart(Chart):
    """Accuracy of each class: the full layer's as bars, and in front of it the subset's."""

    def __init__(self) -> None:
        super().__init__("", "accuracy of the class", x=bq.OrdinalScale(), height=300)
        self.x_axis.tick_rotate, self.x_axis.tick_style = -35, {"text-anchor": "end"}
        self.figure.fig_margin = MARGIN | {"bottom": 84}
        self._full = bq.Bars(x=[""], y=[0.0], scales=self.scales, colors=[GREY], opacities=[0.45], padding=0.15)
        self._part = bq.Scatter(x=[""], y=[np.nan], scales=self.scales, colors=[COLOURS[1]], default_size=80,
                                marker="diamond")  # fmt: skip
        self.figure.marks = [self._full, self._part]

    def show(self, classes: pd.DataFrame) -> int:
        """Draw accuracies (columns part, full), of many classes those that lose most; return how many are shown."""
        if len(classes) > MOST_CLASSES:
            lost = (classes["full"] - classes["part"]).sort_values(ascending=False)
            classes = classes.loc[lost.index[:MOST_CLASSES]]
        names = [str(name) for name in classes.index]
        with self._full.hold_sync(), self._part.hold_sync():
            if list(self._full.x) != names:
                self._full.x, self._part.x = names, names
            self._full.y, self._part.y = classes["full"].to_numpy(), classes["part"].to_numpy()
        return len(classes)
