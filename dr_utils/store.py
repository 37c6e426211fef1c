"""The cache folder, and the store in it: arrays and tables under the hash of what they were made from.

Every stored thing is one file in the safetensors format, `<cache>/<kind>/<key>.safetensors`. Its header holds the
thing's own name and the hash of everything in the file, so that damage and mix-ups are noticed when it is read.
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
import re
import shutil
import socket
import sys
import tempfile
import time
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
_TYPES = {"BOOL": "|b1", "U8": "|u1", "I8": "|i1"} | {
    f"{kind.upper()}{8 * size}": f"<{kind}{size}" for kind in "iuf" for size in (2, 4, 8)
}
_NAMES = {code: name for name, code in _TYPES.items()}
_TABLE = "table/"
Arrays, Tables = Mapping[str, np.ndarray], Mapping[str, pd.DataFrame]

_HOST = re.sub(r"[^\w.]", "", socket.gethostname())
_PART = re.compile(r"\..+\.(?P<host>[\w.]*)-(?P<pid>\d+)-\d+\.part")


class AssetError(RuntimeError):
    """A named file cannot be had: no source gave it, or what came does not have the published hash."""


class CacheError(AssetError):
    """The cache folder cannot be used: not writable, or too little space left."""


def cache_dir() -> Path:
    """Return the cache folder, made if need be ($DR_HOME, else the platform's), or raise CacheError."""
    given = os.environ.get("DR_HOME")
    folder = Path(given).expanduser() if given else platformdirs.user_cache_path("diffused-redundancy")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(folder, error) from error
    return folder


def check_cache(needed_bytes: int = 0) -> Path:
    """Return the cache folder if it can be written and has `needed_bytes` free, else raise CacheError."""
    folder = cache_dir()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-"):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise cache_error(folder, error) from error
    if free < needed_bytes:
        raise CacheError(
            f"the cache folder {folder} has {free / 1e6:.3g} MB free but {needed_bytes / 1e6:.3g} MB are needed; "
            "make room there, or set DR_HOME to a folder on a larger disk."
        )
    return folder


def cache_error(folder: Path, error: OSError) -> CacheError:
    """Return the error that says what to do about a folder that is full or cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "is full; make room there" if full else f"cannot be written ({error.strerror or error}); make it writable"
    return CacheError(f"the cache folder {folder} {what}, or set DR_HOME to a folder elsewhere.")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` only if the block succeeds.

    The file is on the disk before it gets its name, so that a crash leaves the old file or the new one. Temporary files
    that killed processes left in the folder are removed. Raises CacheError if the folder is full or cannot be written.
    """
    path = Path(path)
    # Host and process keep two runs that store the same thing at the same time out of each other's way.
    part = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{time.monotonic_ns()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path.parent)
        yield part
        _flush(part)
        os.replace(part, path)
        with contextlib.suppress(OSError):  # not every file system flushes folders
            _flush(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise cache_error(path.parent, error) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove_left_over(folder: Path) -> None:
    for path in folder.glob(".*.part"):
        if found := _PART.fullmatch(path.name):
            with contextlib.suppress(OSError):
                stale = time.time() - path.stat().st_mtime > 24 * 3600  # its writer may run on another machine
                try:
                    os.kill(int(found["pid"]), 0)  # asks only whether it runs
                except ProcessLookupError:
                    stale = stale or found["host"] == _HOST
                if stale:
                    path.unlink()


def sha256_of(path_or_bytes: str | os.PathLike | bytes) -> str:
    """Return the SHA-256 of a file's content, or of bytes, in hexadecimal."""
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
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
    """Return the key of a thing: 32 hexadecimal digits that follow from what it is made from.

    `identity` is everything that decides the thing, fit for JSON, in any order. The `VERSION` of the code that makes it
    is part of it.

    Examples
    --------
    >>> key_of({"version": 1, "seed": 0}) == key_of({"seed": 0, "version": 1})
    True
    """
    return sha256_of(_canonical(identity))[:32]


def path_of(kind: str, key: str) -> Path:
    """Return where the thing of this kind ("features", "cells", ...) and key is, or would be."""
    return cache_dir() / kind / f"{key}.safetensors"


def has(kind: str, key: str) -> bool:
    """Return whether a file is there; `read` tells whether it is sound."""
    return path_of(kind, key).is_file()


def write(kind: str, key: str, *, about: Mapping, arrays: Arrays | None = None, tables: Tables | None = None):
    """Store arrays of numbers or truth values, and tables without their index, in place of what is there.

    `about` is what a reader wants to know of them, fit for JSON. Raises TypeError for an array of objects or text,
    CacheError if the cache folder is full or cannot be written.
    """
    content = dict(arrays or {})
    for name, table in (tables or {}).items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        content[_TABLE + name] = np.frombuffer(buffer.getbuffer(), np.uint8)
    check_cache(sum(array.nbytes for array in content.values()) + _HEADER_BYTES)
    with _new(kind, key) as part:
        _save(part, f"{kind}/{key}", about, content)


@contextlib.contextmanager
def create(kind: str, key: str, shape: tuple, dtype: str, *, about: Mapping, arrays: Arrays) -> Iterator[np.ndarray]:
    """Give an array [shape] to be filled; it is stored as "x", beside `arrays`, if the block succeeds.

    It may be larger than memory: from a gigabyte on it is a map of the file. Raises as `write` does.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    mapped = n_bytes >= MAPPED_BYTES
    check_cache(n_bytes + _HEADER_BYTES)
    with _new(kind, key) as part:
        x = np.memmap(part, dtype, "w+", _HEADER_BYTES, shape) if mapped else np.empty(shape, dtype)
        # Writing through a map to a full disk kills the process; asking for the room before raises. Not on macOS.
        if mapped and hasattr(os, "posix_fallocate"):
            with open(part, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, _HEADER_BYTES + n_bytes)
        yield x
        _save(part, f"{kind}/{key}", about, {"x": x, **arrays}, mapped)


@contextlib.contextmanager
def _new(kind: str, key: str) -> Iterator[Path]:
    path = path_of(kind, key)
    with atomic_path(path) as part:
        yield part
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _save(part: Path, name: str, about: Mapping, arrays: Arrays, mapped: bool = False) -> None:
    """Write a safetensors file; if `mapped`, the first array is in its place already."""
    header: dict = {"__metadata__": {"name": name, "about": _canonical(about).decode()}}
    pieces, end = [], 0
    for label, array in arrays.items():
        if array.dtype.str not in _NAMES:
            raise TypeError(f"arrays of type {array.dtype} cannot be stored ({label}); give numbers or truth values.")
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
    """Return what is stored under a key; None where there is nothing.

    A file that is damaged or bears another thing's name counts as absent: a line of the log says so, and it is removed.
    """
    path = path_of(kind, key)
    try:
        return _load(path, f"{kind}/{key}") if os.path.lexists(path) else None
    except (OSError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        log.warning("%s/%s is damaged or cannot be read; it is made again", kind, path.name)
        if not isinstance(error, OSError):
            with contextlib.suppress(OSError):
                path.unlink()
    return None


def _load(path: Path, name: str) -> Stored:
    if not path.is_file():
        raise ValueError("a folder, or something that never ends")
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
