"""A task that is read from a person's folder: what must lie there, and whether it is the published data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dr_utils import fetch, store
from dr_utils.checks import short
from dr_utils.datasets.task import Images, TaskCard


@dataclass(frozen=True)
class Found:
    """One split as a folder holds it.

    Attributes
    ----------
    images : uint8 array of shape [n, H, W, 3], or LazyImages
    labels : int64 array of shape [n]
    classes : tuple of str or None
        Class names by label; None where the folder does not name them.
    """

    images: Images
    labels: np.ndarray
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class FolderSource:
    """How a task is read from a person's folder.

    Attributes
    ----------
    card : TaskCard
        Official splits and classes, which the folder is held against.
    read : callable
        From the folder and the name of a split to `Found`; opens no picture file.
    needs : mapping of str to tuple of str
        Files and folders below the person's folder that each split is read from.
    origin : str
        Where to get them and how; "{root}" stands for the person's folder.
    """

    card: TaskCard
    read: Callable[[Path, str], Found] = field(repr=False)
    needs: Mapping[str, tuple[str, ...]] = field(repr=False)
    origin: str = field(repr=False)


def read_split(source: FolderSource, split: str) -> Found:
    """Read a whole split from `dr_utils.fetch.data_dir()`.

    Parameters
    ----------
    source : FolderSource
    split : str
        One of its card's.

    Returns
    -------
    Found

    Raises
    ------
    dr_utils.store.AssetError
        No data folder is named, a file or folder is missing there, or what lies there is not the published split:
        other files, other counts of images or classes, other class names.
    """
    title, needs, root = source.card.title, source.needs[split], fetch.data_dir()
    if root is None:
        raise store.AssetError(
            f"{title} is read from a folder of yours, and none is named: give --data DIR (or set DR_DATA=DIR), where "
            f"DIR holds {_listed(needs)}. {source.origin.format(root='DIR')}"
        )
    steps = source.origin.format(root=root)
    for path in needs:
        if not (root / path).exists():
            raise store.AssetError(
                f"{title}: {root / path} is missing; the data folder {root} (--data, DR_DATA) must hold "
                f"{_listed(needs)}. {steps}"
            )
    try:
        found = source.read(root, split)
    except store.AssetError:
        raise
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # what torchvision's readers raise
        raise store.AssetError(
            f"{title}: what lies in {root / needs[0]} is not the published data set ({short(error)}). {steps}"
        ) from error
    _check(source.card, split, found, root / needs[0], steps)
    return found


def _check(card: TaskCard, split: str, found: Found, where: Path, steps: str) -> None:
    present = np.unique(found.labels)
    if (len(found.labels), len(present)) != (card.splits[split], card.n_classes):
        raise store.AssetError(
            f"{card.title}: the {split} split in {where} holds {len(found.labels):,} images of {len(present):,} "
            f"classes, expected {card.splits[split]:,} of {card.n_classes:,}; files are missing, or do not belong "
            f"there. {steps}"
        )
    if present[0] != 0 or present[-1] != card.n_classes - 1:
        raise store.AssetError(
            f"{card.title}: the classes in {where} are numbered {present[0]} to {present[-1]}, expected 0 to "
            f"{card.n_classes - 1}. {steps}"
        )
    for i, (name, expected) in enumerate(zip(found.classes or card.classes, card.classes, strict=True)):
        if name != expected:
            raise store.AssetError(
                f"{card.title}: class {i} in {where} is called {name!r}, expected {expected!r}; it is another data "
                f"set. {steps}"
            )


def _listed(paths: tuple[str, ...]) -> str:
    return paths[0] if len(paths) == 1 else f"{', '.join(paths[:-1])} and {paths[-1]}"
