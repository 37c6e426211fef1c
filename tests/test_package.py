"""The package as a whole: imports run downward, and the examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import dr_utils

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(dr_utils.__path__, "dr_utils.")
    if not module.name.endswith("__main__")
)


def test_imports_run_downward(root):
    # In a process of its own: it sets up logging, and would silence ours.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", ["dr_utils", *MODULES])
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 20
