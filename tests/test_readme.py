"""README keeps to what is there: its pictures, notebooks, options and claims."""

from __future__ import annotations

import re
import subprocess

import pandas as pd
import pytest

from dr_utils import readme
from dr_utils import run as runner
from dr_utils.claims import CLAIMS, COLUMNS


@pytest.fixture
def text(root):
    return (root / "README.md").read_text(encoding="utf-8")


def test_pictures_and_notebooks_exist(root, text):
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(pictures) == 3
    for picture in pictures:
        assert (root / picture).is_file(), picture
    for notebook in runner.find_notebooks():
        assert f"`{notebook.stem}`" in text


def test_options_are_those_of_run_all(root, text):
    usage = subprocess.run(
        ["bash", "run_all.sh", "--help"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    options = set(re.findall(r"\./run_all\.sh.*?(--[a-z-]+)", text))
    assert {"--test", "--only", "--profile"} <= options
    for option in options:
        assert option in usage, option


def test_claims_table_has_every_claim_with_its_verdict(text):
    rows = re.findall(r"^\| ([A-Z]\d) \|.*\| (holds|differs|open|no data) \|$", text, flags=re.MULTILINE)
    assert [claim for claim, _ in rows] == list(CLAIMS)
    verdicts = pd.Series([verdict for _, verdict in rows]).value_counts()
    assert f"{verdicts.get('holds', 0)} hold, {verdicts.get('differs', 0)} differ," in text


@pytest.fixture
def run(tmp_path):
    results = tmp_path / "full"
    (results / "tables").mkdir(parents=True)
    rows = [
        (name, "Fig 1", "a | b", "56 cells, median 0.80, lowest and highest" + " a/b: 0.1" * 50, "holds", "", "")
        for name in CLAIMS
    ]
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(results / "tables" / "claims.csv", index=False)
    return results


def test_renew_replaces_the_table(run, tmp_path):
    page, n = tmp_path / "README.md", len(CLAIMS)
    page.write_text("before\n<!-- claims -->\nstale\n<!-- /claims -->\nafter\n")
    readme.renew(run, page)
    renewed = page.read_text()
    assert renewed.startswith("before\n") and renewed.endswith("after\n") and "stale" not in renewed
    assert renewed.count("| holds |") == n and f"{n} hold, 0 differ," in renewed
    assert "| median 0.80 (56 cells) |" in renewed
    assert max(len(line) for line in renewed.splitlines()) < 300 and "…" not in renewed
    readme.renew(run, page)
    assert page.read_text() == renewed
