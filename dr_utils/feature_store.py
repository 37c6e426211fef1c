"""Features on disk: safetensors files addressed by what they were made of; large ones never stand in memory whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from dr_utils import store

# From this many bytes on features are written to and read from a memory map. A smaller file is read whole, so that
# nothing that befalls it afterwards reaches a running study.
MAPPED_BYTES = 1 << 30
# The header of a mapped file comes first and is known last; it is padded with spaces to this size.
_HEADER_BYTES = 1 << 16
_CHUNK_BYTES = 64 << 20
_TYPES = {"float16": "F16", "float32": "F32"}


def path_of(key: str) -> Path:
    """Return where the features of this key are, or would be."""
    return store.cache_dir() / "features" / f"{key}.safetensors"


def content_hash(x: np.ndarray, y: np.ndarray) -> str:
    """Return the SHA-256 of features [n, D] and labels [n], read once, in pieces."""
    found = hashlib.sha256()
    for array in (x, y):
        rows = max(1, _CHUNK_BYTES // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            found.update(np.ascontiguousarray(array[start : start + rows]))
    return found.hexdigest()


def read(key: str) -> tuple[np.ndarray, np.ndarray, dict] | None:
    """Return features, labels and manifest of this key; None where there are none, or they are not of their hash."""
    path = path_of(key)
    if not path.exists():
        return None
    mapped = path.stat().st_size >= MAPPED_BYTES
    try:
        # As torch tensors the library maps them, as numpy arrays it copies them.
        with safe_open(os.fspath(path), framework="pt" if mapped else "np") as file:
            manifest = json.loads(file.metadata()["manifest"])
            x, y = (np.asarray(file.get_tensor(name)) for name in ("x", "y"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    return (x, y, manifest) if content_hash(x, y) == manifest.get("content") else None


class NewFile:
    """Features that are being computed.

    Attributes
    ----------
    x : array of shape [n, D]
        To be filled; in memory, or where it is large, on disk.
    """

    def __init__(self, part: Path, shape: tuple[int, int], dtype: str):
        self._part, self._dtype = part, dtype
        n_bytes = shape[0] * shape[1] * np.dtype(dtype).itemsize
        self._mapped = n_bytes >= MAPPED_BYTES
        if not self._mapped:
            self.x = np.empty(shape, dtype)
            return
        size = _HEADER_BYTES + n_bytes + 8 * shape[0]
        with open(part, "wb") as file:
            file.truncate(size)
            # Writing through a map to a full disk kills the process; asking for the room before raises. Not on macOS.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        self.x = np.memmap(part, dtype, mode="r+", offset=_HEADER_BYTES, shape=shape)

    def finish(self, y: np.ndarray, manifest: dict) -> None:
        """Add the labels [n] and what the features were made of, and make the file whole."""
        texts = {"manifest": json.dumps(manifest)}
        if not self._mapped:
            safetensors.numpy.save_file({"x": self.x, "y": y}, self._part, metadata=texts)
            return
        n_bytes = self.x.nbytes
        header = {
            "__metadata__": texts,
            "x": {"dtype": _TYPES[self._dtype], "shape": self.x.shape, "data_offsets": [0, n_bytes]},
            "y": {"dtype": "I64", "shape": y.shape, "data_offsets": [n_bytes, n_bytes + y.nbytes]},
        }
        self.x.flush()
        with open(self._part, "r+b") as file:
            length = _HEADER_BYTES - 8
            file.write(length.to_bytes(8, "little") + json.dumps(header).encode().ljust(length))
            file.seek(_HEADER_BYTES + n_bytes)
            file.write(np.ascontiguousarray(y, dtype="<i8").tobytes())


@contextmanager
def create(key: str, shape: tuple[int, int], dtype: str) -> Iterator[NewFile]:
    """Give a file for features of this shape; it stands under its key only if the block succeeds.

    Raises
    ------
    dr_utils.store.CacheError
        The store cannot be written, or is full.
    """
    with store.atomic_path(path_of(key)) as part:
        yield NewFile(part, shape, dtype)
