"""A network as the rest of the package sees it: light until it has to compute. Needs no torch before that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

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
    """What is known about a network before it is loaded."""

    name: str  # that it is loaded by
    title: str  # for figures
    width: int  # D, the neurons of the layer that is read: the penultimate one, or a middle layer
    family: str  # architecture, such as "resnet"
    training: str  # standard, adversarial, mrl or narrow; own for a user's weights; layer for a middle layer of any
    upstream: str  # what it was trained on, such as "imagenet1k"
    kind: str  # imagenet, small for networks trained by the suite itself, or own for a user's
    source: str  # where the weights come from, and under which terms:
    licence: str
    top1: float | None  # published ImageNet-1k accuracy in [0, 1]; None where no figure is published
    robust_of: str = ""  # of an adversarially trained network: its standard counterpart
    side: int | None = None  # pixels, if it takes images of one side only; None: the profile decides


@dataclass(eq=False)
class Network:
    """A network with its own normalisation, from RGB images in [0, 1] to features; weights are loaded at first use."""

    card: NetworkCard
    body: InitVar = None  # from normalised images [B, 3, H, W] to features [B, width]; a `Tapped` one knows its head
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)  # the body gets (x - mean) / std, per channel,
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    channel_order: str = "RGB"  # in this order, or in BGR,
    value_range: float = 1.0  # and with white at this value, 1 or 255
    load: Callable[[], nn.Module] | None = None  # gives the body at first use
    hash_weights: Callable[[], str] | None = None  # without loading them; by default they are loaded and hashed
    structure: str = ""  # what decides the features besides: the architecture, and the layer that is read

    def __post_init__(self, body):
        self.load = self.load or (lambda: body)
        if not np.isfinite([self.mean, self.std]).all() or min(self.std) <= 0:
            raise ValueError(
                f"mean and std must be three finite numbers each, std above 0; got mean {self.mean}, std {self.std}."
            )

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

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features [B, width] of RGB images [B, 3, H, W] in [0, 1]."""
        return self.module(images)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Compute class scores [B, C]; ValueError if the network has no linear head."""
        if self.module.head is None:
            raise ValueError(f"network {self.card.name!r} has no linear head; use its features or train a probe.")
        return self.module.head(self.module(images))
