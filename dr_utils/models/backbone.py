"""What computes: a body up to the layer that is read, with its normalisation, and the hash of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn


class Backbone(nn.Module):
    """A body with its input normalisation.

    Parameters
    ----------
    body : nn.Module
        From normalised images [B, 3, H, W] to features [B, D].
    head : nn.Module or None
        The last linear layer.
    width : int
        How many of the D features are read, the first ones.
    preprocessing : dict
        As `Network.preprocessing` gives it.
    """

    def __init__(self, body: nn.Module, head: nn.Module | None, width: int, preprocessing: Mapping):
        super().__init__()
        self.body, self.head, self.width = body, head, width
        self.flips = preprocessing["channel_order"] == "BGR"
        mean, std = preprocessing["mean"], preprocessing["std"]
        # One multiplication and one addition, left out of the state dict: they are not weights.
        scale = [preprocessing["range"] / s for s in std]
        shift = [-m / s for m, s in zip(mean, std, strict=True)]
        self.register_buffer("_scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Turn RGB images in [0, 1], [B, 3, H, W], into what the body was trained on.

        Raises
        ------
        ValueError
            Images of another type or shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images must be floating point [B, 3, H, W], RGB in [0, 1]; got {images.dtype} of shape "
                f"{tuple(images.shape)}: divide uint8 pixels by 255 and put the channels second."
            )
        return (images.flip(1) if self.flips else images) * self._scale + self._shift

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute float32 features [B, width] of RGB images [B, 3, H, W] in [0, 1]."""
        return self.body(self.normalise(images)).float()[:, : self.width]


def weight_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):  # a counter of training steps, not a weight
            continue
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
