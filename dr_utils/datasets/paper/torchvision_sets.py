"""CIFAR-100, Oxford-IIIT Pets and Oxford 102 Flowers, as torchvision's own classes read them from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dr_utils.datasets.paper import names
from dr_utils.datasets.paper.folder import FolderSource, Found
from dr_utils.datasets.paper.lazy import LazyImages
from dr_utils.datasets.task import TaskCard

_STEPS = (
    "Get it from {page}, or let torchvision: "
    "python -c \"from torchvision.datasets import {dataset}; {dataset}('{{root}}', download=True)\"."
)


def read_cifar100(root: Path, split: str) -> Found:
    """Read `root`/cifar-100-python by `torchvision.datasets.CIFAR100`, which checks the MD5 of every file."""
    from torchvision.datasets import CIFAR100

    data = CIFAR100(root, train=split == "train", download=False)
    return Found(np.ascontiguousarray(data.data), np.array(data.targets, dtype=np.int64), tuple(data.classes))


def read_pets(root: Path, split: str) -> Found:
    """List `root`/oxford-iiit-pet by `torchvision.datasets.OxfordIIITPet`; its "trainval" is train."""
    from torchvision.datasets import OxfordIIITPet

    data = OxfordIIITPet(root, split="trainval" if split == "train" else "test", download=False)
    return Found(_lazy(root, data._images), np.array(data._labels, dtype=np.int64), tuple(data.classes))


def read_flowers(root: Path, split: str) -> Found:
    """List `root`/flowers-102 by `torchvision.datasets.Flowers102`, which checks the MD5 of labels and splits."""
    from torchvision.datasets import Flowers102

    data = Flowers102(root, split=split, download=False)
    return Found(_lazy(root, data._image_files), np.array(data._labels, dtype=np.int64))


def _lazy(root: Path, files: Sequence[Path]) -> LazyImages:
    return LazyImages(root, [Path(file).relative_to(root).as_posix() for file in files])


def _needs(folder: str, *everywhere: str, **of_split: str) -> dict[str, tuple[str, ...]]:
    return {s: tuple(f"{folder}/{path}" for path in (*everywhere, name)) for s, name in of_split.items()}


SOURCES = (
    FolderSource(
        card=TaskCard(
            name="cifar100",
            title="CIFAR-100",
            classes=names.CIFAR100,
            splits={"train": 50_000, "test": 10_000},
            resolution="32x32",
            source="a folder of yours: the Python version at www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009)",
            licence="none stated",
            note="Official splits and the 100 fine labels, checked by the MD5 of the files.",
        ),
        read=read_cifar100,
        # torchvision checks all three whatever the split.
        needs=_needs("cifar-100-python", "train", "test", train="meta", test="meta"),
        origin=_STEPS.format(page="www.cs.toronto.edu/~kriz/cifar.html", dataset="CIFAR100"),
    ),
    FolderSource(
        card=TaskCard(
            name="pets",
            title="Oxford-IIIT Pets",
            classes=names.PETS,
            splits={"train": 3_680, "test": 3_669},
            resolution="varying, about 500x375",
            source="a folder of yours: www.robots.ox.ac.uk/~vgg/data/pets (Parkhi et al. 2012)",
            licence="CC BY-SA 4.0",
            note="Official splits: train is torchvision's 'trainval', test its 'test'.",
        ),
        read=read_pets,
        needs=_needs("oxford-iiit-pet", "images", train="annotations/trainval.txt", test="annotations/test.txt"),
        origin=_STEPS.format(page="www.robots.ox.ac.uk/~vgg/data/pets", dataset="OxfordIIITPet"),
    ),
    FolderSource(
        card=TaskCard(
            name="flowers",
            title="Oxford 102 Flowers",
            classes=names.FLOWERS,
            splits={"train": 1_020, "test": 6_149},
            resolution="varying, short side 500",
            source="a folder of yours: www.robots.ox.ac.uk/~vgg/data/flowers/102 (Nilsback & Zisserman 2008)",
            licence="none stated",
            note="Official splits: train is torchvision's 'train' (trnid, 10 images per class), test its 'test' "
            "(tstid); its 'val' (valid, 1,020 images) is not used.",
        ),
        read=read_flowers,
        needs=_needs("flowers-102", "jpg", "imagelabels.mat", train="setid.mat", test="setid.mat"),
        origin=_STEPS.format(page="www.robots.ox.ac.uk/~vgg/data/flowers/102", dataset="Flowers102"),
    ),
)
