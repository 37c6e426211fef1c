"""Train images changed at random, each in its own way, in whole batches on any device (Appendix B of the paper).

The transforms of torchvision draw one set of numbers for a whole batch. Here every image has its own, and the same ones
whatever the size of the batch. The changes themselves are torchvision's, as the tests show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from dr_utils.checks import unknown

if TYPE_CHECKING:
    import torch

# ITU-R 601-2, as torchvision and PIL weigh the channels.
_LUMA = (0.2989, 0.587, 0.114)
_ORDERS = np.array(list(permutations(range(3))))
_DRAWS = 7  # uniform numbers per image: flip, three factors, their order, angle, crop


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


@dataclass(frozen=True)
class Augmentation:
    """One augmented view of a set of images: what happens to image i depends on (seed, view, i) and on nothing else.

    Attributes
    ----------
    name : {"paper", "published"}
        Of the recipe.
    view : int
        0, 1, ...: the epoch, or the number of the cached view.
    seed : int

    Raises
    ------
    ValueError
        Unknown recipe, or a negative view.
    """

    name: str
    view: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in RECIPES:
            raise unknown("augmentation", self.name, RECIPES)
        if self.view < 0:
            raise ValueError(f"augmented views are numbered from 0; got view = {self.view}.")

    @property
    def recipe(self) -> Recipe:
        """Return what may happen to an image."""
        return RECIPES[self.name]

    @property
    def identity(self) -> dict:
        """Return what decides the view, fit for JSON: part of the key of its features."""
        return {"recipe": self.name, **asdict(self.recipe), "view": self.view, "seed": self.seed}

    def draws(self, start: int, n: int) -> tuple[np.ndarray, ...]:
        """Return what happens to images start .. start + n - 1.

        Returns
        -------
        flip : bool array of shape [n]
        factors : float32 array of shape [n, 3]
            Of brightness, contrast and saturation.
        orders : int array of shape [n, 3]
            Which of the three comes first, second and third.
        angles : float32 array of shape [n]
            Radians, counter-clockwise.
        crops : int array of shape [n]
            Seeds.
        """
        bits = np.random.PCG64([self.seed, self.view]).advance(_DRAWS * start)
        u, r = np.random.Generator(bits).random((n, _DRAWS)), self.recipe
        factors = 1 + np.array([r.brightness, r.contrast, r.saturation]) * (2 * u[:, 1:4] - 1)
        orders = _ORDERS[(len(_ORDERS) * u[:, 4]).astype(int)]
        angles = np.radians(r.degrees) * (2 * u[:, 5] - 1)
        crops = (u[:, 6] * 2**53).astype(int)
        return u[:, 0] < r.flip, factors.astype(np.float32), orders, angles.astype(np.float32), crops

    def crops(self, images: Sequence[np.ndarray], start: int) -> Sequence[np.ndarray]:
        """Cut uint8 images [H, W, 3] to their random parts, where the recipe has that; `start` is the first's index."""
        if not self.recipe.crop:
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
        """Flip, jitter and rotate resized images, float [B, 3, H, W], RGB in [0, 1], on their device.

        They are images start .. start + B - 1 of the set, cut by `crops` before they were resized.
        """
        import torch

        drawn = [torch.from_numpy(given).to(batch.device) for given in self.draws(start, len(batch))]
        flip, factors, orders, angles, _ = drawn
        batch = torch.where(flip[:, None, None, None], batch.flip(-1), batch)
        batch = _jittered(batch, factors, orders)
        return _rotated(batch, angles) if self.recipe.degrees else batch


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
