"""A user's own pictures as an image task: a folder of classes, or a Hugging Face dataset saved on disk."""

from __future__ import annotations

import hashlib
import math
import warnings
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from dr_utils.datasets.listings import Listing, list_pictures
from dr_utils.datasets.pictures import DataWarning, decode_all
from dr_utils.datasets.task import Images, ImageTask, digest_of, draw, split_by_hash, take

_NAMED = 5


def open_images(
    path: str | Path,
    *,
    test_share: float = 0.3,
    seed: int = 0,
    limit: int | None = None,
    max_side: int | None = 512,
) -> tuple[ImageTask, ImageTask]:
    """Open a user's own pictures.

    Parameters
    ----------
    path : path
        - A folder with `train/<class>/*` and `test/<class>/*`; "val" and "validation" stand in for a missing test,
          and the task's `split` says so.
        - A folder of class folders, which is split here.
        - A folder that `datasets.save_to_disk` of Hugging Face wrote, with an Image column and labels.
    test_share : float
        Share of the pictures that become test, in (0, 1), where there is no split.
    seed : int
        Fixes the split, and which pictures are drawn.
    limit : int, optional
        At most so many pictures in each split, in proportion to the classes.
    max_side : int, optional
        Pictures whose shorter side has more pixels are reduced to that, so that photographs fit into memory;
        None keeps them as they are.

    Returns
    -------
    train, test : ImageTask
        Classes by name. Where pictures are split here, one that repeats counts once, so that no test picture is also
        in train, and one that stands under two classes is left out.

    Raises
    ------
    ValueError
        Another layout than expected, one class only, too few pictures of a class, a test class that train lacks.
    dr_utils.store.AssetError
        No such folder, a damaged dataset, or a class of which more than half cannot be read.

    Warns
    -----
    DataWarning
        Files that are no pictures and were skipped; repeated pictures; test pictures that are also in train.
    """
    if not isinstance(test_share, Real) or not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1; got {test_share!r}.")
    for what, value, least in (("seed", seed, 0), ("limit", limit, 1), ("max_side", max_side, 1)):
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < least):
            raise ValueError(f"{what} must be a whole number, at least {least}; got {value!r}.")
    root = Path(path).expanduser()
    listings = list_pictures(root)
    classes = _check_classes(listings, root)
    if limit is not None and limit < len(classes):
        raise ValueError(f"limit={limit} is less than the {len(classes)} classes of {root}; take at least that many.")
    name = root.resolve().name
    if len(listings) == 1:
        images, labels = _decoded(listings[0], classes, root, _before_split(limit, test_share), seed, max_side)
        parts = _split(images, labels, classes, test_share, seed, limit)
    else:
        parts = {p.split: _decoded(p, classes, root, limit, seed, max_side) for p in listings}
        _warn_of_overlap(*(images for images, _ in parts.values()), root)
    train, test = (
        ImageTask(name, split, packed := _packed(images), labels, classes, digest_of(packed, labels, classes))
        for split, (images, labels) in parts.items()
    )
    return train, test


def _check_classes(listings: list[Listing], root: Path) -> tuple[str, ...]:
    """Class names of train, sorted, after making sure that probes can be trained on them."""
    train = sorted(set(listings[0].classes))
    if len(train) < 2:
        raise ValueError(f"{root} has only one class ({', '.join(train) or 'none'}); a probe needs at least two.")
    test = set(listings[-1].classes)
    if absent := sorted(test - set(train)):
        raise ValueError(
            f"{root}: {_some(absent)} in {listings[-1].split} but not in train; a probe cannot learn them: add train "
            "pictures, or remove them."
        )
    if absent := sorted(set(train) - test):
        raise ValueError(
            f"{root}: {_some(absent)} in train but not in {listings[-1].split}, where probes are measured class by "
            "class: add test pictures, or remove them."
        )
    return tuple(train)


def _before_split(limit: int | None, test_share: float) -> int | None:
    """How many pictures to decode so that neither part has more than `limit`."""
    return None if limit is None else math.ceil(limit / max(test_share, 1 - test_share))


def _decoded(
    listing: Listing, classes: tuple[str, ...], root: Path, size: int | None, seed: int, max_side: int | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Decode `size` pictures of a listing, all by default, shuffled."""
    labels = np.searchsorted(classes, listing.classes)
    index = draw(labels, min(size or len(labels), len(labels)), seed, listing.split)
    if not listing.split:  # to be split, for which each class needs two
        rare = np.flatnonzero(np.bincount(labels[index]) < 2)
        index = np.unique(np.concatenate([index, *(np.flatnonzero(labels == c)[:2] for c in rare)]))
    where = str(root / listing.split)
    images, kept = decode_all(listing.read, index, listing.names.__getitem__, listing.classes, where, max_side)
    return images, labels[kept]


def _split(images, labels, classes, test_share, seed, limit) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Split into train and test by content."""
    where: dict[bytes, list[int]] = {}
    for i, image in enumerate(images):
        where.setdefault(hashlib.sha256(image.tobytes()).digest(), []).append(i)
    distinct = [same[0] for same in where.values() if len(set(labels[same])) == 1]
    if len(distinct) < len(images):
        two = sum(len(same) for same in where.values() if len(set(labels[same])) > 1)
        warnings.warn(
            f"{len(images) - len(distinct)} of {len(images)} pictures were left out: {two} that stand under two "
            f"classes, {len(images) - len(distinct) - two} repeats.",
            DataWarning,
            stacklevel=3,
        )
    counts = np.bincount(labels[distinct], minlength=len(classes))
    if short := [classes[c] for c in np.flatnonzero(counts < 2)]:
        raise ValueError(
            f"{_some(short)} with fewer than 2 different pictures; a split needs one for train, one for test."
        )
    boxed = np.empty(len(distinct), dtype=object)  # pictures differ in size
    for i, which in enumerate(distinct):
        boxed[i] = images[which]
    n_test = min(max(len(classes), round(test_share * len(distinct))), len(distinct) - len(classes))
    parts = split_by_hash(boxed, labels[distinct], n_test, f"seed {seed}")
    lacking = sorted(set(range(len(classes))) - set(parts["train"].labels))
    if lacking:
        raise ValueError(
            f"test_share={test_share} leaves no train picture of {_some([classes[c] for c in lacking])}; take less."
        )
    kept = {}
    for name, part in parts.items():
        index = np.arange(len(part.labels))
        if limit is not None and limit < len(index):
            index = draw(part.labels, limit, seed, name)
        kept[name] = (take(list(part.images), index), part.labels[index])
    return kept


def _warn_of_overlap(train: list[np.ndarray], test: list[np.ndarray], root: Path) -> None:
    known = {hashlib.sha256(image.tobytes()).digest() for image in train}
    both = sum(hashlib.sha256(image.tobytes()).digest() in known for image in test)
    if both:
        warnings.warn(
            f"{root}: {both} of {len(test)} test pictures are also in train; accuracies will flatter.",
            DataWarning,
            stacklevel=3,
        )


def _packed(images: list[np.ndarray]) -> Images:
    return np.stack(images) if len({image.shape for image in images}) == 1 else images


def _some(names: list[str]) -> str:
    """Say how many classes, and name the first."""
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({listed})"
