"""Small replacements for tests of the zoo: tar files laid out as Tiny-ImageNet's, images easy to tell apart."""

from __future__ import annotations

import io
import tarfile

import numpy as np
from PIL import Image

from dr_utils.datasets import ImageTask
from dr_utils.zoo import Recipe

WNIDS = ("n03", "n01", "n02")  # not sorted, as a tar may have them
COLOURS = {"n01": (200, 40, 40), "n02": (40, 200, 40), "n03": (40, 40, 200)}


def tiny(**changes) -> Recipe:
    """A ResNet of a few thousand weights for three classes."""
    return Recipe(
        **{"name": "tiny", "title": "Tiny", "family": "resnet", "widths": (8, 16), "trunk_width": 16, "head_reads": 16,
           "n_classes": 3, "epochs": 3, "batch_size": 32, "lr": 0.1} | changes
    )  # fmt: skip


def toy_images(n=96, seed=0) -> ImageTask:
    """Noise about one colour per class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    colours = np.array(list(COLOURS.values()))
    pixels = colours[labels][:, None, None, :] + rng.integers(-40, 41, (n, 32, 32, 3))
    return ImageTask("toy", "train", pixels.clip(0, 255).astype(np.uint8), labels, tuple(COLOURS), "0" * 64)


def add_file(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def jpeg(colour, seed=0) -> bytes:
    pixels = np.array(colour) + np.random.default_rng(seed).integers(-20, 21, (64, 64, 3))
    with io.BytesIO() as out:
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG")
        return out.getvalue()


def write_tars(folder, per_class=8) -> None:
    """Both tar files, three classes of 64 x 64 JPEGs."""
    for split, name in (("train", "{wnid}_{i}.JPEG"), ("val", "val_{i}.JPEG")):
        with tarfile.open(folder / f"tiny_imagenet_{split}.tar", "w") as archive:
            for wnid in WNIDS:
                for i in range(per_class):
                    where = f"{split}/{wnid}/{name.format(wnid=wnid, i=i)}"
                    add_file(archive, where, jpeg(COLOURS[wnid], seed=i))
