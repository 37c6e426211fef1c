"""SGD on one group of chains; see `dr_utils.probes.sgd` for why they are trained as blocks of columns."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from dr_utils.probes.chains import Group


def initial_probe(n_neurons: int, n_classes: int, seed: int, dtype=torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a probe's first weights [C, k] and bias [C], as `torch.nn.Linear` does: U(-1/sqrt(k), 1/sqrt(k)).

    The draw depends on (seed, k, C) alone, so a probe starts the same whatever it is trained beside.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = n_neurons**-0.5
    weight = torch.empty(n_classes, n_neurons).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(n_classes).uniform_(-bound, bound, generator=generator)
    return weight.to(dtype), bias.to(dtype)


class GroupTrainer:
    """SGD on the chains of one group, S chains of F nested probes each.

    Parameters
    ----------
    group : Group
    y : int64 tensor of shape [n]
        Class indices of the train samples, on the device of the training.
    n_classes : int
    dtype : torch.dtype
        Precision of the training.
    momentum, weight_decay : float
    copy_bytes : int
        Up to how many bytes of column-permuted features are kept on the device.
    streamed : bool
        Whether features stay where they are, and only the batch at hand is brought to the device.
    """

    def __init__(
        self, group: Group, y: torch.Tensor, n_classes: int, dtype: torch.dtype, *, momentum: float,
        weight_decay: float, copy_bytes: int, streamed: bool,
    ) -> None:  # fmt: skip
        self.group, self.y, self.dtype, self.n_classes = group, y, dtype, n_classes
        self.momentum, self.weight_decay = momentum, weight_decay
        self.copy_bytes, self.streamed = copy_bytes, streamed
        self.x = self.copies = None
        n_chains, n_probes = len(group.columns), len(group.lengths)
        self.columns = torch.as_tensor(np.stack(group.columns), device=y.device)
        # One flat buffer with a view per block, so that momentum and decay are one operation each.
        starts = [0, *group.lengths[:-1]]
        self.spans = list(zip(starts, group.lengths, strict=True))
        self.shapes = [
            (n_chains, stop - start, (n_probes - j) * n_classes) for j, (start, stop) in enumerate(self.spans)
        ]
        total = sum(map(np.prod, self.shapes)) + n_chains * n_probes * n_classes
        self.flat, self.velocity, self.grad = (torch.zeros(int(total), dtype=dtype, device=y.device) for _ in range(3))
        self._view()
        for chain, chain_seed in enumerate(group.seeds):
            for probe, length in enumerate(group.lengths):
                weight, bias = initial_probe(length, n_classes, chain_seed, dtype)
                self.bias[chain, probe * n_classes : (probe + 1) * n_classes] = bias.to(y.device)
                for j, (start, stop) in enumerate(self.spans[: probe + 1]):
                    at = (probe - j) * n_classes
                    self.blocks[j][chain, :, at : at + n_classes] = weight[:, start:stop].T.to(y.device)

    def _view(self) -> None:
        """See the flat buffers as a block of weights per span, and biases."""

        def parts(buffer: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
            sizes = [int(np.prod(shape)) for shape in self.shapes]
            *blocks, rest = buffer.split([*sizes, len(buffer) - sum(sizes)])
            viewed = [block.view(shape) for block, shape in zip(blocks, self.shapes, strict=True)]
            return viewed, rest.view(len(self.group.seeds), -1)

        self.blocks, self.bias = parts(self.flat)
        self.grad_blocks, self.grad_bias = parts(self.grad) if self.grad is not None else (None, None)

    def rest(self) -> None:
        """Leave the device to others: weights and momentum wait on the host."""
        self.feed(None)
        self.flat, self.velocity, self.grad = self.flat.cpu(), self.velocity.cpu(), None
        self._view()

    def wake(self) -> None:
        """Come back to the device."""
        device = self.y.device
        self.flat, self.velocity = self.flat.to(device), self.velocity.to(device)
        self.grad = torch.zeros_like(self.flat)
        self._view()

    def feed(self, x: torch.Tensor | None) -> None:
        """Take train features [n, D], of the same samples, for the steps to come; None lets go of them."""
        self.x, self.copies = x, None
        if x is None or self.streamed:
            return
        copy_bytes = len(self.columns) * x.shape[0] * self.columns.shape[1] * x.element_size()
        if copy_bytes <= self.copy_bytes:
            self.copies = x[:, self.columns].transpose(0, 1).contiguous()

    def _features(self, rows: torch.Tensor) -> torch.Tensor:
        if self.copies is not None:
            found = self.copies[torch.arange(len(rows), device=rows.device)[:, None], rows]
        else:
            found = torch.stack([self.x[r][:, c] for r, c in zip(rows, self.columns, strict=True)])
        return found.to(self.dtype)

    def _streamed(self, batches: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Features of each batch, read from the host while the device works on the one before."""

        def read(rows: torch.Tensor) -> torch.Tensor:
            found = torch.stack([self.x[r] for r in rows])
            return found.pin_memory() if self.columns.is_cuda else found

        waiting = [rows.to(self.x.device) for rows in batches]
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(read, waiting[0])
            for following in [*waiting[1:], None]:
                found = coming.result()
                if following is not None:
                    coming = pool.submit(read, following)
                found = found.to(self.columns.device, non_blocking=True)
                yield torch.stack([x[:, c] for x, c in zip(found, self.columns, strict=True)]).to(self.dtype)

    @torch.no_grad()
    def epoch(self, orders: dict[int, torch.Tensor], batch_size: int, rate: float) -> None:
        """Pass once over the samples, each chain in the order [n] of its seed."""
        batches = torch.stack([orders[seed] for seed in self.group.seeds]).split(batch_size, dim=1)
        features = self._streamed(batches) if self.streamed else map(self._features, batches)
        for rows, x in zip(batches, features, strict=True):
            self.step(rows, x, rate)

    def step(self, rows: torch.Tensor, x: torch.Tensor, rate: float) -> None:
        """One SGD step on the samples `rows` [S, B], whose features are `x` [S, B, K]."""
        y = self.y[rows]
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
