"""Labelled images: a registry of tasks, and their splits or seeded stratified subsets of them."""

from __future__ import annotations

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.datasets.corruptions import CORRUPTION_VERSION, corrupt_all
from dr_utils.datasets.decode import read_ahead
from dr_utils.datasets.own import DataWarning, open_images
from dr_utils.datasets.sources import CARDS, decoded_split, fingerprint, listed_split, missing_files
from dr_utils.datasets.task import DRAW_VERSION, ImageTask, TaskCard, draw, take

__all__ = ["DataWarning", "ImageTask", "available", "identity", "load_dataset", "missing_files", "open_images"]
__all__ += ["TaskCard", "read_ahead"]


def available() -> dict[str, TaskCard]:
    """Return the cards of all tasks, by name; needs no network and opens no image."""
    return dict(CARDS)


def load_dataset(name: str, split: str, *, size: int | None = None, seed: int = 0) -> ImageTask:
    """Load a split of a task, or a stratified subset of it.

    Archives are fetched and decoded once; cifar100, pets, flowers and imagenet1k are read from your data folder
    (`--data`, DR_DATA).

    Parameters
    ----------
    name : str
        One of `available()`.
    split : str
        "train" or "test"; "validation" (groceries); "imagenetv2" (imagenet1k); "corrupted" (cifar10): the images
        of "test" for the same size and seed, image i under corruption i modulo 8 at severity 3.
    size : int, optional
        How many images, in proportion to the classes, shuffled; all, in the order of the source, by default.
    seed : int
        Fixes which images are drawn, for each split separately, and the noise of "corrupted".

    Raises
    ------
    ValueError
        Unknown task or split, fewer samples than classes, more samples than there are, or a negative seed.
    dr_utils.store.AssetError
        The archive cannot be had, or the data folder does not hold the published data set.

    Examples
    --------
    >>> digits = load_dataset("digits", "test", size=100)
    >>> len(digits), digits.images.shape[1:], len(digits.classes)
    (100, (8, 8, 3), 10)
    """
    digest = identity(name, split, size=size, seed=seed)  # refuses what is unknown
    card, drawn_from = CARDS[name], "test" if split == "corrupted" else split
    images, labels = (listed_split if card.needs else decoded_split)(card, drawn_from)
    if size is not None:
        index = draw(labels, int(size), int(seed), drawn_from)
        images, labels = take(images, index), labels[index]
    if split == "corrupted":
        images = corrupt_all(images, int(seed))
    return ImageTask(name, split, images, labels, card.classes, digest)


def identity(name: str, split: str, *, size: int | None = None, seed: int = 0) -> str:
    """Return the `digest` of what `load_dataset` gives for the same arguments, without opening an image.

    It follows from what is drawn and the pinned hashes of the images; for a folder, from the names and sizes of files.
    """
    if name not in CARDS:
        raise unknown("task", name, CARDS)
    card = CARDS[name]
    if split not in card.splits:
        raise unknown(f"split of {name}", split, card.splits)
    least, most = len(card.classes), card.splits[split]
    if size is not None and not least <= size <= most:
        raise ValueError(f"size must be {least} (one a class) to {most}, or None for all {split} images; got {size!r}.")
    content = {"task": name, "split": split, "version": card.version, "classes": card.classes}
    pinned = card.pinned.get("test" if split == "corrupted" else split)
    content["content"] = fingerprint(card, split) if card.needs else pinned
    if size is not None:
        content["drawn"] = {"version": DRAW_VERSION, "size": int(size), "seed": int(seed)}
    if split == "corrupted":
        content["corrupted"] = {"version": CORRUPTION_VERSION, "severity": 3, "seed": int(seed)}
    return store.key_of(content)
