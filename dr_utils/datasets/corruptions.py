"""Common corruptions of images at severities 1 to 5, after Hendrycks & Dietterich (ICLR 2019).

Own implementation of eight of them, with the severities of CIFAR-10-C (`make_cifar_c.py`), for images of 32x32 pixels.
Values are rounded to the nearest of 256 levels, where the published ones are truncated.
"""

from __future__ import annotations

import io
import itertools

import numpy as np
from PIL import Image

# Raised whenever the same images and seed would give other pixels.
CORRUPTION_VERSION = 1
SEVERITIES = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, of a range of 0-1
    "shot_noise": (500, 250, 100, 75, 50),  # photons at full brightness
    "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),  # share of values set to 0 or 1
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),  # radius, smoothing; pixels
    "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),  # added to the HSV value
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # factor on the distance from the channel mean
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),  # factor on width and height
    "jpeg_compression": (80, 65, 58, 50, 40),  # quality
}


def corrupt(image: np.ndarray, kind: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Return a uint8 image [H, W, 3] corrupted by a kind of SEVERITIES, at a severity of 1 (mild) to 5 (strong)."""
    x, level = image / 255, SEVERITIES[kind][severity - 1]
    match kind:
        case "gaussian_noise":
            x = x + rng.normal(scale=level, size=x.shape)
        case "shot_noise":  # a Poisson count in place of each value
            x = rng.poisson(x * level) / level
        case "impulse_noise":  # half of them 0, half 1
            hit, salt = rng.random(x.shape) < level, rng.random(x.shape) < 0.5
            x = np.where(hit, salt, x)
        case "defocus_blur":
            x = _defocus(x, *level)
        case "brightness":  # value is the largest channel; hue and saturation stay, so that all channels scale alike
            value = x.max(axis=-1, keepdims=True)
            raised = np.minimum(value + level, 1)
            x = np.where(value > 0, x * (raised / np.where(value > 0, value, 1)), raised)
        case "contrast":
            mean = x.mean(axis=(0, 1), keepdims=True)
            x = (x - mean) * level + mean
        case "pixelate":  # shrunk by box averages, and enlarged again
            height, width = x.shape[:2]
            small = (max(1, int(width * level)), max(1, int(height * level)))
            picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
            return np.array(picture.resize((width, height), Image.Resampling.BOX))
        case "jpeg_compression":
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=level)
            return np.array(Image.open(file))
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _defocus(x: np.ndarray, radius: float, smoothing: float) -> np.ndarray:
    """Convolve with a disc of a radius in pixels whose edge is smoothed by a 3x3 Gaussian."""
    from scipy.ndimage import convolve, gaussian_filter1d  # takes half a second

    reach = np.arange(-int(radius) - 1, int(radius) + 2)
    disc = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(float)
    for axis in (0, 1):
        disc = gaussian_filter1d(disc, smoothing, axis=axis, mode="constant", radius=1)
    return convolve(x, (disc / disc.sum())[..., None], mode="mirror")


def corrupt_all(images: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Corrupt image i [H, W, 3] by kind i modulo the number of kinds; `seed` and i fix its random numbers."""
    out = np.empty_like(images)
    for i, (image, kind) in enumerate(zip(images, itertools.cycle(SEVERITIES), strict=False)):
        out[i] = corrupt(image, kind, severity, np.random.default_rng([seed, i]))
    return out
