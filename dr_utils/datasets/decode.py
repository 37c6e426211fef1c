"""From picture files to uint8 RGB: the one decoder, and images that stay in their files until they are used."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dr_utils.checks import short
from dr_utils.store import AssetError


class Unreadable(ValueError):
    """A picture that cannot be decoded; the message says why in a few words."""


def decode(source: bytes | Path, *, published: bool = False, resize: Callable | None = None) -> np.ndarray:
    """Decode a file, or the content of one, to uint8 [H, W, 3]; raise Unreadable if that cannot be done.

    `published` gives the pixels of torchvision's loader, which published accuracies rest on; otherwise see `_as_seen`.
    `resize` changes the size of the RGB picture. Of an animation the first frame counts.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.format == "EPS":  # a program, which Pillow would have an interpreter run
                raise Unreadable("not a picture")
            rgb = (image if published else _as_seen(image)).convert("RGB")
        return np.array(rgb if resize is None else resize(rgb))  # a copy: torch warns of arrays that are read-only
    except (MemoryError, Unreadable):
        raise
    except UnidentifiedImageError as error:  # its message shows a memory address
        raise Unreadable("not a picture") from error
    except Exception as error:  # a damaged file may make Pillow raise anything
        raise Unreadable(getattr(error, "strerror", None) or short(error, 80) or type(error).__name__) from error


def _as_seen(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF says, scale 16 bits to 8, and lay what is transparent over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion would clip at 255
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise Unreadable(f"pixels from {values.min()} to {values.max()}: which value is white is unknown")
        image = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is one that operating systems leave behind."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")


def shrink(image: Image.Image, side: int, resample: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    """Reduce a picture whose shorter side has more than `side` pixels to that, antialiased."""
    scale = side / min(image.size)
    return image if scale >= 1 else image.resize([max(1, round(length * scale)) for length in image.size], resample)


class LazyImages(Sequence):
    """Images in files, decoded when used and not kept: `images[3]` is uint8 [H, W, 3]; `images[3:7]` a list of such."""

    def __init__(self, files: Sequence[str | Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, which: int | slice) -> np.ndarray | list[np.ndarray]:
        index = np.arange(len(self))[which]
        return self.decode(index) if index.ndim == 0 else [self.decode(i) for i in index]

    def decode(self, i: int) -> np.ndarray:
        """Decode one image, with the pixels of torchvision's loader; raise an AssetError that names a damaged file."""
        try:
            return decode(Path(self.files[i]), published=True)
        except Unreadable as error:
            raise AssetError(
                f"{self.files[i]} cannot be read as an image ({error}); put a sound copy there."
            ) from error


@contextlib.contextmanager
def read_ahead(images: np.ndarray | Sequence[np.ndarray]) -> Iterator[Callable[[int, int], Sequence[np.ndarray]]]:
    """Give a function of start and stop that returns these images, for use from the first to the last.

    While a slice of LazyImages is used, the next of the same length is being decoded, each image once.
    """
    decoded = {}

    def take(start: int, stop: int) -> Sequence[np.ndarray]:
        if not isinstance(images, LazyImages):
            return images[start:stop]
        for i in range(start, min(2 * stop - start, len(images))):
            if i not in decoded:
                decoded[i] = pool.submit(images.decode, i)
        for i in [i for i in decoded if i < start]:
            del decoded[i]
        return [decoded[i].result() for i in range(start, stop)]

    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        yield take
