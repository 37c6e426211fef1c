"""A user's own pictures as an image task: a folder of classes, or a Hugging Face dataset saved on disk."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from dr_utils.datasets.decode import Unreadable, decode, shrink
from dr_utils.datasets.listings import Listing, list_pictures, some
from dr_utils.datasets.task import ImageTask, digest_of, distinct, draw, split_off, take
from dr_utils.progress import progress
from dr_utils.store import AssetError

_NAMED = 3


class DataWarning(UserWarning):
    """Some of a user's data was left out, or is where it should not be; the message counts and names it."""


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
        - A folder with `train/<class>/*` and `test/<class>/*`; without a test, "val" or "validation" is taken,
          and the task's `split` says so.
        - A folder of class folders, which is split here.
        - A folder that `datasets.save_to_disk` of Hugging Face wrote, with an Image column and labels.
    test_share : float
        Share of the pictures that become test, in (0, 1), if they are split here.
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
        Classes by name. Where pictures are split here, a repeated one counts once, so that no test picture is also in
        train, and a picture of two classes is left out.

    Raises
    ------
    ValueError
        Another layout than expected, one class only, too few pictures of a class, or a class without train or test.
    dr_utils.store.AssetError
        No such folder, a damaged dataset, or a class of which more than half cannot be read.

    Warns
    -----
    DataWarning
        Files that are not pictures and were skipped; repeated pictures; test pictures that are also in train.
    """
    if not isinstance(test_share, Real) or not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1; got {test_share!r}.")
    for what, value, least in (("seed", seed, 0), ("limit", limit, 1), ("max_side", max_side, 1)):
        if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < least):
            raise ValueError(f"{what} must be a whole number, at least {least}; got {value!r}.")
    root = Path(path).expanduser()
    listings = list_pictures(root)
    classes = _classes(listings, root)
    if limit is not None and limit < len(classes):
        raise ValueError(f"limit={limit} is less than the {len(classes)} classes of {root}; take at least that many.")
    if len(listings) == 1:
        # Enough that neither part has more than `limit`.
        size = None if limit is None else math.ceil(limit / max(test_share, 1 - test_share))
        images, labels = _decoded(listings[0], classes, root, size, seed, max_side)
        parts = _split(images, labels, classes, test_share, seed, limit)
    else:
        parts = {p.split: _decoded(p, classes, root, limit, seed, max_side) for p in listings}
        _warn_of_overlap(*(images for images, _ in parts.values()), root)
    return tuple(_task(root.resolve().name, split, *part, classes) for split, part in parts.items())


def _task(name: str, split: str, images: list[np.ndarray], labels: np.ndarray, classes: tuple[str, ...]) -> ImageTask:
    packed = np.stack(images) if len({image.shape for image in images}) == 1 else images
    return ImageTask(name, split, packed, labels, classes, digest_of(packed, labels, classes))


def _classes(listings: list[Listing], root: Path) -> tuple[str, ...]:
    """Return the sorted names of the classes, if probes can be trained and measured on them."""
    train, test = (set(listing.classes) for listing in (listings[0], listings[-1]))
    if len(train) < 2:
        raise ValueError(f"{root} has only one class ({', '.join(train) or 'none'}); a probe needs at least two.")
    name = listings[-1].split
    for absent, here, there in ((test - train, name, "train"), (train - test, "train", name)):
        if absent:
            raise ValueError(
                f"{root}: {some(sorted(absent))} in {here} but not in {there}; probes are trained on train and "
                f"measured class by class on {name}: add {there} pictures, or remove them."
            )
    return tuple(sorted(train))


def _decoded(
    listing: Listing, classes: tuple[str, ...], root: Path, size: int | None, seed: int, max_side: int | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Decode `size` pictures of a listing (default: all), shuffled, and skip those that cannot be read.

    Raises
    ------
    AssetError
        More than half of a class cannot be read.
    """
    labels = np.searchsorted(classes, listing.classes)
    index = draw(labels, min(size or len(labels), len(labels)), seed, listing.split)
    if not listing.split:  # to be split, for which each class needs two
        rare = np.flatnonzero(np.bincount(labels[index]) < 2)
        index = np.unique(np.concatenate([index, *(np.flatnonzero(labels == c)[:2] for c in rare)]))
    where = root / listing.split
    resize = None if max_side is None else partial(shrink, side=max_side)

    def attempt(i: int) -> np.ndarray | str:
        try:
            return decode(listing.read(int(i)), resize=resize)
        except Unreadable as error:
            return str(error)

    desc = f"decoding {'/'.join(where.parts[-2:])}"  # a whole path would leave no room for the bar
    with ThreadPoolExecutor() as pool:
        found = list(progress(pool.map(attempt, index), desc=desc, total=len(index), unit="images"))
    bad = {int(i): reason for i, reason in zip(index, found, strict=True) if isinstance(reason, str)}
    if bad:
        listed = "; ".join(f"{listing.names[i]} ({reason})" for i, reason in list(bad.items())[:_NAMED])
        listed += "; ..." if len(bad) > _NAMED else ""
        lost, total = Counter(listing.classes[i] for i in bad), Counter(listing.classes[i] for i in index)
        worst = max(lost, key=lambda name: lost[name] / total[name])
        if lost[worst] > total[worst] / 2:
            raise AssetError(
                f"{where}: {lost[worst]} of the {total[worst]} files of class {worst!r} cannot be read as pictures; "
                f"{len(bad)} of all {len(index)}: {listed}. Convert them, or remove them."
            )
        _warn(f"{where}: {len(bad)} of {len(index)} files cannot be read as pictures and were skipped: {listed}.")
    good = [i for i, image in enumerate(found) if not isinstance(image, str)]
    return [found[i] for i in good], labels[index[good]]


def _split(images, labels, classes, test_share, seed, limit) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Split into train and test by content."""
    order = distinct(images, labels, f"seed {seed}")
    if len(order) < len(images):
        _warn(
            f"{len(images) - len(order)} of {len(images)} pictures were left out: repeated ones count once, and those "
            "of two classes not at all."
        )
    counts = np.bincount(labels[order], minlength=len(classes))
    if rare := [classes[c] for c in np.flatnonzero(counts < 2)]:
        raise ValueError(f"{some(rare)} with fewer than 2 different pictures; train and test need one each.")
    n_test = min(max(len(classes), round(test_share * len(order))), len(order) - len(classes))
    parts = dict(zip(("train", "test"), split_off(order, labels, n_test), strict=True))
    if lacking := sorted(set(range(len(classes))) - set(labels[parts["train"]])):
        raise ValueError(
            f"test_share={test_share} leaves no train picture of {some(classes[c] for c in lacking)}; take less."
        )
    if limit is not None:
        parts = {
            name: part[draw(labels[part], limit, seed, name)] if limit < len(part) else part
            for name, part in parts.items()
        }
    return {name: (take(images, part), labels[part]) for name, part in parts.items()}


def _warn_of_overlap(train: list[np.ndarray], test: list[np.ndarray], root: Path) -> None:
    known = {hashlib.sha256(image.tobytes()).digest() for image in train}
    both = sum(hashlib.sha256(image.tobytes()).digest() in known for image in test)
    if both:
        _warn(f"{root}: {both} of {len(test)} test pictures are also in train; accuracies will be too high.")


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)
