"""An image task: its card, its images, and how a smaller one is drawn from it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dr_utils.datasets.decode import LazyImages
from dr_utils.fetch import Asset
from dr_utils.store import sha256_of

Images = np.ndarray | list[np.ndarray] | LazyImages  # see ImageTask
Split = tuple[Images, np.ndarray]  # all images of a split, and their int64 labels [n]
# Raised whenever the same labels, size and seed would draw other images.
DRAW_VERSION = 1


@dataclass(frozen=True)
class TaskCard:
    """What is known of a task without opening it: an entry of `cards.yaml`, which explains the fields."""

    name: str
    title: str
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    resolution: str
    source: str
    licence: str
    note: str
    version: int
    archive: Asset | None = field(default=None, repr=False)
    pinned: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    lossy: bool = False
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    origin: str = field(default="", repr=False)


@dataclass(frozen=True)
class ImageTask:
    """One split of a task, or a subset of it.

    `images` are uint8 RGB: an array [n, H, W, 3], a list of arrays [H, W, 3] where sizes differ, or LazyImages, which
    stay in their files. Of the int64 `labels` [n], i means classes[i]. `digest` identifies the content.
    """

    name: str
    split: str
    images: Images
    labels: np.ndarray
    classes: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def hash_images(images: np.ndarray | Sequence[np.ndarray]) -> str:
    """Return the SHA-256 of the shapes and pixels of images; a list and an array of the same images agree."""
    digest = hashlib.sha256(np.array([image.shape for image in images], dtype="<i8").tobytes())
    for image in images:
        digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


def hash_labels(labels: np.ndarray) -> str:
    """Return the SHA-256 of labels as little-endian 64-bit integers."""
    return sha256_of(np.asarray(labels).astype("<i8").tobytes())


def digest_of(images: np.ndarray | Sequence[np.ndarray], labels: np.ndarray, classes: Sequence[str]) -> str:
    """Return the SHA-256 of pixels, labels and class names."""
    parts = (hash_images(images), hash_labels(labels), "\0".join(classes))
    return sha256_of("\n".join(parts).encode())


def take(images: Images, index: np.ndarray) -> Images:
    """Return the images at the given positions, in the same kind of container."""
    if isinstance(images, LazyImages):
        return LazyImages([images.files[i] for i in index])
    return images[index] if isinstance(images, np.ndarray) else [images[i] for i in index]


def class_counts(available: np.ndarray, size: int) -> np.ndarray:
    """Share `size` in proportion to `available` [C], by largest remainder, at least one where any is: counts [C]."""
    quota = size * available / available.sum()
    counts = np.where(available > 0, np.maximum(np.floor(quota), 1), 0).astype(np.int64)
    while counts.sum() > size:
        counts[np.argmax(np.where(counts > 1, counts - quota, -np.inf))] -= 1
    while counts.sum() < size:
        counts[np.argmax(np.where(counts < available, quota - counts, -np.inf))] += 1
    return counts


def draw(labels: np.ndarray, size: int, seed: int, split: str) -> np.ndarray:
    """Return the positions in `labels` of a stratified subset, shuffled; `seed` and the split's name fix them.

    Each class is permuted whatever the size, so that a larger draw of a seed mostly contains a smaller one.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
    counts = class_counts(np.bincount(labels), size)
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)]
    return rng.permutation(np.concatenate(chosen))


def distinct(images: Sequence[np.ndarray], labels: np.ndarray, salt: str) -> np.ndarray:
    """Return positions of pictures in the order of the SHA-256 of salt and pixels, for `split_off`.

    A repeated picture counts once, so that no test picture is also in train; a picture of two classes is left out.
    """
    seen: dict[bytes, list[int]] = {}
    for i, image in enumerate(images):
        seen.setdefault(hashlib.sha256(salt.encode() + image.tobytes()).digest(), []).append(i)
    kept = [where[0] for _, where in sorted(seen.items()) if len(set(labels[where])) == 1]
    return np.array(kept, dtype=np.int64)


def split_off(order: np.ndarray, labels: np.ndarray, n_test: int) -> tuple[np.ndarray, np.ndarray]:
    """Split positions in `labels` into train and a stratified test set of `n_test`: the first of each class."""
    in_test = np.zeros(len(order), dtype=bool)
    for c, count in enumerate(class_counts(np.bincount(labels[order]), n_test)):
        in_test[np.flatnonzero(labels[order] == c)[:count]] = True
    return order[~in_test], order[in_test]
