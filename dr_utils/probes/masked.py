"""SGD on all probes of a grid as masked products, within a device's memory; see `dr_utils.probes.fit_probes`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

# A probe shares the columns of the longest of its chunk if it has an eighth of them, so that not much is computed only
# to be masked. Below so many columns nothing is gained by a product of its own.
SHARE, NARROW = 8, 64

# Of what is free on a CUDA device when training starts; the rest is for evaluation and the allocator's slack.
USABLE_SHARE = 0.8


@dataclass(frozen=True)
class Chunk:
    """Probes [P] of one seed that see the same batches and columns: `columns` [U], ascending, those of the longest."""

    seed: int
    columns: np.ndarray
    probes: tuple[int, ...]

    def n_bytes(self, width: int, n_classes: int, batch_size: int, itemsize: int) -> int:
        """Return what training takes: weights, momentum, gradient and mask, logits, and the batch with its columns."""
        n_columns, n_probes = len(self.columns), len(self.probes)
        parameters = n_probes * (3 * n_classes * (n_columns + 1) + n_columns)
        return itemsize * (parameters + batch_size * (2 * n_probes * n_classes + 2 * width + n_columns))


def find_chunks(subsets, seeds, fits: Callable[[Chunk], bool] = lambda chunk: True) -> list[Chunk]:
    """Gather probes whose subsets, of one seed, are prefixes of one another, as long as the chunk `fits`."""
    found: list[Chunk] = []
    longest = np.empty(0)
    # In falling lexicographic order a subset is followed by its prefixes.
    for probe in sorted(range(len(subsets)), key=lambda p: (seeds[p], subsets[p].tolist()), reverse=True):
        subset, seed, k = subsets[probe], seeds[probe], len(subsets[probe])
        near = len(longest) <= max(NARROW, SHARE * k) and np.array_equal(longest[:k], subset)
        if near and found[-1].seed == seed:
            grown = replace(found[-1], probes=(*found[-1].probes, probe))
            if fits(grown):
                found[-1] = grown
                continue
        longest = subset
        found.append(Chunk(seed, np.sort(subset), (probe,)))
    return found


def plan_waves(subsets, seeds, feature_bytes: int, budget: float, *sizes: int) -> tuple[bool, list[list[Chunk]]]:
    """Return whether features stay on the device, and which chunks are on it at a time, within `budget` bytes.

    Features stay if they take no more than half; `sizes` are those of `Chunk.n_bytes`.
    """
    resident = feature_bytes <= budget / 2
    free, budget = 0.0, budget - feature_bytes * resident
    waves: list[list[Chunk]] = []
    chunks = find_chunks(subsets, seeds, lambda chunk: chunk.n_bytes(*sizes) <= budget)
    for chunk in sorted(chunks, key=lambda chunk: -chunk.n_bytes(*sizes)):
        n_bytes = chunk.n_bytes(*sizes)
        if n_bytes > budget:
            raise ValueError(
                f"a probe on {len(chunk.columns)} neurons takes {n_bytes / 1e9:.3g} GB of device memory, and "
                f"{budget / 1e9:.3g} GB are to be used; take a smaller batch_size, or device='cpu'."
            )
        if n_bytes > free:
            waves.append([])
            free = budget
        waves[-1].append(chunk)
        free -= n_bytes
    return resident, waves


def sample_order(n: int, epoch: int, seed: int) -> torch.Tensor:
    """Return the order [n] in which a probe of this seed sees the train samples in this epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))


