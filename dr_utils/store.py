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
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import platformdirs

log = logging.getLogger(__name__)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS)

# From this many bytes on arrays are written to and read from a memory map. A smaller file is read whole, so that
# nothing that happens to it afterwards reaches a running study.
MAPPED_BYTES = 1 << 30
_HEADER_BYTES = 1 << 16  # set aside in a mapped file, whose header comes first and is known last
_HEADER_LIMIT = 100 << 20
# Safetensors' names of types and NumPy's: "F32" is "<f4".
_TYPES = {"BOOL": "|b1"} | {
    f"{kind.upper()}{8 * size}": np.dtype(f"<{kind}{size}").str
    for kind, sizes in {"i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}.items()
    for size in sizes
}
_TABLE = "table/"

_HOST = re.sub(r"[^\w.]", "", socket.gethostname())
_PART = re.compile(r"\..+\.(?P<host>[\w.]*)-(?P<pid>\d+)-\d+\.part")
_STALE_SECONDS = 24 * 3600  # for a writer on another machine, where nobody can tell whether it still runs


class AssetError(RuntimeError):
    """A named file cannot be had: no source gave it, or what came does not have the published hash."""


class CacheError(AssetError):
    """The cache folder cannot be used: not writable, or too little space left."""


def cache_dir() -> Path:
    """Return the cache folder: $DR_HOME, else the platform's user cache folder. It is made if it is not there.

    Raises
    ------
    CacheError
        The folder cannot be made, or there is a file in its place.
    """
    given = os.environ.get("DR_HOME")
    folder = Path(given).expanduser() if given else platformdirs.user_cache_path("diffused-redundancy")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cache_error(folder, error) from error
    return folder


def check_cache(needed_bytes: int = 0) -> Path:
    """Return the cache folder after making sure that it can be written and has `needed_bytes` bytes free.

    Raises
    ------
    CacheError
        Not writable, or too little space; the message names the folder and says what to do.
    """
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
    if error.errno in NO_ROOM:
        return CacheError(
            f"the disk of the cache folder {folder} is full; make room there, "
            "or set DR_HOME to a folder on a larger disk."
        )
    return CacheError(
        f"the cache folder {folder} cannot be written ({error.strerror or error}); "
        "make it a writable folder, or set DR_HOME to one."
    )


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the place of `path` only if the block succeeds.

    The file is on the disk before it gets its name, so that a crash leaves the old file or the new one. Temporary
    files that killed processes left in the folder are removed.

    Raises
    ------
    CacheError
        The folder cannot be written or its disk is full.
    """
    path = Path(path)
    # Host and process keep two runs that store the same thing at the same time out of each other's way.
    part = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{time.monotonic_ns()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(path.parent)
        yield part
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        with contextlib.suppress(OSError):  # not every system opens folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        if error.errno in NO_ROOM + NO_WRITING:
            raise cache_error(path.parent, error) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _remove_left_over(folder: Path) -> None:
    for name in os.listdir(folder):
        if not (found := _PART.fullmatch(name)):
            continue
        with contextlib.suppress(OSError):
            stale = time.time() - os.stat(folder / name).st_mtime > _STALE_SECONDS
            if found["host"] == _HOST and os.name == "posix":
                try:
                    os.kill(int(found["pid"]), 0)  # asks only whether it runs
                except ProcessLookupError:
                    stale = True
            if stale:
                os.unlink(folder / name)


def sha256_of(path_or_bytes: str | os.PathLike | bytes) -> str:
    """Return the SHA-256 of a file's content, or of bytes, in hexadecimal."""
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        return hashlib.sha256(path_or_bytes).hexdigest()
    with open(path_or_bytes, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Stored:
    """What was stored under one key.

    Where the file has a gigabyte or more, `arrays` are read-only maps of it. `about` is what the writer noted, as JSON
    gives it back.
    """

    arrays: dict[str, np.ndarray]
    tables: dict[str, pd.DataFrame]
    about: dict


def key_of(identity: Mapping) -> str:
    """Return the key of a thing: 32 hexadecimal digits that follow from what it is made from.

    Parameters
    ----------
    identity : mapping
        Everything that decides the thing, fit for JSON; the order of its entries does not matter. A `VERSION` that is
        raised with the code that makes the thing belongs in it.

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
    """Whether a file is there; `read` tells whether it is sound."""
    return path_of(kind, key).is_file()


def write(
    kind: str,
    key: str,
    *,
    about: Mapping,
    arrays: Mapping[str, np.ndarray] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Store arrays and tables under their key, in place of what is there.

    Parameters
    ----------
    kind, key : str
        Folder and name, see `path_of`; the key usually comes from `key_of`.
    about : mapping
        What a reader wants to know of them, fit for JSON.
    arrays : mapping of str to array, optional
        Of numbers or truth values.
    tables : mapping of str to DataFrame, optional
        Their index is not kept.

    Raises
    ------
    CacheError
        The cache folder cannot be written, or is full.
    TypeError
        An array of objects or text.
    """
    content = dict(arrays or {})
    for name, table in (tables or {}).items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        content[_TABLE + name] = np.frombuffer(buffer.getbuffer(), np.uint8)
    check_cache(sum(array.nbytes for array in content.values()) + _HEADER_BYTES)
    with _new(kind, key) as part:
        _save(part, f"{kind}/{key}", about, content)


def read(kind: str, key: str) -> Stored | None:
    """Return what is stored under a key; None where there is nothing.

    A file that is damaged, or has another thing's name, counts as absent: one line of the log says so, and the file
    is removed.
    """
    path = path_of(kind, key)
    if not path.is_file():
        if os.path.lexists(path):
            log.warning("%s/%s is not a file; it is made again", kind, path.name)
        return None
    try:
        return _load(path, f"{kind}/{key}")
    except OSError as error:
        log.warning("%s/%s cannot be read (%s); it is made again", kind, path.name, error.strerror or error)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        log.warning("%s/%s is damaged; it is made again", kind, path.name)
        with contextlib.suppress(OSError):
            path.unlink()
    return None


@contextlib.contextmanager
def create(
    kind: str, key: str, shape: tuple[int, ...], dtype: str, *, about: Mapping, arrays: Mapping[str, np.ndarray]
) -> Iterator[np.ndarray]:
    """Give an array to be filled, which may be larger than memory; it is stored as "x" if the block succeeds.

    Parameters
    ----------
    kind, key, about, arrays
        As `write` takes them: what is stored beside it.
    shape, dtype
        Of the array. From a gigabyte on it is a map of the file.

    Raises
    ------
    CacheError
        The cache folder cannot be written, or is full.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    mapped = n_bytes >= MAPPED_BYTES
    check_cache(n_bytes)
    with _new(kind, key) as part:
        if mapped:
            x = np.memmap(part, dtype, mode="w+", offset=_HEADER_BYTES, shape=shape)
            # Writing through a map to a full disk kills the process; asking for the room before raises. Not on macOS.
            if hasattr(os, "posix_fallocate"):
                with open(part, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, _HEADER_BYTES + n_bytes)
        else:
            x = np.empty(shape, dtype)
        yield x
        _save(part, f"{kind}/{key}", about, {"x": x, **arrays}, mapped)


@contextlib.contextmanager
def _new(kind: str, key: str) -> Iterator[Path]:
    path = path_of(kind, key)
    with atomic_path(path) as part:
        yield part
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def _save(part: Path, name: str, about: Mapping, arrays: Mapping[str, np.ndarray], mapped: bool = False) -> None:
    """Write a safetensors file; if `mapped`, the first array is in its place already."""
    if not mapped:  # large items first keep every array aligned
        arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict = {"__metadata__": {"name": name, "about": _canonical(about).decode()}}
    pieces, end = [], 0
    types = {code: type_name for type_name, code in _TYPES.items()}
    for label, array in arrays.items():
        if array.dtype.str not in types:
            raise TypeError(f"arrays of type {array.dtype} cannot be stored ({label}); give numbers or truth values.")
        start, end = end, end + array.nbytes
        header[label] = {"dtype": types[array.dtype.str], "shape": list(array.shape), "data_offsets": [start, end]}
        pieces.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    header["__metadata__"]["content"] = _content_hash(header, pieces)
    text = _canonical(header)
    length = _HEADER_BYTES - 8 if mapped else len(text) + -len(text) % 8
    if len(text) > length:
        raise ValueError(f"{name}: more is noted about it ({len(text)} bytes) than a mapped file has room for.")
    with open(part, "r+b" if mapped else "wb") as file:
        file.write(length.to_bytes(8, "little") + text.ljust(length))
        if mapped:
            arrays["x"].flush()
            file.seek(0, os.SEEK_END)
        for piece in pieces[mapped:]:
            file.write(piece)


def _load(path: Path, name: str) -> Stored:
    large = path.stat().st_size >= MAPPED_BYTES
    raw = np.memmap(path, np.uint8, mode="r") if large else np.fromfile(path, np.uint8)
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    if start > _HEADER_LIMIT:
        raise ValueError("a header of absurd size")
    header, data = json.loads(raw[8:start].tobytes()), raw[start:]
    metadata = header["__metadata__"]
    content = metadata.pop("content")
    if metadata["name"] != name or content != _content_hash(header, [data]):
        raise ValueError("another thing, or damaged")
    # From here on everything is as it was written.
    arrays, tables = {}, {}
    for label in header.keys() - {"__metadata__"}:
        about = header[label]
        piece = data[slice(*about["data_offsets"])].view(_TYPES[about["dtype"]]).reshape(about["shape"])
        if label.startswith(_TABLE):
            tables[label.removeprefix(_TABLE)] = pd.read_parquet(io.BytesIO(piece))
        else:
            arrays[label] = np.require(piece, requirements="A")
    return Stored(arrays, tables, json.loads(metadata["about"]))


def _content_hash(header: Mapping, pieces: list[np.ndarray]) -> str:
    found = hashlib.sha256(_canonical(header))
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _canonical(content: Mapping) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
