"""Networks by name: those of package registries, the small ones, the paper's, and any of timm."""

from __future__ import annotations

import difflib
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.models.cards import ARCHIVES, PAPER, PublishedCard, file_hash
from dr_utils.models.network import IMAGENET_MEAN, IMAGENET_STD, VERSION, Network, NetworkCard
from dr_utils.models.small import shipped

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PAPER", "Network", "NetworkCard", "available", "check_network", "load_model", "split_layer"]

LAYER, POOL = "@", "#"  # resnet50_standard@layer3#flat
NORMALISATIONS = ("own", "published")


def available() -> dict[str, NetworkCard]:
    """Return the cards of the networks that need no model hub, by name: converted archives, then the small ones."""
    return ARCHIVES | shipped()


def check_network(name: str) -> str:
    """Return `name` if there is such a network and layer, else raise ValueError with what there is, nearest first."""
    if LAYER in name:
        _layer_width(name)
        return name
    if name in (known := available() | PAPER):
        return name
    import timm

    if name not in (models := timm.list_models() + timm.list_pretrained()):
        similar = ", ".join(difflib.get_close_matches(name, models, cutoff=0.5))
        hint = f"Any timm model works too, where the model hub can be reached{': ' + similar if similar else ''}."
        if name.startswith("small_"):
            hint += f" A small network that is not trained yet: python -m dr_utils.zoo train {name} --data DIR."
        raise unknown("network", name, known, hint=hint)
    return name


def load_model(name: str, *, pretrained: bool = True, normalisation: str = "own") -> Network:
    """Return a network by its name. Its weights are loaded when it first computes.

    Parameters
    ----------
    name : str
        A name from `available()`, one of the paper's (`PAPER`; weights from your folder or the model hub), or any timm
        model (weights from the model hub). "NAME@LAYER" reads a middle layer, averaged over positions;
        "NAME@LAYER#flat" every position of it, "NAME@LAYER#token" the class token.
    pretrained : bool
        Random weights if False: the structure alone, nothing is read or fetched.
    normalisation : {"own", "published"}
        Mean and std that the network was trained with, or those that the paper's code uses. They differ for the two
        ViTs trained on ImageNet-1k only: 0.5 each, and ImageNet's.

    Returns
    -------
    Network
        From RGB images in [0, 1] to penultimate features.

    Raises
    ------
    ValueError
        Unknown name or normalisation.
    AssetError
        The weights cannot be fetched, or are not those published; raised when they are first needed.

    Examples
    --------
    >>> network = load_model("small_resnet")
    >>> network.width, network.card.side
    (512, 32)
    """
    check_network(name)
    if normalisation not in NORMALISATIONS:
        raise unknown("normalisation", normalisation, NORMALISATIONS)
    base, layer, pool = split_layer(name)
    card = (available() | PAPER).get(base)
    if card is None:
        from dr_utils.models.loading import open_timm

        opened = open_timm(base, pretrained=pretrained)
        card, preprocessing, load, hash_weights = opened.card, opened.preprocessing, opened.read, None
    else:
        preprocessing = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        if isinstance(card, PublishedCard):
            preprocessing = card.preprocessing(normalisation)
        load = partial(_load, base, pretrained)
        hash_weights = partial(_weight_hash, base) if pretrained else None
    if layer:
        card = _layer_card(card, name)
    return Network(
        card, **preprocessing, load=partial(load, layer or None, pool), hash_weights=hash_weights,
        structure=f"{base}, {layer}, {pool}" if layer else base,
    )  # fmt: skip


def _load(base: str, pretrained: bool, layer: str | None, pool: str) -> nn.Module:
    from dr_utils.models.loading import open_named

    return open_named(base, pretrained=pretrained).read(layer, pool)


def _weight_hash(base: str) -> str:
    if base in PAPER:
        return file_hash(PAPER[base])
    return shipped()[base].sha256 if base in shipped() else ARCHIVES[base].weight_hash


def split_layer(name: str) -> tuple[str, str, str]:
    """Take "NAME@LAYER#POOL" apart into name, layer ("" for the penultimate one) and pool ("mean" if not said)."""
    network, _, layer = name.partition(LAYER)
    layer, _, pool = layer.partition(POOL)
    return network, layer, pool or "mean"


def _layer_card(card: NetworkCard, name: str) -> NetworkCard:
    _, layer, pool = split_layer(name)
    said = layer if layer.startswith("layer") else f"layer {layer}"
    # A family of its own, so that it is compared with nothing as if it were a penultimate layer.
    return replace(
        card, name=name, title=f"{card.title}, {said}{', unpooled' if pool == 'flat' else ''}",
        width=_layer_width(name), family=f"{card.family} layer", training="layer",
        source=f"{card.source}; features: the output of layer {layer!r}", top1=None, robust_of="",
    )  # fmt: skip


@cache
def _layer_width(name: str) -> int:
    """D of a middle layer. It takes a forward pass to know, so it is stored."""
    base, layer, pool = split_layer(name)
    check_network(base)
    key = store.key_of({"version": VERSION, "width of": [base, layer, pool]})
    if stored := store.read("weights", key):
        return stored.about["width"]
    from dr_utils.models.loading import open_named

    opened = open_named(base, pretrained=False)
    width = opened.read(layer, pool).probe(opened.side).shape[1]
    store.write("weights", key, about={"width": width})
    return width
