"""What accuracy might have been: test images and seeds drawn again (a paired bootstrap)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# A standard deviation over so many draws is known to 1 / sqrt(2 * 200) = 5 %.
DRAWS = 200
# Of test images, each left out once where a number is too dear to be drawn again: a delete-a-group jackknife.
GROUPS = 20


def resampled_accuracy(correct, y, n_classes: int, *, of_seeds: bool = True) -> np.ndarray:
    """Return per-class accuracies [`DRAWS`, C] of resampled seeds and test images; NaN for a class without images.

    `correct` [S, n] says of each seed's probe which images of classes `y` [n] it gets right. Seeds are not drawn
    (`of_seeds`) where they number all the subsets that there are.

    Draw b is of the same images and seeds whatever the network, so that differences between networks, fractions and
    selections are paired. Images are drawn with replacement within their class. Of S seeds S - 1 are drawn, which
    makes the variance of a mean over seeds unbiased (Rao & Wu 1988). Drawing both at once counts the noise that belongs
    to neither alone about three times (Owen 2007): intervals are rather too wide than too narrow.
    """
    correct, y = np.asarray(correct), np.asarray(y)
    n_seeds = len(correct)
    seeds = _weights(n_seeds, n_seeds - 1, n_seeds) if of_seeds and n_seeds > 1 else np.full((n_seeds, 1), 1 / n_seeds)
    found = np.full((DRAWS, n_classes), np.nan)
    for c in np.unique(y):
        own = correct[:, y == c].astype(np.float32)
        images = _weights(own.shape[1], own.shape[1], 1000 + int(c))
        found[:, c] = ((own @ images) * seeds).sum(axis=0)
    return found


def resampled_mean(values, *, stream: int = 0) -> np.ndarray:
    """Return `DRAWS` means [..., draws] of resampled values [..., n]: the same positions for every n and stream."""
    values = np.asarray(values, dtype=np.float64)
    n = values.shape[-1]
    return values @ _weights(n, n - 1, stream or n)


@lru_cache(maxsize=2048)
def _weights(n: int, size: int, stream: int) -> np.ndarray:
    """Return the shares [n, `DRAWS`] of n things when `size` of them are drawn with replacement."""
    drawn = np.random.default_rng([n, stream]).integers(n, size=(DRAWS, size))
    counts = np.stack([np.bincount(row, minlength=n) for row in drawn])
    return np.ascontiguousarray(counts.T / size, dtype=np.float32)
