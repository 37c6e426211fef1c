"""Measure how diffusely a network's representation is spread, and how much of it a task needs.

Every name in ``__all__`` is imported from here, and loaded when it is first used: what needs no torch imports none.

Examples
--------
How well does a tenth of a layer do? Features are any float array [n, D]; here two classes of random points:

>>> import numpy as np
>>> from dr_utils import fit_ridge, random_subsets
>>> rng = np.random.default_rng(0)
>>> y = rng.integers(0, 2, 400)
>>> x = rng.normal(size=(400, 100)) + y[:, None]
>>> parts = random_subsets(100, 0.1, seeds=[1, 2, 3])
>>> probe = fit_ridge(x[:200], y[:200], x[200:], y[200:], parts)
>>> bool(probe.accuracy.min() > 0.85)
True
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "load_model": "models",
    "load_dataset": "datasets",
    "extract": "features",
    "random_subsets": "subsets",
    "first_subset": "subsets",
    "fit_projection": "subsets",
    "fit_probes": "probes",
    "fit_ridge": "probes",
    "linear_cka": "cka",
    "CKAStatistics": "cka",
    "part_whole": "cka",
    "part_part": "cka",
    "diffused_redundancy": "redundancy",
    "diffused_redundancy_interval": "redundancy",
    "gini": "fairness",
    "coefficient_of_variation": "fairness",
    "Study": "study",
    "critical_mass": "sizing",
    "NeuronSubset": "transformers",
    "CriticalMass": "transformers",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str):
    # On demand: torch and scikit-learn take seconds to import, and most modules do without.
    if name in _HOME:
        return getattr(import_module(f"dr_utils.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
