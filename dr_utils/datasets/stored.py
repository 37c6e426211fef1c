"""Decoded splits on disk: decoded once, checked against their hashes whenever they are read."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dr_utils import store
from dr_utils.datasets.task import Images, Source, Split, hash_images, hash_labels

log = logging.getLogger(__name__)


def load_split(source: Source, split: str) -> Split:
    """Return a whole split, from the store if it is there and sound, else decoded and stored.

    Parameters
    ----------
    source : Source
    split : str
        One that `source.decode` makes.

    Returns
    -------
    Split

    Raises
    ------
    dr_utils.store.AssetError
        The archive cannot be had, its content is not the pinned one, or the cache folder cannot be used.
    """
    path = _path(source, split)
    stored = _read(path, source, split)
    if stored is not None:
        return stored
    log.info("decoding %s (once)", source.card.title)
    decoded = source.decode()
    for name, content in decoded.items():
        hashes = check_content(source, name, content)
        if name == split or _read(_path(source, name), source, name) is None:
            _write(_path(source, name), content, {"recipe": source.recipe, **hashes})
    return decoded[split]


def check_content(source: Source, split: str, content: Split) -> dict[str, str]:
    """Hash a decoded split and compare with the pinned hashes; AssetError names both where they differ."""
    found = {"images": hash_images(content.images), "labels": hash_labels(content.labels)}
    for part, pinned in zip(("images", "labels"), source.pinned[split], strict=True):
        if found[part] == pinned:
            continue
        what = f"{split} {part} of {source.card.name} decode to SHA-256 {found[part]}, expected {pinned}"
        if not (source.lossy and part == "images"):
            raise store.AssetError(f"{what}; the source has changed or its decoding went wrong: report it.")
        log.info("%s: this libjpeg rounds differently, results may move in the last digits.", what)
    return found


def _path(source: Source, split: str) -> Path:
    return store.cache_dir() / "datasets" / f"{source.card.name}-{split}.safetensors"


def _write(path: Path, content: Split, metadata: dict[str, str]) -> None:
    shapes = np.array([image.shape for image in content.images], dtype=np.int64)
    if isinstance(content.images, np.ndarray):
        pixels = np.ascontiguousarray(content.images)
    else:
        pixels = np.concatenate([image.ravel() for image in content.images])
    store.check_cache(pixels.nbytes)
    with store.atomic_path(path) as unfinished:
        save_file({"pixels": pixels, "shapes": shapes, "labels": content.labels}, unfinished, metadata)


def _read(path: Path, source: Source, split: str) -> Split | None:
    """A stored split, or None if there is none, it is of another recipe, or it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("recipe") != source.recipe:
                return None
            pixels, shapes, labels = (file.get_tensor(name) for name in ("pixels", "shapes", "labels"))
        content = Split(_as_images(pixels, shapes), labels)
        if not source.lossy:
            metadata = dict(zip(("images", "labels"), source.pinned[split], strict=True))
        if hash_images(content.images) == metadata["images"] and hash_labels(labels) == metadata["labels"]:
            return content
    except (SafetensorError, KeyError, ValueError, OSError):
        pass
    log.warning("%s is damaged; it is made again", path.name)
    return None


def _as_images(pixels: np.ndarray, shapes: np.ndarray) -> Images:
    if pixels.ndim == 4:
        return pixels
    ends = np.cumsum(shapes.prod(axis=1))
    return [part.reshape(shape) for part, shape in zip(np.split(pixels, ends[:-1]), shapes, strict=True)]
