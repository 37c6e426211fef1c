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

from dr_utils.probes.best_epoch import BestEpoch
from dr_utils.probes.chains import Group, group_probes
from dr_utils.probes.result import ProbeResult, checked_data, checked_seeds, checked_subsets, evaluated

# A batch gathers rows from column-permuted copies of the features when these fit, which is several times
# faster than permuting each batch; beyond this many bytes the columns are permuted batch by batch.
_COPY_LIMIT = 4 << 30


def initial_probe(n_neurons: int, n_classes: int, seed: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a probe's first weights [C, k] and bias [C], as `torch.nn.Linear` does: U(-1/sqrt(k), 1/sqrt(k)).

    The draw depends on (seed, k, C) alone, so a probe starts the same whatever it is trained beside.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = n_neurons**-0.5
    weight = torch.empty(n_classes, n_neurons).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(n_classes).uniform_(-bound, bound, generator=generator)
    return weight.to(dtype), bias.to(dtype)


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
    on_epoch : callable, optional
        Called with (epochs done, epochs) after each epoch.

    Returns
    -------
    ProbeResult

    Raises
    ------
    ValueError
        Features with NaN or without variation, labels that do not match them, a class absent from
        train, an empty or out-of-range subset, or a seed list of the wrong length.

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
    best = None
    if held_out:
        best = BestEpoch(x_train, y_train, held_out, subsets, device)
        x_train, y_train = x_train[best.kept], y_train[best.kept]

    def on_device(x) -> torch.Tensor:
        x = torch.as_tensor(x, device=device)
        return x if x.dtype == torch.float16 else x.to(dtype)

    x_dev = on_device(x_train)
    y_dev = torch.as_tensor(y_train, device=device, dtype=torch.int64)
    with _workers(device) as (n_workers, run_all):
        trainers = [
            _GroupTrainer(part, x_dev, y_dev, n_classes, dtype, momentum=momentum, weight_decay=weight_decay)
            for group in group_probes(subsets, seeds)
            for part in group.split(n_workers)
        ]
        for epoch in range(epochs):
            rate = lr * gamma ** (epoch // step_epochs)
            if x_epochs is not None:
                fresh = _checked_epoch(x_epochs(epoch), best.n if best else len(x_train), x_train.shape[1], epoch)
                fresh = on_device(fresh if best is None else fresh[best.kept])
                for trainer in trainers:
                    trainer.feed(fresh)
            orders = {s: sample_order(len(x_train), epoch, s).to(device) for s in sorted(set(seeds))}
            run_all(lambda trainer, rate=rate, orders=orders: trainer.epoch(orders, batch_size, rate), trainers)
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
            f"{float(np.abs(x_train).max()):.3g}; standardise the features or lower lr.",
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


class _GroupTrainer:
    """SGD on the chains of one group, S chains of F nested probes each; see the module's docstring."""

    def __init__(self, group: Group, x, y, n_classes: int, dtype, *, momentum: float, weight_decay: float) -> None:
        self.group, self.y, self.dtype = group, y, dtype
        self.momentum, self.weight_decay, self.n_classes = momentum, weight_decay, n_classes
        n_chains, n_probes = len(group.columns), len(group.lengths)
        self.columns = torch.as_tensor(np.stack(group.columns), device=x.device)
        self.feed(x)
        # One flat buffer with a view per block, so that momentum and decay are one operation each.
        starts = [0, *group.lengths[:-1]]
        shapes = [
            (n_chains, stop - start, (n_probes - j) * n_classes)
            for j, (start, stop) in enumerate(zip(starts, group.lengths, strict=True))
        ]
        sizes = [int(np.prod(shape)) for shape in shapes]
        total = sum(sizes) + n_chains * n_probes * n_classes
        self.flat, self.velocity, self.grad = (torch.zeros(total, dtype=dtype, device=x.device) for _ in range(3))
        self.blocks, self.grad_blocks = (
            [part.view(shape) for part, shape in zip(buffer.split([*sizes, total - sum(sizes)]), shapes, strict=False)]
            for buffer in (self.flat, self.grad)
        )
        self.bias, self.grad_bias = (buffer[sum(sizes) :].view(n_chains, -1) for buffer in (self.flat, self.grad))
        self.spans = list(zip(starts, group.lengths, strict=True))
        for chain, chain_seed in enumerate(group.seeds):
            for probe, length in enumerate(group.lengths):
                weight, bias = initial_probe(length, n_classes, chain_seed, dtype)
                self.bias[chain, probe * n_classes : (probe + 1) * n_classes] = bias.to(x.device)
                for j, (start, stop) in enumerate(self.spans[: probe + 1]):
                    at = (probe - j) * n_classes
                    self.blocks[j][chain, :, at : at + n_classes] = weight[:, start:stop].T.to(x.device)

    def feed(self, x: torch.Tensor) -> None:
        """Take other train features [n, D], of the same samples, for the steps to come."""
        self.x = x
        copy_bytes = len(self.columns) * x.shape[0] * self.columns.shape[1] * x.element_size()
        self.copies = x[:, self.columns].transpose(0, 1).contiguous() if copy_bytes <= _COPY_LIMIT else None

    def _features(self, rows: torch.Tensor) -> torch.Tensor:
        if self.copies is not None:
            found = self.copies[torch.arange(len(rows), device=rows.device)[:, None], rows]
        else:
            found = torch.stack([self.x[r][:, c] for r, c in zip(rows, self.columns, strict=True)])
        return found.to(self.dtype)

    @torch.no_grad()
    def epoch(self, orders: dict[int, torch.Tensor], batch_size: int, rate: float) -> None:
        """Pass once over the samples, each chain in the order [n] of its seed."""
        rows = torch.stack([orders[seed] for seed in self.group.seeds])
        for batch in rows.split(batch_size, dim=1):
            self.step(batch, rate)

    def step(self, rows: torch.Tensor, rate: float) -> None:
        """One SGD step on the samples `rows` [S, B]."""
        x, y = self._features(rows), self.y[rows]
        n_chains, batch = rows.shape
        n_probes, n_classes = len(self.spans), self.n_classes
        logits = self.bias.reshape(n_chains, 1, -1).repeat(1, batch, 1)
        for j, (start, stop) in enumerate(self.spans):
            logits[:, :, j * n_classes :].baddbmm_(x[:, :, start:stop], self.blocks[j])
        # Probabilities below exp(-60) would be subnormal numbers, on which CPUs multiply tens of times slower.
        logits = logits.view(n_chains, batch, n_probes, n_classes)
        logits.sub_(logits.amax(-1, keepdim=True)).clamp_(min=-60.0)
        # d(mean cross-entropy)/d(logits) = (softmax - one-hot) / batch; a product with ones sums ten classes faster
        # than a reduction over so short an axis, and softmax contains one.
        grad = logits.exp_()
        grad.div_(grad @ grad.new_full((n_classes, 1), float(batch)))
        labels = y[:, :, None, None].expand(-1, -1, n_probes, 1)
        grad.scatter_add_(-1, labels, grad.new_tensor(-1.0 / batch).expand(labels.shape))
        grad = grad.view(n_chains, batch, -1)
        torch.sum(grad, dim=1, out=self.grad_bias)
        for j, (start, stop) in enumerate(self.spans):
            self.grad_blocks[j].baddbmm_(x[:, :, start:stop].transpose(1, 2), grad[:, :, j * n_classes :], beta=0)
        self.grad.add_(self.flat, alpha=self.weight_decay)
        self.velocity.mul_(self.momentum).add_(self.grad)
        self.flat.add_(self.velocity, alpha=-rate)

    def collect(self, weights: list, bias: np.ndarray) -> None:
        """Write each probe's weights [C, k] and bias [C] to its places in the lists."""
        for chain, places in enumerate(self.group.places):
            for probe, indices in enumerate(places):
                at = [(probe - j) * self.n_classes for j in range(probe + 1)]
                parts = [self.blocks[j][chain, :, a : a + self.n_classes] for j, a in enumerate(at)]
                weight = torch.cat(parts).T.contiguous().cpu().numpy()
                intercept = self.bias[chain].view(-1, self.n_classes)[probe].cpu().numpy()
                for index in indices:
                    weights[index], bias[index] = weight, intercept
