"""Linear probes by SGD, all of a grid trained at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from dr_utils.probes.result import ProbeResult, checked, evaluated

# One split for every probe and grid, so that probes are compared on the same samples.
_SPLIT_SEED = 0


def fit_probes(
    x_train, y_train, x_test, y_test, subsets: Sequence[np.ndarray], *, epochs: int = 50, lr: float = 0.1,
    momentum: float = 0.9, weight_decay: float = 1e-4, batch_size: int = 256, step_epochs: int = 10, gamma: float = 0.1,
    seed: int | Sequence[int] = 0, device=None, dtype: str = "float32", held_out: float = 0.0,
    memory: int | None = None, x_epochs: Callable[[int], np.ndarray] | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
) -> ProbeResult:  # fmt: skip
    """Train one linear probe per subset of neurons, all of them in one run.

    Softmax regression by SGD with momentum, the paper's protocol (Appendix B) by default: each probe ends with the
    weights that `torch.nn.Linear` with `torch.optim.SGD` and `StepLR` would reach on the same batches. Probes are
    columns of one weight matrix, whose gradient is masked where a probe has no neuron.

    Parameters
    ----------
    x_train, x_test : float arrays of shape [n, D]
        Features. In float16 they stay so, and only the batch at hand is converted.
    y_train, y_test : int arrays of shape [n]
        Class indices 0 .. C-1.
    subsets : sequence of P int arrays
        The neurons of each probe. Subsets of one seed that are prefixes of each other are trained fastest.
    epochs, lr, momentum, weight_decay, batch_size, step_epochs, gamma
        SGD; the learning rate is multiplied by `gamma` every `step_epochs` epochs.
    seed : int or sequence of P ints
        Decides a probe's first weights and the order of its samples.
    device, dtype
        Where to train, the CPU by default, and in which precision.
    held_out : float
        Above 0, that share of train (stratified, the same for all probes) is held out, and each probe ends with the
        weights of the epoch that is best on it, the first such one: what the published code does with a tenth.
    memory : int, optional
        Bytes of device memory that training may take; by default most of what is free on a CUDA device, and no limit on
        the CPU. Probes that do not fit take turns, and features that do not fit are read from the host batch by
        batch; the results are the same.
    x_epochs : callable, optional
        Given the epoch, 0 .. epochs - 1, returns the train features [n, D] of that epoch, where images are
        augmented anew: one call feeds all probes. `x_train` then decides shape and checks only.
    on_epoch : callable, optional
        Called with (epochs done, epochs) after each epoch.

    Raises
    ------
    ValueError
        Features with NaN or without variation, labels that do not match them, a class absent from
        train, an empty or out-of-range subset, a seed list of the wrong length, or memory too small for one probe.
        Probes that diverge (weights no longer finite) only warn; their accuracy is that of a constant guess.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(200) % 2
    >>> x = rng.normal(size=(200, 8)) + y[:, None]
    >>> result = fit_probes(x[:100], y[:100], x[100:], y[100:], subsets=[[3], range(8)])
    >>> bool(0.6 < result.accuracy[0] < result.accuracy[1] < 0.9)
    True
    """
    x_train, y_train, x_test, y_test, subsets, n_classes = checked(x_train, y_train, x_test, y_test, subsets)
    seeds = [int(seed)] * len(subsets) if np.ndim(seed) == 0 else [int(s) for s in seed]
    if len(seeds) != len(subsets):
        raise ValueError(f"seed must be one integer or one per subset: {len(subsets)} subsets, {len(seeds)} seeds.")
    if epochs < 1 or batch_size < 1 or step_epochs < 1:
        raise ValueError(
            f"epochs, batch_size and step_epochs must be at least 1; got {epochs}, {batch_size}, {step_epochs}."
        )
    samples, held = _split(y_train, held_out)
    from dr_utils.probes.masked import Trainer  # imports torch

    trainer = Trainer(
        x_train, y_train, subsets, seeds, n_classes, batch_size=batch_size, momentum=momentum,
        weight_decay=weight_decay, device=device or "cpu", dtype=dtype, memory=memory,
    )  # fmt: skip
    if x_epochs is None:
        trainer.load(x_train)
    x_held, best = x_train[held], None
    for epoch in range(epochs):
        if x_epochs is not None:
            trainer.load(None)  # there is not room for the features of two epochs
            shown = np.asarray(x_epochs(epoch))
            if shown.shape != x_train.shape:
                raise ValueError(f"x_epochs({epoch}) must give features of shape {x_train.shape}; got {shown.shape}.")
            trainer.load(shown)
        trainer.epoch(samples, epoch, lr * gamma ** (epoch // step_epochs))
        if len(held):
            best = _better(best, evaluated(*trainer.probes(), subsets, x_held, y_train[held], device))
        if on_epoch is not None:
            on_epoch(epoch + 1, epochs)
    weights, bias = (best.weights, best.bias) if best else trainer.probes()
    diverged = np.flatnonzero(~_finite(weights, bias))
    for p in diverged:
        weights[p], bias[p] = np.zeros_like(weights[p]), 0.0
    if len(diverged):
        warnings.warn(
            f"{len(diverged)} of {len(subsets)} probes diverged at lr {lr} on features of scale "
            f"{max(float(x_train.max()), -float(x_train.min())):.3g}; standardise the features or lower lr.",
            RuntimeWarning,
            stacklevel=2,
        )
    return evaluated(weights, bias, subsets, x_test, y_test, device)


def _finite(weights: list[np.ndarray], bias: np.ndarray) -> np.ndarray:
    return np.array([np.isfinite(w).all() and np.isfinite(b).all() for w, b in zip(weights, bias, strict=True)])


def _split(y: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the samples to train on and those held out, ascending."""
    if not 0 <= share < 1:
        raise ValueError(f"held_out is a share of the train samples, from 0 to below 1; got {share!r}.")
    everything = np.arange(len(y))
    if not share:
        return everything, everything[:0]
    from sklearn.model_selection import train_test_split

    try:
        kept, out = train_test_split(everything, test_size=share, random_state=_SPLIT_SEED, stratify=y)
    except ValueError as error:
        raise ValueError(
            f"held_out={share} of {len(y)} train samples in {len(np.unique(y))} classes cannot be stratified "
            f"({error}); hold out more or less, or take held_out=0."
        ) from error
    return np.sort(kept), out


def _better(best: ProbeResult | None, now: ProbeResult) -> ProbeResult:
    """Return each probe as it did best on held-out samples; one that diverged stays what it was before."""
    now.accuracy[~_finite(now.weights, now.bias)] = -0.5
    if best is None:
        return now
    for p in np.flatnonzero(now.accuracy > best.accuracy):
        best.weights[p], best.bias[p], best.accuracy[p] = now.weights[p], now.bias[p], now.accuracy[p]
    return best
