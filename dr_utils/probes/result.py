"""What probes learned and how well they do, and the checks on what they are given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dr_utils.checks import check_features, check_labels, check_subset


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
        Each probe's weights on its own neurons, in the order of its subset.
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

    def score(self, x, y, *, device="cpu") -> tuple[np.ndarray, np.ndarray]:
        """Return `accuracy` and `per_class_accuracy` on another set, such as a shifted one.

        `x` [n, D] are its features, `y` [n] its class indices below C; products run on `device`. Other widths, NaN and
        labels that do not match raise ValueError.
        """
        x, y, n_classes = np.asarray(x), np.asarray(y), self.bias.shape[1]
        check_features(x, name="features to score", allow_constant=True)
        if x.shape[1] != self.width:
            raise ValueError(f"the probes were fitted on {self.width} columns; got features of shape {x.shape}.")
        if y.shape != (len(x),) or y.min() < 0 or y.max() >= n_classes:
            raise ValueError(f"labels must be {len(x)} class indices below {n_classes}; got {y} of shape {y.shape}.")
        with np.errstate(all="ignore"):  # a probe that diverged guesses one class
            correct = np.stack([guess == y for guess in self._guesses(x, str(device or "cpu"))]).astype(np.float64)
        counts = np.bincount(y, minlength=n_classes).astype(np.float64)
        hits = correct @ np.eye(n_classes)[y]
        return correct.mean(axis=1), hits / np.where(counts == 0, np.nan, counts)

    def _guesses(self, x: np.ndarray, device: str):
        x = np.ascontiguousarray(x.T, dtype=self.bias.dtype)  # a neuron's values lie together: choosing is fast
        if device != "cpu":
            import torch

            x = torch.as_tensor(x, device=device)
        for given in zip(self.subsets, self.weights, self.bias, strict=True):
            subset, weight, bias = given if device == "cpu" else (torch.as_tensor(g, device=device) for g in given)
            guess = (weight @ x[subset] + bias[:, None]).argmax(0)
            yield guess if device == "cpu" else guess.cpu().numpy()


def evaluated(weights, bias, subsets, x_test, y_test, device="cpu") -> ProbeResult:
    """Return fitted weights with their accuracy on the test set."""
    unscored = ProbeResult(np.empty(0), np.empty(0), weights, bias, subsets, x_test.shape[1])
    return ProbeResult(*unscored.score(x_test, y_test, device=device), weights, bias, subsets, x_test.shape[1])


def checked(x_train, y_train, x_test, y_test, subsets):
    """Return the arrays, the subsets as int64 arrays and the number of classes; bad input raises ValueError."""
    x_train, y_train, x_test, y_test = map(np.asarray, (x_train, y_train, x_test, y_test))
    check_features(x_train, name="train features")
    check_features(x_test, name="test features", allow_constant=True)
    width = x_train.shape[1]
    if x_test.shape[1] != width:
        raise ValueError(f"train and test features differ in width: {width} and {x_test.shape[1]}.")
    n_classes = check_labels(y_train, y_test, len(x_train), len(x_test))
    subsets = [check_subset(subset, width, name=f"subset {number}") for number, subset in enumerate(subsets)]
    if not subsets:
        raise ValueError("no subsets given: pass at least one array of neuron indices.")
    return x_train, y_train, x_test, y_test, subsets, n_classes
