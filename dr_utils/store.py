"""The cache folder: where it is, whether it can be used, and how a file gets there in one piece."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_WRITING = (errno.EACCES, errno.EPERM, errno.EROFS)


class AssetError(RuntimeError):
    """A named file cannot be had: no source gave it, or what came does not have the published hash."""


class CacheError(AssetError):
    """The cache folder cannot be used: not writable, or too little space left."""


def cache_dir() -> Path:
    """Return the cache folder, made if need be: $DR_HOME, else the platform's user cache folder.

    Raises
    ------
    CacheError
        The folder cannot be made, or a file stands in its place.
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
            f"the cache folder {folder} has {free / 1e6:.0f} MB free but {needed_bytes / 1e6:.0f} MB are needed; "
            "make room there, or set DR_HOME to a folder on a larger disk."
        )
    return folder


def cache_error(folder: Path, error: OSError) -> CacheError:
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

    Raises
    ------
    CacheError
        The folder cannot be written or its disk is full.
    """
    path = Path(path)
    # The process id keeps two runs that store the same thing at the same time out of each other's way.
    part = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.errno in NO_ROOM + NO_WRITING:
            raise cache_error(path.parent, error) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def sha256_of(path_or_bytes: str | os.PathLike | bytes) -> str:
    """Return the SHA-256 of a file's content, or of bytes, in hexadecimal."""
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        return hashlib.sha256(path_or_bytes).hexdigest()
    with open(path_or_bytes, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
