"""The published networks: their modules, and the way from the names and axes of their weight files to a module's."""

from __future__ import annotations

import re
from functools import partial
from io import BytesIO
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dr_utils import fetch
from dr_utils.checks import short
from dr_utils.models.backbone import weight_hash
from dr_utils.models.cards import ARCHIVES, PublishedCard, weights_file
from dr_utils.models.files import RELEASES, State, fit, read_layers_model, read_weights, without_prefixes
from dr_utils.store import AssetError

N_CLASSES = 1000
NESTED = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)


def build(card: PublishedCard) -> tuple[nn.Module, str]:
    """Return a network's module with random weights, and the name of its last linear layer."""
    if card.layout in ("timm", "augreg", "lite"):
        import timm

        module = timm.create_model(card.architecture, pretrained=False)
        return module, module.pretrained_cfg["classifier"]
    from torchvision import models

    options = {"norm_layer": partial(nn.BatchNorm2d, eps=1e-3)} if card.layout == "keras" else {}
    if card.architecture == "wide_resnet50_4":
        module = models.resnet50(width_per_group=64 * 4)
    else:
        module = models.get_model(card.architecture, **options)
    if card.layout == "keras":  # as He et al. (2015) had it, a stage's first 1 x 1 convolution has the stride
        for stage in (module.layer2, module.layer3, module.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    if card.layout == "matryoshka":
        _as_the_release_has_it(module, card)
    return module, "fc" if hasattr(module, "fc") else f"classifier.{len(module.classifier) - 1}"


def _as_the_release_has_it(resnet: nn.Module, card: PublishedCard) -> None:
    """As github.com/RAIVNLab/MRL has it: a fixed blur before convolutions of stride 2, 16 channels up (Zhang 2019)."""
    for name, part in list(resnet.named_modules()):
        if isinstance(part, nn.Conv2d) and max(part.stride) > 1 and part.in_channels >= 16:
            resnet.set_submodule(name, BlurredConv(part))
    resnet.fc = NestedLinear() if card.training == "mrl" else nn.Linear(card.width, N_CLASSES)
    if card.training == "narrow":  # its head reads the first neurons only
        resnet.fc.register_forward_pre_hook(lambda _, given: given[0][:, : card.width])


class BlurredConv(nn.Module):
    """A strided convolution after a binomial 3 x 3 blur of each of its input channels, [B, C, H, W] as before it."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("blur_filter", (torch.outer(row, row) / 16).expand(conv.in_channels, 1, 3, 3).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.conv2d(x, self.blur_filter, padding=1, groups=self.conv.in_channels))


class NestedLinear(nn.ModuleDict):
    """The heads of a Matryoshka network, each on the first neurons; the scores are those of the widest."""

    def __init__(self):
        super().__init__({f"nesting_classifier_{i}": nn.Linear(k, N_CLASSES) for i, k in enumerate(NESTED)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return list(self.values())[-1](x)


def load(module: nn.Module, card: PublishedCard) -> None:
    """Give a module the published weights; AssetError if they cannot be had, or are not those published."""
    if card.name in ARCHIVES:
        _load_archive(module, card)
        return
    path = weights_file(card)
    advice = f"get the published {card.file}" + (f" ({card.address})" if card.address else "")
    state = read_weights(path, advice=advice)
    if card.layout == "augreg":
        _fill_augreg(module, path, state, advice)
    else:
        fit(module, read_layout(card, state, module), f"{card.name} ({card.architecture})", path.name, advice)


def _fill_augreg(vit: nn.Module, path: Path, arrays: State, advice: str) -> None:
    """Let timm read a file of Steiner et al. (2022). It passes over what it does not know, so numbers are counted."""
    # A file saved in the midst of training has the optimizer's state beside the weights.
    found = sum(array.numel() for key, array in arrays.items() if not key.startswith("opt/state/"))
    expected = sum(parameter.numel() for parameter in vit.parameters())
    try:
        if found != expected:
            raise ValueError(f"{found:,} numbers")
        vit.load_pretrained(str(path))
    except (KeyError, ValueError, RuntimeError) as error:
        raise AssetError(f"{path.name} does not hold the {expected:,} weights ({short(error)}); {advice}.") from error


def _load_archive(module: nn.Module, card: PublishedCard) -> None:
    members = fetch.read_members(fetch.fetch(card.archive))
    if card.layout == "keras":
        state = read_layers_model(members, card.member)
    else:
        state = read_weights(BytesIO(members[card.member]), card.member)
    state = read_layout(card, state, module)
    if (found := weight_hash(state)) != card.weight_hash:
        raise AssetError(f"{card.name}: its weights have SHA-256 {found}, expected {card.weight_hash}; {RELEASES}.")
    fit(module, state, card.name, card.file, RELEASES)


def read_layout(card: PublishedCard, state: State, module: nn.Module) -> State:
    """Bring the tensors of a published file into the names and axes of a module, for `fit`."""
    if card.layout == "lite":  # other names than timm's, in the same order
        return dict(zip(module.state_dict(), state.values(), strict=True))
    if card.layout == "keras":
        return _keras(state, module)
    state = without_prefixes(state)
    if card.layout == "robust":
        # github.com/MadryLab/robustness saves a network with its normalisation and its attacker, which has the same
        # tensors once more. Architectures that it does not have itself, such as VGG16, are wrapped twice.
        own = {key: tensor for key, tensor in state.items() if not key.startswith(("attacker.", "normalizer."))}
        return without_prefixes(own)
    if card.architecture.startswith("vgg16_bn."):  # torchvision's file, too: its linear layers are convolutions in timm
        from timm.models.vgg import _filter_fn

        return _filter_fn(state)
    return state


def _keras(weights: State, module: nn.Module) -> State:
    """Keras' names: stages are numbered from 2, blocks are letters, and so are the branches in them."""
    state = {"fc.weight": weights["fc1000/kernel"].T, "fc.bias": weights["fc1000/bias"]}
    for conv in (name for name, part in module.named_modules() if isinstance(part, nn.Conv2d)):
        norm = conv.replace("conv", "bn").replace("downsample.0", "downsample.1")
        keras_conv, keras_norm = "conv1", "bn_conv1"
        if conv != "conv1":  # layer1.0.conv2 or layer1.0.downsample.0
            stage, block, branch = map(int, re.findall(r"\d", conv))
            place = f"{stage + 1}{'abcdef'[block]}_branch{('1', '2a', '2b', '2c')[branch]}"
            keras_conv, keras_norm = f"res{place}", f"bn{place}"
        state[f"{conv}.weight"] = weights[f"{keras_conv}/kernel"].permute(3, 2, 0, 1)
        state[f"{norm}.weight"] = weights[f"{keras_norm}/gamma"]
        state[f"{norm}.bias"] = weights[f"{keras_norm}/beta"]
        # torchvision's convolutions have no bias; the normalisation subtracts it with the mean.
        state[f"{norm}.running_mean"] = weights[f"{keras_norm}/moving_mean"] - weights[f"{keras_conv}/bias"]
        state[f"{norm}.running_var"] = weights[f"{keras_norm}/moving_variance"]
    return state
