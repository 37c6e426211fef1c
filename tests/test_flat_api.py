"""The flat API: what a person types in a notebook is reachable from the package, and documented."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dr_utils

NAMES = [name for name in dr_utils.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_reachable_and_has_a_docstring_with_an_example(name):
    assert ">>>" in getattr(dr_utils, name).__doc__, f"{name} has no example"
    assert name in dir(dr_utils)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fit_probe'"):
        dr_utils.fit_probe  # noqa: B018


def test_what_needs_no_torch_imports_none():
    names = "random_subsets, first_subset, fit_ridge, linear_cka, CKAStatistics, part_whole, diffused_redundancy, gini"
    names += ", load_model, load_dataset, extract, Study"
    code = f"import sys; from dr_utils import {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
