"""Measure how diffusely a network's representation is spread, and how much of it a task needs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dr_utils.transformers import CriticalMass, NeuronSubset

__version__ = "0.1.0"
__all__ = ["CriticalMass", "NeuronSubset", "__version__"]


def __getattr__(name: str):
    # On demand: torch and scikit-learn take seconds to import, and most rooms can do without.
    if name in ("CriticalMass", "NeuronSubset"):
        from dr_utils import transformers

        return getattr(transformers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
