"""Refuse bad input with one clear line before long work starts."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import partial

import numpy as np


def nearest_first(given: str, known: Iterable[str]) -> list[str]:
    """Order the known names so that those most like `given` come first."""
    return sorted(known, key=lambda name: (-SequenceMatcher(None, given.lower(), name.lower()).ratio(), name))


def unknown(kind: str, given: object, known: Iterable[str], *, hint: str = "") -> ValueError:
    """Return the error for a `kind` of thing ("network", "task") that does not exist; `hint` says what to do next."""
    names = ", ".join(nearest_first(str(given), known)) or "none"
    return ValueError(f"unknown {kind} {str(given)!r}; known, nearest first: {names}. {hint}".rstrip())


def check_fraction(fraction: float, *, name: str = "fraction", of: str = "the layer's neurons") -> float:
    """Return `fraction` as a float if it lies in (0, 1], else raise ValueError."""
    try:
        number = float(fraction)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0.0 < number <= 1.0:
        raise ValueError(f"{name} must lie in (0, 1] (a share of {of}); got {fraction!r}.")
    return number


check_delta = partial(check_fraction, name="delta", of="the full layer's performance")


def check_width(width: int) -> int:
    """Return `width`, the number of neurons in a layer, if it is a positive integer, else raise ValueError."""
    if not hasattr(width, "__index__") or width < 1:
        raise ValueError(f"width must be a positive integer (neurons in the layer); got {width!r}.")
    return int(width)


def check_subset(subset, width: int, *, name: str = "a subset") -> np.ndarray:
    """Return distinct neurons of a layer, given as indices or as a mask [width], as int64; else raise ValueError."""
    subset = np.asarray(subset)
    if subset.dtype == bool and subset.shape == (width,):
        subset = subset.nonzero()[0]
    whole = subset.ndim == 1 and subset.size > 0 and np.issubdtype(subset.dtype, np.integer)
    if not whole or subset.min() < 0 or subset.max() >= width or np.bincount(subset.astype(int)).max() > 1:
        raise ValueError(
            f"{name} must hold distinct neuron indices 0 .. {width - 1}, at least one; got {short(subset, 80)}."
        )
    return subset.astype(np.int64)


def check_features(x, *, name: str = "features", allow_constant: bool = False) -> None:
    """Raise ValueError unless features [n, D] are finite and, if not `allow_constant`, differ between rows."""
    x = np.asarray(x)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be a non-empty matrix [n, D]; got shape {x.shape}.")
    step = 1 << 14  # rows at once: a mask for all of ImageNet's features would fill gigabytes
    finite = [np.isfinite(x[start : start + step]).all(axis=1) for start in range(0, len(x), step)]
    bad = np.flatnonzero(~np.concatenate(finite))
    if bad.size:
        raise ValueError(
            f"{name} hold {(~np.isfinite(x[bad])).sum()} NaN or infinite values in {bad.size} of {len(x)} rows "
            f"(first: row {bad[0]}); extract them again in float32, or drop those rows."
        )
    if not allow_constant and len(x) > 1 and not any((row != x[0]).any() for row in x):
        raise ValueError(
            f"{name} are constant: all {len(x)} rows are the same; "
            "check that the network's weights are loaded and that the images differ."
        )


def check_labels(y_train, y_test, n_train: int, n_test: int) -> int:
    """Return the number of classes C if labels are 0 .. C-1, one per row of the features, and train has them all."""
    for split, labels, rows in (("train", y_train, n_train), ("test", y_test, n_test)):
        if np.shape(labels) != (rows,):
            raise ValueError(f"{split} labels do not match the features: {rows} rows, labels {np.shape(labels)}.")
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise ValueError(f"{split} labels must be integers 0 .. C-1; got dtype {labels.dtype}.")
    n_classes = int(max(y_train.max(), y_test.max())) + 1
    absent = np.setdiff1d(np.arange(n_classes), y_train)
    if absent.size:
        raise ValueError(
            f"{absent.size} of {n_classes} classes are absent from train ({short(list(map(int, absent)), 40)[1:-1]}); "
            "a probe cannot learn them: take more train samples or drop those classes from test."
        )
    return n_classes


def short(message: object, limit: int = 200) -> str:
    """Return a message as one line of at most `limit` characters."""
    text = " ".join(str(message).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
