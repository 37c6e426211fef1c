"""The cache folder, files that appear in one piece, and the store of arrays and tables."""

from __future__ import annotations

import errno
import io
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from dr_utils import store
from dr_utils.store import AssetError, CacheError

ARRAYS = {
    "x": np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32),
    "y": np.arange(7),
    "half": np.ones((2, 3), np.float16),
    "yes": np.array([True, False, True]),
    "none": np.empty((0, 4)),
    "one": np.array(3.5),
}
TABLES = {
    "probes": pd.DataFrame({"model": ["a", "b", None], "accuracy": [0.1, 1 / 3, np.nan], "seed": [1, 2, 3]}),
    "empty": pd.DataFrame({"model": pd.Series(dtype=str)}),
}
ABOUT = {"network": "small", "fractions": [0.1, 1.0], "nested": {"a": None}}


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def stored_file(key="k", **given) -> Path:
    store.write("cells", key, **{"about": ABOUT, "arrays": ARRAYS, "tables": TABLES, **given})
    return store.path_of("cells", key)


def assert_whole(found) -> None:
    assert found.about == ABOUT and set(found.arrays) == set(ARRAYS) and set(found.tables) == set(TABLES)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
    for name, table in TABLES.items():
        pd.testing.assert_frame_equal(found.tables[name], table)


# ---------------------------------------------------------------- the cache folder


def test_cache_folder_is_dr_home_or_the_platforms(monkeypatch, home, tmp_path):
    assert store.cache_dir() == home and home.is_dir()
    monkeypatch.delenv("DR_HOME")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "user" / name)
    assert store.cache_dir() == tmp_path / "user" / "diffused-redundancy"


def test_a_file_in_place_of_the_folder(monkeypatch, tmp_path):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("DR_HOME", str(tmp_path / "taken" / "inside"))
    for use in (store.cache_dir, store.check_cache, stored_file):
        with pytest.raises(CacheError) as error:
            use()
        assert str(tmp_path / "taken") in str(error.value) and "DR_HOME" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_read_only_folder(monkeypatch, home):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(CacheError, match=r"cannot be written \(Read-only file system\).*DR_HOME") as error:
        store.check_cache()
    assert str(home) in str(error.value)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(home):
    store.cache_dir().chmod(0o500)
    try:
        with pytest.raises(CacheError, match="DR_HOME"):
            store.check_cache()
    finally:
        home.chmod(0o700)


def test_a_disk_that_is_too_full(monkeypatch, home):
    usage = shutil.disk_usage(home.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=2_000))
    store.check_cache(1_999)
    with pytest.raises(CacheError, match=r"0.002 MB free but 0.003 MB are needed.*DR_HOME"):
        store.check_cache(3_000)
    with (
        pytest.raises(CacheError, match="MB are needed"),
        store.create("cells", "k", (100, 100), "float32", about={}, arrays={}),
    ):
        pass


def test_a_disk_that_fills_up_while_writing(home):
    with pytest.raises(CacheError, match="No space left.*DR_HOME"), store.atomic_path(home / "x.bin") as part:
        part.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(home.iterdir()) == []


def test_atomic_path_replaces_only_on_success(home):
    path = home / "sub" / "x.bin"
    with store.atomic_path(path) as part:
        assert part.parent == path.parent
        part.write_bytes(b"one")
    with pytest.raises(RuntimeError, match="interrupted"), store.atomic_path(path) as part:
        part.write_bytes(b"tw")
        raise RuntimeError("interrupted")
    assert path.read_bytes() == b"one"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_gets_its_name(monkeypatch, home):
    done = []
    monkeypatch.setattr(os, "fsync", lambda fd: done.append(os.readlink(f"/proc/self/fd/{fd}")))
    monkeypatch.setattr(os, "replace", lambda a, b, replace=os.replace: (done.append("replace"), replace(a, b)))
    path = stored_file()
    assert done[0].endswith(".part") and done[1:] == ["replace", str(path.parent)]  # and its name, too


def test_two_processes_that_find_the_same_damaged_file(monkeypatch):
    def removed_meanwhile(path, name):
        path.unlink()
        return load(path, name)

    load = store._load
    for broken in (lambda path, name: (path.unlink(), 1 / 0), removed_meanwhile):
        stored_file()
        monkeypatch.setattr(store, "_load", broken)
        assert store.read("cells", "k") is None


