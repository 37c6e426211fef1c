"""What an image task is: its card, its images, and how a smaller one is drawn from it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dr_utils.datasets.paper.lazy import LazyImages

Images = np.ndarray | list[np.ndarray] | LazyImages


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
    """Decoded images of one split: uint8 RGB, [n, H, W, 3] or a list of [H, W, 3], and int64 labels [n]."""

    images: Images
    labels: np.ndarray


@dataclass(frozen=True)
class Source:
    """How a task's splits are made.

    Attributes
    ----------
    card : TaskCard
    recipe : str
        Package version and decoding choices; stored splits made by another recipe are decoded again.
    decode : callable
        Returns every stored split, by name.
    pinned : mapping of str to (images, labels)
        SHA-256 of the decoded images and labels of every split.
    lossy : bool
        Whether decoding goes through JPEG, where another libjpeg may round differently; `decode` then
        checks the encoded pictures itself, and other pixels are reported but accepted.
    """

    card: TaskCard
    recipe: str
    decode: Callable[[], dict[str, Split]] = field(repr=False)
    pinned: Mapping[str, tuple[str, str]] = field(repr=False)
    lossy: bool = False


@dataclass(frozen=True)
class ImageTask:
    """One split of a task, or a subset of it.

    Attributes
    ----------
    name, split : str
    images : uint8 array of shape [n, H, W, 3], list of n uint8 arrays of shape [H, W, 3], or LazyImages
        RGB, 0-255; a list where sizes differ; lazy where they stay in files until they are asked for.
    labels : int64 array of shape [n]
        Class indices.
    classes : tuple of str
        Class names; label i means classes[i].
    digest : str
        SHA-256 of pixels, labels and class names. Of lazy images, paths and file sizes stand for the pixels: a file
        that is replaced by another one of equal size is not noticed.
    """

    name: str
    split: str
    images: Images
    labels: np.ndarray
    classes: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def hash_images(images: Images) -> str:
    """SHA-256 over the shapes and pixels of images; a list and an array of the same images agree.

    Of lazy images, over relative paths and file sizes.
    """
    if isinstance(images, LazyImages):
        return images.digest()
    if isinstance(images, np.ndarray):
        shapes = np.tile(np.array(images.shape[1:], dtype="<i8"), (len(images), 1))
        blocks: Sequence[np.ndarray] = [images]
    else:
        shapes, blocks = np.array([image.shape for image in images], dtype="<i8"), images
    digest = hashlib.sha256(shapes.tobytes())
    for block in blocks:
        digest.update(np.ascontiguousarray(block))
    return digest.hexdigest()


def hash_labels(labels: np.ndarray) -> str:
    """SHA-256 of labels as little-endian 64-bit integers."""
    return hashlib.sha256(np.asarray(labels).astype("<i8").tobytes()).hexdigest()


def digest_of(images: Images, labels: np.ndarray, classes: Sequence[str]) -> str:
    """Address of a task's content: SHA-256 of pixels (paths and file sizes of lazy images), labels and class names."""
    parts = (hash_images(images), hash_labels(labels), "\0".join(classes))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def take(images: Images, index: np.ndarray) -> Images:
    """Images at the given positions, as the kind of container they came in."""
    if isinstance(images, LazyImages):
        return images.subset(index)
    return images[index] if isinstance(images, np.ndarray) else [images[i] for i in index]


def class_counts(available: np.ndarray, size: int) -> np.ndarray:
    """Share `size` samples among classes in proportion, by largest remainder, at least one for each.

    Parameters
    ----------
    available : int array of shape [C]
        Samples of each class; classes without samples get none.
    size : int
        Between the number of classes with samples and the number of samples.

    Returns
    -------
    int64 array of shape [C]
        Adds up to `size`; never more than is available.
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


def split_by_hash(images: np.ndarray, labels: np.ndarray, n_test: int, salt: str) -> dict[str, Split]:
    """Split pictures that come without a split: a fixed stratified test set, the rest is train.

    Pictures are ordered by the SHA-256 of salt and pixels: random for all purposes, the same with every
    numpy release and whatever order the source has. Repeated pictures count once, so that
    no test picture is also in train; a picture that stands under two classes is left out.

    Parameters
    ----------
    images : uint8 array of shape [n, H, W, 3]
    labels : int array of shape [n]
    n_test : int
        Size of the test set.
    salt : str
        Fixes the split.

    Returns
    -------
    dict of Split
        "train" and "test".
    """
    seen: dict[bytes, list[int]] = {}
    for i, image in enumerate(images):
        seen.setdefault(hashlib.sha256(salt.encode() + image.tobytes()).digest(), []).append(i)
    order = np.array([where[0] for _, where in sorted(seen.items()) if len(set(labels[where])) == 1])
    counts = class_counts(np.bincount(labels[order]), n_test)
    in_test = np.zeros(len(order), dtype=bool)
    for c, count in enumerate(counts):
        in_test[np.flatnonzero(labels[order] == c)[:count]] = True
    return {
        name: Split(images[index], labels[index].astype(np.int64))
        for name, index in (("train", order[~in_test]), ("test", order[in_test]))
    }
