"""Labelled images: a registry of tasks, and their splits or seeded stratified subsets of them.

>>> task = load_dataset("digits", "test", size=100, seed=1)
>>> task.images.shape
(100, 8, 8, 3)
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

import numpy as np

from dr_utils.checks import unknown
from dr_utils.datasets import cifar10, digits, fashion_mnist, groceries
from dr_utils.datasets.corruptions import KINDS as CORRUPTIONS
from dr_utils.datasets.corruptions import corrupt, corrupt_all
from dr_utils.datasets.paper import imagenet, torchvision_sets
from dr_utils.datasets.paper.folder import FolderSource, read_split
from dr_utils.datasets.stored import load_split
from dr_utils.datasets.task import ImageTask, Source, TaskCard, digest_of, draw, take
from dr_utils.fetch import data_dir

__all__ = ["CORRUPTIONS", "ImageTask", "TaskCard", "available", "corrupt", "load_dataset", "missing_files"]

CORRUPTED_SEVERITY = 3

_SOURCES: dict[str, Source | FolderSource] = {
    source.card.name: source
    for source in (
        *(module.SOURCE for module in (cifar10, groceries, fashion_mnist, digits)),
        *torchvision_sets.SOURCES,
        imagenet.SOURCE,
    )
}


def available() -> dict[str, TaskCard]:
    """Cards of all tasks, by name; needs no network and opens no file."""
    return {name: source.card for name, source in _SOURCES.items()}


def load_dataset(name: str, split: str, *, size: int | None = None, seed: int = 0) -> ImageTask:
    """Load a split of a task, or a stratified subset of it.

    Archives are fetched and decoded once and kept in the cache folder. The paper's other data sets (cifar100, pets,
    flowers, imagenet1k) are read from a folder of the user's, `--data` or DR_DATA; JPEG files are decoded when they
    are asked for.

    Parameters
    ----------
    name : str
        One of `available()`.
    split : str
        "train" or "test"; "validation" (groceries); "imagenetv2" (imagenet1k); "corrupted" (cifar10): the images
        that "test" gives for the same size and seed, in the same order, image i under corruption i modulo 8 at
        severity 3.
    size : int, optional
        How many images: in proportion to the classes, by largest remainder, at least one for each, shuffled.
        All of them, in the order of the source, by default.
    seed : int
        Fixes which images are drawn, each split from its own, and the noise of "corrupted".

    Returns
    -------
    ImageTask

    Raises
    ------
    ValueError
        Unknown task or split, fewer samples than classes, more samples than there are, or a negative seed.
    dr_utils.store.AssetError
        The archive cannot be had, or the cache folder cannot be used; a file or folder is missing under the user's
        folder, or what lies there is not the published data set.
    """
    if name not in _SOURCES:
        raise unknown("task", name, _SOURCES)
    source = _SOURCES[name]
    card = source.card
    if split not in card.splits:
        raise unknown(f"split of {name}", split, card.splits)
    _check_size(card, split, size)
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be an integer, not negative; got {seed!r}.")

    drawn_from = "test" if split == "corrupted" else split
    content = read_split(source, split) if isinstance(source, FolderSource) else load_split(source, drawn_from)
    images, labels = content.images, content.labels
    if size is not None:
        index = draw(labels, int(size), int(seed), drawn_from)
        images, labels = take(images, index), labels[index]
    if split == "corrupted":
        images = corrupt_all(np.asarray(images), CORRUPTED_SEVERITY, int(seed))
    return ImageTask(name, split, images, labels, card.classes, digest_of(images, labels, card.classes))


def missing_files(name: str, splits: Iterable[str]) -> list[str]:
    """Files and folders that these splits of a task are read from and that the data folder (DR_DATA) lacks.

    None for tasks that the suite fetches by itself. Nothing is opened.
    """
    source, root = _SOURCES[name], data_dir()
    if not isinstance(source, FolderSource):
        return []
    needed = dict.fromkeys(path for split in splits for path in source.needs[split])
    return [path for path in needed if root is None or not (root / path).exists()]


def _check_size(card: TaskCard, split: str, size: int | None) -> None:
    if size is None:
        return
    if not isinstance(size, Integral) or isinstance(size, bool):
        raise ValueError(f"size must be a whole number of images, or None for all; got {size!r}.")
    if size < card.n_classes:
        raise ValueError(
            f"fewer samples than classes: {size} asked for, but {card.name} has {card.n_classes} classes; "
            f"take at least {card.n_classes}."
        )
    if size > card.splits[split]:
        raise ValueError(
            f"{size} samples asked for, but the {split} split of {card.name} holds {card.splits[split]}; "
            "take at most that many, or None for all."
        )