def test_sha256_of_bytes_and_files(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert store.sha256_of(b"abc") == store.sha256_of(tmp_path / "f") == published


# ---------------------------------------------------------------- what killed writers leave

WRITER = """
import sys, time
import numpy as np
from dr_utils import store
store.MAPPED_BYTES = 1
with store.create("features", "k", (100, 100), "float32", about={}, arrays={}) as x:
    x[:50] = 1
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_leaves_is_never_read_and_goes_after_a_day(home):
    with subprocess.Popen([sys.executable, "-c", WRITER], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writing\n"
        (part,) = (home / "features").iterdir()
        writer.send_signal(signal.SIGKILL)
    assert not store.path_of("features", "k").is_file() and store.read("features", "k") is None
    store.write("features", "other", about={})
    assert part.exists(), "as long as another machine may be writing it"
    os.utime(part, (time.time() - 90_000,) * 2)
    store.write("features", "another", about={})
    assert sorted(path.name for path in part.parent.iterdir()) == ["another.safetensors", "other.safetensors"]


# ---------------------------------------------------------------- the store


def test_key_follows_from_content_not_from_order():
    assert store.key_of({"a": 1, "b": [1, {"c": 0.1}]}) == store.key_of({"b": [1, {"c": 0.1}], "a": 1})
    assert len({store.key_of({"a": value}) for value in (1, 1.0, "1", None, [1], True)}) == 6
    assert len(store.key_of({})) == 32 and set(store.key_of({})) <= set("0123456789abcdef")
    for bad in (float("nan"), np.float32(1), {1, 2}):
        with pytest.raises((TypeError, ValueError)):
            store.key_of({"a": bad})


def test_what_is_written_is_read():
    assert not store.path_of("cells", "k").is_file() and store.read("cells", "k") is None
    path = stored_file()
    assert store.path_of("cells", "k").is_file() and path.name == "k.safetensors" and path.parent.name == "cells"
    assert_whole(store.read("cells", "k"))
    stored_file(about={"other": 1}, tables={})
    assert store.read("cells", "k").about == {"other": 1} and store.read("cells", "k").tables == {}
    assert os.listdir(path.parent) == ["k.safetensors"]


def test_the_file_is_one_of_the_library():
    path = stored_file()
    with safe_open(path, framework="np") as file:
        assert json.loads(file.metadata()["about"]) == ABOUT and file.metadata()["name"] == "cells/k"
    loaded = safetensors.numpy.load_file(path)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(loaded[name], array)
    assert pd.read_parquet(io.BytesIO(loaded["table/probes"]))["accuracy"][1] == 1 / 3


def test_arrays_of_objects_are_refused():
    for array in (np.array(["a"]), np.array([None])):
        with pytest.raises(KeyError):
            store.write("cells", "k", about={}, arrays={"x": array})
    assert os.listdir(store.path_of("cells", "k").parent) == []


def check_damage(caplog, content: bytes, path: Path) -> None:
    caplog.clear()
    path.write_bytes(content)
    assert store.read("cells", "k") is None
    assert len(caplog.messages) == 1 and "cells/k.safetensors" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def test_any_changed_byte_is_noticed(caplog):
    good = stored_file().read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(good[:8], "little")
    places = {*range(0, header, 7), *range(8), *rng.integers(header, len(good), 150).tolist(), len(good) - 1}
    for place in sorted(places):
        for bit in (1, 0x80):
            damaged = bytearray(good)
            damaged[place] ^= bit
            if bytes(damaged[8:header]).split() == good[8:header].split() and place < header and place >= 8:
                continue  # padding
            check_damage(caplog, bytes(damaged), store.path_of("cells", "k"))
            assert not store.path_of("cells", "k").is_file()
    store.path_of("cells", "k").write_bytes(good)
    assert_whole(store.read("cells", "k"))


def test_truncated_and_longer_files_are_noticed(caplog):
    path = stored_file()
    good = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(good) // 2, len(good) - 1):
        check_damage(caplog, good[:length], path)
    check_damage(caplog, good + b"\0", path)


def test_a_file_under_another_name_is_noticed(caplog):
    path = stored_file("other")
    check_damage(caplog, path.read_bytes(), store.path_of("cells", "k"))
    features = store.path_of("features", "other")
    features.parent.mkdir()
    shutil.copy(path, features)
    assert store.read("features", "other") is None
    assert store.read("cells", "other") is not None


def change_header(good: bytes, change) -> bytes:
    start = 8 + int.from_bytes(good[:8], "little")
    header = json.loads(good[8:start])
    text = json.dumps(change(header)).encode()
    return len(text).to_bytes(8, "little") + text + good[start:]


def swap(header):
    header["x"], header["half"] = header["half"], header["x"]
    return header


def other_about(header):
    header["__metadata__"]["about"] = "{}"
    return header


@pytest.mark.parametrize(
    "change",
    [
        swap,
        other_about,
        lambda header: [header],
        lambda header: None,
        lambda header: {},
        lambda header: {**header, "__metadata__": []},
        lambda header: {**header, "__metadata__": {"name": "cells/k"}},
        lambda header: {**header, "x": {"dtype": "F32", "shape": [1e9, -1], "data_offsets": [5, "a"]}},
        lambda header: {**header, "more": {"dtype": "O", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 8]}},
        lambda header: {name: header[name] for name in header if name != "x"},
    ],
)
def test_other_shapes_of_json_are_noticed(caplog, change):
    path = stored_file()
    assert change_header(path.read_bytes(), lambda header: header) != b""
    check_damage(caplog, change_header(path.read_bytes(), change), path)


def test_headers_that_are_deep_or_huge_are_noticed(caplog):
    path = stored_file()
    check_damage(caplog, (200_000).to_bytes(8, "little") + b"[" * 200_000, path)
    check_damage(caplog, (1 << 62).to_bytes(8, "little") + b"{}", path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 400))
def test_random_bytes_never_reach_the_caller(content, length):
    path = store.path_of("cells", "k")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(length.to_bytes(8, "little") + content)
    assert store.read("cells", "k") is None


def test_parquet_is_parsed_only_if_the_content_is_the_written_one(monkeypatch):
    path = stored_file()
    damaged = bytearray(path.read_bytes())
    damaged[damaged.rindex(b"PAR1") - 20] ^= 1
    path.write_bytes(damaged)
    monkeypatch.setattr(pd, "read_parquet", lambda *_: pytest.fail("parsed"))
    assert store.read("cells", "k") is None


# ---------------------------------------------------------------- files larger than memory


def fill(key="k", dtype="float32"):
    with store.create("cells", key, (7, 5), dtype, about=ABOUT, arrays={"y": ARRAYS["y"]}) as x:
        x[:] = ARRAYS["x"]
    return x


def is_mapped(array) -> bool:
    while array is not None and not isinstance(array, mmap.mmap | memoryview):
        array = getattr(array, "base", None)
    return isinstance(getattr(array, "obj", array), mmap.mmap)


def test_a_file_larger_than_memory_can_be_mapped(tmp_path):
    size = 4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(size)
    if (tmp_path / "sparse").stat().st_blocks > 1000:
        pytest.skip("no sparse files on this file system")
    found = store._mapped(tmp_path / "sparse")
    assert found.nbytes == size and found[size // 2] == 0 and found.flags.writeable


def test_large_files_are_mapped_and_hold_the_same(monkeypatch, caplog):
    fill()
    small = store.read("cells", "k")
    monkeypatch.setattr(store, "MAPPED_BYTES", 1)
    for dtype in ("float32", "float16"):
        assert isinstance(fill(dtype=dtype), np.memmap)
        mapped = store.read("cells", "k")
        assert is_mapped(mapped.arrays["x"]) and mapped.arrays["x"].flags.writeable and mapped.about == small.about
        before = store.path_of("cells", "k").read_bytes()
        mapped.arrays["x"][0, 0] += 1  # changes what this process sees
        assert store.path_of("cells", "k").read_bytes() == before
        mapped = store.read("cells", "k")
        for name in ("x", "y"):
            np.testing.assert_array_equal(mapped.arrays[name], small.arrays[name].astype(mapped.arrays[name].dtype))
            np.testing.assert_array_equal(
                safetensors.numpy.load_file(store.path_of("cells", "k"))[name], mapped.arrays[name]
            )
        assert mapped.arrays["x"].flags.aligned and mapped.arrays["y"].flags.aligned
    content = bytearray(store.path_of("cells", "k").read_bytes())
    content[-70] ^= 1
    del mapped
    check_damage(caplog, bytes(content), store.path_of("cells", "k"))


def test_large_files_that_fail_leave_nothing(monkeypatch):
    monkeypatch.setattr(store, "MAPPED_BYTES", 1)

    def begin(about=ABOUT):
        return store.create("cells", "k", (7, 5), "float32", about=about, arrays={})

    with pytest.raises(RuntimeError, match="interrupted"), begin() as x:
        x[:3] = 1
        raise RuntimeError("interrupted")
    with pytest.raises(AssertionError, match="more is noted"), begin({"a": "b" * 100_000}):
        pass

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(CacheError, match="No space left"), begin():
        pass
    assert os.listdir(store.path_of("cells", "k").parent) == []


FILL = """
import os, shutil
import numpy as np
from dr_utils import store
usage = shutil.disk_usage(".")
shutil.disk_usage = lambda folder: usage._replace(free=1 << 40)  # other processes take the room that was free
for i in range(4):
    try:
        store.write("cells", f"k{i}", about={}, arrays={"x": np.ones(60_000)})
    except store.CacheError as error:
        print(error)
print(sorted(os.listdir(store.cache_dir() / "cells")), store.read("cells", "k1").arrays["x"].sum())
"""


def test_a_small_disk_that_is_really_full(tmp_path):
    (tmp_path / "fill.py").write_text(FILL)
    (tmp_path / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}/disk"
    tried = shutil.which("unshare") and subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True)
    if not tried or tried.returncode:
        pytest.skip("mounting is not allowed here")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && {sys.executable} {tmp_path}/fill.py"],
        env={**os.environ, "DR_HOME": f"{tmp_path}/disk", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    *errors, left = done.stdout.splitlines()
    assert len(errors) == 2 and all("No space left" in line and "DR_HOME" in line for line in errors), done.stderr
    assert left == "['k0.safetensors', 'k1.safetensors'] 60000.0"


def test_cache_errors_are_asset_errors():
    assert issubclass(CacheError, AssetError)
