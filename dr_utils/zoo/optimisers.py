"""The optimiser of the zoo: Muon for hidden weight matrices, SGD or AdamW for everything else, one cycle for both."""

from __future__ import annotations

import math

import torch
from torch import nn

from dr_utils.checks import unknown
from dr_utils.models.small_networks import SmallNetwork
from dr_utils.zoo.recipes import Recipe

NEWTON_SCHULZ_STEPS = 4


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Share of the peak learning rate: from a 25th up along a line for `warmup` of the steps, down along a cosine."""
    top = warmup * total
    if step < top:
        return 0.04 + 0.96 * step / top
    return 0.5 * (1 + math.cos(math.pi * (step - top) / max(total - top, 1)))


class Optimiser:
    """Steps of a network's weights.

    Hidden weights are those of all convolutions and linear layers of the body but the first. Muon replaces their
    gradient's momentum by the nearest matrix of orthonormal rows, so that all directions learn at the same pace: after
    four epochs 30 % of the validation images were right, with SGD at two rates 23 and 25 %. A layer without bias is
    followed by batch normalisation, to which the length of its weights means nothing but a slower pace: it is kept at
    the square root of the number of its outputs. Others decay.

    Parameters
    ----------
    network : SmallNetwork
        On its device and in its memory format already.
    recipe : Recipe

    References
    ----------
    Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; torch.optim.Muon.
    """

    def __init__(self, network: SmallNetwork, recipe: Recipe):
        layers = [m for m in network.body.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        self._network = network
        self._hidden = layers[1:] if recipe.hidden_lr else []
        # Views: a step of Muon, which takes matrices only, is a step of the layer.
        self._matrices = [nn.Parameter(_matrix(layer.weight.data)) for layer in self._hidden]
        if any(m.data_ptr() != layer.weight.data_ptr() for m, layer in zip(self._matrices, self._hidden, strict=True)):
            raise ValueError("the network's weights must have channels last; use .to(memory_format=...) beforehand.")
        free = [m for m, layer in zip(self._matrices, self._hidden, strict=True) if layer.bias is None]
        decayed = [m for m, layer in zip(self._matrices, self._hidden, strict=True) if layer.bias is not None]
        self._free = free
        taken = {id(layer.weight) for layer in self._hidden}
        self._parts = [(recipe.lr, _rest([p for p in network.parameters() if id(p) not in taken], recipe))]
        for matrices, decay in ((free, 0.0), (decayed, recipe.weight_decay)):
            if matrices:
                muon = torch.optim.Muon(
                    matrices, lr=recipe.hidden_lr, momentum=recipe.momentum, weight_decay=decay,
                    ns_steps=NEWTON_SCHULZ_STEPS,
                )  # fmt: skip
                self._parts.append((recipe.hidden_lr, muon))

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._network.zero_grad(set_to_none=True)

    def step(self, share: float) -> None:
        """Step along the gradients, at this share of the peak learning rates."""
        for layer, matrix in zip(self._hidden, self._matrices, strict=True):
            matrix.grad = _matrix(layer.weight.grad)
        for peak, part in self._parts:
            for group in part.param_groups:
                group["lr"] = share * peak
            part.step()
        with torch.no_grad():
            for matrix in self._free:
                matrix.mul_(len(matrix) ** 0.5 / matrix.norm())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a checkpoint must hold, by name."""
        return {
            f"{place}.{i}.{key}": value
            for place, (_, part) in enumerate(self._parts)
            for i, state in part.state_dict()["state"].items()
            for key, value in state.items()
            if isinstance(value, torch.Tensor)
        }

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over what `tensors` gave."""
        for place, (_, part) in enumerate(self._parts):
            state: dict[int, dict] = {}
            for name, tensor in tensors.items():
                where, i, key = name.split(".")
                if int(where) == place:
                    state.setdefault(int(i), {})[key] = tensor
            part.load_state_dict({**part.state_dict(), "state": state})


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """[out, in, H, W] as [out, H * W * in], which is the same memory where channels are last; a matrix as it is."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _rest(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    # Biases, norms and tokens are not decayed: they are scales and offsets, not weights of sums.
    decayed = [p for p in parameters if p.ndim >= 2 and p.shape[0] > 1]
    known = {id(p) for p in decayed}
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if id(p) not in known], "weight_decay": 0.0},
    ]
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=True)
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    raise unknown("optimiser", recipe.optimiser, ("sgd", "adamw"))
