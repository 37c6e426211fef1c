"""Tiny-ImageNet at 32 x 32: decoded once from its tar files, then batches cut and mirrored on the device."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from dr_utils import store
from dr_utils.datasets import ImageTask
from dr_utils.datasets.decode import decode
from dr_utils.models.cards import IMAGES_SIDE
from dr_utils.progress import progress
from dr_utils.subsets import random_subsets
from dr_utils.zoo import Recipe

CHOICE_SEED = 1  # of the classes of networks trained on fewer
CROP_PADDING = 4  # pixels by which an image is shifted at most
VERSION = 2  # raised by one whenever the same tar file would give other pixels than before


def load_images(folder: str | Path, split: str, *, n_classes: int, limit: int | None = None) -> ImageTask:
    """Load "train" or "val", uint8 [n, 32, 32, 3], from the folder of Tiny-ImageNet's tar files.

    Fewer classes than the file has are a seeded choice, the same for both splits; `limit` draws only so many images.
    """
    tar = Path(folder) / f"tiny_imagenet_{split}.tar"
    if not tar.is_file():
        raise store.AssetError(f"{tar.name} is not in {tar.parent}; name the folder of Tiny-ImageNet's tar files.")
    digest = store.sha256_of(tar)
    key = store.key_of({"tiny-imagenet": digest, "split": split, "side": IMAGES_SIDE, "version": VERSION})
    if found := store.read("datasets", key):
        images, labels, classes = found.arrays["images"], found.arrays["labels"], found.about["classes"]
    else:
        images, labels, classes = _decode(tar, split)
        arrays = {"images": images, "labels": labels}
        store.write("datasets", key, about={"file": tar.name, "classes": classes}, arrays=arrays)
    if len(classes) < n_classes:
        raise ValueError(f"{n_classes} classes are needed; {tar.name} has {len(classes)}: get all of Tiny-ImageNet.")
    chosen = np.sort(random_subsets(len(classes), n_classes / len(classes), [CHOICE_SEED])[0])
    rows = np.flatnonzero(np.isin(labels, chosen))
    if limit is not None and limit < len(rows):
        rows = rows[random_subsets(len(rows), limit / len(rows), [CHOICE_SEED])[0]]
    names = tuple(classes[c] for c in chosen)
    return ImageTask("tinyimagenet", split, images[rows], np.searchsorted(chosen, labels[rows]), names, digest)


def _decode(tar: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return images uint8 [n, 32, 32, 3], labels int64 [n] and the sorted WordNet ids of a tar file."""
    shrink = partial(Image.Image.resize, size=(IMAGES_SIDE, IMAGES_SIDE), resample=Image.Resampling.BILINEAR)
    images, wnids, where = [], [], "no images"
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in progress(archive, desc=f"decoding {tar.name}", unit="images"):
                if member.isfile():
                    where = member.name
                    folder, wnid, _ = PurePosixPath(where).parts
                    if folder != split:
                        raise ValueError("another folder")
                    images.append(decode(archive.extractfile(member).read(), published=True, resize=shrink))
                    wnids.append(wnid)
        classes, labels = np.unique(wnids, return_inverse=True)
        return np.stack(images), labels.astype(np.int64), classes.tolist()
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:  # ValueError: parts, decode and stack
        what = f"{tar.name} is damaged or not laid out as {split}/<wnid>/<name>.JPEG"
        raise store.AssetError(f"{what} ({where}: {error}); fetch it again.") from error


def to_batch(pixels: torch.Tensor) -> torch.Tensor:
    """Turn uint8 [B, H, W, 3] into float32 [B, 3, H, W] in [0, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def batches(pixels: torch.Tensor, recipe: Recipe, epoch: int, steps: int) -> Iterator[tuple]:
    """Yield the batches of an epoch, shifted and mirrored by its number: images [B, 3, S, S], places in `pixels`."""
    n, generator = len(pixels), torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    samples = round(n * recipe.repeats)
    # All images as often as it takes, each pass in an order of its own.
    order = torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-samples // n))])[:samples]
    shift = torch.randint(-CROP_PADDING, CROP_PADDING + 1, (2, samples), generator=generator)
    mirrored = torch.rand(samples, generator=generator) < 0.5
    order, shift, mirrored = (drawn.to(pixels.device) for drawn in (order, shift, mirrored))
    side = recipe.early_side if epoch < round(recipe.early_share * recipe.epochs) else IMAGES_SIDE
    first, places = (IMAGES_SIDE - side) // 2, torch.arange(side, device=pixels.device)
    for step in range(steps):
        part = slice(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        rows, columns = order[part], torch.where(mirrored[part, None], side - 1 - places, places)
        down, right = (first + moved[part, None] for moved in shift)
        # Indices beyond the edge are those of the edge: that is the padding.
        down, right = (at.clamp(0, IMAGES_SIDE - 1) for at in (places + down, columns + right))
        yield to_batch(pixels[rows[:, None, None], down[:, :, None], right[:, None, :]]), rows
