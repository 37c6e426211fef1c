"""A network as the suite sees it: images in, penultimate features out, normalisation inside."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dr_utils.checks import short
from dr_utils.store import AssetError


@dataclass(frozen=True)
class NetworkCard:
    """What is known about a network before it is loaded.

    Attributes
    ----------
    name, title : str
        The name it is loaded by, and the one for figures.
    width : int
        D, the number of neurons of the penultimate layer.
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


class Network(nn.Module):
    """A backbone with its own input normalisation, up to the input of the last linear layer.

    Parameters
    ----------
    card : NetworkCard
        Its `width` is the number of features.
    body : nn.Module
        From normalised images [B, 3, H, W] to features [B, width].
    head : nn.Linear, optional
        The last linear layer, which `logits` applies to the features.
    mean, std : three floats
        Per channel in the order `channel_order`, in units of `value_range`: the body gets (x - mean) / std.
    channel_order : {"RGB", "BGR"}
        Order that the body was trained with.
    value_range : float
        What white is before the normalisation: 1 or 255.
    """

    def __init__(
        self,
        card: NetworkCard,
        body: nn.Module,
        head: nn.Module | None = None,
        *,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        channel_order: str = "RGB",
        value_range: float = 1.0,
    ):
        super().__init__()
        if channel_order not in ("RGB", "BGR"):
            raise ValueError(f"channel_order must be 'RGB' or 'BGR'; got {channel_order!r}.")
        self.card, self.body, self.head = card, body, head
        self._preprocessing = {
            "mean": [float(m) for m in mean],
            "std": [float(s) for s in std],
            "channel_order": channel_order,
            "range": float(value_range),
        }
        # One multiplication and one addition, left out of the state dict: they are no weights.
        scale = [value_range / s for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        self.register_buffer("_scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)
        self.eval()

    @property
    def width(self) -> int:
        """D, the number of features."""
        return self.card.width

    @property
    def preprocessing(self) -> dict:
        """Mean, standard deviation, channel order and value range of the body's input, fit for JSON."""
        return {key: list(value) if isinstance(value, list) else value for key, value in self._preprocessing.items()}

    @property
    def weight_hash(self) -> str:
        """SHA-256 over the names, types, shapes and bytes of all weights; the same on every device."""
        return weight_hash(self.state_dict())

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Turn RGB images in [0, 1], [B, 3, H, W], into what the body was trained on."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images must be floating point [B, 3, H, W], RGB in [0, 1]; got {images.dtype} of shape "
                f"{tuple(images.shape)}: divide uint8 pixels by 255 and put the channels second."
            )
        if self._preprocessing["channel_order"] == "BGR":
            images = images.flip(1)
        return images * self._scale + self._shift

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute penultimate features.

        Parameters
        ----------
        images : float tensor of shape [B, 3, H, W]
            RGB in [0, 1].

        Returns
        -------
        float32 tensor of shape [B, width]
        """
        return self.body(self.normalise(images)).float()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Compute class scores, [B, 1000] for ImageNet-1k networks.

        Raises
        ------
        ValueError
            The network has no linear head.
        """
        if self.head is None:
            raise ValueError(f"network {self.card.name!r} has no linear head; use its features or train a probe.")
        return self.head(self(images))


def weight_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):  # a counter of training steps, no weight
            continue
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def load_state(module: nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Give a module stored weights: all of them, and none left over; `name` is the network's, for the message.

    Raises
    ------
    dr_utils.store.AssetError
        Weights missing, left over or of another shape.
    """
    try:
        keys = module.load_state_dict(state, strict=False)
        # The counters of training steps are not stored; everything else has to be there.
        missing = [key for key in keys.missing_keys if not key.endswith("num_batches_tracked")]
        first = next(iter(missing + keys.unexpected_keys), "")
    except RuntimeError as error:
        first = short(error)
    if first:
        raise AssetError(
            f"{name}: the weights do not fit this release's module (first: {first}); "
            "use the torch, torchvision and timm releases of requirements.lock."
        )
