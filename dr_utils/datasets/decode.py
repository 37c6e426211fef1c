"""From picture files to uint8 RGB: the one decoder, and images that stay in their files until they are used.

A picture is `Unreadable` if it is

- of no format that Pillow knows, or EPS, which is a program that an interpreter would run;
- damaged or cut short, missing, or not a regular file;
- larger than Pillow's limit against decompression bombs;
- of floating-point pixels, or of whole numbers beyond 16 bits: which value is white is unknown.

Of an animation the first frame counts.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dr_utils.checks import short
from dr_utils.store import AssetError


class Unreadable(ValueError):
    """A picture that cannot be decoded; the message says why in a few words."""


def decode(
    source: bytes | Path, *, published: bool = False, resize: Callable[[Image.Image], Image.Image] | None = None
) -> np.ndarray:
    """Decode a picture.

    Parameters
    ----------
    source : bytes or path
        Content of a file, or the file.
    published : bool
        Whether pixels must be those of torchvision's loader, which published accuracies rest on: EXIF is not looked
        at, and transparency is dropped. Otherwise the picture is turned as its EXIF says, laid over white where it is
        transparent, and 16 bits are scaled to 8.
    resize : callable, optional
        Changes the size of the RGB picture, such as `shrink`.

    Returns
    -------
    uint8 array of shape [H, W, 3]

    Raises
    ------
    Unreadable
        See the head of this module.
    """
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():  # reading a pipe would never end
            raise Unreadable("not a regular file")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as image:
            # Pillow itself refuses at twice its limit, and only warns before.
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
                raise Unreadable(f"{image.width} x {image.height} pixels, more than Pillow's limit")
            rgb = (image if published else _as_seen(image)).convert("RGB")
        return np.array(rgb if resize is None else resize(rgb))  # a copy: torch warns of arrays that are read-only
    except (MemoryError, Unreadable):
        raise
    except UnidentifiedImageError as error:  # its message shows a memory address
        raise Unreadable("not a picture") from error
    except Exception as error:  # a damaged file may make Pillow raise anything
        raise Unreadable(getattr(error, "strerror", None) or short(error, 80) or type(error).__name__) from error


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]


def _as_seen(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says, scale 16 bits to 8, and lay what is transparent over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise Unreadable(f"whole numbers from {values.min()} to {values.max()}, not a 16-bit picture")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise Unreadable("floating-point pixels: which value is white is unknown")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image


def shrink(image: Image.Image, side: int, resample: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    """Reduce a picture whose shorter side has more than `side` pixels to that, antialiased."""
    scale = side / min(image.size)
    return image if scale >= 1 else image.resize([max(1, round(length * scale)) for length in image.size], resample)


class LazyImages(Sequence):
    """Images in files, decoded when they are used, several at once in threads, and not kept.

    ``images[3]`` is a uint8 array of shape [H, W, 3]; ``images[3:7]`` and ``images[[2, 5]]`` are lists of such.

    Parameters
    ----------
    root : path
        Folder that the names are relative to.
    names : sequence of n str
        Paths of the files below `root`, "/" between folders.
    """

    def __init__(self, root: str | os.PathLike, names: Sequence[str]) -> None:
        self.root, self.names = Path(root), names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: int | slice | Sequence[int] | np.ndarray) -> np.ndarray | list[np.ndarray]:
        if isinstance(which, Integral):
            return self.decode(range(len(self))[which])
        index = range(len(self))[which] if isinstance(which, slice) else np.arange(len(self))[which]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding Python's lock
            return list(pool.map(self.decode, index))

    def decode(self, i: int) -> np.ndarray:
        """Decode one image, with the pixels of torchvision's loader.

        Raises
        ------
        dr_utils.store.AssetError
            The file is missing, damaged or not a picture; the message names it.
        """
        path = self.root / self.names[i]
        try:
            return decode(path, published=True)
        except Unreadable as error:
            raise AssetError(f"{path} cannot be read as an image ({error}); put a sound copy there.") from error

    def subset(self, index: np.ndarray) -> LazyImages:
        """Return the images at the given positions, still in their files."""
        return LazyImages(self.root, [self.names[i] for i in index])


class _Ahead:
    """Consecutive slices of images in files: while one is used, the next of the same length is being decoded.

    A slice that is read again from the same start, or a shorter one, is not decoded again.
    """

    def __init__(self, images: LazyImages, pool: ThreadPoolExecutor) -> None:
        self._images, self._pool = images, pool
        self._decoded: dict[int, Future[np.ndarray]] = {}

    def __getitem__(self, which: slice) -> list[np.ndarray]:
        start, stop, _ = which.indices(len(self._images))
        # Earlier images are let go; those that failed, as for want of memory, are tried again.
        kept = {i: f for i, f in self._decoded.items() if i >= start and not (f.done() and f.exception())}
        for i in range(start, min(2 * stop - start, len(self._images))):
            if i not in kept:
                kept[i] = self._pool.submit(self._images.decode, i)
        self._decoded = kept
        return [kept[i].result() for i in range(start, stop)]


@contextlib.contextmanager
def read_ahead(images: np.ndarray | Sequence[np.ndarray]) -> Iterator[np.ndarray | Sequence[np.ndarray] | _Ahead]:
    """Give images to be read slice by slice; those in files are decoded one slice ahead, in threads, each once.

    Parameters
    ----------
    images : uint8 array of shape [n, H, W, 3], list of arrays of shape [H, W, 3], or LazyImages
        Arrays and lists are given as they are.
    """
    if not isinstance(images, LazyImages):
        yield images
        return
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield _Ahead(images, pool)
    finally:
        pool.shutdown(cancel_futures=True)
