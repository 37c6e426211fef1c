"""Tiny-ImageNet at 32 x 32: decoded once from its tar files, then batches cut and mirrored on the device."""

from __future__ import annotations

import io
import logging
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.progress import progress
from dr_utils.store import AssetError, sha256_of
from dr_utils.zoo.recipes import IMAGES_SIDE

log = logging.getLogger(__name__)

TARS = {"train": "tiny_imagenet_train.tar", "val": "tiny_imagenet_val.tar"}
CLASSES_SEED = 1  # of the choice of classes for networks trained on fewer
CROP_PADDING = 4  # pixels by which an image is shifted at most
DECODING = "bilinear, antialiased, 1"  # raised by one whenever the same tar would give other pixels than before


@dataclass(frozen=True)
class Images:
    """One split, as far as a network is trained or judged on it.

    Attributes
    ----------
    pixels : uint8 array of shape [n, 32, 32, 3]
        RGB.
    labels : int64 array of shape [n]
        Places in `classes`.
    classes : tuple of str
        WordNet ids, sorted.
    digest : str
        SHA-256 of the tar file.
    """

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def load_images(folder: str | Path, split: str, *, n_classes: int, limit: int | None = None) -> Images:
    """Load a split of Tiny-ImageNet, or the part of it that belongs to a seeded choice of classes.

    Parameters
    ----------
    folder : path
        Where the two tar files lie.
    split : {"train", "val"}
    n_classes : int
        As many classes as the tar has, or fewer: a choice that is the same for both splits, labelled anew.
    limit : int, optional
        Take only this many images, drawn with a fixed seed; for trials.

    Returns
    -------
    Images

    Raises
    ------
    AssetError
        The tar file is missing, damaged or not laid out as ``<split>/<wnid>/<name>.JPEG``.
    ValueError
        Unknown split, fewer classes in the tar than asked for, or a limit below 1.
    """
    if split not in TARS:
        raise unknown("split of Tiny-ImageNet", split, TARS)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 image; got {limit}.")
    images = _decoded(Path(folder) / TARS[split], split)
    if n_classes > len(images.classes):
        raise ValueError(
            f"{n_classes} classes are needed, but {TARS[split]} has {len(images.classes)}; "
            "give --data the folder of the whole Tiny-ImageNet."
        )
    if n_classes < len(images.classes):
        images = _choose_classes(images, n_classes)
    if limit is not None and limit < len(images):
        rows = _permutation(len(images), CLASSES_SEED)[:limit].numpy()
        images = Images(images.pixels[rows], images.labels[rows], images.classes, images.digest)
    return images


def _permutation(n: int, seed: int) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _choose_classes(images: Images, n_classes: int) -> Images:
    chosen = np.sort(_permutation(len(images.classes), CLASSES_SEED)[:n_classes].numpy())
    rows = np.isin(images.labels, chosen)
    classes = tuple(images.classes[c] for c in chosen)
    return Images(images.pixels[rows], np.searchsorted(chosen, images.labels[rows]), classes, images.digest)


def _decoded(tar: Path, split: str) -> Images:
    """The whole split: from the cache if it was decoded from this very file, else decoded and stored."""
    if not tar.is_file():
        raise AssetError(
            f"{tar.name} is not in {tar.parent}; --data must be the folder that holds {' and '.join(TARS.values())}."
        )
    digest = sha256_of(tar)
    path = store.cache_dir() / "zoo" / f"tiny-imagenet-{IMAGES_SIDE}-{split}-{digest[:16]}.safetensors"
    if (stored := _read(path, digest)) is not None:
        return stored
    images = _decode(tar, split, digest)
    store.check_cache(images.pixels.nbytes)
    metadata = {"decoding": DECODING, "classes": " ".join(images.classes), "content": _content(images)}
    with store.atomic_path(path) as part:
        save_file({"pixels": images.pixels, "labels": images.labels}, part, metadata)
    return images


def _content(images: Images) -> str:
    return sha256_of(sha256_of(images.pixels.data).encode() + images.labels.tobytes())


