"""The results that come with the suite, outputs/full: are they still those of the profile, the cells and the rules?"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dr_utils import Study, claims
from dr_utils import study as study_module
from dr_utils.claims.view import View
from dr_utils.profiles import CHECKOUT
from dr_utils.readme import counts
from dr_utils.study import read_tables

RENEW = "measure them again: ./run_all.sh --profile full, then python -m dr_utils readme"
LARGEST = 15e6  # bytes in the repository


def refuse(*_, **__):
    raise AssertionError(f"the shipped tables are of another profile, or of other cells; {RENEW}")


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DR_HOME", str(tmp_path_factory.mktemp("fresh")))  # a machine that has measured nothing
        for name in ("compute_cell", "load_dataset", "write_tables"):
            patched.setattr(study_module, name, refuse)
        return Study("full").run()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_they_belong_to_the_profile_and_the_cells_on_any_machine(tables, device, tmp_path, monkeypatch):
    monkeypatch.setenv("DR_HOME", str(tmp_path))
    study = Study("full")
    study.device = device
    if missing := study.missing():
        refuse(missing)
    assert set(zip(tables["probes"].model, tables["probes"].dataset, strict=True)) == set(study.profile.cells())


def test_they_open_without_torch(tmp_path):
    code = "import sys; from dr_utils import Study; Study('full').run(); print('torch' in sys.modules)"
    environment = {**os.environ, "DR_HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert said.stdout == "False\n", "opening the notebooks on them would take half a minute longer"


def test_the_verdicts_are_those_of_the_rules_as_they_are(tables):
    folder = Study("full").tables_folder
    now = claims.evaluate(tables).to_csv(index=False, lineterminator="\n")
    assert now == (folder / "claims.csv").read_text(), f"the rules have changed; {RENEW}"
    shown = read_tables(folder, ["claims"])["claims"]
    assert counts(shown) in (CHECKOUT / "README.md").read_text(), f"README shows other verdicts; {RENEW}"
    against = claims.against_paper(View(tables)).to_csv(index=False, lineterminator="\n")
    assert against == (folder / "against_paper.csv").read_text()


def test_all_of_it_is_there_and_small():
    folder = Study("full").folder
    files = [path for path in folder.rglob("*") if path.is_file() and "notebooks" not in path.parts]
    assert sum(path.stat().st_size for path in files) < LARGEST
    assert (folder / "report.html").is_file() and len(list((folder / "figures").glob("*.png"))) > 10
