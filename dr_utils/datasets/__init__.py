"""Labelled images: a registry of tasks, and their splits or seeded stratified subsets of them.

>>> task = load_dataset("digits", "test", size=100, seed=1)
>>> task.images.shape
(100, 8, 8, 3)
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from pathlib import Path

import numpy as np
import yaml

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.datasets import archives, folders
from dr_utils.datasets.corruptions import CORRUPTION_VERSION, corrupt, corrupt_all
from dr_utils.datasets.corruptions import KINDS as CORRUPTIONS
from dr_utils.datasets.decode import read_ahead
from dr_utils.datasets.own import DataWarning, open_images
from dr_utils.datasets.task import DRAW_VERSION, ImageTask, Source, TaskCard, draw, take
from dr_utils.fetch import data_dir

__all__ = [
    "CORRUPTIONS", "DataWarning", "ImageTask", "TaskCard", "available", "corrupt", "identity", "load_dataset",
    "missing_files", "open_images", "read_ahead",
]  # fmt: skip

CORRUPTED_SEVERITY = 3


def _sources() -> dict[str, Source]:
    readers, sources = archives.READERS | folders.READERS, {}
    for name, entry in yaml.safe_load((Path(__file__).parent / "cards.yaml").read_text()).items():
        classes = tuple(entry.pop("classes").split(", ")) if "classes" in entry else folders.wordnet_ids()
        about = {key: entry.pop(key) for key in ("title", "splits", "resolution", "source", "licence", "note")}
        sources[name] = Source(TaskCard(name, classes=classes, **about), readers[name], **entry)
    return sources


_SOURCES = _sources()


def available() -> dict[str, TaskCard]:
    """Return the cards of all tasks, by name; needs no network and opens no image."""
    return {name: source.card for name, source in _SOURCES.items()}


def load_dataset(name: str, split: str, *, size: int | None = None, seed: int = 0) -> ImageTask:
    """Load a split of a task, or a stratified subset of it.

    Archives are fetched and decoded once and kept in the cache folder. The paper's other data sets (cifar100, pets,
    flowers, imagenet1k) are read from the user's data folder, `--data` or DR_DATA; JPEG files are decoded when they
    are used.

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
        Fixes which images are drawn, for each split separately, and the noise of "corrupted".

    Returns
    -------
    ImageTask

    Raises
    ------
    ValueError
        Unknown task or split, fewer samples than classes, more samples than there are, or a negative seed.
    dr_utils.store.AssetError
        The archive cannot be had, or the cache folder cannot be used; a file or folder is missing in the data folder,
        or is not the published data set.

    Examples
    --------
    >>> digits = load_dataset("digits", "test", size=100)
    >>> len(digits), digits.images.shape[1:], len(digits.classes)
    (100, (8, 8, 3), 10)
    """
    source, drawn_from = _checked(name, split, size, seed)
    content = folders.read_split(source, split) if source.needs else archives.load_split(source, drawn_from)
    images, labels = content.images, content.labels
    if size is not None:
        index = draw(labels, int(size), int(seed), drawn_from)
        images, labels = take(images, index), labels[index]
    if split == "corrupted":
        images = corrupt_all(np.asarray(images), CORRUPTED_SEVERITY, int(seed))
    return ImageTask(name, split, images, labels, source.card.classes, identity(name, split, size=size, seed=seed))


def identity(name: str, split: str, *, size: int | None = None, seed: int = 0) -> str:
    """Return the `digest` of what `load_dataset` gives for the same arguments, without opening an image.

    It follows from the pinned hashes of the images, or for a folder from the names and sizes of its files, and from
    what is drawn. In a folder, a picture that is replaced by another one of equal size is not noticed.

    Parameters, errors
    ------------------
    As of `load_dataset`; of a folder only what is missing is noticed.

    Examples
    --------
    >>> identity("digits", "test", size=100) == load_dataset("digits", "test", size=100).digest
    True
    """
    source, drawn_from = _checked(name, split, size, seed)
    content = {
        "task": name,
        "split": split,
        "version": source.version,
        "classes": source.card.classes,
        "content": folders.fingerprint(source, split) if source.needs else source.pinned[drawn_from],
    }
    if size is not None:
        content["drawn"] = {"version": DRAW_VERSION, "size": int(size), "seed": int(seed)}
    if split == "corrupted":
        content["corrupted"] = {"version": CORRUPTION_VERSION, "severity": CORRUPTED_SEVERITY, "seed": int(seed)}
    return store.key_of(content)


def missing_files(name: str, splits: Iterable[str]) -> list[str]:
    """Return the files and folders that these splits of a task are read from and that the data folder (DR_DATA) lacks.

    None for tasks that are fetched. Nothing is opened.
    """
    source, root = _SOURCES[name], data_dir()
    needed = dict.fromkeys(path for split in splits for path in source.needs.get(split, ()))
    return [path for path in needed if root is None or not (root / path).exists()]


def _checked(name: str, split: str, size: int | None, seed: int) -> tuple[Source, str]:
    """Return a task's source and the stored split that `split` is made from, if all of this makes sense."""
    if name not in _SOURCES:
        raise unknown("task", name, _SOURCES)
    source = _SOURCES[name]
    card = source.card
    if split not in card.splits:
        raise unknown(f"split of {name}", split, card.splits)
    if size is not None:
        if not isinstance(size, Integral) or isinstance(size, bool):
            raise ValueError(f"size must be a whole number of images, or None for all; got {size!r}.")
        if size < card.n_classes:
            raise ValueError(f"fewer samples than classes: {size} asked for, but {name} has {card.n_classes} classes.")
        if size > card.splits[split]:
            raise ValueError(
                f"{size} samples asked for, but the {split} split of {name} holds {card.splits[split]}; None takes all."
            )
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be an integer, not negative; got {seed!r}.")
    return source, "test" if split == "corrupted" else split
