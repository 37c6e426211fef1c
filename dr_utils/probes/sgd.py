"""Linear probes by SGD, all of a grid trained at once.

The subsets of one seed are nested prefixes of one permutation, so the probes of a grid share their
columns. A chain of nested subsets is therefore trained as blocks of columns: block j holds the columns
that probe j has and probe j - 1 lacks, and is multiplied once for all probes that contain it. No masked
weight is stored and none is multiplied; a grid costs what its neurons cost, not (number of probes) x D.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from dr_utils.probes import memory as device_memory
from dr_utils.probes.best_epoch import BestEpoch
from dr_utils.probes.chains import group_probes
from dr_utils.probes.result import ProbeResult, checked_data, checked_seeds, checked_subsets, evaluated
from dr_utils.probes.trainer import GroupTrainer


def sample_order(n: int, epoch: int, seed: int) -> torch.Tensor:
    """Return the order [n] in which a probe of this seed sees the train samples in this epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))


def fit_probes(
    x_train,
    y_train,
    x_test,
    y_test,
    subsets: Sequence[np.ndarray],
    *,
    epochs: int = 50,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    batch_size: int = 256,
    step_epochs: int = 10,
    gamma: float = 0.1,
    seed: int | Sequence[int] = 0,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    x_epochs: Callable[[int], np.ndarray] | None = None,
    held_out: float = 0.0,
    memory: int | None = None,
    on_epoch: Callable[[int, int], None] | None = None,
) -> ProbeResult:
    """Train one linear probe per subset of neurons, all of them in one run.

    Softmax regression by SGD with momentum, the paper's protocol (Appendix B) by default: each probe
    ends with the weights that `torch.nn.Linear` with `torch.optim.SGD` and `StepLR` would reach on the
    same batches.

    Parameters
    ----------
    x_train, x_test : float arrays of shape [n, D]
        Features. In float16 they stay so on the device, and only the batch at hand is converted.
    y_train, y_test : int arrays of shape [n]
        Class indices 0 .. C-1.
    subsets : sequence of P int arrays
        The neurons of each probe. Subsets of one seed that are prefixes of each other are trained
        as one chain; any other subsets work too, at the price of their own columns.
    epochs, lr, momentum, weight_decay, batch_size, step_epochs, gamma
        SGD; the learning rate is multiplied by `gamma` every `step_epochs` epochs.
    seed : int or sequence of P ints
        Decides a probe's first weights and the order of its samples.
    device : str or torch.device, optional
        Default: the CPU.
    dtype : torch.dtype
        Precision of the training.
    x_epochs : callable, optional
        Given the epoch, 0 .. epochs - 1, returns the train features [n, D] of that epoch, where images are
        augmented anew: one call feeds all probes. `x_train` then decides shape and checks only.
    held_out : float
        Above 0, that share of train (stratified, the same for all probes) is held out, and each probe ends with the
        weights of the epoch that is best on it, the first such one: what the published code does with a tenth.
    memory : int, optional
        Bytes of device memory that training may take; by default most of what is free on a CUDA device, and no limit on
        the CPU. What does not fit is trained in waves, and features that do not fit are read from the host batch by
        batch; the probes are the same.
    on_epoch : callable, optional
        Called with (epochs done, epochs) after each epoch.

    Returns
    -------
    ProbeResult

    Raises
    ------
    ValueError
        Features with NaN or without variation, labels that do not match them, a class absent from
        train, an empty or out-of-range subset, a seed list of the wrong length, or memory too small for one chain.

    Warns
    -----
    RuntimeWarning
        Probes that diverged (weights no longer finite); their accuracy is that of a constant guess.
    """
    x_train, x_test, y_train, y_test, n_classes = checked_data(x_train, y_train, x_test, y_test)
    subsets = checked_subsets(subsets, x_train.shape[1])
    seeds = checked_seeds(seed, len(subsets))
    if not 0 <= held_out < 1:
        raise ValueError(f"held_out is a share of the train samples, from 0 to below 1; got {held_out!r}.")
    if epochs < 1 or batch_size < 1 or step_epochs < 1:
        raise ValueError(
            f"epochs, batch_size and step_epochs must be at least 1; got {epochs}, {batch_size}, {step_epochs}."
        )
    device = torch.device(device or "cpu")
    best = BestEpoch(x_train, y_train, held_out, subsets, device) if held_out else None
    kept = torch.arange(len(x_train)) if best is None else torch.as_tensor(best.kept)
    y_dev = torch.as_tensor(y_train, device=device, dtype=torch.int64)
    kept_type = torch.float16 if x_train.dtype == np.float16 else dtype
    with _workers(device) as (n_workers, run_all):
        groups = [part for group in group_probes(subsets, seeds) for part in group.split(n_workers)]
        budget = device_memory.usable(device) if memory is None else memory
        plan = device_memory.plan(groups, x_train.size * kept_type.itemsize, n_classes, batch_size, dtype, budget)

        def placed(x) -> torch.Tensor:
            return torch.as_tensor(x, device=device).to(kept_type) if plan.resident else torch.as_tensor(x)

        waves = []
        for groups in plan.waves:
            waves.append([])
            for group in groups:
                waves[-1].append(
                    GroupTrainer(
                        group, y_dev, n_classes, dtype, momentum=momentum, weight_decay=weight_decay,
                        copy_bytes=plan.copy_bytes, streamed=not plan.resident,
                    )
                )  # fmt: skip
                if len(plan.waves) > 1:
                    waves[-1][-1].rest()
        trainers = [trainer for wave in waves for trainer in wave]
        features = placed(x_train) if x_epochs is None else None
        for epoch in range(epochs):
            rate = lr * gamma ** (epoch // step_epochs)
            if x_epochs is not None:
                # The old epoch's features go before the new ones come: there is not room for both.
                features = None
                for trainer in trainers:
                    trainer.feed(None)
                features = placed(_checked_epoch(x_epochs(epoch), *x_train.shape, epoch))
            orders = {s: kept[sample_order(len(kept), epoch, s)].to(device) for s in sorted(set(seeds))}
            for wave in waves:
                for trainer in wave:
                    if len(waves) > 1:
                        trainer.wake()
                    if trainer.x is not features:
                        trainer.feed(features)
                run_all(lambda trainer, rate=rate, orders=orders: trainer.epoch(orders, batch_size, rate), wave)
                if len(waves) > 1:
                    for trainer in wave:
                        trainer.rest()
            if best is not None:
                best.look(*_collected(trainers, len(subsets), n_classes, dtype))
            if on_epoch is not None:
                on_epoch(epoch + 1, epochs)
    weights, bias = (best.weights, best.bias) if best else _collected(trainers, len(subsets), n_classes, dtype)
    diverged = [p for p, w in enumerate(weights) if not (np.isfinite(w).all() and np.isfinite(bias[p]).all())]
    for p in diverged:
        weights[p], bias[p] = np.zeros_like(weights[p]), 0.0
    if diverged:
        warnings.warn(
            f"{len(diverged)} of {len(subsets)} probes diverged at lr {lr} on features of scale "
            f"{max(float(x_train.max()), -float(x_train.min())):.3g}; standardise the features or lower lr.",
            RuntimeWarning,
            stacklevel=2,
        )
    return evaluated(weights, bias, subsets, x_test, y_test, device)


def _collected(trainers, n_probes: int, n_classes: int, dtype) -> tuple[list[np.ndarray], np.ndarray]:
    weights: list[np.ndarray] = [None] * n_probes
    bias = np.zeros((n_probes, n_classes), dtype=torch.empty(0, dtype=dtype).numpy().dtype)
    for trainer in trainers:
        trainer.collect(weights, bias)
    return weights, bias


def _checked_epoch(x, n: int, width: int, epoch: int):
    if np.shape(x) != (n, width):
        raise ValueError(f"x_epochs({epoch}) must give features of shape {(n, width)}; got {np.shape(x)}.")
    return x


@contextmanager
def _workers(device: torch.device):
    """Yield how many trainers may run side by side, and a function that runs one call on each of them.

    The products of a step are too small to share among cores; whole trainers, one core each, are not.
    """
    n_threads = torch.get_num_threads()
    if device.type != "cpu" or n_threads == 1:
        yield 1, lambda call, trainers: [call(trainer) for trainer in trainers]
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            yield n_threads, lambda call, trainers: list(pool.map(call, trainers))
    finally:
        torch.set_num_threads(n_threads)
