"""Charts that the browser draws: a move of a slider sends it a few numbers, and nothing is painted from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bqplot as bq
import ipywidgets as widgets
import numpy as np
from matplotlib.colors import to_hex

from dr_utils.plots.style import PALETTE

COLOURS = [to_hex(colour) for colour in PALETTE]
GREY = "#777777"  # seen on white and on black
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
MARGIN = {"top": 12, "bottom": 44, "left": 56, "right": 16}
LOG_TICKS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MOST_CLASSES = 16


@dataclass(frozen=True)
class Series:
    """A line with its band: `x` [n], `mean` [n], `low` and `high` [n] or None."""

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    def at(self, x: float) -> tuple[float, float, float] | None:
        """(mean, low, high) at a measured x; None elsewhere."""
        hit = np.flatnonzero(np.isclose(np.asarray(self.x, dtype=float), x, rtol=1e-6))
        if not hit.size:
            return None
        mean = float(self.mean[hit[0]])
        return mean, *(mean if v is None else float(v[hit[0]]) for v in (self.low, self.high))

    @staticmethod
    def of(curve, x=None) -> Series:
        """From a curve [F, seeds]: the mean, and a band of one standard deviation, NaN where it is not known; `x`
        instead of its fractions."""
        mean, spread = curve.mean, curve.std
        return Series(curve.fractions if x is None else x, mean, mean - spread, mean + spread)


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, the house's, in the order given."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


class Chart(widgets.VBox):
    """Axes with a heading above them; `marks` are set by subclasses."""

    def __init__(self, x_label: str, y_label: str, *, log: bool = False, top: float | None = 1.0, height: int = 270):
        self.x = bq.LogScale() if log else bq.LinearScale()
        self.y = bq.LinearScale(min=0.0, max=top) if top else bq.LinearScale(min=0.0)
        self.scales = {"x": self.x, "y": self.y}
        self.x_axis = bq.Axis(scale=self.x, label=x_label, label_color=GREY, grid_lines="none", label_offset="32px")
        self.y_axis = bq.Axis(scale=self.y, label=y_label, label_color=GREY, side="left", label_offset="42px")
        if top == 1.0:
            self.y_axis.tick_values, self.y_axis.tick_format = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], ".1f"
        self.figure = bq.Figure(
            axes=[self.x_axis, self.y_axis], fig_margin=MARGIN, padding_x=0.0, padding_y=0.0, animation_duration=0,
            legend_location="top-left", layout=widgets.Layout(width="auto", height=f"{height}px", min_width="280px"),
        )  # fmt: skip
        self.heading = widgets.HTML()
        super().__init__([self.heading, self.figure], layout=widgets.Layout(min_width="300px", flex="1 1 340px"))

    def head(self, text: str) -> None:
        """Set the line above the axes (HTML)."""
        self.heading.value = f"<div style='line-height:1.35; padding-right:1.5em'>{text}</div>"

    def line(self, colour: str, **options) -> bq.Lines:
        """A line in these axes."""
        return bq.Lines(**{"x": [0.0], "y": [np.nan], "scales": self.scales, "colors": [colour], "stroke_width": 2}
                        | options)  # fmt: skip

    def ticks(self, x: Sequence[float]) -> None:
        """Limits and round tick values for these x."""
        low, high = float(np.min(x)), float(np.max(x))
        logarithmic = isinstance(self.x, bq.LogScale)
        margin = high - low if not logarithmic else 0.0
        # Room for a marker at either end.
        self.x.min = low * 0.9 if logarithmic else low - 0.02 * margin
        self.x.max = high * 1.08 if logarithmic else high + 0.02 * margin
        if logarithmic:
            shown = [t for t in LOG_TICKS if low * 0.9 <= t <= high] if high <= 1 else sorted({float(v) for v in x})
            # Eight labels fit; every second one is left out where there are more.
            self.x_axis.tick_values = shown[:: -(-len(shown) // 8)]
            self.x_axis.tick_format = "~g"


class CurveChart(Chart):
    """Lines with bands, and on each a point that the slider moves."""

    def show(self, series: Mapping[str, Series], colour: Mapping[str, str], *, levels: bool = False) -> None:
        """Draw other series; with `levels`, each may have a horizontal and a vertical line set by `move`."""
        self._series, self._points, self._bars, self._levels, self._falls, marks = dict(series), {}, {}, {}, {}, []
        everything = np.concatenate([np.asarray(s.x, dtype=float) for s in series.values()]) if series else [0.01, 1.0]
        self.ticks(everything)
        for i, (name, s) in enumerate(series.items()):
            c = colour[name]
            if s.low is not None:
                marks.append(self.line(c, x=s.x, y=[s.low, s.high], colors=[c, c], fill="between", fill_colors=[c],
                                       fill_opacities=[0.18, 0.18], opacities=[0.0, 0.0]))  # fmt: skip
            marks.append(self.line(c, x=s.x, y=s.mean))
            self._bars[name] = self.line(c, stroke_width=2)
            self._points[name] = bq.Scatter(x=[0.0], y=[np.nan], scales=self.scales, colors=[c], default_size=70,
                                            marker=MARKERS[i % len(MARKERS)], stroke="white")  # fmt: skip
            if levels:
                self._levels[name] = self.line(c, stroke_width=1.2, line_style="dashed")
                self._falls[name] = self.line(c, stroke_width=1.2, line_style="dotted")
        self._cursor = self.line(GREY, stroke_width=1)
        over = (self._levels, self._falls, self._bars, self._points)
        self.figure.marks = [self._cursor, *marks, *(mark for group in over for mark in group.values())]

    def move(self, x: float, levels: Mapping[str, tuple[float, float]] | None = None) -> None:
        """Put cursor and points at x; `levels` gives a height and an x where the line falls from there, by name."""
        self._cursor.x, self._cursor.y = [x, x], [0.0, self.y.max if self.y.max is not None else 1.0]
        for name, s in self._series.items():
            found = s.at(x)
            point, bar = self._points[name], self._bars[name]
            with point.hold_sync(), bar.hold_sync():
                point.x, point.y = [x], [np.nan if found is None else found[0]]
                bar.x, bar.y = [x, x], [np.nan, np.nan] if found is None else [found[1], found[2]]
        for name, (height, fall) in (levels or {}).items():
            level, drop = self._levels[name], self._falls[name]
            with level.hold_sync(), drop.hold_sync():
                level.x, level.y = [self.x.min, self.x.max], [height, height]
                drop.x, drop.y = [fall, fall], [0.0, height]


class DrawsChart(Chart):
    """Histogram of the similarities drawn so far, with the newest draw and the expectation."""

    def __init__(self) -> None:
        super().__init__("linear CKA of part and whole", "draws", top=None)
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
        low, high = middle - half, min(1.0, middle + half)
        counts, edges = np.histogram(values, bins=24, range=(low, high))
        top = float(max(counts.max(initial=1), 1)) * 1.15
        with self.x.hold_sync(), self.y.hold_sync():
            self.x.min, self.x.max, self.y.max = float(low), float(high), top
        self.y_axis.tick_values = sorted({0, int(counts.max(initial=1)) // 2, int(counts.max(initial=1))})
        with self._bars.hold_sync():
            self._bars.x, self._bars.y = (edges[:-1] + edges[1:]) / 2, counts.astype(float)
        for mark, x in ((self._expected, expected), (self._newest, newest)):
            with mark.hold_sync():
                mark.x, mark.y = [x, x], [0.0, top]


class ClassChart(Chart):
    """Accuracy of each class: the full layer's, and in front of it the subset's."""

    def __init__(self) -> None:
        super().__init__("", "accuracy of the class", height=300)
        self.x = bq.OrdinalScale()
        self.scales = {"x": self.x, "y": self.y}
        self.x_axis = bq.Axis(scale=self.x, grid_lines="none", tick_rotate=-35, tick_style={"text-anchor": "end"})
        self.figure.axes = [self.x_axis, self.y_axis]
        self.figure.fig_margin = MARGIN | {"bottom": 84}
        self._full = bq.Bars(x=[""], y=[0.0], scales=self.scales, colors=[GREY], opacities=[0.45], padding=0.15)
        self._part = bq.Scatter(x=[""], y=[np.nan], scales=self.scales, colors=[COLOURS[1]], default_size=80,
                                marker="diamond")  # fmt: skip
        self.figure.marks = [self._full, self._part]

    def show(self, classes) -> int:
        """Draw accuracies (columns part, full), of many classes those that lose most; return how many are shown."""
        shown = classes
        if len(classes) > MOST_CLASSES:
            shown = classes.loc[(classes["full"] - classes["part"]).sort_values(ascending=False).index[:MOST_CLASSES]]
        names = [str(name) for name in shown.index]
        with self._full.hold_sync(), self._part.hold_sync():
            if list(self._full.x) != names:
                self._full.x, self._part.x = names, names
            self._full.y, self._part.y = shown["full"].to_numpy(), shown["part"].to_numpy()
        return len(shown)
