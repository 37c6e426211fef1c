"""Tiny-ImageNet at 32 x 32: decoded once from its tar files, then batches cut and mirrored on the device."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.datasets import ImageTask
from dr_utils.datasets.decode import Unreadable, decode
from dr_utils.models.small import IMAGES_SIDE
from dr_utils.progress import progress
from dr_utils.store import AssetError, sha256_of
from dr_utils.subsets import random_subsets

TARS = {"train": "tiny_imagenet_train.tar", "val": "tiny_imagenet_val.tar"}
CHOICE_SEED = 1  # of the classes of networks trained on fewer
CROP_PADDING = 4  # pixels by which an image is shifted at most
VERSION = 2  # raised by one whenever the same tar file would give other pixels than before


def load_images(folder: str | Path, split: str, *, n_classes: int, limit: int | None = None) -> ImageTask:
    """Load a split of Tiny-ImageNet, or the part of it that belongs to a seeded choice of classes.

    Parameters
    ----------
    folder : path
        Where the tar files are.
    split : {"train", "val"}
    n_classes : int
        As many as the tar file has, or fewer: a choice that is the same for both splits, labelled anew.
    limit : int, optional
        Draw only this many images, with a fixed seed; for trials.

    Returns
    -------
    ImageTask
        Images uint8 [n, 32, 32, 3]; classes are WordNet ids, sorted; the digest is the SHA-256 of the tar file.

    Raises
    ------
    AssetError
        The tar file is missing, damaged or not laid out as ``<split>/<wnid>/<name>.JPEG``.
    ValueError
        Unknown split, fewer classes in the tar file than asked for, or a limit below 1.
    """
    if split not in TARS:
        raise unknown("split of Tiny-ImageNet", split, TARS)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image; got {limit}.")
    task = _decoded(Path(folder) / TARS[split], split)
    if (found := len(task.classes)) < n_classes:
        raise ValueError(f"{n_classes} classes are needed, but {TARS[split]} has {found}; get the whole Tiny-ImageNet.")
    if n_classes < found:
        chosen = np.sort(random_subsets(found, n_classes / found, [CHOICE_SEED])[0])
        rows, classes = np.isin(task.labels, chosen), tuple(task.classes[c] for c in chosen)
        labels = np.searchsorted(chosen, task.labels[rows])
        task = replace(task, images=task.images[rows], labels=labels, classes=classes)
    if limit is not None and limit < len(task):
        (rows,) = random_subsets(len(task), limit / len(task), [CHOICE_SEED])
        task = replace(task, images=task.images[rows], labels=task.labels[rows])
    return task


def _decoded(tar: Path, split: str) -> ImageTask:
    """Return the whole split, from the store if it was decoded from this very file."""
    if not tar.is_file():
        raise AssetError(f"{tar.name} is not in {tar.parent}; name the folder of {' and '.join(TARS.values())}.")
    digest = sha256_of(tar)
    key = store.key_of({"tiny-imagenet": digest, "split": split, "side": IMAGES_SIDE, "version": VERSION})
    if found := store.read("datasets", key):
        arrays, classes = found.arrays, found.about["classes"]
    else:
        images, wnids = _decode(tar, split)
        classes, labels = np.unique(wnids, return_inverse=True)
        arrays, classes = {"images": images, "labels": labels.astype(np.int64)}, classes.tolist()
        store.write("datasets", key, about={"file": tar.name, "classes": classes}, arrays=arrays)
    return ImageTask("tinyimagenet", split, **arrays, classes=tuple(classes), digest=digest)


def _decode(tar: Path, split: str) -> tuple[np.ndarray, list[str]]:
    def shrink(image: Image.Image) -> Image.Image:
        return image.resize((IMAGES_SIDE, IMAGES_SIDE), Image.Resampling.BILINEAR)  # antialiased

    images, wnids, where, layout = [], [], tar.name, f"{split}/<wnid>/<name>.JPEG"
    try:
        with tarfile.open(tar, "r:*") as archive:
            for member in progress(archive, desc=f"decoding {tar.name}", unit="images"):
                if not member.isfile():
                    continue
                parts = PurePosixPath(member.name).parts
                if len(parts) != 3 or parts[0] != split:
                    raise AssetError(f"{tar.name} holds {member.name!r}; expected {layout} only.")
                where = f"{member.name} in {tar.name}"
                images.append(decode(archive.extractfile(member).read(), published=True, resize=shrink))
                wnids.append(parts[1])
    except (OSError, EOFError, tarfile.TarError) as error:
        raise AssetError(f"{tar.name} is not a readable tar file ({error}); fetch it again.") from error
    except Unreadable as error:
        raise AssetError(f"{where} is not a readable image ({error}); fetch the tar file again.") from error
    if not images:
        raise AssetError(f"{tar.name} holds no images; expected {layout}.")
    return np.stack(images), wnids


def to_batch(pixels: torch.Tensor) -> torch.Tensor:
    """Turn uint8 [B, H, W, 3] into float32 [B, 3, H, W] in [0, 1], channels last in memory as the pixels are."""
    return pixels.permute(0, 3, 1, 2).float() / 255


class Epoch:
    """Order and augmentation of one epoch's samples: functions of (seed, epoch) alone, the same on every device.

    Of `n` images `samples` are drawn: all images as often as it takes, each pass in an order of its own. The pixels are
    on `device`.
    """

    def __init__(self, n: int, samples: int, seed: int, epoch: int, device: str | torch.device = "cpu"):
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        passes = [torch.randperm(n, generator=generator) for _ in range(-(-samples // n))]
        shift = torch.randint(-CROP_PADDING, CROP_PADDING + 1, (2, samples), generator=generator)
        mirrored = torch.rand(samples, generator=generator) < 0.5
        self.order = torch.cat(passes)[:samples].to(device)
        self._shift, self._mirrored = shift.to(device), mirrored.to(device)

    def batch(self, pixels: torch.Tensor, start: int, stop: int, side: int = IMAGES_SIDE) -> tuple:
        """Return samples `start` to `stop` as images float32 [B, 3, S, S], and their places [B] in the data.

        Each is a window of `side` pixels whose centre is up to 4 pixels from the image's; beyond the edge the edge is
        repeated. Every other one, at random, is mirrored.
        """
        rows, last = self.order[start:stop], pixels.shape[1] - 1
        first, places = (last + 1 - side) // 2, torch.arange(side, device=pixels.device)
        down, right = (first + shift[start:stop, None] for shift in self._shift)
        columns = torch.where(self._mirrored[start:stop, None], side - 1 - places, places)
        # Indices beyond the edge are those of the edge: that is the padding.
        down, right = (places + down).clamp(0, last), (columns + right).clamp(0, last)
        return to_batch(pixels[rows[:, None, None], down[:, :, None], right[:, None, :]]), rows
