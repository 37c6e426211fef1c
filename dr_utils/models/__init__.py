"""Networks by name: of package registries, the small ones, the paper's, any of timm. Torch is imported to compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

from dr_utils import store
from dr_utils.checks import nearest_first, unknown
from dr_utils.models.cards import ARCHIVES, PAPER, NetworkCard, file_hash, shipped, to_input

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["PAPER", "Network", "NetworkCard", "available", "check_network", "load_model", "split_layer"]

# Raised by one whenever the same weights and preprocessing would give other features than before.
VERSION = 1
NORMALISATIONS = ("own", "published")
# D of the middle layers of the profiles that come with the suite: their results open without torch.
LAYER_WIDTHS = {"small_resnet@3": 48, "small_resnet@4": 96, "small_resnet@5": 192}


@dataclass(eq=False)
class Network:
    """A network with its own normalisation, from RGB images in [0, 1] to features; weights are loaded at first use."""

    card: NetworkCard
    load: Callable[..., nn.Module]  # gives its body: from normalised images [B, 3, H, W] to features [B, width]
    preprocessing: dict = field(default_factory=to_input)  # of the body's input
    hash_weights: Callable[[], str] | None = None  # without loading them; by default they are loaded and hashed
    structure: str = ""  # what decides the features besides: the architecture, and the layer that is read
    side: int = 224  # pixels that it was made for; `card.side` where it takes no others

    @property
    def width(self) -> int:
        return self.card.width

    @property
    def weight_hash(self) -> str:
        """Identify the weights: the hash that is pinned, that of their file, or that of all tensors once loaded."""
        if self.hash_weights is not None:
            return self.hash_weights()
        from dr_utils.models.backbone import weight_hash

        return weight_hash(self.module.state_dict())

    @property
    def identity(self) -> str:
        """Identify what the features of an image depend on: weights, preprocessing, and the layer that is read."""
        parts = {"weights": self.weight_hash, "preprocessing": self.preprocessing, "structure": self.structure}
        return store.key_of({"version": VERSION, **parts})

    @cached_property
    def module(self) -> nn.Module:
        """The network as a frozen `nn.Module` in evaluation mode, float32 [B, width] out."""
        from dr_utils.models.backbone import Backbone

        return Backbone(self.load(), self.width, self.preprocessing).eval().requires_grad_(False)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features [B, D] of RGB images [B, 3, H, W] in [0, 1]."""
        return self.module(images)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Compute class scores [B, C]; ValueError if the network has no linear head."""
        if (head := getattr(self.module.body, "head", None)) is None:
            raise ValueError(f"network {self.card.name!r} has no linear head; use its features or train a probe.")
        return head(self.module(images))


def available() -> dict[str, NetworkCard]:
    """Return the cards of the networks that need no model hub, by name: converted archives, then the small ones."""
    return ARCHIVES | shipped()


def check_network(name: str) -> str:
    """Return `name` if there is such a network and layer, else raise ValueError with what there is, nearest first."""
    if "@" in name:
        _layer_width(name)
        return name
    if name in (known := available() | PAPER):
        return name
    import timm

    if name not in (models := timm.list_models() + timm.list_pretrained()):
        hint = "Any timm model works too, where the model hub can be reached."
        if name.startswith("small_"):
            hint += f" A small network that is not trained yet: python -m dr_utils train {name} --data DIR."
        raise unknown("network", name, [*known, *nearest_first(name, models)[:3]], hint=hint)
    return name


def load_model(name: str, *, pretrained: bool = True, normalisation: str = "own") -> Network:
    """Return a network by its name. Its weights are loaded when it first computes.

    Parameters
    ----------
    name : str
        A name from `available()`, one of the paper's (`PAPER`; weights from your folder or the model hub), or any timm
        model. "NAME@LAYER" reads a middle layer, averaged over positions, "NAME@LAYER#flat" every position of it,
        "NAME@LAYER#token" the class token.
    pretrained : bool
        Random weights if False; nothing is read or fetched.
    normalisation : {"own", "published"}
        Mean and std that the network was trained with, or those of the paper's code, which differ for the two ViTs
        trained on ImageNet-1k only.

    Raises
    ------
    ValueError
        Unknown name or normalisation.
    AssetError
        When weights are first needed: they cannot be fetched, or are not those published.

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
    if card := (available() | PAPER).get(base):

        def load(layer: str | None = None) -> nn.Module:
            from dr_utils.models.opening import open_named

            return open_named(base, pretrained, layer)

        network = Network(card, load, card.preprocessing(normalisation), structure=base)
        network.hash_weights = partial(_weight_hash, base) if pretrained else None
    else:
        from dr_utils.models.opening import open_timm

        network = open_timm(base, pretrained=pretrained)
    if layer:
        network.card, network.structure = _layer_card(network.card, name), f"{base}, {layer}, {pool}"
        network.load = partial(network.load, f"{layer}#{pool}")
    return network


def _weight_hash(base: str) -> str:
    if base in PAPER:
        return file_hash(PAPER[base])
    return shipped()[base].sha256 if base in shipped() else ARCHIVES[base].weight_hash


def split_layer(name: str) -> tuple[str, str, str]:
    """Take "NAME@LAYER#POOL" apart into name, layer ("" for the penultimate one) and pool ("mean" if not said)."""
    network, _, layer = name.partition("@")
    layer, _, pool = layer.partition("#")
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
    if name in LAYER_WIDTHS:
        return LAYER_WIDTHS[name]
    base, layer, pool = split_layer(name)
    check_network(base)
    key = store.key_of({"version": VERSION, "width of": [base, layer, pool]})
    if stored := store.read("weights", key):
        return stored.about["width"]
    network = load_model(base, pretrained=False)
    width = network.load(f"{layer}#{pool}").probe(network.card.side or network.side).shape[1]
    store.write("weights", key, about={"width": width})
    return width
