"""Images that stay in their files until they are asked for: decoded, an ImageNet would fill hundreds of GB."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from dr_utils.checks import short
from dr_utils.store import AssetError

_STATS_AT_ONCE = 1000


class LazyImages(Sequence):
    """Images in files, decoded by what is asked for, several at once in threads, and not kept.

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
        """Decode one image, with the pixels of torchvision's default loader: EXIF is not looked at.

        Returns
        -------
        uint8 array of shape [H, W, 3]
            RGB.

        Raises
        ------
        dr_utils.store.AssetError
            The file is missing, damaged or no picture; the message names it.
        """
        path = self.root / self.names[i]
        try:
            with Image.open(path, formats=_formats()) as image:
                return np.array(image.convert("RGB"))  # a copy, since torch warns of arrays that cannot be written to
        except MemoryError:
            raise
        except UnidentifiedImageError:  # its message may show a memory address
            reason = "no picture"
        except Exception as error:  # noqa: BLE001  a damaged file may make Pillow raise anything
            reason = getattr(error, "strerror", None) or short(error, 80) or type(error).__name__
        raise AssetError(f"{path} cannot be read as an image ({reason}); put a sound copy of it there.")

    def subset(self, index: np.ndarray) -> LazyImages:
        """Images at the given positions, still in their files."""
        return LazyImages(self.root, [self.names[i] for i in index])

    def digest(self) -> str:
        """SHA-256 over relative paths and file sizes, without reading a file.

        A file that is replaced by another one of equal size is not noticed.

        Raises
        ------
        dr_utils.store.AssetError
            A file is missing; the message names it.
        """
        chunks = [self.names[i : i + _STATS_AT_ONCE] for i in range(0, len(self), _STATS_AT_ONCE)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # a folder on the network answers many at once
            sizes = [size for part in pool.map(self._sizes, chunks) for size in part]
        digest = hashlib.sha256(np.array(sizes, dtype="<i8").tobytes())
        digest.update("\0".join(self.names).encode())
        return digest.hexdigest()

    def _sizes(self, names: Sequence[str]) -> list[int]:
        try:
            return [os.stat(os.path.join(self.root, name)).st_size for name in names]
        except OSError as error:
            raise AssetError(
                f"{error.filename} cannot be opened ({error.strerror}), but the data set lists it; put it there."
            ) from None


class _Ahead:
    """Consecutive slices of images in files: while one is used, the next one of its length is being decoded.

    A slice that is asked for again from where it starts, and a shorter one too, is not decoded again.
    """

    def __init__(self, images: LazyImages, pool: ThreadPoolExecutor) -> None:
        self._images, self._pool = images, pool
        self._decoded: dict[int, Future[np.ndarray]] = {}

    def __getitem__(self, which: slice) -> list[np.ndarray]:
        start, stop, _ = which.indices(len(self._images))
        # What lies behind is let go; what failed, as for want of memory, is tried again.
        kept = {i: f for i, f in self._decoded.items() if i >= start and not (f.done() and f.exception())}
        for i in range(start, min(2 * stop - start, len(self._images))):
            if i not in kept:
                kept[i] = self._pool.submit(self._images.decode, i)
        self._decoded = kept
        return [kept[i].result() for i in range(start, stop)]


@contextlib.contextmanager
def read_ahead(images: np.ndarray | Sequence[np.ndarray]) -> Iterator[np.ndarray | Sequence[np.ndarray] | _Ahead]:
    """Give images to be read slice by slice: those in files are decoded one slice ahead, in threads, each once.

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


@cache
def _formats() -> list[str]:
    """Every format of Pillow's but EPS, which is a program that an interpreter would run.

    Some of the published files that are called .jpg are PNG, GIF or BMP.
    """
    Image.init()
    return [name for name in Image.OPEN if name != "EPS"]
