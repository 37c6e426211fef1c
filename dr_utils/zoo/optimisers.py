"""The optimiser of the small networks: torch's Muon for hidden weights, its SGD or AdamW for the rest, one cycle."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import nn

from dr_utils.checks import unknown
from dr_utils.models.small_networks import SmallNetwork
from dr_utils.zoo.recipes import Recipe


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Return the share of the peak learning rate: linear from 1/25 during `warmup` of the steps, then a cosine to 0."""
    top = warmup * total
    if step < top:
        return 0.04 + 0.96 * step / top
    return 0.5 * (1 + math.cos(math.pi * (step - top) / max(total - top, 1)))


class Optimiser:
    """Steps of a network's weights; the network is on its device and has channels last already.

    Hidden weights are those of all convolutions and linear layers of the body but the first. Muon replaces the momentum
    of their gradient by the nearest matrix of orthonormal rows, so that all directions learn at the same pace: after
    four epochs 30 % of the validation images were right, with SGD at two rates 23 and 25 %. Batch normalisation follows
    a layer without bias. To it, longer weights mean nothing but a slower pace, so they are kept at the square root of
    the number of outputs. Other weights decay.

    References
    ----------
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; torch.optim.Muon.
    """

    def __init__(self, network: SmallNetwork, recipe: Recipe):
        rest = {
            "sgd": partial(torch.optim.SGD, momentum=recipe.momentum, nesterov=True),
            "adamw": torch.optim.AdamW,
        }
        if recipe.optimiser not in rest:
            raise unknown("optimiser", recipe.optimiser, rest)
        layers = [m for m in network.body.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        self._network, hidden = network, layers[1:] if recipe.hidden_lr else []
        # Views: a step of Muon, which takes matrices only, is a step of the layer.
        self._views = [(layer, nn.Parameter(_matrix(layer.weight.data))) for layer in hidden]
        if any(matrix.data_ptr() != layer.weight.data_ptr() for layer, matrix in self._views):
            raise ValueError("the network's weights must have channels last; use .to(memory_format=...) beforehand.")
        taken = {id(layer.weight) for layer in hidden}
        others = [p for p in network.parameters() if id(p) not in taken]
        # Biases, norms and tokens do not decay: they are scales and offsets, not weights of sums.
        decays = [p.ndim >= 2 and len(p) > 1 for p in others]
        self._parts = [rest[recipe.optimiser](_groups(others, decays, recipe.lr, recipe.weight_decay))]
        if hidden:
            matrices, decays = [matrix for _, matrix in self._views], [layer.bias is not None for layer in hidden]
            groups = _groups(matrices, decays, recipe.hidden_lr, recipe.weight_decay)
            self._parts.append(torch.optim.Muon(groups, momentum=recipe.momentum, ns_steps=4))

    def step(self, share: float) -> None:
        """Step along the gradients, at this share of the peak learning rates, and forget them."""
        for layer, matrix in self._views:
            matrix.grad = _matrix(layer.weight.grad)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = share * group["peak"]
            part.step()
        self._network.zero_grad()
        with torch.no_grad():
            for layer, matrix in self._views:
                if layer.bias is None:
                    matrix.mul_(len(matrix) ** 0.5 / matrix.norm())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return everything that a checkpoint must hold, by name."""
        states = [part.state_dict()["state"] for part in self._parts]
        return {f"{i}/{p}/{k}": t for i, state in enumerate(states) for p, row in state.items() for k, t in row.items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        states: list[dict] = [{} for _ in self._parts]
        for name, tensor in tensors.items():
            i, place, key = name.split("/")
            states[int(i)].setdefault(int(place), {})[key] = tensor
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict({**part.state_dict(), "state": state})


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """Give [out, in, H, W] as [out, H * W * in], the same memory where channels are last; a matrix as it is."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _groups(parameters: list, decays: list[bool], lr: float, weight_decay: float) -> list[dict]:
    """Make two groups of parameters: those with weight decay, those without."""
    pairs, common = list(zip(parameters, decays, strict=True)), {"lr": lr, "peak": lr}
    return [
        {"params": [p for p, d in pairs if d == on], "weight_decay": on * weight_decay, **common}
        for on in (True, False)
    ]
