"""What probes learned and how well they do, and the checks on what they are given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from dr_utils.checks import check_features, check_labels


@dataclass(frozen=True)
class ProbeResult:
    """What a set of P probes over C classes learned, and how well they do on the test set.

    Attributes
    ----------
    accuracy : float array of shape [P]
        Share of test samples classified correctly.
    per_class_accuracy : float array of shape [P, C]
        The same within each class; NaN for a class that the test set lacks.
    weights : list of P float arrays of shape [C, k]
        One probe's weights on its own neurons, in the order of its subset.
    bias : float array of shape [P, C]
        Intercepts.
    subsets : list of P int arrays
        The neurons of each probe.
    width : int
        D, the number of columns of the features.
    """

    accuracy: np.ndarray
    per_class_accuracy: np.ndarray
    weights: list[np.ndarray] = field(repr=False)
    bias: np.ndarray = field(repr=False)
    subsets: list[np.ndarray] = field(repr=False)
    width: int

    @property
    def weight(self) -> np.ndarray:
        """Weights as one array of shape [P, C, D], zero where a probe does not look. Built on demand."""
        dense = np.zeros((len(self.weights), self.bias.shape[1], self.width), dtype=self.bias.dtype)
        for probe, (subset, weight) in enumerate(zip(self.subsets, self.weights, strict=True)):
            dense[probe][:, subset] = weight
        return dense

    def score(self, x, y, *, device: str | torch.device | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate the probes on another set, such as a shifted one.

        Parameters
        ----------
        x : float array of shape [n, D]
            Features.
        y : int array of shape [n]
            Class indices below C.

        Returns
        -------
        accuracy : float array of shape [P]
        per_class_accuracy : float array of shape [P, C]

        Raises
        ------
        ValueError
            Wrong width, NaN entries, or labels that do not match.
        """
        x, y = np.asarray(x), np.asarray(y)
        check_features(x, name="features to score", allow_constant=True)
        if x.shape[1] != self.width:
            raise ValueError(f"the probes were fitted on {self.width} columns; got features of shape {x.shape}.")
        if y.shape != (len(x),) or (y.size and (y.min() < 0 or y.max() >= self.bias.shape[1])):
            raise ValueError(
                f"labels must be {len(x)} class indices below {self.bias.shape[1]}; got shape {y.shape}, "
                f"values {y.min() if y.size else '-'} to {y.max() if y.size else '-'}."
            )
        device = torch.device(device or "cpu")
        x_dev = torch.as_tensor(np.ascontiguousarray(x), device=device, dtype=torch.from_numpy(self.bias).dtype)
        predicted = np.stack(
            [
                (
                    x_dev[:, torch.as_tensor(s, device=device)] @ torch.as_tensor(w, device=device).T
                    + torch.as_tensor(b, device=device)
                )
                .argmax(1)
                .cpu()
                .numpy()
                for s, w, b in zip(self.subsets, self.weights, self.bias, strict=True)
            ]
        )
        return _accuracies(predicted, y, self.bias.shape[1])


def evaluated(weights, bias, subsets, x_test, y_test, device) -> ProbeResult:
    """Wrap fitted weights into a result with their accuracy on the test set."""
    result = ProbeResult(np.empty(0), np.empty(0), weights, bias, subsets, x_test.shape[1])
    accuracy, per_class = result.score(x_test, y_test, device=device)
    return ProbeResult(accuracy, per_class, weights, bias, subsets, x_test.shape[1])


def _accuracies(predicted: np.ndarray, y: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    correct = (predicted == y).astype(np.float64)
    counts = np.bincount(y, minlength=n_classes).astype(np.float64)
    hits = correct @ np.eye(n_classes)[y]
    with np.errstate(invalid="ignore", divide="ignore"):
        return correct.mean(axis=1), hits / np.where(counts == 0, np.nan, counts)


def checked_data(x_train, y_train, x_test, y_test):
    """Return the four arrays and the number of classes, or raise ValueError saying what is wrong with them."""
    x_train, x_test = np.asarray(x_train), np.asarray(x_test)
    y_train, y_test = np.asarray(y_train), np.asarray(y_test)
    check_features(x_train, name="train features")
    check_features(x_test, name="test features", allow_constant=True)
    if x_train.shape[1] != x_test.shape[1]:
        raise ValueError(f"train and test features differ in width: {x_train.shape[1]} and {x_test.shape[1]}.")
    n_classes = check_labels(y_train, y_test, len(x_train), len(x_test))
    return x_train, x_test, y_train, y_test, n_classes


def checked_subsets(subsets, width: int) -> list[np.ndarray]:
    """Return the subsets as int64 arrays, or raise ValueError naming the first that is not one."""
    subsets = [np.asarray(s, dtype=np.int64) for s in subsets]
    if not subsets:
        raise ValueError("no subsets given: pass at least one array of neuron indices.")
    for number, s in enumerate(subsets):
        if s.ndim != 1 or s.size == 0 or s.min() < 0 or s.max() >= width or len(np.unique(s)) != len(s):
            raise ValueError(
                f"subset {number} must hold distinct neuron indices 0 .. {width - 1}, at least one; got {s}."
            )
    return subsets


def checked_seeds(seed, n_probes: int) -> list[int]:
    """Return one seed per probe."""
    seeds = [int(seed)] * n_probes if np.ndim(seed) == 0 else [int(s) for s in seed]
    if len(seeds) != n_probes:
        raise ValueError(f"seed must be one integer or one per subset: {n_probes} subsets, {len(seeds)} seeds.")
    return seeds
