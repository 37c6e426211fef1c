"""From the bytes of any picture to uint8 RGB, and what is said of those that cannot be read."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dr_utils.checks import short
from dr_utils.progress import progress
from dr_utils.store import AssetError

_NAMED = 3


class DataWarning(UserWarning):
    """Something of a user's data was left out, or stands where it should not; the message counts and names it."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an opened picture: turned as its EXIF says, alpha over white, 16 bits scaled by their range.

    Raises
    ------
    ValueError
        Whole numbers beyond 16 bits, or floating point: what is white is not known.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"whole numbers from {values.min()} to {values.max()}, no 16-bit picture")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose white is not known")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image.convert("RGB")


def decode(data: bytes, max_side: int | None = None) -> np.ndarray:
    """Decode the first frame of a picture.

    Parameters
    ----------
    data : bytes
        Of any format of Pillow's but EPS, which is a program that an interpreter would run.
    max_side : int, optional
        A picture whose shorter side has more pixels is reduced to that, antialiased.

    Returns
    -------
    uint8 array of shape [H, W, 3]

    Raises
    ------
    Exception
        Whatever Pillow stumbles on: no picture, cut short, more pixels than Pillow's limit against bombs.
    """
    Image.init()
    with Image.open(io.BytesIO(data), formats=[name for name in Image.OPEN if name != "EPS"]) as image:
        # Pillow itself refuses at twice its limit, and only warns before.
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
            raise ValueError(f"{image.width} x {image.height} pixels, more than Pillow's limit")
        rgb = to_rgb(image)
    if max_side is not None and min(rgb.size) > max_side:
        scale = max_side / min(rgb.size)
        rgb = rgb.resize([max(1, round(side * scale)) for side in rgb.size], Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def decode_all(
    read: Callable[[int], bytes],
    index: np.ndarray,
    name_of: Callable[[int], str],
    classes_of: Sequence[str],
    where: str,
    max_side: int | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Decode pictures by number, in threads; those that cannot be read are skipped, counted and named in a warning.

    Parameters
    ----------
    read : callable
        Gives a picture's bytes.
    index : int array of shape [n]
        Which pictures.
    name_of : callable
        What messages call a picture.
    classes_of : sequence of str
        Class names of all pictures.
    where : str
        What messages call the split.
    max_side : int, optional
        See `decode`.

    Returns
    -------
    images : list of uint8 arrays of shape [H, W, 3]
    kept : int array
        Those of `index` that could be read.

    Raises
    ------
    AssetError
        More than half of a class cannot be read.
    """
    shown = "/".join(Path(where).parts[-2:])  # a whole path would leave no room for the bar
    with ThreadPoolExecutor() as pool, progress(total=len(index), desc=f"decoding {shown}", unit="images") as bar:
        found = []
        for result in pool.map(partial(_attempt, read, max_side), index):
            found.append(result)
            bar.update(1)
    bad = {int(i): reason for i, reason in zip(index, found, strict=True) if isinstance(reason, str)}
    if bad:
        listed = "; ".join(f"{name_of(i)} ({reason})" for i, reason in list(bad.items())[:_NAMED])
        listed += "; ..." if len(bad) > _NAMED else ""
        lost, total = Counter(classes_of[i] for i in bad), Counter(classes_of[i] for i in index)
        worst = max(lost, key=lambda name: lost[name] / total[name])
        if lost[worst] > total[worst] / 2:
            raise AssetError(
                f"{where}: {lost[worst]} of the {total[worst]} files of class {worst!r} are no pictures that can be "
                f"read; {len(bad)} of all {len(index)}: {listed}. Convert them, or take them out."
            )
        warnings.warn(
            f"{where}: {len(bad)} of {len(index)} files are no pictures that can be read, and were skipped: {listed}.",
            DataWarning,
            stacklevel=4,
        )
    good = [i for i, image in enumerate(found) if not isinstance(image, str)]
    return [found[i] for i in good], index[good]


def _attempt(read: Callable[[int], bytes], max_side: int | None, i: int) -> np.ndarray | str:
    """A picture, or why there is none."""
    try:
        return decode(read(int(i)), max_side)
    except UnidentifiedImageError:  # its message shows a memory address
        return "no picture"
    except Exception as error:  # a damaged file may make Pillow raise anything
        return short(error, 80) or type(error).__name__
