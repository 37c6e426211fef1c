"""Augmented batches against torchvision, image by image, and what decides a view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from dr_utils.augmentation import RECIPES, Augmentation


def images(n, height, width, seed=0):
    """Smooth pictures, so that a pixel more or less in a rotation shows as little as it should."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((n, 3, 6, 6), dtype=np.float32))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


@pytest.mark.parametrize(("height", "width"), [(33, 33), (32, 32), (40, 28), (17, 51)])
def test_every_image_is_changed_as_torchvision_would(height, width):
    batch = images(12, height, width, seed=height)
    view = Augmentation("paper", view=3, seed=5)
    ours = view(batch, 0)
    apply = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
    flips, factors, orders, angles, _ = view.draws(0, 12)
    assert 0 < flips.sum() < 12
    for i, image in enumerate(batch):
        expected = F.horizontal_flip(image) if flips[i] else image
        for step in orders[i]:
            expected = apply[step](expected, float(factors[i, step]))
        expected = F.rotate(expected, float(np.degrees(angles[i])))
        wrong = (ours[i] - expected).abs().amax(0) > 1e-4
        # Where the nearest pixel is a tie, either is right.
        assert wrong.float().mean() < 0.01
        assert (ours[i] - expected).abs().max() < 0.2


def test_draws_are_those_of_the_recipe():
    flips, factors, orders, angles, _ = Augmentation("paper", view=0).draws(0, 20_000)
    assert flips.mean() == pytest.approx(0.5, abs=0.02)
    for column in factors.T:
        assert 0.75 <= column.min() < 0.76 and 1.24 < column.max() <= 1.25
        assert column.mean() == pytest.approx(1.0, abs=0.005)
    degrees = np.degrees(angles)
    assert -2.0001 <= degrees.min() < -1.99 and 1.99 < degrees.max() <= 2.0001
    kinds, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(kinds) == 6 and counts.min() > 3000
    together = np.column_stack([flips, factors, orders[:, 0], angles])
    assert np.abs(np.corrcoef(together.T) - np.eye(6)).max() < 0.03
    reference = v2.ColorJitter(0.25, 0.25, 0.25)
    assert tuple(reference.brightness) == tuple(reference.saturation) == (0.75, 1.25) and reference.hue is None


def test_a_view_is_its_number_and_seed_and_not_the_batches():
    batch = images(9, 24, 24)
    for recipe in RECIPES:
        whole = Augmentation(recipe, view=1)(batch, 0)
        again = Augmentation(recipe, view=1)
        parts = torch.cat([again(batch[:4], 0), again(batch[4:5], 4), again(batch[5:], 5)])
        torch.testing.assert_close(whole, parts, rtol=0, atol=0)
        for other in (Augmentation(recipe, view=2), Augmentation(recipe, view=1, seed=1)):
            assert not torch.equal(other(batch, 0), whole)
            assert other.identity != again.identity


def test_published_recipe_crops_as_torchvision_draws():
    pictures = [np.random.default_rng(i).integers(0, 256, (40 + i, 60, 3), dtype=np.uint8) for i in range(40)]
    assert Augmentation("paper", view=0).crops(pictures, 0) is pictures
    view = Augmentation("published", view=0)
    before = torch.random.get_rng_state()
    parts = view.crops(pictures, 0)
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's random numbers moved"
    shares = []
    for picture, part in zip(pictures, parts, strict=True):
        shares.append(part.size / picture.size)
        assert 0.07 < shares[-1] <= 1.0 and 0.7 < part.shape[1] / part.shape[0] < 1.5
    assert np.std(shares) > 0.15 and np.mean(shares) == pytest.approx(0.54, abs=0.15)
    for i in (0, 17):
        np.testing.assert_array_equal(view.crops(pictures[i : i + 1], i)[0], parts[i])
