"""Eight common corruptions of images of 32x32 pixels at severity 3 of 5, after Hendrycks & Dietterich (ICLR 2019).

Own implementation with the numbers of CIFAR-10-C (`make_cifar_c.py`). Values are rounded to the nearest of 256 levels,
where the published ones are truncated.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

# Raised whenever the same images and seed would give other pixels.
CORRUPTION_VERSION = 1
KINDS = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur")
KINDS += ("brightness", "contrast", "pixelate", "jpeg_compression")


def corrupt(image: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return a uint8 image [H, W, 3] corrupted by one of KINDS."""
    x = image / 255
    match kind:
        case "gaussian_noise":
            x = x + rng.normal(scale=0.08, size=x.shape)
        case "shot_noise":  # a Poisson count in place of each value, 100 at full brightness
            x = rng.poisson(x * 100) / 100
        case "impulse_noise":  # 3 % of the values: half of them 0, half 1
            hit, salt = rng.random(x.shape) < 0.03, rng.random(x.shape) < 0.5
            x = np.where(hit, salt, x)
        case "defocus_blur":  # a disc of radius 0.5, which is one pixel, smoothed by a 3x3 Gaussian
            from scipy.ndimage import gaussian_filter  # takes half a second

            x = gaussian_filter(x, (0.6, 0.6, 0), mode="mirror", radius=(1, 1, 0))
        case "brightness":  # of HSV, value is the largest channel; hue and saturation stay: all channels scale alike
            value = x.max(axis=-1, keepdims=True)
            raised = np.minimum(value + 0.15, 1)
            x = np.where(value > 0, x * (raised / np.where(value > 0, value, 1)), raised)
        case "contrast":
            mean = x.mean(axis=(0, 1), keepdims=True)
            x = (x - mean) * 0.4 + mean
        case "pixelate":  # shrunk by box averages, and enlarged again
            height, width = x.shape[:2]
            picture = Image.fromarray(image).resize((int(width * 0.85), int(height * 0.85)), Image.Resampling.BOX)
            return np.array(picture.resize((width, height), Image.Resampling.BOX))
        case "jpeg_compression":
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=58)
            return np.array(Image.open(file))
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def corrupt_all(images: np.ndarray, seed: int) -> np.ndarray:
    """Corrupt image i [H, W, 3] by kind i modulo the number of kinds; `seed` and i fix its random numbers."""
    return np.stack([corrupt(x, KINDS[i % len(KINDS)], np.random.default_rng([seed, i])) for i, x in enumerate(images)])
