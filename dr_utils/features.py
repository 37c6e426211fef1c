"""Penultimate features of a task under a network: one pass, stored once under the key of what they depend on."""

from __future__ import annotations

import contextlib
import platform
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dr_utils.checks import check_features
from dr_utils.datasets import read_ahead
from dr_utils.device import has_cuda, pick_device
from dr_utils.progress import progress
from dr_utils.store import create, key_of, read

if TYPE_CHECKING:
    import torch

    from dr_utils.augmentation import Augmentation
    from dr_utils.datasets import ImageTask
    from dr_utils.models import Network

# Raised by one whenever the same images and network would give other numbers than before.
VERSION = 3
# Batches that a GPU may have waiting, so that it never waits for one.
AHEAD = 8


@dataclass(frozen=True)
class Features:
    """Features of one split of one task under one network: x [n, D], y [n], key in the store, what that is made from.

    From a gigabyte on `x` is a map of the file.
    """

    x: np.ndarray
    y: np.ndarray
    key: str
    manifest: dict


def extract(
    network: Network, task: ImageTask, *, resolution: int | None = None, device: str | torch.device = "auto",
    batch_size: int = 64, precision: str = "auto", augmentation: Augmentation | None = None, dtype: str = "float32",
    store: bool = True,
) -> Features:  # fmt: skip
    """Return a network's features x [n, D] on a task, with its labels y [n], from the store or by one forward pass.

    Parameters
    ----------
    network, task
        From `dr_utils.load_model` and `dr_utils.load_dataset`.
    resolution : int, optional
        Side in pixels of the square to which images are resized (bilinear, antialiased; the paper's Appendix B). By
        default the one side that the network takes, or 224 if it takes any.
    device : {"auto", "cpu", "cuda"}
        "auto" takes CUDA where there is one.
    batch_size : int
        Images per forward pass; halved as often as memory requires.
    precision : {"auto", "float32", "mixed"}
        "mixed" is autocast (float16 on CUDA, bfloat16 on the CPU); "auto" is mixed on CUDA, float32 on the CPU.
    augmentation : Augmentation, optional
        What happens to each image.
    dtype : {"float32", "float16"}
        Of the features that are stored and returned, whatever the precision.
    store : bool
        Whether to read from the store and write to it.

    Raises
    ------
    ValueError
        Unknown device, precision or dtype, resolution or batch_size below 1, features with NaN or without variation.
    dr_utils.store.CacheError
        The store cannot be written.

    Examples
    --------
    >>> from dr_utils import load_dataset, load_model
    >>> digits = load_dataset("digits", "test", size=100)
    >>> extract(load_model("small_resnet"), digits, store=False).x.shape
    (100, 512)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    options = {"resolution": resolution, "device": device, "precision": precision, "dtype": dtype}
    identity = features_identity(network, task.digest, augmentation=augmentation, **options)
    key = key_of(identity)
    if store and (found := stored(key)) is not None:
        return found
    import torch

    device, label = pick_device(device), f"{network.card.name} on {task.name} {task.split}"
    shape, y = (len(task.labels), network.width), np.asarray(task.labels, dtype=np.int64)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    manifest = {**identity, "name": network.card.name, "task": task.name, "split": task.split}
    manifest |= {"device": device.type, "versions": versions}
    new = create("features", key, shape, dtype, about=manifest, arrays={"y": y})
    with new if store else contextlib.nullcontext(np.empty(shape, dtype)) as x:
        autocast = getattr(torch, identity["precision"])
        _forward(x, network, task.images, identity["resolution"], device, batch_size, autocast, augmentation, label)
        check_features(x, name=f"features of {label}")
    return Features(x, y, key, manifest)


def stored(key: str) -> Features | None:
    """Return the features stored under this key; None where there are none, or they are damaged."""
    found = read("features", key)
    return found and Features(found.arrays["x"], found.arrays["y"], key, found.about)


def features_identity(
    network, digest, *, resolution=None, device="auto", precision="auto", augmentation=None, dtype="float32"
) -> dict:
    """Return what decides the features that `extract` gives, fit for JSON: its hash is their key."""
    if precision not in ("auto", "float32", "mixed"):
        raise ValueError(f"precision must be 'auto', 'float32' or 'mixed'; got {precision!r}.")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16'; got {dtype!r}.")
    resolution = network.card.side or 224 if resolution is None else resolution
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1; got {resolution}.")
    on_gpu = has_cuda() if str(device) == "auto" else str(device).startswith("cuda")
    mixed = precision == "mixed" or (precision == "auto" and on_gpu)
    precision = ("float16" if on_gpu else "bfloat16") if mixed else "float32"
    about = {"version": VERSION, "network": network.identity, "images": digest, "resolution": resolution}
    return about | {"precision": precision, "augmentation": augmentation and augmentation.identity, "dtype": dtype}


def _forward(out, network, images, resolution, device, batch_size, autocast, augmentation, label) -> None:
    """Fill `out` [n, D]."""
    import torch

    module = network.module.to(device=device, memory_format=torch.channels_last)
    mixed = torch.autocast(device.type, autocast, enabled=autocast != torch.float32)
    # Images before `written` are in `out`, those up to `done` are in `waiting`, still on the device.
    written, done, waiting, bar = 0, 0, [], progress(total=len(images), desc=label, unit="images")
    with torch.inference_mode(), mixed, bar, read_ahead(images) as take:
        while done < len(images):
            stop = min(done + batch_size, len(images))
            try:
                part = augmentation.crops(take(done, stop), done) if augmentation else take(done, stop)
                batch = resize_batch(part, resolution, device)
                batch = augmentation(batch, done) if augmentation else batch
                batch = batch.contiguous(memory_format=torch.channels_last)
                waiting.append(module(batch).float())
            except (MemoryError, RuntimeError) as error:
                # The allocators of CPU and GPU raise RuntimeErrors; only their text tells them from other failures.
                full = isinstance(error, MemoryError) or re.search("(not enough|out of) memory", str(error).lower())
                if batch_size == 1 or not full:
                    raise
                batch_size //= 2
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            bar.update(stop - done)
            done = stop
            if done == len(images) or len(waiting) == AHEAD:
                out[written:done] = torch.cat(waiting).cpu().numpy()
                written = done
                waiting.clear()


def resize_batch(images, resolution: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """Turn uint8 images [H, W, 3] into one float32 batch [B, 3, resolution, resolution] in [0, 1]."""
    import torch

    resized = []
    for part in [images] if isinstance(images, np.ndarray) else [image[None] for image in images]:
        pixels = torch.from_numpy(np.ascontiguousarray(part))
        if torch.device(device).type == "cuda":
            # Bytes, not floats, and from pinned memory: the copy does not hold up what comes after it.
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        pixels = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
        if pixels.shape[2:] != (resolution, resolution):
            pixels = torch.nn.functional.interpolate(pixels, (resolution,) * 2, mode="bilinear", antialias=True)
        resized.append(pixels)
    return torch.cat(resized)