def initial_probe(n_neurons: int, n_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a probe's first weights [C, k] and bias [C] as `torch.nn.Linear` does, whatever it is trained beside."""
    generator, bound = torch.Generator().manual_seed(seed), n_neurons**-0.5
    weight = torch.empty(n_classes, n_neurons).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(n_classes).uniform_(-bound, bound, generator=generator)


class Block:
    """S chunks of P probes each on U columns, trained as one masked product per step on batches of `seeds`.

    Where a probe lacks a column its weight is zero, and the mask keeps it there.
    """

    def __init__(self, chunks: list[Chunk], subsets, seeds: list[int], n_classes: int):
        n_columns, n_probes = len(chunks[0].columns), len(chunks[0].probes)
        self.at = [seeds.index(chunk.seed) for chunk in chunks]
        self.columns = torch.as_tensor(np.stack([chunk.columns for chunk in chunks]))
        # Neighbouring columns, such as the whole layer's, are a view of the batch and need not be gathered.
        span = slice(int(self.columns.min()), int(self.columns.max()) + 1)
        in_place = span.stop - span.start == n_columns and self.at == list(range(len(seeds)))
        self.span = span if in_place else None
        self.weight = torch.zeros(len(chunks), n_columns, n_probes, n_classes)
        self.bias = torch.zeros(len(chunks), 1, n_probes, n_classes)
        self.mask = torch.zeros(len(chunks), n_columns, n_probes, 1)
        self.places = []
        for s, chunk in enumerate(chunks):
            for p, probe in enumerate(chunk.probes):
                rows = torch.as_tensor(np.searchsorted(chunk.columns, subsets[probe]))
                weight, bias = initial_probe(len(rows), n_classes, chunk.seed)
                self.weight[s, rows, p], self.bias[s, 0, p] = weight.T, bias
                self.mask[s, rows, p] = 1.0
                self.places.append((probe, s, p, rows))
        self.weight_velocity, self.bias_velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def to(self, device) -> None:
        """Move to the device for training, or to the host to wait there."""
        for name in ("columns", "weight", "bias", "mask", "weight_velocity", "bias_velocity"):
            setattr(self, name, getattr(self, name).to(device))

    def step(self, x: torch.Tensor, y: torch.Tensor, rate: float, momentum: float, weight_decay: float) -> None:
        """Take a step as `torch.optim.SGD` does, on batches x [seeds, B, D] with labels y [seeds, B]."""
        n_chunks, _, n_probes, n_classes = self.weight.shape
        if self.span:
            x = x[:, :, self.span]
        else:
            chosen = zip(self.at, self.columns, strict=True)
            x = torch.stack([x[s].index_select(1, columns) for s, columns in chosen])
            y = torch.stack([y[s] for s in self.at])  # a list as index would be copied to the GPU, which waits for it
        batch = y.shape[1]
        flat = (n_chunks, -1, n_probes * n_classes)
        grad = torch.baddbmm(self.bias.view(flat), x, self.weight.view(flat)).view(n_chunks, batch, n_probes, n_classes)
        # Probabilities below exp(-60) would be subnormal numbers, on which CPUs multiply tens of times slower.
        grad.sub_(grad.amax(-1, keepdim=True)).clamp_(min=-60.0).exp_()
        # d(mean cross-entropy)/d(logits) = (softmax - one-hot) / batch; a product with ones sums ten classes faster
        # than a reduction over so short an axis.
        grad.div_(grad @ grad.new_full((n_classes, 1), float(batch)))
        labels = y[:, :, None, None].expand(-1, -1, n_probes, 1)
        grad.scatter_add_(-1, labels, grad.new_full((), -1.0 / batch).expand(labels.shape))
        weight_grad = torch.bmm(x.transpose(1, 2), grad.view(flat)).view_as(self.weight)
        self.weight_velocity.mul_(momentum).add_(self.weight, alpha=weight_decay).addcmul_(weight_grad, self.mask)
        self.bias_velocity.mul_(momentum).add_(self.bias, alpha=weight_decay).add_(grad.sum(dim=1, keepdim=True))
        self.weight.add_(self.weight_velocity, alpha=-rate)
        self.bias.add_(self.bias_velocity, alpha=-rate)


class Trainer:
    """All probes of a grid: what is on the device when, and an epoch of SGD; arguments are those of `fit_probes`."""

    def __init__(self, x, y, subsets, seeds, n_classes, *, batch_size, momentum, weight_decay, device, memory):
        self.device, self.stored = torch.device(device), torch.float16 if x.dtype == np.float16 else torch.float32
        self.y = torch.as_tensor(y, device=self.device, dtype=torch.int64)
        self.batch_size, self.momentum, self.weight_decay = batch_size, momentum, weight_decay
        on_cpu = self.device.type == "cpu"
        if memory is None and not on_cpu:
            torch.cuda.empty_cache()  # what extraction left behind counts as taken otherwise
            memory = int(USABLE_SHARE * torch.cuda.mem_get_info(self.device)[0])
        sizes, budget = (x.shape[1], n_classes, batch_size, 4), math.inf if memory is None else memory
        resident, waves = plan_waves(subsets, seeds, x.size * self.stored.itemsize, budget, *sizes)
        self.resident = resident and not on_cpu  # on the CPU features are where they are, in memory or in a file
        # A step's products are too small to share among cores; the probes of a seed, on one core, are not.
        self.n_workers = torch.get_num_threads() if on_cpu else 1
        self.waves: list[list[tuple[list[int], list[Block]]]] = []
        for wave in waves:
            # Each worker has some of the seeds, and of their chunks those of one shape stacked.
            every, shares = sorted({chunk.seed for chunk in wave}), []
            for worker in range(min(self.n_workers, len(every))):
                own, by_shape = every[worker :: self.n_workers], defaultdict(list)
                for chunk in sorted(wave, key=lambda chunk: chunk.seed):
                    if chunk.seed in own:
                        by_shape[len(chunk.columns), len(chunk.probes)].append(chunk)
                shares.append((own, [Block(same, subsets, own, n_classes) for same in by_shape.values()]))
            self.waves.append(shares)

    def load(self, x: np.ndarray) -> None:
        """Take train features [n, D] for the epochs to come."""
        self.x = torch.tensor(x, device=self.device, dtype=self.stored) if self.resident else x

    def epoch(self, samples: np.ndarray, epoch: int, rate: float) -> None:
        """Pass once over these samples of the features, each probe in the order of its seed."""
        samples = torch.as_tensor(samples)

        def train(share: tuple[list[int], list[Block]]) -> None:
            seeds, blocks = share
            for block in blocks:
                block.to(self.device)
            orders = torch.stack([samples[sample_order(len(samples), epoch, seed)] for seed in seeds])
            for x, y in self._batches(orders):
                for block in blocks:
                    block.step(x, y, rate, self.momentum, self.weight_decay)
            for block in blocks:
                block.to(self.device if len(self.waves) == 1 else "cpu")

        n_threads = torch.get_num_threads()
        torch.set_num_threads(1 if self.device.type == "cpu" else n_threads)
        try:
            with ThreadPoolExecutor(self.n_workers) as pool:
                for wave in self.waves:
                    list(pool.map(train, wave))
        finally:
            torch.set_num_threads(n_threads)

    def _batches(self, orders: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield features and labels of the samples in these orders [seeds, n], read while the last batch is at work."""
        batches, on_device = (o.split(self.batch_size, dim=1) for o in (orders, orders.to(self.device)))
        if self.resident:
            yield from ((self.x[rows].float(), self.y[rows]) for rows in on_device)
            return

        def read(rows: torch.Tensor) -> torch.Tensor:
            found = torch.from_numpy(self.x[rows.numpy()])
            return found if self.device.type == "cpu" else found.pin_memory()

        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(read, batches[0])
            for rows, following in zip(on_device, [*batches[1:], None], strict=True):
                x = coming.result()
                if following is not None:
                    coming = pool.submit(read, following)
                yield x.to(self.device, torch.float32, non_blocking=True), self.y[rows]

    def probes(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Return each probe's weights [C, k], in the order of its subset, and the biases [P, C]."""
        found = {}
        for block in (block for wave in self.waves for _, blocks in wave for block in blocks):
            for probe, s, p, rows in block.places:
                weight = block.weight[s, :, p].cpu()[rows].T.contiguous().numpy()
                found[probe] = weight, block.bias[s, 0, p].cpu().numpy()
        weights, biases = zip(*(found[p] for p in range(len(found))), strict=True)
        return list(weights), np.stack(biases)
