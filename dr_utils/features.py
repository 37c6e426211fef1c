"""Penultimate features of a task under a network: one pass, stored once, found again by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from dataclasses import dataclass

import numpy as np
import torch

from dr_utils import feature_store
from dr_utils.augmentation import Augmentation
from dr_utils.checks import check_features
from dr_utils.datasets import ImageTask, read_ahead
from dr_utils.device import pick_device
from dr_utils.models import Network
from dr_utils.progress import progress
from dr_utils.store import check_cache

# Raised by one whenever the same images and network would give other numbers than before.
EXTRACTION_VERSION = 2


@dataclass(frozen=True)
class Features:
    """Features of one split of one task under one network.

    Attributes
    ----------
    x : float32 array of shape [n, D]
        float16 where that was asked for. From a gigabyte on it is a map of the file.
    y : int64 array of shape [n]
    key : str
        Address of the content: a hash of network, images, preprocessing and precision.
    manifest : dict
        What the key was made of, and with which library versions the features were computed.
    """

    x: np.ndarray
    y: np.ndarray
    key: str
    manifest: dict


def extract(
    network: Network,
    task: ImageTask,
    *,
    resolution: int,
    device: str | torch.device = "auto",
    batch_size: int = 64,
    precision: str = "auto",
    augmentation: Augmentation | None = None,
    dtype: str = "float32",
    store: bool = True,
) -> Features:
    """Return a network's features on a task, from the store or by one forward pass.

    Parameters
    ----------
    network : Network
        From `dr_utils.models.load_model`.
    task : ImageTask
        From `dr_utils.datasets.load_dataset`.
    resolution : int
        Side in pixels to which every image is resized (bilinear, antialiased, to a square as in the
        paper's Appendix B).
    device : {"auto", "cpu", "cuda"}
        "auto" takes CUDA where there is one.
    batch_size : int
        Images per forward pass; halved as often as memory requires.
    precision : {"auto", "float32", "mixed"}
        "mixed" is autocast (float16 on CUDA, bfloat16 on the CPU); "auto" is mixed on CUDA and float32
        on the CPU. Features are float32 either way, unless `dtype` says otherwise.
    augmentation : Augmentation, optional
        What happens to each image, cut before and changed after it is resized.
    dtype : {"float32", "float16"}
        What features are rounded to, stored as and returned as; float16 halves disk and memory.
    store : bool
        Whether to look in the store first and to write to it.

    Returns
    -------
    Features

    Raises
    ------
    ValueError
        Unknown device, precision or dtype, resolution below 1, or features with NaN or without variation.
    dr_utils.store.CacheError
        The store cannot be written.
    """
    device = pick_device(device)
    if precision not in ("auto", "float32", "mixed"):
        raise ValueError(f"precision must be 'auto', 'float32' or 'mixed'; got {precision!r}.")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16'; got {dtype!r}.")
    if resolution < 1 or batch_size < 1:
        raise ValueError(f"resolution and batch_size must be at least 1; got {resolution} and {batch_size}.")
    mixed = precision == "mixed" or (precision == "auto" and device.type == "cuda")
    autocast_type = (torch.float16 if device.type == "cuda" else torch.bfloat16) if mixed else None
    identity = {
        "extraction_version": EXTRACTION_VERSION,
        "network": network.weight_hash,
        "preprocessing": network.preprocessing,
        "images": task.digest,
        "resolution": resolution,
        "resize": "bilinear, antialiased, square",
        "precision": str(autocast_type or torch.float32),
    }
    if augmentation is not None:
        identity["augmentation"] = augmentation.identity
    if dtype != "float32":
        identity["dtype"] = dtype
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    if store and (found := stored(key)) is not None:
        return found
    if store:
        check_cache(len(task.labels) * (network.width * np.dtype(dtype).itemsize + 8))
    label = f"{network.card.name} on {task.name} {task.split}"
    shape, y = (len(task.labels), network.width), np.asarray(task.labels, dtype=np.int64)
    with feature_store.create(key, shape, dtype) if store else contextlib.nullcontext() as file:
        x = file.x if file else np.empty(shape, dtype)
        _forward(x, network, task.images, resolution, device, batch_size, autocast_type, augmentation, label)
        check_features(x, name=f"features of {label}")
        manifest = {
            **identity,
            "name": network.card.name,
            "task": task.name,
            "split": task.split,
            "content": feature_store.content_hash(x, y),
            "device": device.type,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        }
        if file:
            file.finish(y, manifest)
    return Features(x, y, key, manifest)


def stored(key: str) -> Features | None:
    """Return the features stored under this key; None where there are none, or their content is not of their hash."""
    found = feature_store.read(key)
    return found and Features(found[0], found[1], key, found[2])


def _forward(out, network, images, resolution, device, batch_size, autocast_type, augmentation, label) -> None:
    """Fill `out` [n, D]."""
    network = network.eval().to(device=device, memory_format=torch.channels_last)
    done = 0
    context = torch.autocast(device.type, autocast_type) if autocast_type else contextlib.nullcontext()
    bar = progress(total=len(images), desc=label, unit="images")
    with torch.inference_mode(), context, bar, read_ahead(images) as ready:
        while done < len(images):
            stop = min(done + batch_size, len(images))
            try:
                batch = _batch(ready[done:stop], resolution, device, augmentation, done)
                out[done:stop] = network(batch).float().cpu().numpy()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if batch_size == 1 or not _out_of_memory(error):
                    raise
                batch_size //= 2
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            bar.update(stop - done)
            done = stop


def _batch(images, resolution: int, device, augmentation: Augmentation | None, start: int) -> torch.Tensor:
    if augmentation is None:
        return resize_batch(images, resolution, device)
    batch = augmentation(resize_batch(augmentation.crops(images, start), resolution, device), start)
    return batch.contiguous(memory_format=torch.channels_last)


def _out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError; its text is all that tells it from other failures.
    text = str(error).lower()
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "not enough memory" in text
        or "out of memory" in text
    )


def resize_batch(images, resolution: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """Turn uint8 images [H, W, 3] into one float32 batch [B, 3, resolution, resolution] in [0, 1]."""
    if isinstance(images, np.ndarray):
        stacked = [torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)]
    else:
        stacked = [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] for image in images]
    size = (resolution, resolution)
    resized = [
        torch.nn.functional.interpolate(
            part.to(device, torch.float32, memory_format=torch.contiguous_format) / 255,
            size,
            mode="bilinear",
            antialias=True,
        )
        for part in stacked
    ]
    batch = resized[0] if len(resized) == 1 else torch.cat(resized)
    return batch.contiguous(memory_format=torch.channels_last)
