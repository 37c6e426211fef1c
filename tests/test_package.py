"""The package as a whole: imports run downward, and the examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import dr_utils

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(dr_utils.__path__, "dr_utils.")
    if not module.name.endswith("__main__")
)


def test_imports_run_downward(monkeypatch, root):
    monkeypatch.chdir(root)
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS, "a module imports from its own layer or one above"


@pytest.mark.parametrize("name", ["dr_utils", *MODULES])
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 20
