"""The modules of the published networks, with random weights; each ends in its last linear layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from dr_utils.models.cards import PublishedCard

N_CLASSES = 1000
NESTED = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)


def build(card: PublishedCard) -> tuple[nn.Module, str]:
    """Build a network's module.

    Returns
    -------
    module : nn.Module
        From normalised images [B, 3, H, W] to class scores.
    head : str
        Name of its last linear layer.
    """
    from torchvision import models

    if card.layout in ("timm", "augreg", "lite"):
        import timm

        # The files of the AugReg bucket have ImageNet-1k heads; those of the hub have what timm's configuration says.
        classes = {"num_classes": N_CLASSES} if card.layout == "augreg" else {}
        module = timm.create_model(card.architecture, pretrained=False, **classes)
        return module, module.pretrained_cfg["classifier"]
    if card.architecture == "wide_resnet50_4":
        module = models.ResNet(models.resnet.Bottleneck, [3, 4, 6, 3], width_per_group=64 * 4)
    else:
        module = models.get_model(card.architecture, weights=None)
    if card.layout == "keras":
        _as_keras_has_it(module)
    if card.layout == "matryoshka":
        _as_the_release_has_it(module, card)
    if hasattr(module, "fc"):
        return module, "fc"
    return module, f"classifier.{len(module.classifier) - 1}"


def _as_keras_has_it(resnet: nn.Module) -> None:
    """As He et al. (2015) first had it: the first 1 x 1 convolution of a stage has the stride, not the 3 x 3 one."""
    for stage in (resnet.layer2, resnet.layer3, resnet.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3


def _as_the_release_has_it(resnet: nn.Module, card: PublishedCard) -> None:
    """As in github.com/RAIVNLab/MRL (Kusupati et al. 2022, "Matryoshka representation learning").

    Its training is that of github.com/libffcv/ffcv-imagenet: every convolution of stride 2 with 16 input channels or
    more has a fixed blur before it (Zhang 2019, "Making convolutional networks shift-invariant again").
    """
    for name, part in list(resnet.named_modules()):
        if isinstance(part, nn.Conv2d) and max(part.stride) > 1 and part.in_channels >= 16:
            resnet.set_submodule(name, BlurredConv(part))
    resnet.fc = NestedLinear(NESTED) if card.training == "mrl" else FirstLinear(card.width, N_CLASSES)


class BlurredConv(nn.Module):
    """A strided convolution after a binomial 3 x 3 blur of each of its input channels, [B, C, H, W] as before it."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        row = torch.tensor([1.0, 2.0, 1.0])
        # Stored in the release's files, and compared with this one before it is taken from them.
        self.register_buffer("blur_filter", (torch.outer(row, row) / 16).expand(conv.in_channels, 1, 3, 3).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.conv2d(x, self.blur_filter, padding=1, groups=self.conv.in_channels))


class FirstLinear(nn.Linear):
    """A linear layer on the first `in_features` of features [B, D]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[:, : self.in_features])


class NestedLinear(nn.Module):
    """The heads of a Matryoshka network, each on the first neurons; the scores are those of the widest."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        for i, width in enumerate(widths):
            self.add_module(f"nesting_classifier_{i}", nn.Linear(width, N_CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return list(self.children())[-1](x)
