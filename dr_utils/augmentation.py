"""Train images changed at random, each in its own way, in whole batches on any device (Appendix B of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations

import numpy as np
import torch
from torch.nn import functional

from dr_utils.checks import unknown

# ITU-R 601-2, as torchvision and PIL weigh the channels.
_LUMA = (0.2989, 0.587, 0.114)
_ORDERS = list(permutations(range(3)))


@dataclass(frozen=True)
class Recipe:
    """What may happen to an image.

    Attributes
    ----------
    flip : float
        Probability of a horizontal flip.
    brightness, contrast, saturation : float
        Factors are uniform in [1 - v, 1 + v]; the three come in random order.
    degrees : float
        Rotations are uniform in [-degrees, degrees], about the centre, nearest neighbour, black outside.
    crop : bool
        Whether a random part (8 to 100 % of the area, aspect 3/4 to 4/3) takes the place of the whole image.
    """

    flip: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    degrees: float = 2.0
    crop: bool = False


# The paper's text, and its public code. Both give ColorJitter three numbers, the third of which is saturation.
RECIPES = {"paper": Recipe(), "published": Recipe(crop=True)}


class Augmentation:
    """One augmented view of n images: what happens to image i depends on (seed, view, i) and on nothing else.

    Parameters
    ----------
    recipe : {"paper", "published"}
    n : int
        How many images there are.
    view : int
        0, 1, ...: the epoch, or the number of the cached view.
    seed : int

    Raises
    ------
    ValueError
        Unknown recipe, or a negative view.
    """

    def __init__(self, recipe: str, n: int, view: int, seed: int = 0):
        if recipe not in RECIPES:
            raise unknown("augmentation", recipe, RECIPES)
        if view < 0 or n < 1:
            raise ValueError(f"an augmented view needs images and a number from 0; got n = {n}, view = {view}.")
        self.name, self.recipe, self.view, self.seed = recipe, RECIPES[recipe], int(view), int(seed)
        # Drawn for all images at once, so that batches of any size see the same.
        rng = np.random.default_rng([self.seed, self.view])
        r = self.recipe
        self._flip = torch.from_numpy(rng.random(n) < r.flip)
        strengths = np.array([r.brightness, r.contrast, r.saturation])
        self._factors = torch.from_numpy((1 + strengths * rng.uniform(-1, 1, (n, 3))).astype(np.float32))
        self._orders = rng.integers(len(_ORDERS), size=n)
        self._angles = torch.from_numpy(np.radians(rng.uniform(-r.degrees, r.degrees, n)).astype(np.float32))
        self._crops = rng.integers(2**63, size=n)

    @property
    def identity(self) -> dict:
        """What decides the view, fit for JSON: part of the address of its features."""
        return {"recipe": self.name, **asdict(self.recipe), "view": self.view, "seed": self.seed}

    def crops(self, images: Sequence[np.ndarray], start: int) -> Sequence[np.ndarray]:
        """Cut uint8 images [H, W, 3] to their random parts, where the recipe has that; `start` is the first's index."""
        if not self.recipe.crop:
            return images
        from torchvision.transforms import RandomResizedCrop

        parts = []
        for i, image in enumerate(images, start):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(self._crops[i]))
                shape = torch.empty(3, *image.shape[:2], device="meta")
                top, left, height, width = RandomResizedCrop.get_params(shape, [0.08, 1.0], [3 / 4, 4 / 3])
            parts.append(image[top : top + height, left : left + width])
        return parts

    def __call__(self, batch: torch.Tensor, start: int) -> torch.Tensor:
        """Flip, jitter and rotate resized images.

        Parameters
        ----------
        batch : float tensor of shape [B, 3, H, W]
            RGB in [0, 1], images start .. start + B - 1; cut by `crops` before they were resized.
        start : int

        Returns
        -------
        float tensor of shape [B, 3, H, W], on the same device
        """
        here = slice(start, start + len(batch))
        flip = self._flip[here].to(batch.device)
        batch = torch.where(flip[:, None, None, None], batch.flip(-1), batch)
        batch = _jittered(batch, self._factors[here].to(batch.device), self._orders[here])
        return _rotated(batch, self._angles[here].to(batch.device)) if self.recipe.degrees else batch


def _grey(x: torch.Tensor) -> torch.Tensor:
    return (x * x.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _jittered(x: torch.Tensor, factors: torch.Tensor, orders: np.ndarray) -> torch.Tensor:
    out = x.clone()
    for number in np.unique(orders):
        chosen = torch.from_numpy(np.flatnonzero(orders == number)).to(x.device)
        part, f = x[chosen], factors[chosen].view(-1, 3, 1, 1, 1)
        for step in _ORDERS[number]:
            # Brightness blends with black, contrast with the mean grey of the image, saturation with each pixel's grey.
            other = (0.0, _grey(part).mean((1, 2, 3), keepdim=True), _grey(part))[step] if step else 0.0
            part = (f[:, step] * part + (1 - f[:, step]) * other).clamp(0, 1)
        out[chosen] = part
    return out


def _rotated(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[-2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # In units of half the height and half the width; counter-clockwise for positive angles, as torchvision turns.
    theta = torch.stack(
        [torch.stack([cos, -sin * height / width, zero], 1), torch.stack([sin * width / height, cos, zero], 1)], 1
    )
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False).to(x.dtype)
    return functional.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)
