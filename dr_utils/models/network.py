"""A network as the rest of the package sees it: light until it has to compute. Needs no torch before that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dr_utils.store import key_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dr_utils.models.backbone import Backbone

# Raised by one whenever the same weights and preprocessing would give other features than before.
VERSION = 1
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class NetworkCard:
    """What is known about a network before it is loaded.

    Attributes
    ----------
    name, title : str
        The name it is loaded by, and the one for figures.
    width : int
        D, the number of neurons of the layer that is read: the penultimate one, or a middle layer.
    family : str
        Architecture, such as "resnet".
    training : str
        "standard", "adversarial", "mrl" or "narrow"; "own" for a user's weights; "layer" for a middle layer of any.
    upstream : str
        What it was trained on, such as "imagenet1k".
    kind : str
        "imagenet", "small" for networks trained by the suite itself, or "own" for a user's.
    source, licence : str
        Where the weights come from and under which terms.
    top1 : float or None
        Published ImageNet-1k top-1 accuracy in [0, 1]; None where no figure is published.
    robust_of : str
        For an adversarially trained network, the name of its standard counterpart; empty for others.
    side : int or None
        Pixels: the one side of input images that it takes; None where it takes any, and the profile decides.
    """

    name: str
    title: str
    width: int
    family: str
    training: str
    upstream: str
    kind: str
    source: str
    licence: str
    top1: float | None
    robust_of: str = ""
    side: int | None = None


@dataclass(eq=False)
class Network:
    """A network with its own normalisation, from RGB images in [0, 1] to features; weights are loaded at first use.

    Parameters
    ----------
    card : NetworkCard
        Its `width` is the number of features.
    body : nn.Module, optional
        From normalised images [B, 3, H, W] to features [B, width]; a `Tapped` one knows its head too.
    mean, std : three floats
        Per channel in the order `channel_order`, in units of `value_range`: the body gets (x - mean) / std.
    channel_order : {"RGB", "BGR"}
        Order that the body was trained with.
    value_range : float
        What white is before the normalisation: 1 or 255.
    load : callable, optional
        Gives the body at first use.
    hash_weights : callable, optional
        Gives the hash of the weights without loading them. By default they are loaded and hashed.
    structure : str
        What decides the features beside weights and preprocessing: the architecture, and the layer that is read.
    """

    card: NetworkCard
    body: InitVar = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channel_order: str = "RGB"
    value_range: float = 1.0
    load: Callable[[], nn.Module] | None = None
    hash_weights: Callable[[], str] | None = None
    structure: str = ""

    def __post_init__(self, body):
        if self.channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order must be 'RGB' or 'BGR'; got {self.channel_order!r}.")
        self.load = self.load or (lambda: body)

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.card.width

    @property
    def preprocessing(self) -> dict:
        """Mean, standard deviation, channel order and value range of the body's input, fit for JSON."""
        mean, std = ([float(value) for value in values] for values in (self.mean, self.std))
        return {"mean": mean, "std": std, "channel_order": self.channel_order, "range": float(self.value_range)}

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
        return key_of({"version": VERSION, **parts})

    @cached_property
    def module(self) -> Backbone:
        """The network as a frozen `nn.Module` in evaluation mode, float32 [B, width] out."""
        from dr_utils.models.backbone import Backbone

        return Backbone(self.load(), self.width, self.preprocessing).eval().requires_grad_(False)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of the weight file is not used."""
        return tuple(getattr(self.module.body, "left_out", ()))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features [B, width] of RGB images [B, 3, H, W] in [0, 1]."""
        return self.module(images)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Compute class scores, [B, 1000] for ImageNet-1k networks.

        Raises
        ------
        ValueError
            The network has no linear head.
        """
        if self.module.head is None:
            raise ValueError(f"network {self.card.name!r} has no linear head; use its features or train a probe.")
        return self.module.head(self.module(images))
