"""Accuracy of part and whole: linear probes on subsets of neurons, all probes of a grid at once."""

from dr_utils.probes.result import ProbeResult
from dr_utils.probes.ridge import choose_alpha, fit_ridge
from dr_utils.probes.sgd import fit_probes

__all__ = ["ProbeResult", "choose_alpha", "fit_probes", "fit_ridge"]
