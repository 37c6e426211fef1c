"""A user's own pictures as an image task: a folder of classes, or a Hugging Face dataset saved on disk."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from dr_utils.datasets.decode import Unreadable, decode, is_hidden, shrink
from dr_utils.datasets.task import ImageTask, digest_of, distinct, draw, split_off, take
from dr_utils.progress import progress
from dr_utils.store import AssetError

TEST_SHARE = 0.3  # of pictures that come without a split
MAX_SIDE = 512  # pixels of the shorter side; larger pictures are reduced to that, to fit into memory
SPLITS = ("train", "test", "val", "validation", "valid")  # train first, then what may serve as test, the best first
LAYOUTS = "PATH/<class>/* to be split, or PATH/train/<class>/* and PATH/test/<class>/*"


class DataWarning(UserWarning):
    """Some of a user's data was left out, or is where it should not be; the message counts and names it."""


def open_images(path: str | Path, *, seed: int = 0, limit: int | None = None) -> tuple[ImageTask, ImageTask]:
    """Open a user's own pictures as train and test, classes by name.

    `path` is a folder of class folders, a folder with `train/<class>/*` and `test/<class>/*` (or "val", "validation";
    the task's `split` says so), or a folder that `datasets.save_to_disk` of Hugging Face wrote. If there is only one
    split, TEST_SHARE of it becomes test; a repeated picture then counts once, one of two classes not.
    `seed` fixes the split and what is drawn: at most `limit` pictures in each split, in proportion to the classes.

    Raises ValueError or AssetError for another layout, or classes that are not in both splits. A DataWarning names
    files that were skipped, and counts pictures that are repeated or in both splits.
    """
    root = Path(path).expanduser()
    listings = _list(root)
    classes = tuple(sorted({name for pictures in listings.values() for _, name, _ in pictures}))
    if len(classes) < 2:
        raise ValueError(f"{root} has only one class ({_few(classes)}); a probe needs at least two.")
    if limit is not None and limit < len(classes):
        raise ValueError(f"limit={limit} is less than the {len(classes)} classes of {root}; take at least that many.")
    if len(listings) == 1:
        size = limit and math.ceil(limit / (1 - TEST_SHARE))
        images, labels = _decoded(listings[""], classes, root, "", size, seed)
        parts = _split(images, labels, len(classes), seed, limit)
    else:
        parts = {name: _decoded(each, classes, root, name, limit, seed) for name, each in listings.items()}
        train, test = ([hashlib.sha256(image).hexdigest() for image in images] for images, _ in parts.values())
        if both := np.isin(test, train).sum():
            what = f"{root}: {both} of {len(test)} test pictures are also in train; accuracies will be too high."
            warnings.warn(what, DataWarning, stacklevel=2)
    tasks = []
    for split, (images, labels) in parts.items():
        if lacking := [name for c, name in enumerate(classes) if c not in labels]:
            raise ValueError(
                f"{root}: no {split} pictures of {len(lacking)} of {len(classes)} classes ({_few(lacking)}); each "
                "needs one in train and another one to test on: add some, or remove the class."
            )
        images = np.stack(images) if len({image.shape for image in images}) == 1 else images
        digest = digest_of(images, labels, classes)
        tasks.append(ImageTask(root.resolve().name, split, images, labels, classes, digest))
    return tuple(tasks)


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join([*names[:most], "..."] if len(names) > most else names)


def _list(root: Path) -> dict[str, list[tuple]]:
    """List train and test, or pictures to be split under the name ""; nothing is decoded.

    Of each picture: what messages call it, its class, and the file, or the row of a table that holds its bytes.
    """
    if not root.is_dir():
        raise AssetError(f"{root}: no such folder; give a folder of pictures ({LAYOUTS}) or a saved dataset.")

    # A class may be called "train" too: a split is a folder of folders, or a saved dataset.
    splits = [name for name in SPLITS if (root / name / "state.json").is_file() or _folders(root / name)]
    if len(splits) < 2:
        return {"": _list_split(root.joinpath(*splits))}
    if splits[0] != "train":
        raise ValueError(f"{root} has {_few(splits)}; expected train and one of {', '.join(SPLITS[1:])}: rename them.")
    return {name: _list_split(root / name) for name in splits[:2]}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir() and not is_hidden(path.name))


