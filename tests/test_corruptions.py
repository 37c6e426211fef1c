"""Common corruptions against independent forms, and how they are dealt out over a task."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from dr_utils.datasets.corruptions import KINDS, corrupt, corrupt_all


def photographs(n, height=32, width=32, seed=0):
    """Smooth coloured blobs with some grain, full range, as photographs have."""
    rng = np.random.default_rng(seed)
    x = gaussian_filter(rng.normal(size=(n, height, width, 3)), (0, 3, 3, 0)) * 1.2
    return np.clip((x + 0.5 + 0.03 * rng.normal(size=x.shape)) * 255, 0, 255).astype(np.uint8)


def distance(a, b):
    return np.abs(a.astype(float) - b).mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(32, 32), (20, 45)])
def test_keeps_shape_and_type_and_leaves_the_original_alone(kind, shape):
    image = photographs(1, *shape)[0]
    before = image.copy()
    out = corrupt(image, kind, np.random.default_rng(0))
    assert out.shape == image.shape and out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    assert distance(out, image) > 0
    np.testing.assert_array_equal(out, corrupt(image, kind, np.random.default_rng(0)))


def test_noise_has_the_published_strength():
    grey = np.full((200, 200, 3), 128, np.uint8)
    rng = np.random.default_rng(3)
    noisy = corrupt(grey, "gaussian_noise", rng) / 255
    assert noisy.std() == pytest.approx(0.08, rel=0.02)
    shot = corrupt(grey, "shot_noise", rng) / 255
    assert shot.std() == pytest.approx(np.sqrt(128 / 255 / 100), rel=0.02)
    impulse = corrupt(grey, "impulse_noise", rng)
    for extreme in (0, 255):
        expected = grey.size * 0.03 / 2  # a binomial count: five standard deviations of room
        assert (impulse == extreme).sum() == pytest.approx(expected, abs=5 * np.sqrt(expected))
    assert ((impulse == 128) | (impulse == 0) | (impulse == 255)).all()


def test_defocus_blur_is_a_convolution_with_a_smoothed_disc():
    image = photographs(1, 16, 12)[0]
    # The disc of radius 0.5 is one pixel; its smoothing of 0.6 reaches one pixel.
    edge = np.exp(-1 / (2 * 0.6**2))
    tap = np.array([edge, 1, edge]) / (1 + 2 * edge)
    kernel = np.outer(tap, tap)
    padded = np.pad(image / 255, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    expected = np.array(
        [[(padded[i : i + 3, j : j + 3] * kernel[..., None]).sum(axis=(0, 1)) for j in range(12)] for i in range(16)]
    )
    out = corrupt(image, "defocus_blur", np.random.default_rng(0))
    np.testing.assert_allclose(out / 255, expected, atol=0.51 / 255)


def test_brightness_raises_the_value_of_hsv():
    image = photographs(1, 8, 8)[0]
    image[0, 0] = 0
    expected = []
    for pixel in image.reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1)))
    out = corrupt(image, "brightness", np.random.default_rng(0)).reshape(-1, 3) / 255
    np.testing.assert_allclose(out, expected, atol=0.51 / 255)


def test_contrast_shrinks_the_spread_about_the_mean():
    image = photographs(1)[0]
    out = corrupt(image, "contrast", np.random.default_rng(0)).astype(float)
    np.testing.assert_allclose(out.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=0.2)
    np.testing.assert_allclose(out.std(axis=(0, 1)), 0.4 * image.std(axis=(0, 1)), rtol=0.02)


def test_pixelate_leaves_blocks():
    image = photographs(1)[0]
    out = corrupt(image, "pixelate", np.random.default_rng(0))
    assert len(np.unique(out, axis=0)) <= int(0.85 * 32) < len(np.unique(image, axis=0))
    # A row of 2 becomes one box of both pixels, and is enlarged again.
    pair = np.array([[[10, 20, 30], [30, 40, 50]]] * 2, np.uint8)
    np.testing.assert_array_equal(corrupt(pair, "pixelate", np.random.default_rng(0)), np.full((2, 2, 3), (20, 30, 40)))


def test_jpeg_has_the_published_quality():
    image = photographs(1)[0]
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=58)
    out = corrupt(image, "jpeg_compression", np.random.default_rng(0))
    np.testing.assert_array_equal(out, np.asarray(Image.open(file)))


def test_kinds_are_dealt_out_in_turn():
    images = photographs(19)
    out = corrupt_all(images, seed=5)
    assert len({x.tobytes() for x in out}) == len(out)
    for i, image in enumerate(images):
        again = corrupt(image, KINDS[i % len(KINDS)], np.random.default_rng([5, i]))
        np.testing.assert_array_equal(out[i], again)
    assert not np.array_equal(out, corrupt_all(images, seed=6))
    # An image's noise does not hang on how many follow it.
    np.testing.assert_array_equal(out[:7], corrupt_all(images[:7], seed=5))
