"""Which networks are shown side by side."""

from __future__ import annotations

from dr_utils.claims.architectures import upstream_pairs
from dr_utils.claims.view import View

KINDS = {"imagenet": "Networks trained on ImageNet", "small": "Small networks, 32 x 32 pixels"}


def networks_by_kind(tables: dict, training=("standard", "adversarial")) -> dict[str, list[str]]:
    """Networks with results, trained in these ways, by kind ("imagenet", "small"); titles of the kinds are in `KINDS`.

    Their accuracies cannot be compared, and more than ten lines cannot be told apart: each kind gets its own figure.
    Of networks that differ in upstream data only, the one with more is taken.
    """
    view = View(tables)
    rows = view.networks.loc[view.models(tuple(training))]
    rows = rows[~rows["model"].isin([less for _, less in upstream_pairs(view)])]
    return {kind: list(group["model"]) for kind, group in rows.groupby("kind", sort=False)}


def compared(tables: dict) -> list[str]:
    """A ResNet, and an adversarially trained one with its standard counterpart: the rows of Fig. 1."""
    return View(tables).resnets_compared()