def _list_split(folder: Path) -> list[tuple]:
    """List a saved dataset, or a folder of class folders; pictures may be in folders inside them."""
    if (folder / "state.json").is_file():
        return _list_dataset(folder)
    pictures = []
    for inside in _folders(folder):
        files = [path for path in sorted(inside.rglob("*")) if path.is_file()]
        files = [path for path in files if not any(map(is_hidden, path.relative_to(inside).parts))]
        if not files:
            raise ValueError(f"the class folder {inside} has no files; fill or remove it.")
        pictures += [(str(path.relative_to(folder)), inside.name, path) for path in files]
    if not pictures:
        raise ValueError(f"{folder} has no class folders; expected {LAYOUTS}.")
    return pictures


def _list_dataset(folder: Path) -> list[tuple]:
    """List what `datasets.Dataset.save_to_disk` wrote: Arrow streams, and what their columns mean in JSON."""
    import pyarrow as pa

    info, state = (json.loads((folder / name).read_text()) for name in ("dataset_info.json", "state.json"))
    files = [str(folder / entry["filename"]) for entry in state["_data_files"]]
    table = pa.concat_tables([pa.ipc.open_stream(pa.memory_map(file)).read_all() for file in files])
    kinds = {name: isinstance(kind, dict) and kind.get("_type") for name, kind in info["features"].items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel" or name == "label"]
    labels = ["label"] if "label" in labels else labels
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"the dataset in {folder} has the columns {kinds}; expected one Image and one ClassLabel, or a "
            "column called label: cast, rename or remove some (dataset.cast_column, rename_column, remove_columns)."
        )
    values, names = table[labels[0]].to_pylist(), info["features"][labels[0]].get("names")
    if None in values or (names and -1 in values):
        raise ValueError(f"rows of the dataset in {folder} have no {labels[0]}; remove them: dataset.filter(...).")
    classes = [names[value] if names else str(value) for value in values]
    return [(f"row {i}", *found) for i, found in enumerate(zip(classes, table[images[0]], strict=True))]


def _decoded(pictures, classes, root, split, size, seed) -> tuple[list[np.ndarray], np.ndarray]:
    """Decode `size` pictures (default: all), shuffled, and skip those that cannot be read."""
    labels = np.searchsorted(classes, [name for _, name, _ in pictures])
    index = draw(labels, min(size or len(labels), len(labels)), seed, split)
    if not split:  # to be split, for which each class needs two
        rare = np.flatnonzero(np.bincount(labels[index]) < 2)
        index = np.unique(np.concatenate([index, *(np.flatnonzero(labels == c)[:2] for c in rare)]))

    def attempt(i: int) -> np.ndarray | str:
        name, _, file = pictures[i]
        try:
            source = file if isinstance(file, Path) else file["bytes"].as_py()
            return decode(source, resize=partial(shrink, side=MAX_SIDE))
        except Unreadable as error:
            return f"{name} ({error})"

    with ThreadPoolExecutor() as pool:
        desc = f"decoding {root.name}/{split}"
        found = list(progress(pool.map(attempt, index), desc=desc, total=len(index), unit="images"))
    if skipped := [image for image in found if isinstance(image, str)]:
        what = f"{len(skipped)} of {len(index)} files cannot be read as pictures and were skipped: {_few(skipped)}."
        warnings.warn(f"{root / split}: {what}", DataWarning, stacklevel=3)
    good = [i for i, image in enumerate(found) if not isinstance(image, str)]
    return [found[i] for i in good], labels[index[good]]


def _split(images, labels, n_classes, seed, limit) -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
    """Split into train and test by content."""
    order = distinct(images, labels, f"seed {seed}")
    if left_out := len(images) - len(order):
        what = f"{left_out} of {len(images)} pictures were left out: repeated ones count once, those of two classes not"
        warnings.warn(f"{what}.", DataWarning, stacklevel=3)
    n_test = max(0, min(max(n_classes, round(TEST_SHARE * len(order))), len(order) - n_classes))
    parts = {}
    for name, part in zip(("train", "test"), split_off(order, labels, n_test), strict=True):
        if limit is not None and limit < len(part):
            part = part[draw(labels[part], limit, seed, name)]
        parts[name] = take(images, part), labels[part]
    return parts
