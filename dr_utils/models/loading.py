"""From a name to a module with its weights: published networks, the small ones, and any network of timm."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

from torch import nn

from dr_utils.checks import nearest_first, short
from dr_utils.fetch import hub_within_reach
from dr_utils.models import published, small_networks
from dr_utils.models.backbone import Tapped
from dr_utils.models.cards import ARCHIVES, PAPER
from dr_utils.models.network import IMAGENET_MEAN, IMAGENET_STD, NetworkCard
from dr_utils.models.small import shipped
from dr_utils.store import AssetError


@dataclass
class Opened:
    """A module with its weights, before anybody said which of its layers is read."""

    module: nn.Module  # from normalised images to class scores, or without a head
    head: str | None  # name of its last linear layer
    card: NetworkCard
    preprocessing: dict = field(default_factory=lambda: {"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    side: int = 224  # pixels of the images that try it out

    def read(self, layer: str | None = None, pool: str = "mean") -> Tapped:
        """Read it at a layer, by default where the head begins; ValueError if there is no such layer."""
        at_head = layer is None and self.head is not None
        return Tapped(self.module.eval(), self.head if at_head else layer, head=at_head, pool=pool, name=self.card.name)


def open_named(name: str, *, pretrained: bool = True) -> Opened:
    """Open a network of the registry, of the paper, or of timm; AssetError if its weights cannot be had."""
    if card := shipped().get(name):
        recipe = SimpleNamespace(**card.recipe)
        network = small_networks.load_weights(name)[0] if pretrained else small_networks.build(recipe)
        network.body.head = network.heads[-1]
        return Opened(network.body, "head", card, side=card.side)
    card = ARCHIVES.get(name) or PAPER.get(name)
    if card is None:
        return open_timm(name, pretrained=pretrained)
    module, head = published.build(card)
    if pretrained:
        published.load(module, card)
    return Opened(module, head, card, card.preprocessing(), card.side or 224)


# ---------------------------------------------------------------- timm


def open_timm(name: str, *, pretrained: bool = True) -> Opened:
    """Open a network of timm, with the hub's weights or random ones; AssetError if the hub does not give them."""
    import timm

    with hub_within_reach() if pretrained else nullcontext():
        try:
            module = timm.create_model(name, pretrained=pretrained)
        except Exception as error:  # timm, the hub's client and the socket wrap each other's errors
            offline = ", ".join(nearest_first(name, [*ARCHIVES, *shipped()]))
            raise AssetError(
                f"timm model {name!r} cannot be loaded or its weights cannot be fetched from the model hub "
                f"({short(error)}); available offline, nearest first: {offline}."
            ) from error
    cfg, head = module.pretrained_cfg, module.get_classifier()
    linear = isinstance(head, nn.Linear)
    width = head.in_features if linear else getattr(module, "head_hidden_size", module.num_features)
    tag = re.search("in(1k|12k|21k|22k)", cfg.get("tag") or "")
    upstream = f"imagenet{tag[1].replace('22', '21')}" if tag else "unknown"
    where = cfg.get("hf_hub_id") or cfg.get("url") or "no published weights"
    card = NetworkCard(
        name=name, title=name, width=int(width), family=name.partition(".")[0].partition("_")[0], training="standard",
        upstream=upstream if pretrained else "none", kind="imagenet",
        source=f"timm, {where}" if pretrained else "timm, random weights", licence=cfg.get("license") or "unstated",
        top1=None,
    )  # fmt: skip
    return of_timm(module, card)


def of_timm(module: nn.Module, card: NetworkCard) -> Opened:
    """Describe a module of timm."""
    import timm

    data = timm.data.resolve_model_data_config(module)
    head = module.pretrained_cfg.get("classifier")
    if not isinstance(head, str) or not isinstance(module.get_submodule(head), nn.Linear):
        module.reset_classifier(0)
        head = None
    return Opened(module, head, card, {"mean": data["mean"], "std": data["std"]}, data["input_size"][-1])
