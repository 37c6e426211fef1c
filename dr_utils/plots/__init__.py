"""Figures of the paper from the study's tables; each function returns a matplotlib Figure."""

from dr_utils.plots.architectures import (
    KINDS,
    compared,
    networks_by_kind,
)
from dr_utils.plots.curves import by_kind, draw_intervals, draw_published, published, with_spread
from dr_utils.plots.fairness import inequality
from dr_utils.plots.look import PALETTE, finish, fraction_axis, look, looks, save_figure, theme, titled
from dr_utils.plots.projections import projections, shift
from dr_utils.plots.width_mrl import (
    matryoshka,
    matryoshka_lead,
    matryoshka_networks,
    needed_share,
    width_ablation,
    width_networks,
)

__all__ = [
    "KINDS",
    "PALETTE",
    "compared",
    "inequality",
    "matryoshka",
    "matryoshka_lead",
    "matryoshka_networks",
    "needed_share",
    "networks_by_kind",
    "projections",
    "save_figure",
    "shift",
    "width_ablation",
    "width_networks",
    "by_kind",
    "draw_intervals",
    "draw_published",
    "published",
    "with_spread",
    "finish",
    "fraction_axis",
    "look",
    "looks",
    "theme",
    "titled",
]
