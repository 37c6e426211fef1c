"""Cells in several processes and on a cluster: the same bytes as in one, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dr_utils.study as study_module
from dr_utils.profiles import Profile
from dr_utils.store import cache_dir
from dr_utils.study import Study

PROFILE = Profile.model_validate(
    {
        "name": "workers",
        "networks": ["small_resnet_quarter", "small_resnet_ff8", "small_vgg"],
        "tasks": {"digits": {"train": 60, "test": 40, "resolution": 32, "eval_sets": ["test"]}},
        "fractions": [0.1, 1.0],
        "seeds": [1, 2],
        "probe": {"solvers": ["sgd", "ridge"], "epochs": 3},
    }
)


def measured(cluster: str, folder: Path, ready=lambda: None) -> dict[str, bytes]:
    """Measure from nothing, with a store of its own and a thread in each process; return the bytes of all tables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("DR_PROGRESS", "off"), ("OMP_NUM_THREADS", "1"), ("DR_HOME", str(folder / "home"))):
            patch.setenv(name, value)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        ready()
        study = Study(PROFILE, out=folder, device="cpu", cluster=cluster)
        study.run()
        torch.set_num_threads(threads)
    return {path.name: path.read_bytes() for path in study.tables_folder.iterdir() if path.suffix != ".json"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return measured("local:1", tmp_path_factory.mktemp("plain"))


def test_two_processes_write_the_same_tables(plain, tmp_path):
    assert measured("local:2", tmp_path) == plain


def test_a_worker_of_a_cluster_may_die(plain, tmp_path):
    pytest.importorskip("distributed", reason="needs the extra cluster")
    file, started = tmp_path / "scheduler.json", []

    def start(*command) -> subprocess.Popen:
        log = (tmp_path / f"{len(started)}.log").open("w")
        started.append(subprocess.Popen([sys.executable, "-m", "dask", *command, "--scheduler-file", str(file)],
                                        cwd=tmp_path, stdout=log, stderr=log, env=dict(os.environ)))  # fmt: skip
        return started[-1]

    def ready() -> None:
        """Start workers that know the store; the first is killed as soon as it has computed something."""
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        first = start("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard")
        watch = (
            "import os, signal, sys, time, pathlib\n"
            "while not any(pathlib.Path(sys.argv[1]).glob('features/*')): time.sleep(.05)\n"
            "os.kill(int(sys.argv[2]), signal.SIGKILL)"
        )
        started.append(subprocess.Popen([sys.executable, "-c", watch, str(cache_dir()), str(first.pid)]))
        start("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard")
        while not file.is_file():
            assert started[0].poll() is None, (tmp_path / "0.log").read_text()
            time.sleep(0.1)

    try:
        assert measured(str(file), tmp_path, ready) == plain
        assert started[1].wait() == -signal.SIGKILL, "nobody died"
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_cell_that_fails_is_named_and_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DR_HOME", str(tmp_path))
    real, fails = study_module.compute_cell, True

    def compute(network, *args, **kwargs):
        if fails and network == "small_resnet_ff8":
            raise ValueError("seven is not enough")
        return real(network, *args, **kwargs)

    monkeypatch.setattr(study_module, "compute_cell", compute)
    study = Study(PROFILE, out=tmp_path / "out", device="cpu")
    with pytest.raises(RuntimeError, match="1 of 3 cells failed.*\n.*small_resnet_ff8 on digits.*seven is not enough"):
        study.run()
    assert study.missing() == [("small_resnet_ff8", "digits")]
    fails = False
    assert set(study.run()["probes"].model) == set(PROFILE.networks)


@pytest.mark.parametrize("where", ["", "local", "local:0", "local:-1", "many", "nowhere.json", "tcp:// x"])
def test_a_place_that_is_none_is_told_before_anything_is_opened(where, tmp_path):
    with pytest.raises(ValueError, match="expected local:N"):
        Study(PROFILE, out=tmp_path, device="cpu", cluster=where)


def test_a_scheduler_that_does_not_answer(tmp_path, monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra cluster")
    monkeypatch.setenv("DR_HOME", str(tmp_path))
    monkeypatch.setattr("dr_utils.study.workers.PATIENCE", 1)
    with pytest.raises(ValueError, match="no Dask scheduler answers at tcp://127.0.0.1:1"):
        Study(PROFILE, out=tmp_path, device="cpu", cluster="tcp://127.0.0.1:1").run()