def _read(path: Path, digest: str) -> Images | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            pixels, labels = file.get_tensor("pixels"), file.get_tensor("labels")
        images = Images(pixels, labels, tuple(metadata["classes"].split()), digest)
        if metadata["decoding"] == DECODING and metadata["content"] == _content(images):
            return images
    except (SafetensorError, KeyError, ValueError, OSError):
        pass
    log.warning("%s is damaged or of an earlier release; it is made again", path.name)
    return None


def _decode(tar: Path, split: str, digest: str) -> Images:
    pixels, wnids = [], []
    try:
        with tarfile.open(tar, "r:*") as archive:
            for member in progress(archive, desc=f"decoding {tar.name}", unit="images"):
                if not member.isfile():
                    continue
                parts = PurePosixPath(member.name).parts
                if len(parts) != 3 or parts[0] != split:
                    raise AssetError(f"{tar.name} holds {member.name!r}; expected {split}/<wnid>/<name>.JPEG only.")
                pixels.append(_small(archive.extractfile(member).read(), f"{member.name} in {tar.name}"))
                wnids.append(parts[1])
    except (OSError, EOFError, tarfile.TarError) as error:
        raise AssetError(f"{tar.name} is no readable tar file ({error}); fetch it again.") from error
    if not pixels:
        raise AssetError(f"{tar.name} holds no images; expected {split}/<wnid>/<name>.JPEG.")
    classes, labels = np.unique(wnids, return_inverse=True)
    return Images(np.stack(pixels), labels.astype(np.int64), tuple(map(str, classes)), digest)


def _small(data: bytes, where: str) -> np.ndarray:
    """Decode a JPEG and bring it to [32, 32, 3]; PIL's bilinear filter is antialiased."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB").resize((IMAGES_SIDE, IMAGES_SIDE), Image.Resampling.BILINEAR))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise AssetError(f"{where} is no readable image ({error}); fetch the tar file again.") from error


def to_batch(pixels: torch.Tensor) -> torch.Tensor:
    """Turn uint8 [B, H, W, 3] into float32 [B, 3, H, W] in [0, 1], channels last in memory as the pixels are."""
    return pixels.permute(0, 3, 1, 2).float() / 255


class Epoch:
    """Order and augmentation of one epoch's samples: functions of (seed, epoch) alone, the same on every device.

    Parameters
    ----------
    n : int
        Images.
    samples : int
        How many are drawn in this epoch: all images as often as it takes, each pass in an order of its own.
    seed, epoch : int
    device : torch.device
        Where the pixels are.
    """

    def __init__(self, n: int, samples: int, seed: int, epoch: int, device: str | torch.device = "cpu"):
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        passes = [torch.randperm(n, generator=generator) for _ in range(-(-samples // n))]
        shift = torch.randint(-CROP_PADDING, CROP_PADDING + 1, (2, samples), generator=generator)
        mirrored = torch.rand(samples, generator=generator) < 0.5
        self.order = torch.cat(passes)[:samples].to(device)
        self._shift, self._mirrored = shift.to(device), mirrored.to(device)

    def batch(
        self, pixels: torch.Tensor, start: int, stop: int, side: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return samples `start` to `stop` as images float32 [B, 3, S, S], and their places [B] in the data.

        A window of `side` pixels (default: as large as the image) whose centre is up to 4 pixels from the image's;
        beyond the edge the edge is repeated. Every other one is mirrored.
        """
        rows = self.order[start:stop]
        last = pixels.shape[1] - 1
        side = last + 1 if side is None else side
        first = (last + 1 - side) // 2
        side = torch.arange(side, device=pixels.device)
        down, right = (first + shift[start:stop, None] for shift in self._shift)
        columns = torch.where(self._mirrored[start:stop, None], len(side) - 1 - side, side)
        # Indices beyond the edge are those of the edge: that is the padding.
        down, right = (side + down).clamp(0, last), (columns + right).clamp(0, last)
        return to_batch(pixels[rows[:, None, None], down[:, :, None], right[:, None, :]]), rows
