"""Common corruptions of images at severities 1 to 5, after Hendrycks & Dietterich (ICLR 2019).

Own implementation of eight of the corruptions with the severities published for CIFAR-10-C
(`make_cifar_c.py` in the authors' repository). They are tuned to images of 32x32 pixels: on larger ones they
are milder than those of ImageNet-C. Values are rounded to the nearest of 256 levels, where the published ones
are truncated, so pixels may differ from CIFAR-10-C by one level, besides the random numbers.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from dr_utils.checks import unknown

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


def gaussian_noise(x: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Add normal noise of standard deviation `scale`."""
    return x + rng.normal(scale=scale, size=x.shape)


def shot_noise(x: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Replace each value by a Poisson count of at most about `photons`, rescaled."""
    return rng.poisson(x * photons) / photons


def impulse_noise(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Set a share of the values to 0 or 1, half and half."""
    hit, salt = rng.random(x.shape) < share, rng.random(x.shape) < 0.5
    return np.where(hit, salt, x)


def defocus_blur(x: np.ndarray, size: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Convolve with a disc of a radius in pixels whose edge is smoothed by a 3x3 Gaussian."""
    from scipy.ndimage import convolve, gaussian_filter1d  # takes half a second

    radius, smoothing = size
    reach = np.arange(-int(radius) - 1, int(radius) + 2)
    disc = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(float)
    for axis in (0, 1):
        disc = gaussian_filter1d(disc, smoothing, axis=axis, mode="constant", radius=1)
    return convolve(x, (disc / disc.sum())[..., None], mode="mirror")


def brightness(x: np.ndarray, shift: float, rng: np.random.Generator) -> np.ndarray:
    """Raise the value of HSV, the largest channel, and keep hue and saturation: all channels scale alike."""
    value = x.max(axis=-1, keepdims=True)
    raised = np.minimum(value + shift, 1)
    return np.where(value > 0, x * (raised / np.where(value > 0, value, 1)), raised)


def contrast(x: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Pull every value towards its channel's mean."""
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * factor + mean


def pixelate(x: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Shrink by box averages and enlarge again."""
    height, width = x.shape[:2]
    small = (max(1, int(width * factor)), max(1, int(height * factor)))
    image = _picture(x).resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)
    return np.asarray(image) / 255


def jpeg_compression(x: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    """Write and read as JPEG."""
    file = io.BytesIO()
    _picture(x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


def _picture(x: np.ndarray) -> Image.Image:
    return Image.fromarray(_to_uint8(x))


def _to_uint8(x: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


KINDS: dict[str, Callable[[np.ndarray, object, np.random.Generator], np.ndarray]] = {
    name: globals()[name] for name in SEVERITIES
}


def corrupt(image: np.ndarray, kind: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Corrupt one image.

    Parameters
    ----------
    image : uint8 array of shape [H, W, 3]
        RGB, 0-255. Not changed.
    kind : str
        One of KINDS.
    severity : int
        1 (mild) to 5 (strong).
    rng : numpy.random.Generator
        For the kinds of noise.

    Returns
    -------
    uint8 array of shape [H, W, 3]

    Raises
    ------
    ValueError
        Unknown kind, severity outside 1-5, or not a uint8 RGB image.
    """
    if kind not in KINDS:
        raise unknown("corruption", kind, KINDS)
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5; got {severity!r}.")
    is_array = isinstance(image, np.ndarray)
    if not (is_array and image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3):
        given = f"{image.dtype} {image.shape}" if is_array else type(image).__name__
        raise ValueError(f"an image to corrupt must be uint8 RGB [H, W, 3]; got {given}.")
    return _to_uint8(KINDS[kind](image / 255, SEVERITIES[kind][int(severity) - 1], rng))


def corrupt_all(images: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Corrupt image i [H, W, 3] by kind i modulo the number of kinds; `seed` and i fix its random numbers."""
    kinds = list(KINDS)
    return np.stack(
        [
            corrupt(image, kinds[i % len(kinds)], severity, np.random.default_rng([seed, i]))
            for i, image in enumerate(images)
        ]
    )
