"""ImageNet-1k and ImageNetV2 from folders of classes, listed by torchvision's ImageFolder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from dr_utils.datasets.paper.folder import FolderSource, Found
from dr_utils.datasets.paper.lazy import LazyImages
from dr_utils.datasets.paper.wnids import WNIDS
from dr_utils.datasets.task import TaskCard

V2 = "imagenetv2"
FOLDERS = {"train": "imagenet/train", "test": "imagenet/val", V2: "imagenetv2-matched-frequency-format-val"}


def read_imagenet(root: Path, split: str) -> Found:
    """List class folders named by WordNet id, labels in their sorted order; those of ImageNetV2 are named by label.

    Raises
    ------
    ValueError
        A folder of ImageNetV2 whose name is no number.
    FileNotFoundError
        No class folders, or one without a picture.
    """
    from torchvision.datasets import ImageFolder

    class ByLabel(ImageFolder):
        # Sorted as text, "10" would come before "2".
        def find_classes(self, directory):
            names, _ = super().find_classes(directory)
            return names, {name: int(name) for name in names}

    data = (ByLabel if split == V2 else ImageFolder)(str(root / FOLDERS[split]))
    before = len(os.path.join(root, ""))
    names = [path[before:].replace(os.sep, "/") for path, _ in data.samples]
    labels = np.array(data.targets, dtype=np.int64)
    return Found(LazyImages(root, names), labels, None if split == V2 else tuple(data.classes))


SOURCE = FolderSource(
    card=TaskCard(
        name="imagenet1k",
        title="ImageNet-1k",
        classes=WNIDS,
        splits={"train": 1_281_167, "test": 50_000, V2: 10_000},
        resolution="varying, about 500x375",
        source="a folder of yours: image-net.org, ILSVRC 2012 (Russakovsky et al. 2015); ImageNetV2 from "
        "github.com/modestyachts/ImageNetV2 (Recht et al. 2019)",
        licence="non-commercial research (image-net.org); ImageNetV2: MIT",
        note="'test' is the official validation set, 'imagenetv2' the matched-frequency images of ImageNetV2. "
        "Classes are WordNet ids in sorted order.",
    ),
    read=read_imagenet,
    needs={split: (folder,) for split, folder in FOLDERS.items()},
    origin="The layout is imagenet/train/<WordNet id>/*.JPEG, imagenet/val/<WordNet id>/*.JPEG and "
    f"{FOLDERS[V2]}/<0 to 999>/*.jpeg; a link to a folder elsewhere will do. Get ILSVRC2012_img_train.tar, "
    "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from image-net.org (an account is needed) into "
    '{root}/imagenet, where torchvision unpacks them into this layout: python -c "from torchvision.datasets import '
    "ImageNet; [ImageNet('{root}/imagenet', split) for split in ('train', 'val')]\"; and "
    "imagenetv2-matched-frequency.tar.gz from github.com/modestyachts/ImageNetV2, unpacked in {root}.",
)
