"""The cache folder, and the store in it: arrays and tables under the hash of what they were made from.

Every stored thing is a safetensors file, `<cache>/<kind>/<key>.safetensors`. Its header holds the thing's own name and
the hash of everything in the file, so that damage and mix-ups are noticed when it is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import math
import mmap
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs

log = logging.getLogger(__name__)

# Larger files are memory maps. A smaller one is read whole, so that nothing that happens to it later reaches a study.
MAPPED_BYTES = 1 << 30
_HEADER_BYTES = 1 << 16  # set aside in a mapped file, whose header comes first and is known last
# NumPy's names of types by those of safetensors.
_TYPES = {"BOOL": "|b1", "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4"}
_TYPES |= {"U8": "|u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "F64": "<f8"}
_NAMES = {code: name for name, code in _TYPES.items()}
_TABLE = "table/"
_FOLDER_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
Arrays, Tables = Mapping[str, np.ndarray], Mapping[str, pd.DataFrame]


class AssetError(RuntimeError):
    """A named file cannot be had: no source gave it, or it does not have the published hash."""


class CacheError(AssetError):
    """The cache folder cannot be used: not writable, or too little space left."""


@contextlib.contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn the errors of a folder that is full or cannot be written into a CacheError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FOLDER_ERRORS:
            raise
        raise CacheError(
            f"the cache folder {folder} cannot be written ({error.strerror}); make room or make it writable, "
            "or set DR_HOME to a folder elsewhere."
        ) from error


def cache_dir() -> Path:
    """Return the cache folder, made if need be ($DR_HOME, else the platform's), or raise CacheError."""
    given = os.environ.get("DR_HOME")
    folder = Path(given).expanduser() if given else platformdirs.user_cache_path("diffused-redundancy")
    with cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_cache(needed_bytes: int = 0) -> None:
    """Raise CacheError unless the cache folder can be written and has `needed_bytes` free."""
    folder = cache_dir()
    with cache_errors(folder), tempfile.TemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise CacheError(
            f"the cache folder {folder} has {free / 1e6:.3g} MB free but {needed_bytes / 1e6:.3g} MB are needed; "
            "make room there, or set DR_HOME to a folder on a larger disk."
        )


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` only if the block succeeds."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with cache_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(".*.part"):
                with contextlib.suppress(OSError):
                    if time.time() - left.stat().st_mtime > 24 * 3600:  # its writer was killed
                        left.unlink()
            yield part
            # On the disk before it gets its name: a crash leaves the old file or the new one.
            with open(part, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
            with contextlib.suppress(OSError):  # nor must a power cut lose the name; not every system opens folders
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def sha256_of(path_or_bytes: str | os.PathLike | bytes) -> str:
    """Return the SHA-256 of a file's content, or of bytes, in hexadecimal."""
    if isinstance(path_or_bytes, bytes):
        return hashlib.sha256(path_or_bytes).hexdigest()
    with open(path_or_bytes, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Stored:
    """What is stored under one key; in a file of a gigabyte or more, the arrays are maps of it."""

    arrays: Arrays
    tables: Tables
    about: dict


def key_of(identity: Mapping) -> str:
    """Return 32 hexadecimal digits that follow from all that decides a thing (JSON), its code's VERSION included."""
    return sha256_of(_canonical(identity))[:32]


def path_of(kind: str, key: str) -> Path:
    """Return where the thing of this kind ("features", "cells", ...) and key is, or would be."""
    return cache_dir() / kind / f"{key}.safetensors"


def write(kind: str, key: str, *, about: Mapping, arrays: Arrays | None = None, tables: Tables | None = None) -> None:
    """Store arrays of numbers or truth values, and tables without their index, in place of what is there.

    `about` is what a reader wants to know of them, fit for JSON. Raises CacheError if the folder cannot be written.
    """
    content = dict(arrays or {})
    for name, table in (tables or {}).items():
        content[_TABLE + name] = np.frombuffer(table.to_parquet(index=False), np.uint8)
    with atomic_path(path_of(kind, key)) as part:
        _save(part, f"{kind}/{key}", about, content)


@contextlib.contextmanager
def create(kind: str, key: str, shape: tuple, dtype: str, *, about: Mapping, arrays: Arrays) -> Iterator[np.ndarray]:
    """Give an array [shape] to be filled; it is stored as "x", beside `arrays`, if the block succeeds.

    It may be larger than memory: from a gigabyte on it is a map of the file. Raises as `write` does.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    mapped = n_bytes >= MAPPED_BYTES
    check_cache(n_bytes + _HEADER_BYTES)
    with atomic_path(path_of(kind, key)) as part:
        x = np.memmap(part, dtype, "w+", _HEADER_BYTES, shape) if mapped else np.empty(shape, dtype)
        # Writing through a map to a full disk kills the process; asking for the room before raises. Not on macOS.
        if mapped and hasattr(os, "posix_fallocate"):
            with open(part, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, _HEADER_BYTES + n_bytes)
        yield x
        _save(part, f"{kind}/{key}", about, {"x": x, **arrays}, mapped)


def _save(part: Path, name: str, about: Mapping, arrays: Arrays, mapped: bool = False) -> None:
    """Write a safetensors file; if `mapped`, the first array is in its place already."""
    header: dict = {"__metadata__": {"name": name, "about": _canonical(about).decode()}}
    pieces, end = [], 0
    for label, array in arrays.items():
        start, end = end, end + array.nbytes
        header[label] = {"dtype": _NAMES[array.dtype.str], "shape": list(array.shape), "data_offsets": [start, end]}
        pieces.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    header["__metadata__"]["content"] = _content_hash(header, pieces)
    text = _canonical(header)
    length = _HEADER_BYTES - 8 if mapped else len(text) + -len(text) % 8
    assert len(text) <= length, f"more is noted about {name} than a mapped file has room for"
    with open(part, "r+b" if mapped else "wb") as file:
        file.write(length.to_bytes(8, "little") + text.ljust(length))
        file.seek(0, os.SEEK_END)
        for piece in pieces[mapped:]:
            file.write(piece)


def read(kind: str, key: str) -> Stored | None:
    """Return what is stored under a key; None where there is nothing, or what was there is damaged and now removed."""
    path = path_of(kind, key)
    try:
        return _load(path, f"{kind}/{key}")
    except FileNotFoundError:  # never written, or another process has just removed it as damaged
        return None
    except (OSError, MemoryError):  # not the file's fault
        raise
    except Exception:
        log.warning("%s/%s is damaged or cannot be read; it is made again", kind, path.name)
        with cache_errors(path.parent):
            path.unlink(missing_ok=True)
        return None


def _load(path: Path, name: str) -> Stored:
    raw = _mapped(path) if path.stat().st_size >= MAPPED_BYTES else np.fromfile(path, np.uint8)
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header, data = json.loads(raw[8 : min(start, 1 << 27)].tobytes()), raw[start:]
    metadata = header["__metadata__"]
    content = metadata.pop("content")
    if metadata["name"] != name or content != _content_hash(header, [data]):
        raise ValueError("another thing, or damaged")
    # From here on everything is as it was written.
    del header["__metadata__"]
    arrays, tables = {}, {}
    for label, entry in header.items():
        piece = data[slice(*entry["data_offsets"])].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
        if label.startswith(_TABLE):
            tables[label.removeprefix(_TABLE)] = pd.read_parquet(io.BytesIO(piece))
        else:
            arrays[label] = np.require(piece, requirements="A")
    return Stored(arrays, tables, json.loads(metadata["about"]))


def _mapped(path: Path) -> np.ndarray:
    """Return a file's bytes as a map that torch may take as writable: what is written reaches memory, not the file."""
    flags = mmap.MAP_PRIVATE | (0x4000 if sys.platform == "linux" else 0)  # MAP_NORESERVE: it may exceed memory
    with open(path, "rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ | mmap.PROT_WRITE), np.uint8)


def _content_hash(header: Mapping, pieces: list[np.ndarray]) -> str:
    found = hashlib.sha256(_canonical(header))
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _canonical(content: Mapping) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
