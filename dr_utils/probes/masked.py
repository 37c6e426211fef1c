"""SGD on all probes of a grid as masked products; see `dr_utils.probes.fit_probes`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dr_utils.probes.chunks import Chunk, first_equal, plan_waves

# Of what is free on a CUDA device when training starts; the rest is for evaluation and the allocator's slack.
USABLE_SHARE = 0.8


def sample_order(n: int, epoch: int, seed: int) -> torch.Tensor:
    """Return the order [n] in which a probe of this seed sees the train samples in this epoch."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 100_003 + epoch))


def initial_probe(n_neurons: int, n_classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a probe's first weights [C, k] and bias [C], as `torch.nn.Linear` does: U(-1/sqrt(k), 1/sqrt(k)).

    The draw depends on (seed, k, C) alone, so a probe starts the same whatever it is trained beside.
    """
    generator, bound = torch.Generator().manual_seed(seed), n_neurons**-0.5
    weight = torch.empty(n_classes, n_neurons).uniform_(-bound, bound, generator=generator)
    return weight, torch.empty(n_classes).uniform_(-bound, bound, generator=generator)


class Block:
    """S chunks of P probes each on U columns, trained as one masked product per step.

    Where a probe lacks a column its weight is zero, and the mask keeps it there. `seeds` are those of the batches that
    `step` will be given.
    """

    def __init__(self, chunks: list[Chunk], subsets, seeds: list[int], n_classes: int, dtype: torch.dtype):
        n_columns, n_probes = len(chunks[0].columns), len(chunks[0].probes)
        self.at = [seeds.index(chunk.seed) for chunk in chunks]
        self.columns = torch.as_tensor(np.stack([chunk.columns for chunk in chunks]))
        # Neighbouring columns, such as the whole layer's, are a view of the batch and need not be gathered.
        span = slice(int(self.columns.min()), int(self.columns.max()) + 1)
        in_place = span.stop - span.start == n_columns and self.at == list(range(len(seeds)))
        self.span = span if in_place else None
        self.weight = torch.zeros(len(chunks), n_columns, n_probes, n_classes, dtype=dtype)
        self.bias = torch.zeros(len(chunks), 1, n_probes, n_classes, dtype=dtype)
        self.mask = torch.zeros(len(chunks), n_columns, n_probes, 1, dtype=dtype)
        self.places = []
        for s, chunk in enumerate(chunks):
            for p, probe in enumerate(chunk.probes):
                rows = torch.as_tensor(np.searchsorted(chunk.columns, subsets[probe]))
                weight, bias = initial_probe(len(rows), n_classes, chunk.seed)
                self.weight[s, rows, p], self.bias[s, 0, p] = weight.T.to(dtype), bias.to(dtype)
                self.mask[s, rows, p] = 1.0
                self.places.append((probe, s, p, rows))
        self.weight_velocity, self.bias_velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def to(self, device) -> None:
        """Move to the device for training, or to the host to wait there."""
        for name in ("columns", "weight", "bias", "mask", "weight_velocity", "bias_velocity"):
            setattr(self, name, getattr(self, name).to(device))

    def step(self, x: torch.Tensor, y: torch.Tensor, rate: float, momentum: float, weight_decay: float) -> None:
        """Take a step as `torch.optim.SGD` does, on batches x [seeds, B, D] with labels y [seeds, B]."""
        n_chunks, n_columns, n_probes, n_classes = self.weight.shape
        if self.span:
            x = x[:, :, self.span]
        else:
            chosen = zip(self.at, self.columns, strict=True)
            x = torch.stack([x[s].index_select(1, columns) for s, columns in chosen])
            y = torch.stack(
                [y[s] for s in self.at]
            )  # an index in a list would be copied to the GPU, which waits for it
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
    """All probes of a grid: what is on the device when, and an epoch of SGD.

    `x` [n, D] are train features, of which only shape and type are looked at, and `y` [n] their labels; the other
    arguments are those of `dr_utils.probes.fit_probes`.
    """

    def __init__(
        self, x: np.ndarray, y: np.ndarray, subsets: Sequence[np.ndarray], seeds: Sequence[int], n_classes: int, *,
        batch_size: int, momentum: float, weight_decay: float, device, dtype: str, memory: int | None,
    ):  # fmt: skip
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.stored = torch.float16 if x.dtype == np.float16 else self.dtype
        self.y = torch.as_tensor(y, device=self.device, dtype=torch.int64)
        self.equal, self.n_classes, self.batch_size = first_equal(subsets, seeds), n_classes, batch_size
        self.momentum, self.weight_decay = momentum, weight_decay
        on_cpu = self.device.type == "cpu"
        if memory is None and not on_cpu:
            torch.cuda.empty_cache()  # what extraction left behind counts as taken otherwise
            memory = int(USABLE_SHARE * torch.cuda.mem_get_info(self.device)[0])
        budget = float("inf") if memory is None else memory
        sizes = (x.shape[1], n_classes, batch_size, self.dtype.itemsize)
        resident, waves = plan_waves(subsets, seeds, x.size * self.stored.itemsize, budget, *sizes)
        self.resident = resident and not on_cpu  # on the CPU features are where they are, in memory or in a file
        # A step's products are too small to share among cores; the probes of a seed, on one core, are not.
        self.n_workers = torch.get_num_threads() if on_cpu else 1
        self.waves = [self._shares(wave, subsets) for wave in waves]

    def _shares(self, wave: list[Chunk], subsets) -> list[tuple[list[int], list[Block]]]:
        """Deal a wave's seeds to the workers; return the seeds of each and its chunks, those of one shape stacked."""
        wave_seeds, shares = sorted({chunk.seed for chunk in wave}), []
        for worker in range(min(self.n_workers, len(wave_seeds))):
            seeds, by_shape = wave_seeds[worker :: self.n_workers], defaultdict(list)
            for chunk in sorted(wave, key=lambda chunk: chunk.seed):
                if chunk.seed in seeds:
                    by_shape[len(chunk.columns), len(chunk.probes)].append(chunk)
            blocks = [Block(same, subsets, seeds, self.n_classes, self.dtype) for same in by_shape.values()]
            shares.append((seeds, blocks))
        return shares

    def load(self, x: np.ndarray | None) -> None:
        """Take train features [n, D] for the epochs to come; None lets go of the last ones."""
        self.x = torch.as_tensor(x, device=self.device).to(self.stored) if self.resident and x is not None else x

    def epoch(self, samples: np.ndarray, epoch: int, rate: float) -> None:
        """Pass once over these samples of the features, each probe in the order of its seed."""
        samples = torch.as_tensor(samples)
        n_threads = torch.get_num_threads()

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

        if self.device.type == "cpu":
            torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(self.n_workers) as pool:
                for wave in self.waves:
                    list(pool.map(train, wave))
        finally:
            torch.set_num_threads(n_threads)

    def _batches(self, orders: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield features and labels of the samples in these orders [seeds, n], read while the last batch is at work."""

        if self.resident:
            yield from (
                (self.x[rows].to(self.dtype), self.y[rows]) for rows in orders.to(self.device).split(self.batch_size, 1)
            )
            return

        def read(rows: torch.Tensor) -> torch.Tensor:
            found = torch.from_numpy(self.x[rows.numpy()])
            return found.pin_memory() if self.device.type == "cuda" else found

        batches, on_device = orders.split(self.batch_size, 1), orders.to(self.device).split(self.batch_size, 1)
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(read, batches[0])
            for rows, following in zip(on_device, [*batches[1:], None], strict=True):
                x = coming.result()
                if following is not None:
                    coming = pool.submit(read, following)
                yield x.to(self.device, self.dtype, non_blocking=True), self.y[rows]

    def probes(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Return each probe's weights [C, k], in the order of its subset, and the biases [P, C]."""
        weights: list[np.ndarray] = [np.empty(0)] * len(self.equal)
        bias = torch.empty(len(self.equal), self.n_classes, dtype=self.dtype)
        for block in (block for wave in self.waves for _, blocks in wave for block in blocks):
            for probe, s, p, rows in block.places:
                bias[probe] = block.bias[s, 0, p]
                weights[probe] = block.weight[s, :, p].cpu()[rows].T.contiguous().numpy()
        return [weights[p] for p in self.equal], bias[self.equal].numpy()
