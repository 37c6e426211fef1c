"""What all tests share: quiet progress, no windows, no GPU tests without a GPU."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

# Before anything imports matplotlib, numpy or torch.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("DR_PROGRESS", "off")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest

ROOT = Path(__file__).resolve().parent.parent


LIMIT = 3600  # seconds for a whole run of the tests: the only clock in them


def pytest_sessionstart(session):
    """Stop a run in which something is waited for that never comes, and say where."""

    def stop(*_):
        pytest.exit(f"the tests have run for {LIMIT // 60} minutes: this one waits for something that does not come", 1)

    if hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(LIMIT)


def pytest_collection_modifyitems(items):
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def same_environment_after():
    """Commands set DR_DATA for the notebooks that they start; the next test knows nothing of it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def active_environment(tmp_path) -> dict[str, str]:
    """Environment variables under which run_all.sh finds the python that runs the tests, and can install nothing."""
    # By another name, so that it is judged as any active environment is, not kept in step as the checkout's .venv.
    (tmp_path / "active").symlink_to(sys.prefix)
    kept = {name: value for name, value in os.environ.items() if name not in ("CONDA_PREFIX", "DR_TORCH")}
    return kept | {"VIRTUAL_ENV": str(tmp_path / "active"), "UV_OFFLINE": "1", "PIP_NO_INDEX": "1"}


# What notebook 08 is given in tests: nothing that takes long.
OWN = ["-p", "model", "small_resnet", "-p", "data", "digits", "-p", "limit", "100", "-p", "seeds", "[1, 2]"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The results folder of one run of all notebooks, on a profile of a few images."""
    from dr_utils import run as runner

    out = tmp_path_factory.mktemp("outputs")
    profile = ROOT / "tests" / "profiles" / "tiny.yaml"
    status = runner.main(["--profile", str(profile), "--out", str(out), "--device", "cpu", *OWN])
    assert status == 0, "a notebook failed; its cell and error stand in the captured output"
    return out / "tiny"
