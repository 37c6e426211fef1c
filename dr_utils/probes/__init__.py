"""Accuracy of part and whole: linear probes on subsets of neurons, all probes of a grid at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from dr_utils.checks import check_features, check_labels, check_subset

__all__ = ["ProbeResult", "choose_alpha", "fit_probes", "fit_ridge"]


@dataclass(frozen=True)
class ProbeResult:
    """What P probes over C classes learned, and how well they do on the test set.

    `accuracy` [P] is the share of test samples classified correctly, `per_class_accuracy` [P, C] that of each class,
    NaN for one that the set lacks, and `correct` [P, n] says which samples these are. `weights`, P arrays [C, k], are
    in the order of the neurons in `subsets`; `bias` is [P, C], and `width` the number of columns of the features, D.
    """

    accuracy: np.ndarray
    per_class_accuracy: np.ndarray
    weights: list[np.ndarray] = field(repr=False)
    bias: np.ndarray = field(repr=False)
    subsets: list[np.ndarray] = field(repr=False)
    width: int
    correct: np.ndarray = field(repr=False, default=None)

    @property
    def weight(self) -> np.ndarray:
        """Weights as one array of shape [P, C, D], zero where a probe does not look. Built on demand."""
        dense = np.zeros((*self.bias.shape, self.width), dtype=self.bias.dtype)
        for own, subset, weight in zip(dense, self.subsets, self.weights, strict=True):
            own[:, subset] = weight
        return dense

    def on(self, x, y, *, device="cpu") -> ProbeResult:
        """Return the same probes with their scores on another set, of features `x` [n, D] and class indices `y` [n].

        Products run on `device`. Other widths, NaN and labels that do not match raise ValueError.
        """
        x, y, n_classes = np.asarray(x), np.asarray(y), self.bias.shape[1]
        check_features(x, name="features to score", allow_constant=True)
        if x.shape[1] != self.width:
            raise ValueError(f"the probes were fitted on {self.width} columns; got features of shape {x.shape}.")
        if y.shape != (len(x),) or y.min() < 0 or y.max() >= n_classes:
            raise ValueError(f"labels must be {len(x)} class indices below {n_classes}; got {y} of shape {y.shape}.")
        with np.errstate(all="ignore"):  # a probe that diverged guesses one class
            correct = np.stack([guess == y for guess in self._guesses(x, str(device or "cpu"))])
        counts = np.bincount(y, minlength=n_classes).astype(np.float64)
        by_class = correct @ np.eye(n_classes)[y] / np.where(counts == 0, np.nan, counts)
        return replace(self, accuracy=correct.mean(axis=1), per_class_accuracy=by_class, correct=correct)

    def _guesses(self, x: np.ndarray, device: str):
        place = np.asarray
        if device != "cpu":
            import torch

            place = partial(torch.as_tensor, device=device)
        # A neuron's values lie together: choosing is fast. On the CPU only what is chosen gets the type of the weights.
        x = place(np.ascontiguousarray(x.T, dtype=x.dtype if device == "cpu" else self.bias.dtype))
        for subset, weight, bias in zip(self.subsets, self.weights, self.bias, strict=True):
            guess = (place(weight) @ x[place(subset)] + place(bias)[:, None]).argmax(0)
            yield guess if device == "cpu" else guess.cpu().numpy()


def fit_probes(
    x_train, y_train, x_test, y_test, subsets: Sequence[np.ndarray], *, epochs: int = 50, lr: float = 0.1,
    momentum: float = 0.9, weight_decay: float = 1e-4, batch_size: int = 256, step_epochs: int = 10, gamma: float = 0.1,
    seed: int | Sequence[int] = 0, device=None, held_out: float = 0.0, memory: int | None = None,
    x_epochs: Callable[[int], np.ndarray] | None = None, on_epoch: Callable[[int, int], None] | None = None,
) -> ProbeResult:  # fmt: skip
    """Train one linear probe per subset of neurons, all of them in one run.

    Softmax regression by SGD with momentum, the paper's protocol (Appendix B) by default: each probe ends with the
    weights that `torch.nn.Linear` with `torch.optim.SGD` and `StepLR` would reach on the same batches.

    Parameters
    ----------
    x_train, y_train, x_test, y_test : arrays of shape [n, D] and [n]
        Features and class indices 0 .. C-1. Features in float16 stay so, and only the batch at hand is converted.
    subsets : sequence of P int arrays
        The neurons of each probe. Subsets of one seed that are prefixes of each other are trained fastest.
    epochs, lr, momentum, weight_decay, batch_size, step_epochs, gamma
        SGD; the learning rate is multiplied by `gamma` every `step_epochs` epochs.
    seed : int or sequence of P ints
        Decides a probe's first weights and the order of its samples.
    device : str or torch.device, optional
        Where to train, the CPU by default.
    held_out : float
        Share of train, drawn from each class, by which a probe's best epoch is chosen, the first of equals, as in the
        published code; with 0 it is the last epoch.
    memory : int, optional
        Bytes of device memory to use, most of what is free by default. Probes that do not fit take turns, and features
        that do not fit are read batch by batch, with the same results.
    x_epochs, on_epoch : callable, optional
        `x_epochs` returns the train features [n, D] of an epoch, 0 .. epochs - 1, where images are augmented anew; one
        call feeds all probes. `on_epoch` is called with (epochs done, epochs) after each epoch.

    Raises
    ------
    ValueError
        Features with NaN or without variation, labels that do not match them, a class absent from train, a bad subset,
        a seed list of the wrong length, or memory too small for one probe. Probes that diverge (weights no longer
        finite) only warn; their accuracy is that of a constant guess.

    Examples
    --------
    >>> y = np.arange(200) % 2
    >>> x = np.random.default_rng(0).normal(size=(200, 8)) + y[:, None]
    >>> result = fit_probes(x[:100], y[:100], x[100:], y[100:], subsets=[[3], range(8)])
    >>> bool(0.6 < result.accuracy[0] < result.accuracy[1] < 0.9)
    True
    """
    x_train, y_train, x_test, y_test, subsets, n_classes = _checked(x_train, y_train, x_test, y_test, subsets)
    seeds = [int(s) for s in ([seed] * len(subsets) if np.ndim(seed) == 0 else seed)]
    if len(seeds) != len(subsets):
        raise ValueError(f"seed must be one integer or one per subset: {len(subsets)} subsets, {len(seeds)} seeds.")
    if min(epochs, batch_size, step_epochs) < 1:
        given = f"{epochs}, {batch_size}, {step_epochs}"
        raise ValueError(f"epochs, batch_size and step_epochs must be at least 1; got {given}.")
    samples, best = np.arange(len(y_train)), None
    if held_out:
        from sklearn.model_selection import train_test_split

        # One split for every probe and grid, so that probes are compared on the same samples.
        samples, held = train_test_split(samples, test_size=held_out, random_state=0, stratify=y_train)
        samples.sort()
        x_held, y_held = x_train[held], y_train[held]
    from dr_utils.probes.masked import Trainer  # imports torch

    sgd = {"batch_size": batch_size, "momentum": momentum, "weight_decay": weight_decay}
    trainer = Trainer(x_train, y_train, subsets, seeds, n_classes, device=device or "cpu", memory=memory, **sgd)
    for epoch in range(epochs):
        if x_epochs or epoch == 0:
            trainer.x = None  # there is not room for the features of two epochs
            trainer.load(x_epochs(epoch) if x_epochs else x_train)
        trainer.epoch(samples, epoch, lr * gamma ** (epoch // step_epochs))
        if held_out:
            best = _better(best, _scored(*trainer.probes(), subsets, x_held, y_held, device))
        if on_epoch is not None:
            on_epoch(epoch + 1, epochs)
    weights, bias = (best.weights, best.bias) if best else trainer.probes()
    diverged = np.flatnonzero(~_finite(weights, bias))
    if len(diverged):
        for p in diverged:
            weights[p], bias[p] = np.zeros_like(weights[p]), 0.0
        warnings.warn(
            f"{len(diverged)} of {len(subsets)} probes diverged at lr {lr} on features of scale "
            f"{max(float(x_train.max()), -float(x_train.min())):.3g}; standardise the features or lower lr.",
            RuntimeWarning,
            stacklevel=2,
        )
    return _scored(weights, bias, subsets, x_test, y_test, device)


def fit_ridge(
    x_train, y_train, x_test, y_test, subsets: Sequence[np.ndarray], *, alpha: float | Sequence[float] = 1.0
) -> ProbeResult:
    """Fit one ridge probe per subset of neurons, in closed form.

    Minimises ``||Y - X W' - b||^2 + alpha ||W||^2`` in float64 with Y one-hot and b not penalised, which is
    scikit-learn's `Ridge(alpha)`; a sample is given the class of its largest output. `alpha`, above 0, is in squared
    units of the features, one for all subsets or one each. Other arguments and errors are those of `fit_probes`.

    >>> x, y = np.array([[0.0, 1.0], [1.0, 1.0], [4.0, 1.0], [5.0, 0.0]]), np.array([0, 0, 1, 1])
    >>> fit_ridge(x, y, x, y, subsets=[[0, 1], [1]]).accuracy
    array([1.  , 0.75])
    """
    x_train, y_train, x_test, y_test, subsets, n_classes = _checked(x_train, y_train, x_test, y_test, subsets)
    alphas = np.broadcast_to(alpha, len(subsets))
    if not (alphas > 0).all():
        raise ValueError(f"alpha must be above 0, so that the Gram matrix can be factorised; got {alpha}.")
    mean, targets = x_train.mean(axis=0, dtype=np.float64), np.eye(n_classes)[y_train]
    centre = targets.mean(axis=0)
    weights: list[np.ndarray] = [np.empty(0)] * len(subsets)
    bias = np.empty((len(subsets), n_classes))
    columns, penalty, grams = np.empty(0), None, {}
    # In falling lexicographic order a subset is followed by its prefixes, and one factorisation serves all of them:
    # the factor of a leading block of a matrix is the leading block of its factor.
    for probe in sorted(range(len(subsets)), key=lambda p: (alphas[p], subsets[p].tolist()), reverse=True):
        subset, k = subsets[probe], len(subsets[probe])
        if penalty != alphas[probe] or not np.array_equal(columns[:k], subset):
            columns, penalty = subset, alphas[probe]
            ordered, rank = np.unique(subset, return_inverse=True)
            # The permutations of different seeds run over the same neurons: one Gram matrix serves them all.
            if ordered.tobytes() not in grams:
                part = x_train[:, ordered] - mean[ordered]
                grams[ordered.tobytes()] = part.T @ part, part.T @ (targets - centre)
            gram, cross = grams[ordered.tobytes()]
            block = gram[np.ix_(rank, rank)]
            block.flat[:: k + 1] += penalty
            factor = cholesky(block, lower=True, overwrite_a=True, check_finite=False)
            half = solve_triangular(factor, cross[rank], lower=True, check_finite=False)
        weight = solve_triangular(factor[:k, :k], half[:k], lower=True, trans=1, check_finite=False).T
        weights[probe], bias[probe] = np.ascontiguousarray(weight), centre - weight @ mean[subset]
    return _scored(weights, bias, subsets, x_test, y_test)


def choose_alpha(x_train, y_train) -> float:
    """Choose a ridge penalty: the one under which the full layer is most accurate on a held-out fifth of each class.

    Candidates are multiples of the mean diagonal of the centred Gram matrix X'X, which is itself the answer where
    classes are too small; the largest of equals is taken. Too small a fixed penalty would let a layer of as many
    neurons as samples overfit, and its parts look better than the whole.
    """
    x_train, y_train = np.asarray(x_train), np.asarray(y_train)
    order = np.random.default_rng(0).permutation(len(y_train))
    by_class = [order[y_train[order] == c] for c in np.unique(y_train)]
    held = np.concatenate([own[: int(0.2 * len(own))] for own in by_class])
    fitted = np.setdiff1d(order, held)
    scale = len(fitted) * float(x_train[fitted].var(axis=0, dtype=np.float64).mean())
    if not len(held):
        return scale
    alphas, whole = [scale * 10.0**e for e in range(-3, 3)], range(x_train.shape[1])
    given = (x_train[fitted], y_train[fitted], x_train[held], y_train[held])
    accuracy = fit_ridge(*given, [whole] * len(alphas), alpha=alphas).accuracy
    return max(zip(accuracy, alphas, strict=True))[1]


def _checked(x_train, y_train, x_test, y_test, subsets):
    """Return what was given as arrays, and the number of classes; bad input raises ValueError."""
    x_train, y_train, x_test, y_test = map(np.asarray, (x_train, y_train, x_test, y_test))
    check_features(x_train, name="train features")
    check_features(x_test, name="test features", allow_constant=True)
    width = x_train.shape[1]
    if x_test.shape[1] != width:
        raise ValueError(f"train and test features differ in width: {width} and {x_test.shape[1]}.")
    n_classes = check_labels(y_train, y_test, len(x_train), len(x_test))
    subsets = [check_subset(subset, width, name=f"subset {number}") for number, subset in enumerate(subsets)]
    return x_train, y_train, x_test, y_test, subsets, n_classes


def _scored(weights, bias, subsets, x, y, device="cpu") -> ProbeResult:
    """Return fitted weights with their accuracy on these features and labels."""
    return ProbeResult(np.empty(0), np.empty(0), weights, bias, subsets, x.shape[1]).on(x, y, device=device)


def _finite(weights: list[np.ndarray], bias: np.ndarray) -> np.ndarray:
    return np.array([np.isfinite(w).all() and np.isfinite(b).all() for w, b in zip(weights, bias, strict=True)])


def _better(best: ProbeResult | None, now: ProbeResult) -> ProbeResult:
    """Return each probe as it did best on held-out samples; one that diverged stays what it was before."""
    now.accuracy[~_finite(now.weights, now.bias)] = -0.5
    best = best or now
    for p in np.flatnonzero(now.accuracy > best.accuracy):
        best.weights[p], best.bias[p], best.accuracy[p] = now.weights[p], now.bias[p], now.accuracy[p]
    return best
