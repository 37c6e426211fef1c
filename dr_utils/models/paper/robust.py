"""Checkpoints of the robust ImageNet models: the network, its normalisation, and copies of both beside an optimizer.

The layout is that of the robustness library, which saves a network wrapped with an attacker (github.com/MadryLab/
robustness, `AttackerModel`) under DataParallel: `module.model.*`, the same tensors as `module.attacker.model.*`, and
the normalisation as `module.normalizer.*` and `module.attacker.normalize.*`. Architectures that the library does not
have itself, VGG16 among them, are wrapped once more (`DummyModel`): `module.model.model.*`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dr_utils.models.paper.cards import PaperCard
from dr_utils.models.paper.reading import fit, read_state, without_prefix
from dr_utils.store import AssetError

# The longest first: each key belongs to the first part whose prefix it has.
_PARTS = {
    "copy": "module.attacker.model.",
    "copied normaliser": "module.attacker.normalize.",
    "normaliser": "module.normalizer.",
    "model": "module.model.",
}
_BUFFERS = {"new_mean": "mean", "new_std": "std"}


def build(card: PaperCard) -> nn.Module:
    """Build the architecture with random weights, as torchvision has it; its WRN50-4 is four times as wide inside."""
    from torchvision import models

    if card.architecture == "wide_resnet50_4":
        return models.ResNet(models.resnet.Bottleneck, [3, 4, 6, 3], width_per_group=64 * 4)
    return models.get_model(card.architecture, weights=None)


def split(module: nn.Module, card: PaperCard) -> tuple[nn.Module, nn.Linear]:
    """Take the last linear layer off: ResNets then end in the average pool, VGG16 after its second hidden layer."""
    if hasattr(module, "fc"):
        head, module.fc = module.fc, nn.Identity()
    else:
        head = module.classifier[-1]
        module.classifier[-1] = nn.Identity()
    return module, head


def read(module: nn.Module, card: PaperCard, path: Path) -> list[str]:
    """Give the module the weights of a checkpoint; return what of the checkpoint was left out.

    Raises
    ------
    AssetError
        Refused or damaged; a key of no part, missing, unexpected or of another shape; a copy or a normalisation
        that differs from what it should be.
    """
    state, left_out = read_state(path, wrappers=("model", "state_dict"))
    parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in _PARTS}
    unknown = []
    for key, tensor in state.items():
        part = next((part for part, prefix in _PARTS.items() if key.startswith(prefix)), None)
        if part is None:
            unknown.append(key)
        else:
            parts[part][key.removeprefix(_PARTS[part])] = tensor
    if unknown or not parts["model"]:
        first = ", ".join((unknown or list(state))[:3])
        raise AssetError(
            f"{path.name} does not have the layout of the robust models: {len(unknown)} of {len(state)} keys are under "
            f"none of {', '.join(_PARTS.values())}, {len(parts['model'])} under the last (first: {first}); "
            f"get the published file of {card.name}."
        )
    _check_normaliser(parts["normaliser"], card, path, "module.normalizer")
    if parts["copied normaliser"]:
        _check_normaliser(parts["copied normaliser"], card, path, "module.attacker.normalize")
        left_out.append("module.attacker.normalize.* (the same)")
    if parts["copy"]:
        _check_copy(parts["model"], parts["copy"], path)
        left_out.append(f"{len(parts['copy'])} keys module.attacker.model.* (equal to the model's)")
    fit(module, without_prefix(parts["model"], "model."), f"{card.name} ({card.architecture})", path)
    return left_out


def _check_normaliser(buffers: dict[str, torch.Tensor], card: PaperCard, path: Path, where: str) -> None:
    """Compare mean and std, three values each in tensors [3, 1, 1], with the card's."""
    found = {_BUFFERS.get(key, key): tuple(tensor.flatten().tolist()) for key, tensor in buffers.items()}
    if set(found) != {"mean", "std"}:
        raise AssetError(
            f"{path.name}: {where} holds {', '.join(buffers) or 'nothing'}; expected new_mean and new_std: "
            f"get the published file of {card.name}."
        )
    for what, values in found.items():
        expected = getattr(card, what)
        if len(values) != 3 or max(abs(a - b) for a, b in zip(values, expected, strict=True)) > 1e-6:
            raise AssetError(
                f"{path.name}: {where} has {what} {', '.join(f'{v:.4g}' for v in values)}, expected "
                f"{', '.join(f'{v:.4g}' for v in expected)}; get the published file of {card.name}."
            )


def _check_copy(model: dict[str, torch.Tensor], copy: dict[str, torch.Tensor], path: Path) -> None:
    differing = [key for key in model.keys() | copy.keys() if not _same(model.get(key), copy.get(key))]
    if differing:
        raise AssetError(
            f"{path.name} holds two different networks: {len(differing)} of {len(model)} keys of module.attacker.model "
            f"differ from module.model (first: {min(differing)}); get the published file."
        )


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b)
