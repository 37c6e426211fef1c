"""What a log says of long work, and which device is taken, without torch where there is no GPU."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from dr_utils import device
from dr_utils.progress import clock, progress


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setenv("DR_PROGRESS", "plain")
    monkeypatch.setenv("TQDM_MININTERVAL", "0")


def lines_of(capsys) -> list[str]:
    shown = capsys.readouterr().err
    assert not re.search(r"[\r\x1b]", shown)
    return shown.splitlines()


def test_a_log_gets_whole_lines(capsys):
    assert list(progress(range(8), "reading", unit="images")) == list(range(8))
    lines = lines_of(capsys)
    assert lines[3].startswith("reading: 3 of 8 images (38 %) [00:0")
    assert lines[-1].startswith("reading: 8 of 8 images (100 %) [")
    with progress(desc="cells", unit="cells") as bar:
        bar.update(5)
    assert lines_of(capsys)[-1].startswith("cells: 5 cells [00:0")


def test_nested_work_stays_in_lines(capsys):
    for _ in progress(range(2), "outer"):
        list(progress(range(2), "inner"))
    assert {line.split(":")[0] for line in lines_of(capsys)} == {"outer", "inner"}


def test_eta_is_shown_for_even_steps_only(capsys):
    for even in (True, False):
        with progress(total=4, desc="cells", unit="cell", even=even) as bar:
            bar.update(1)
        assert all(("<" in line) is even for line in lines_of(capsys))


def test_quick_work_and_no_work_and_off_show_nothing(capsys, monkeypatch):
    list(progress([], "nothing"))
    monkeypatch.setenv("TQDM_MININTERVAL", "1000")
    list(progress(range(100), "quick"))
    monkeypatch.setenv("DR_PROGRESS", "off")
    monkeypatch.setenv("TQDM_MININTERVAL", "0")
    with progress(total=3, desc="off") as bar:
        bar.update(3)
    assert lines_of(capsys) == []


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3599, 3600, 36061)] == ["0:00", "1:00", "59:59", "1:00:00", "10:01:01"]


def test_no_torch_is_imported_where_there_is_no_gpu(tmp_path):
    code = f"""
import sys
sys.platform = "linux"
from dr_utils import device, store, fetch, checks, progress
device.GPU_FILES = ({str(tmp_path / "absent")!r},)
assert device.has_cuda() is False
assert "torch" not in sys.modules
device.GPU_FILES = ({str(tmp_path)!r},)
import torch
torch.cuda.is_available = lambda: True
assert device.has_cuda() and device.pick_device("auto").type == "cuda" and device.pick_device("cuda:0").index == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(device, "has_cuda", lambda: False)
    assert device.pick_device("auto").type == device.pick_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="sees no CUDA device"):
        device.pick_device("cuda")
