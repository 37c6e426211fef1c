"""What the notebooks' figures share: the look, the printed curves beside ours, one legend, and saving.

The figures themselves are composed in the notebooks, from tidy rows with seaborn.
"""

from dr_utils.plots.curves import by_kind, draw_intervals, draw_published, published, with_spread
from dr_utils.plots.look import PALETTE, finish, fraction_axis, look, looks, save_figure, theme, titled

__all__ = [
    "PALETTE",
    "by_kind",
    "draw_intervals",
    "draw_published",
    "finish",
    "fraction_axis",
    "look",
    "looks",
    "published",
    "save_figure",
    "theme",
    "titled",
    "with_spread",
]
