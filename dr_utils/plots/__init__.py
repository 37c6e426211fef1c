"""Figures of the paper from the study's tables; each function returns a matplotlib Figure."""

from dr_utils.plots.architectures import (
    KINDS,
    accuracy_by_network,
    compared,
    middle_layers,
    networks_by_kind,
    redundancy_by_network,
    table1,
    upstream_networks,
    with_interval,
)
from dr_utils.plots.curves import by_kind, draw_intervals, draw_published, published, with_spread
from dr_utils.plots.fairness import inequality
from dr_utils.plots.look import PALETTE, finish, fraction_axis, look, looks, save_figure, theme, titled
from dr_utils.plots.prevalence import prevalence
from dr_utils.plots.projections import projections, shift
from dr_utils.plots.similarity import part_whole_cka, random_subset_cka
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
    "accuracy_by_network",
    "compared",
    "inequality",
    "matryoshka",
    "matryoshka_lead",
    "matryoshka_networks",
    "needed_share",
    "middle_layers",
    "networks_by_kind",
    "part_whole_cka",
    "prevalence",
    "projections",
    "random_subset_cka",
    "redundancy_by_network",
    "save_figure",
    "shift",
    "table1",
    "upstream_networks",
    "width_ablation",
    "width_networks",
    "with_interval",
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
