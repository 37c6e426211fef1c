"""The runner on throw-away notebooks: what it runs, keeps, reports and leaves behind."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dr_utils import run as runner
from dr_utils.report import DONE
from dr_utils.run.notebooks import VERSIONS, is_finished, notebook_key
from dr_utils.study.cell import COLUMNS
from dr_utils.study.tables import write_tables

PARAMETERS = 'profile = "mini"\nout = ""\ndevice = "auto"'

WRITE_TABLE = """\
from pathlib import Path
tables = Path(out) / Path(profile).stem / "tables"
tables.mkdir(parents=True, exist_ok=True)
(tables / "seen.csv").write_text(f"device,count\\n{device},1\\n")
"""


def write_notebook(path: Path, *sources: str, reads: bool = False) -> None:
    """Write a notebook that computes its own results; or one that reads the study's tables."""
    cells = [new_markdown_cell("# Title"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    for number, source in enumerate(sources, start=1):
        cells += [new_markdown_cell(f"## {number} Section"), new_code_cell(source)]
    nbformat.write(new_notebook(cells=cells, metadata={} if reads else {"dr_utils": {"computes": True}}), path)


@pytest.fixture
def notebooks(tmp_path) -> Path:
    folder = tmp_path / "notebooks here"
    folder.mkdir()
    return folder


@pytest.fixture
def arguments(tmp_path, root) -> list[str]:
    return ["--profile", str(root / "tests/profiles/tiny.yaml"), "--out", str(tmp_path / "results"), "--device", "cpu"]


def outputs_of(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells if cell.cell_type == "code" for output in cell.outputs)


def test_a_whole_run_then_a_second_one(notebooks, arguments, tmp_path, capsys, monkeypatch):
    # A "python3" kernel installed for the user that points elsewhere must not be used.
    stale = tmp_path / "jupyter" / "kernels" / "python3"
    stale.mkdir(parents=True)
    (stale / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    write_notebook(
        notebooks / "01_good.ipynb",
        "import os, sys\nprint(sys.executable)",
        WRITE_TABLE,
        "print('half way', file=sys.stderr)",
    )
    write_notebook(notebooks / "02_bad.ipynb", "1 + 1", "raise ValueError('first line\\nsecond line')", "2")
    write_notebook(notebooks / "03_after.ipynb", "print('reached')")
    (notebooks / "scratch.ipynb").write_text("not numbered")

    assert runner.main(arguments, notebooks) == 1
    shown = capsys.readouterr().out
    executed = tmp_path / "results" / "tiny" / "notebooks"
    left = sorted(path.name for path in executed.glob("*.ipynb"))
    assert left == ["01_good.ipynb", "02_bad.failed.ipynb", "03_after.ipynb"]
    assert sys.executable in outputs_of(executed / "01_good.ipynb")
    assert (tmp_path / "results/tiny/tables/seen.csv").read_text() == "device,count\ncpu,1\n"
    assert "reached" in outputs_of(executed / "03_after.ipynb")
    failed = nbformat.read(executed / "02_bad.failed.ipynb", as_version=4)
    (number,) = (c.execution_count for c in failed.cells if c.cell_type == "code" and "second line" in c.source)
    assert f"cell {number} (2 Section): ValueError: first line second line" in shown
    assert "[1/3] 01_good: running" in shown and "[1/3] 01_good: half way" in shown
    assert "02_bad.failed.ipynb" in shown and "1 of 3 notebooks failed" in shown
    assert f"report (all on one page): {tmp_path / 'results/tiny/report.html'}\n" in shown
    page = (tmp_path / "results/tiny/report.html").read_text()
    assert "02_bad: failed." in page and "notebooks/02_bad.failed.html" in page

    good, bad = (json.loads((executed / name).read_text())["metadata"][DONE] for name in (left[0], left[1]))
    assert good["seconds"] > 0 and good["device"] == "cpu"
    assert good["profile"]["name"] == "tiny" and good["profile"]["seeds"] == [1, 2, 3]
    assert good["versions"]["torch"] == importlib.metadata.version("torch")
    assert good["versions"]["python"] == sys.version.split()[0]
    assert good["hardware"].endswith("threads") and abs(date.fromisoformat(good["finished"]) - date.today()).days <= 1
    assert bad["cell"] == f"cell {number} (2 Section)" and bad["error"] == "ValueError: first line second line"
    assert "key" not in bad, "what failed must not pass for finished"

    # Again: what is finished is kept to the byte, what failed is tried again and may now succeed.
    before = (executed / "01_good.ipynb").read_bytes()
    write_notebook(notebooks / "02_bad.ipynb", "1 + 1")
    assert runner.main(arguments, notebooks) == 0
    shown = capsys.readouterr().out
    assert shown.count("finished earlier") == 2 and "[2/3] 02_bad: running" in shown and "all notebooks done" in shown
    assert (executed / "01_good.ipynb").read_bytes() == before
    assert not list(executed.glob("02_bad.failed.*"))
    assert "failed." not in (tmp_path / "results/tiny/report.html").read_text()


@pytest.fixture
def finished(notebooks, arguments, tmp_path):
    """A notebook that finished, without the minute of running it."""
    write_notebook(notebooks / "01_good.ipynb", "1 + 1")
    _, run = runner.prepare(runner.parse(arguments), notebooks)
    table = run.folder / "tables" / "probes.csv"
    table.parent.mkdir(parents=True)
    table.write_text("model\n")
    content = json.loads((notebooks / "01_good.ipynb").read_text())
    key = notebook_key(notebooks / "01_good.ipynb", run)
    content["metadata"][DONE] |= {"key": key, "made": ["tables/probes.csv"]}
    (run.folder / "notebooks").mkdir()
    (run.folder / "notebooks" / "01_good.ipynb").write_text(json.dumps(content))
    return notebooks / "01_good.ipynb", run, table


def test_finished_means_same_inputs_and_products(finished, arguments, monkeypatch):
    notebook, run, table = finished
    assert is_finished(notebook, run)

    table.unlink()
    assert not is_finished(notebook, run)
    table.write_text("model\n")
    assert is_finished(notebook, run)

    for other in (
        {"device": "cuda"},
        {"profile": run.profile.model_copy(update={"seeds": [9]})},
        {"parameters": {notebook: {"limit": 3}}},
    ):
        assert not is_finished(notebook, dataclasses.replace(run, **other)), other
    monkeypatch.setitem(VERSIONS, "dr_utils", "0.0.1")
    assert not is_finished(notebook, run)
    monkeypatch.undo()
    assert is_finished(notebook, run)

    write_notebook(notebook, "1 + 2")
    assert not is_finished(notebook, run)


def test_outputs_in_the_source_do_not_count(finished):
    notebook, run, _ = finished
    content = nbformat.read(notebook, as_version=4)
    content.cells[-1].execution_count = 7
    nbformat.write(content, notebook)
    assert is_finished(notebook, run)


def test_tables_count_for_notebooks_that_read_them(finished):
    notebook, run, _ = finished
    other = dataclasses.replace(run, tables={"probes": "a hash"})
    assert is_finished(notebook, other), "this one computes its own results"
    write_notebook(notebook, "1 + 1", reads=True)
    assert notebook_key(notebook, run) != notebook_key(notebook, other)


def test_the_page_is_written_where_there_are_tables(finished, capsys):
    _, run, table = finished
    assert runner.summary([], run, []) == "all notebooks done"
    assert f"report (all on one page): {run.folder / 'report.html'}" in capsys.readouterr().out
    (run.folder / "report.html").unlink()
    table.unlink()
    runner.summary([], run, [])
    assert "report" not in capsys.readouterr().out and not (run.folder / "report.html").exists()


def test_truncated_result_is_not_finished(finished):
    notebook, run, _ = finished
    target = run.folder / "notebooks" / notebook.name
    target.write_text(target.read_text()[:-40])
    assert not is_finished(notebook, run)


MEET = """\
import time
from pathlib import Path
(Path(out) / "{name}").touch()
for _ in range(6000):
    if (Path(out) / "{other}").exists():
        break
    time.sleep(0.05)
else:
    raise RuntimeError("alone for five minutes")
"""
DRAW = """\
import matplotlib.pyplot as plt
from dr_utils.plots import save_figure
_ = save_figure(plt.figure(), Path(out) / "tiny" / "figures", "{name}")
"""


def test_notebooks_that_read_the_tables_run_two_at_a_time_after_measuring(notebooks, arguments, tmp_path, monkeypatch):
    """Each waits for the other; each is noted with the figures that it drew."""
    for name, other in (("01_a", "02_b"), ("02_b", "01_a")):
        code = MEET.format(name=name, other=other), DRAW.format(name=f"of_{name}")
        write_notebook(notebooks / f"{name}.ipynb", *code, reads=True)
    value = "1"

    def measured(run) -> dict:
        (run.folder / "tables").mkdir(parents=True, exist_ok=True)
        (run.folder / "tables" / "probes.csv").write_text(value)
        return {"probes": value}

    monkeypatch.setattr("dr_utils.run.measure", measured)
    assert runner.main(arguments, notebooks) == 0
    executed = {path.stem: path for path in (tmp_path / "results/tiny/notebooks").glob("*.ipynb")}
    for name, path in executed.items():
        made = json.loads(path.read_text())["metadata"][DONE]["made"]
        assert made == [f"figures/of_{name}.pdf", f"figures/of_{name}.png"]
    before = {path: path.read_bytes() for path in executed.values()}
    assert runner.main(arguments, notebooks) == 0
    assert before == {path: path.read_bytes() for path in executed.values()}
    value = "2"
    assert runner.main(arguments, notebooks) == 0
    assert all(path.read_bytes() != content for path, content in before.items())


def test_a_run_that_measures_nothing_imports_no_torch(notebooks, tmp_path):
    for name in ("01_a", "03_b"):
        write_notebook(notebooks / f"{name}.ipynb", reads=True)
    code = (
        "import sys; from pathlib import Path; from dr_utils import run; "
        f"status = run.main(['--from-reference', '--out', {str(tmp_path)!r}], Path({str(notebooks)!r})); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_measuring_that_fails_leaves_notebooks_that_need_no_tables(notebooks, arguments, monkeypatch, capsys):
    def measured(run):
        raise RuntimeError("no archive\nto be had")

    monkeypatch.setattr("dr_utils.run.measure", measured)
    write_notebook(notebooks / "01_reads.ipynb", reads=True)
    write_notebook(notebooks / "08_computes.ipynb")
    assert runner.main(arguments, notebooks) == 1
    shown = capsys.readouterr().out
    assert "measuring: RuntimeError: no archive to be had" in shown and "08_computes: done" in shown
    assert "1 of 2 notebooks failed" in shown


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_no_half_file_and_no_kernel(notebooks, arguments, tmp_path, sent, capsys):
    alive = tmp_path / "alive"
    write_notebook(
        notebooks / "01_slow.ipynb",
        f"import os, time\nopen({str(alive)!r}, 'w').write(str(os.getpid()))\ntime.sleep(120)",
    )
    before = signal.getsignal(signal.SIGTERM)
    # A shell starts what runs in its background with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt() -> None:
        while not (alive.exists() and alive.read_text()):
            time.sleep(0.1)
        os.kill(os.getpid(), sent)

    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    assert runner.main(arguments, notebooks) == 130
    assert time.monotonic() - start < 100
    assert "interrupted: what is finished is kept" in capsys.readouterr().out
    assert not list((tmp_path / "results/tiny").rglob("*"))
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int(alive.read_text()), 0)
            time.sleep(0.1)


def test_notebooks_are_found_by_number_or_name(notebooks):
    for name in ("03_c", "01_a", "11_d", "notes"):
        write_notebook(notebooks / f"{name}.ipynb")
    found = runner.find_notebooks(notebooks)
    assert [path.stem for path in found] == ["01_a", "03_c", "11_d"]
    assert runner.find_notebooks(notebooks, ["3", "01"]) == found[:2]
    assert runner.find_notebooks(notebooks, ["11_d.ipynb"]) == found[2:]
    with pytest.raises(ValueError, match=r"unknown notebook '04'; known, nearest first: .*01_a"):
        runner.find_notebooks(notebooks, ["01", "04"])
    with pytest.raises(ValueError, match="no numbered notebooks"):
        runner.find_notebooks(notebooks / "absent")


def test_data_folder_reaches_the_notebooks(notebooks, arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("DR_DATA", "")
    (tmp_path / "sets").mkdir()
    monkeypatch.chdir(tmp_path)
    code = "import os, pathlib\npathlib.Path(out, 'seen').write_text(os.environ['DR_DATA'])"
    write_notebook(notebooks / "01_a.ipynb", code)
    assert runner.main([*arguments, "--data", "sets"], notebooks) == 0
    assert (tmp_path / "results" / "seen").read_text() == str(tmp_path / "sets")


def test_bad_input_is_told_in_one_line_before_anything_runs(notebooks, arguments, root, tmp_path, capsys, monkeypatch):
    write_notebook(notebooks / "01_a.ipynb")
    (tmp_path / "file").write_text("")
    tiny = (root / "tests/profiles/tiny.yaml").read_text()
    (tmp_path / "network.yaml").write_text(tiny.replace("mobilenet_v2", "mobilnet_v2"))
    (tmp_path / "task.yaml").write_text(tiny.replace("digits", "digit"))
    for extra, message in (
        (["--profile", "papr"], "unknown profile 'papr'; known, nearest first: "),
        (["--profile", str(tmp_path / "network.yaml")], "unknown network 'mobilnet_v2'; known, nearest first: mob"),
        (["--profile", str(tmp_path / "task.yaml")], "unknown task 'digit'; known, nearest first: digits"),
        (["--only", "07"], "unknown notebook '07'; known, nearest first: 01_a."),
        (["--out", str(tmp_path / "file")], "cannot write to "),
    ):
        assert runner.main([*arguments, *extra], notebooks) == 2
        shown = capsys.readouterr()
        assert message in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    monkeypatch.setenv("DR_DATA", "")
    assert runner.main([*arguments, "--data", str(tmp_path / "absent")], notebooks) == 2
    assert "absent (--data, DR_DATA) is not a folder" in capsys.readouterr().err
    monkeypatch.setenv("DR_DATA", "")
    monkeypatch.setenv("DR_HOME", str(tmp_path / "file"))
    assert runner.main(arguments, notebooks) == 2
    shown = capsys.readouterr()
    assert "DR_HOME" in shown.err and shown.err.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        runner.main([*arguments, "--device", "tpu"], notebooks)
    assert stop.value.code == 2


def test_device(notebooks, arguments, monkeypatch, capsys):
    write_notebook(notebooks / "01_a.ipynb")

    def chosen(device: str) -> str:
        return runner.prepare(runner.parse([*arguments, "--device", device]), notebooks)[1].device

    monkeypatch.setattr("dr_utils.device.has_cuda", lambda: False)
    assert chosen("auto") == chosen("cpu") == "cpu"
    assert runner.main([*arguments, "--device", "cuda"], notebooks) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err
    monkeypatch.setattr("dr_utils.device.has_cuda", lambda: True)
    assert chosen("auto") == chosen("cuda") == "cuda"
    assert chosen("cpu") == "cpu"


def test_claims_are_counted(finished, capsys):
    _, run, _ = finished
    (run.folder / "tables" / "claims.csv").write_text(
        "claim,paper_figure,published,measured,verdict,why\n"
        "P1,Fig 1a,within 5 %,4.1 points,holds,\n"
        "P4,Sec 2.1,more classes need more,tau -0.2,differs,few tasks\n"
        "P5,Fig 1b,adv > std,nothing measured,no data,no such network\n"
    )
    runner.summary([], run, [])
    counted = "3 claims of the paper and its later version, 1 hold, 1 differ, 0 were measured but stay open, and for 1"
    assert f"{counted} data are lacking." in capsys.readouterr().out


def test_a_run_is_compared_with_the_results_that_came_with_the_suite(tmp_path):
    def tables(name, dr, verdict):
        rows = [("m", "d", "probe", rule, delta, value, value - 0.1, value + 0.1, "sgd", "raw", "")
                for rule in ("first", "crossing") for delta, value in ((0.8, 0.1), (0.9, dr))]  # fmt: skip
        claims = pd.DataFrame({"claim": ["P1", "P2"], "verdict": [verdict, "holds"]})
        write_tables(
            tmp_path / name, {"redundancy": pd.DataFrame(rows, columns=COLUMNS["redundancy"]), "claims": claims}
        )
        return tmp_path / name

    shipped = tables("shipped", 0.5, "holds")
    said = runner.beside_shipped(tables("near", 0.55, "open"), shipped)
    assert "DR(0.9) of 1 curves differs by +0.050 on average and 0.050 at most" in said
    assert "interval for 1. Other verdicts: P1 (open, there holds)." in said
    assert "interval for 0. Other verdicts: none." in runner.beside_shipped(tables("far", 0.8, "holds"), shipped)
    assert runner.beside_shipped(shipped, shipped) == runner.beside_shipped(tmp_path, shipped) == ""
