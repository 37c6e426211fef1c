"""Train images changed as torchvision does, but each with its own draw, in whole batches on any device (Appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# ITU-R 601-2, as torchvision and PIL weigh the channels.
_LUMA = (0.2989, 0.587, 0.114)
_ORDERS = np.array(list(permutations(range(3))))
_DRAWS = 7  # uniform numbers per image: flip, three factors, their order, angle, crop

# The paper's text, and its public code, which also crops: to 8 to 100 % of the area, aspect 3/4 to 4/3. `flip` is a
# probability, factors lie in 1 - v to 1 + v and come in random order, rotations in -degrees to degrees (about the
# centre, nearest neighbour, black outside). Both give ColorJitter three numbers, the third of which is saturation.
_PAPER = {"flip": 0.5, "brightness": 0.25, "contrast": 0.25, "saturation": 0.25, "degrees": 2.0, "crop": False}
RECIPES = {"paper": _PAPER, "published": {**_PAPER, "crop": True}}


@dataclass(frozen=True)
class Augmentation:
    """One augmented view of a set of images: what happens to image i depends on (seed, view, i) and on nothing else."""

    name: str  # of the recipe
    view: int  # 0, 1, ...: the epoch, or the number of the stored view
    seed: int = 0

    @property
    def identity(self) -> dict:
        """Return what decides the view, fit for JSON: part of the key of its features."""
        return {"recipe": self.name, **RECIPES[self.name], "view": self.view, "seed": self.seed}

    def draws(self, start: int, n: int) -> tuple[np.ndarray, ...]:
        """Return flips, factors [n, 3], their orders, angles in radians, crop seeds of `n` images from `start` on."""
        bits = np.random.PCG64([self.seed, self.view]).advance(_DRAWS * start)
        u, r = np.random.Generator(bits).random((n, _DRAWS)), RECIPES[self.name]
        factors = 1 + np.array([r["brightness"], r["contrast"], r["saturation"]]) * (2 * u[:, 1:4] - 1)
        orders = _ORDERS[(len(_ORDERS) * u[:, 4]).astype(int)]
        angles = np.radians(r["degrees"]) * (2 * u[:, 5] - 1)
        crops = (u[:, 6] * 2**53).astype(int)
        return u[:, 0] < r["flip"], factors.astype(np.float32), orders, angles.astype(np.float32), crops

    def crops(self, images: Sequence[np.ndarray], start: int) -> Sequence[np.ndarray]:
        """Cut uint8 images [H, W, 3] to their random parts, where the recipe has that; `start` is the first's index."""
        if not RECIPES[self.name]["crop"]:
            return images
        import torch
        from torchvision.transforms import RandomResizedCrop

        parts = []
        for image, seed in zip(images, self.draws(start, len(images))[-1], strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(seed))
                shape = torch.empty(3, *image.shape[:2], device="meta")
                top, left, height, width = RandomResizedCrop.get_params(shape, [0.08, 1.0], [3 / 4, 4 / 3])
            parts.append(image[top : top + height, left : left + width])
        return parts

    def __call__(self, batch: torch.Tensor, start: int) -> torch.Tensor:
        """Flip, jitter and rotate resized images start .. start + B - 1, float [B, 3, H, W] in [0, 1]."""
        import torch

        drawn = self.draws(start, len(batch))
        flip, factors, orders, angles, _ = (torch.from_numpy(given).to(batch.device) for given in drawn)
        batch = torch.where(flip[:, None, None, None], batch.flip(-1), batch)
        return _rotated(_jittered(batch, factors, orders), angles)


def _jittered(x: torch.Tensor, factors: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    for step in orders.T:
        grey = (x * x.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        factor, step = (given.view(-1, 1, 1, 1) for given in (factors.gather(1, step[:, None]), step))
        # Brightness blends with black, contrast with the mean grey of the image, saturation with each pixel's grey.
        other = (step == 1) * grey.mean((1, 2, 3), keepdim=True) + (step == 2) * grey
        x = (factor * x + (1 - factor) * other).clamp(0, 1)
    return x


def _rotated(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    import torch
    from torch.nn import functional

    height, width = x.shape[-2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # In units of half the height and half the width; counter-clockwise for positive angles, as torchvision turns.
    rows = (cos, -sin * height / width, zero), (sin * width / height, cos, zero)
    theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False).to(x.dtype)
    return functional.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)
