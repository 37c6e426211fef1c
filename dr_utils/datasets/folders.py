"""Data sets that are read from the user's data folder (`--data DIR`, DR_DATA) by torchvision's classes.

What is there is compared with the card. Of pictures only names and sizes are looked at; they are decoded when used.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dr_utils import fetch, store
from dr_utils.checks import short
from dr_utils.datasets.decode import LazyImages
from dr_utils.datasets.task import Source, Split, TaskCard

HIDDEN = ("thumbs.db", "desktop.ini", "__macosx")
_WNIDS = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
_WHOLE_BYTES = 1 << 20  # a listed file up to this size, such as one of labels, is hashed whole


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is one that operating systems leave behind."""
    return name.startswith(".") or name.lower() in HIDDEN


def wordnet_ids() -> tuple[str, ...]:
    """Return ImageNet-1k's classes as timm lists them: WordNet ids, sorted, which is the order of networks' outputs."""
    folder = find_spec("timm").submodule_search_locations[0]  # imports nothing: timm takes seconds, and torch
    try:
        names = (Path(folder) / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    except OSError:  # a release that keeps the list elsewhere
        from timm.data import ImageNetInfo

        names = ImageNetInfo().label_names()
    assert store.sha256_of("\n".join(names).encode()) == _WNIDS, "timm's list of ImageNet's classes has changed"
    return tuple(names)


# ---------------------------------------------------------------- one function a data set


def cifar100(root: Path, split: str) -> Split:
    """Read cifar-100-python; torchvision checks the MD5 of every file."""
    from torchvision.datasets import CIFAR100

    data = CIFAR100(root, train=split == "train")
    return Split(np.ascontiguousarray(data.data), np.array(data.targets, dtype=np.int64), tuple(data.classes))


def pets(root: Path, split: str) -> Split:
    """List oxford-iiit-pet; torchvision's "trainval" is train."""
    from torchvision.datasets import OxfordIIITPet

    data = OxfordIIITPet(root, split="trainval" if split == "train" else "test")
    return _listed(root, data._images, data._labels, tuple(data.classes))


def flowers(root: Path, split: str) -> Split:
    """List flowers-102; torchvision checks the MD5 of labels and splits, and the folder names no classes."""
    from torchvision.datasets import Flowers102

    data = Flowers102(root, split=split)
    return _listed(root, data._image_files, data._labels)


def imagenet1k(root: Path, split: str) -> Split:
    """List folders named by WordNet id, labels in their sorted order; those of ImageNetV2 are named by label."""
    from torchvision.datasets import ImageFolder

    class ByLabel(ImageFolder):
        def find_classes(self, directory):  # sorted as text, "10" would come before "2"
            names, _ = super().find_classes(directory)
            return names, {name: int(name) for name in names}

    folder = {"train": "imagenet/train", "test": "imagenet/val"}.get(split, "imagenetv2-matched-frequency-format-val")
    data = (ImageFolder if split in ("train", "test") else ByLabel)(str(root / folder))
    before = len(os.path.join(root, ""))
    names = [path[before:].replace(os.sep, "/") for path, _ in data.samples]
    classes = tuple(data.classes) if split in ("train", "test") else None
    return Split(LazyImages(root, names), np.array(data.targets, dtype=np.int64), classes)


def _listed(root: Path, files: Sequence, labels: Sequence[int], classes: tuple[str, ...] | None = None) -> Split:
    for file in files:
        if not os.path.isfile(file):
            raise store.AssetError(f"{file} cannot be opened (No such file), but the data set lists it; put it there.")
    names = [Path(file).relative_to(root).as_posix() for file in files]
    return Split(LazyImages(root, names), np.array(labels, dtype=np.int64), classes)


READERS = {function.__name__: function for function in (cifar100, pets, flowers, imagenet1k)}


# ---------------------------------------------------------------- what is there


def read_split(source: Source, split: str) -> Split:
    """Read a whole split from the data folder.

    Raises
    ------
    dr_utils.store.AssetError
        No data folder is named, a file or folder is missing there, or it is not the published split: other files, other
        counts of images or classes, other class names.
    """
    _fingerprint.cache_clear()  # what is read anew is looked at anew
    root, steps = _located(source, split)
    title, where = source.card.title, root / source.needs[split][0]
    try:
        found = source.read(root, split)
    except store.AssetError:
        raise
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # of torchvision's readers
        raise store.AssetError(f"{title}: {where} is not the published data set ({short(error)}). {steps}") from error
    if wrong := _difference(source.card, split, found, where):
        raise store.AssetError(f"{title}: {wrong}. {steps}")
    return found


def fingerprint(source: Source, split: str) -> str:
    """Return a hash of the names and sizes of the files that a split is read from; of label files, of their content.

    Raises
    ------
    dr_utils.store.AssetError
        No data folder is named, or a file or folder is missing there.
    """
    root, _ = _located(source, split)
    return _fingerprint(root, tuple(source.needs[split]))


@lru_cache  # the names of an ImageNet take seconds
def _fingerprint(root: Path, paths: tuple[str, ...]) -> str:
    lines = []
    try:
        for path in paths:
            if (root / path).is_dir():
                with os.scandir(root / path) as entries, ThreadPoolExecutor(os.cpu_count()) as pool:
                    for part in pool.map(_sizes, entries):  # a folder on the network answers many at once
                        lines += [f"{path}/{line}" for line in part]
            else:
                size = (root / path).stat().st_size
                lines.append(f"{path} {size} {store.sha256_of(root / path) if size <= _WHOLE_BYTES else ''}")
    except OSError as error:
        what = f"{error.filename} cannot be opened ({error.strerror}); put a sound copy there."
        raise store.AssetError(what) from error
    return store.sha256_of("\n".join(sorted(lines)).encode())


def _sizes(entry: os.DirEntry) -> list[str]:
    """List name and size of a file, or of all files in a folder."""
    if is_hidden(entry.name):
        return []
    if not entry.is_dir():
        return [f"{entry.name} {entry.stat().st_size}"]
    with os.scandir(entry) as entries:
        return [f"{entry.name}/{line}" for inside in entries for line in _sizes(inside)]


def _located(source: Source, split: str) -> tuple[Path, str]:
    """Return the data folder, and what to do if something is wrong there."""
    title, needs, root = source.card.title, source.needs[split], fetch.data_dir()
    held = " and ".join(filter(None, (", ".join(needs[:-1]), needs[-1])))
    if root is None:
        raise store.AssetError(
            f"{title} is read from a folder of yours, and none is named: give --data DIR (or set DR_DATA=DIR), where "
            f"DIR holds {held}. {source.origin.format(root='DIR')}"
        )
    steps = source.origin.format(root=root)
    for path in needs:
        if not (root / path).exists():
            raise store.AssetError(
                f"{title}: {root / path} is missing; the data folder {root} (--data, DR_DATA) must hold {held}. {steps}"
            )
    return root, steps


def _difference(card: TaskCard, split: str, found: Split, where: Path) -> str:
    """Say how a split differs from the published one; nothing if it does not."""
    present = np.unique(found.labels)
    if (len(found.labels), len(present)) != (card.splits[split], card.n_classes):
        return (
            f"the {split} split in {where} holds {len(found.labels):,} images of {len(present):,} classes, expected "
            f"{card.splits[split]:,} of {card.n_classes:,}; files are missing, or do not belong there"
        )
    if present[0] != 0 or present[-1] != card.n_classes - 1:
        return f"the classes in {where} are numbered {present[0]} to {present[-1]}, expected 0 to {card.n_classes - 1}"
    for i, (name, expected) in enumerate(zip(found.classes or card.classes, card.classes, strict=True)):
        if name != expected:
            return f"class {i} in {where} is called {name!r}, expected {expected!r}; it is another data set"
    return ""
