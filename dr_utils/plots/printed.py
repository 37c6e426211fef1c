"""Published curves that ours can be drawn beside."""

from __future__ import annotations

import pandas as pd

from dr_utils.claims.against import printed_curve
from dr_utils.claims.paper_names import paper_network
from dr_utils.claims.view import View
from dr_utils.plots.style import PAPER

LABELS = {
    "standard": f"{PAPER}ResNet50 (timm)",
    "adversarial": f"{PAPER}ResNet50 (l2, eps 3)",
    "mrl": f"{PAPER}ResNet50 (Matryoshka)",
}


def published_curve(card: pd.Series, dataset: str, kind: str) -> tuple[pd.Series, str] | None:
    """The published curve for a network like this one on this task, and its label for the legend.

    Parameters
    ----------
    card : Series
        The network's row of networks.csv.
    dataset : str
        Task; for kind "accuracy" also "imagenet" and "imagenetv2".
    kind : {"accuracy", "part_part", "part_whole", "redundancy"}

    Returns
    -------
    (Series, str) or None
        See `dr_utils.claims.against.printed_curve`.
    """
    series = printed_curve(card, dataset, kind)
    if series is None:
        return None
    resnet = paper_network(card) == "ResNet50"
    return series, LABELS[card["training"]] if resnet else f"{PAPER}ViT S-16 (ImageNet-21k)"


def titled(view: View, title: str = "") -> str:
    """The title of a figure; one of published numbers says so, whatever its note says."""
    if not view.from_paper:
        return title
    return "\n".join(filter(None, ("Published numbers, not measured by this suite", title)))
