"""An image task: its card, where it comes from, its images, and how a smaller one is drawn from it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dr_utils.datasets.decode import LazyImages

Images = np.ndarray | list[np.ndarray] | LazyImages
# Raised whenever the same labels, size and seed would draw other images.
DRAW_VERSION = 1


@dataclass(frozen=True)
class TaskCard:
    """What is known of a task without opening it.

    Attributes
    ----------
    name, title : str
        How code and figures call it.
    classes : tuple of str
        Class names; label i means classes[i].
    splits : mapping of str to int
        Split names and how many images each holds.
    resolution : str
        Size of the images in pixels, as they are stored.
    source, licence : str
        Where the images come from and on what terms.
    note : str
        What a reader of results should know.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    resolution: str
    source: str
    licence: str
    note: str = ""

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


@dataclass(frozen=True)
class Split:
    """One whole split: uint8 RGB images (see `ImageTask`), int64 labels [n], class names if the source has them."""

    images: Images
    labels: np.ndarray
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """Where a task comes from: an archive that is fetched, or the user's data folder; `cards.yaml` explains the fields.

    `read` gives all splits of an archive by name; or, from a folder and the name of a split, that one.
    """

    card: TaskCard
    read: Callable[..., Split | dict[str, Split]] = field(repr=False)
    version: int
    pinned: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    lossy: bool = False
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    origin: str = field(default="", repr=False)


@dataclass(frozen=True)
class ImageTask:
    """One split of a task, or a subset of it.

    Attributes
    ----------
    name, split : str
    images : uint8 array of shape [n, H, W, 3], list of n uint8 arrays of shape [H, W, 3], or LazyImages
        RGB, 0-255; a list where sizes differ; lazy where they stay in files until they are used.
    labels : int64 array of shape [n]
        Class indices.
    classes : tuple of str
        Class names; label i means classes[i].
    digest : str
        Address of the content, see `dr_utils.datasets.identity`; for a user's own pictures see `digest_of`.
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
    if isinstance(images, np.ndarray):
        shapes, blocks = np.tile(np.array(images.shape[1:], dtype="<i8"), (len(images), 1)), [images]
    else:
        shapes, blocks = np.array([image.shape for image in images], dtype="<i8"), images
    digest = hashlib.sha256(shapes.tobytes())
    for block in blocks:
        digest.update(np.ascontiguousarray(block))
    return digest.hexdigest()


def hash_labels(labels: np.ndarray) -> str:
    """Return the SHA-256 of labels as little-endian 64-bit integers."""
    return hashlib.sha256(np.asarray(labels).astype("<i8").tobytes()).hexdigest()


def digest_of(images: np.ndarray | Sequence[np.ndarray], labels: np.ndarray, classes: Sequence[str]) -> str:
    """Return the SHA-256 of pixels, labels and class names."""
    parts = (hash_images(images), hash_labels(labels), "\0".join(classes))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def take(images: Images, index: np.ndarray) -> Images:
    """Return the images at the given positions, in the same kind of container."""
    if isinstance(images, LazyImages):
        return images.subset(index)
    return images[index] if isinstance(images, np.ndarray) else [images[i] for i in index]


def class_counts(available: np.ndarray, size: int) -> np.ndarray:
    """Share `size` samples among classes in proportion, by largest remainder, at least one for each.

    Of `available` [C] samples of each class; classes without samples get none. Returns counts [C].
    """
    available = np.asarray(available)
    quota = size * available / available.sum()
    counts = np.where(available > 0, np.maximum(np.floor(quota), 1), 0).astype(np.int64)
    while counts.sum() > size:
        counts[np.argmax(np.where(counts > 1, counts - quota, -np.inf))] -= 1
    while counts.sum() < size:
        counts[np.argmax(np.where(counts < available, quota - counts, -np.inf))] += 1
    return counts


def draw(labels: np.ndarray, size: int, seed: int, split: str) -> np.ndarray:
    """Draw a stratified subset.

    Each class is permuted whatever the size, so that a larger draw of a seed mostly contains a smaller one.

    Parameters
    ----------
    labels : int array of shape [n]
    size : int
        How many to draw.
    seed : int
        Not negative. With the name of the split it fixes the draw.
    split : str

    Returns
    -------
    int64 array of shape [size]
        Positions in `labels`, shuffled.
    """
    rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
    counts = class_counts(np.bincount(labels), size)
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)]
    return rng.permutation(np.concatenate(chosen))


def distinct(images: Sequence[np.ndarray], labels: np.ndarray, salt: str) -> np.ndarray:
    """Put pictures that come without a split into an order that is as good as random, for `split_off`.

    It is that of the SHA-256 of salt and pixels: the same with every numpy release and whatever order the source has.
    A repeated picture counts once, so that no test picture is also in train; a picture of two classes is left out.

    Returns positions in `images`.
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
