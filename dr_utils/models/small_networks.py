"""The small networks, from blocks of torchvision and timm that fit 32 x 32 images, and their stored weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load
from torch import nn

from dr_utils.models.cards import IMAGENET_MEAN, IMAGENET_STD, IMAGES_SIDE, WEIGHTS, Card, read_card, weights_path
from dr_utils.models.files import RELEASES, fit
from dr_utils.store import AssetError, sha256_of

VGG_POOLED = 2  # pixels a side


class SmallNetwork(nn.Module):
    """A body from normalised images to penultimate features, and linear heads, of which the last reads all of them."""

    def __init__(self, body: nn.Module, recipe):
        super().__init__()
        self.body = body
        self.heads = nn.ModuleList(nn.Linear(k, recipe.n_classes) for k in recipe.nesting or (recipe.head_reads,))
        # ImageNet's, of which Tiny-ImageNet is a part. Not weights: left out of the state dict.
        self.register_buffer("_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute penultimate features [B, D] of RGB images [B, 3, 32, 32] in [0, 1]."""
        return self.body((images - self._mean) / self._std)

    def scores(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Compute the scores [B, C] of every head."""
        return [head(features[:, : head.in_features]) for head in self.heads]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the scores [B, C] of the head that reads all features."""
        return self.heads[-1](self.features(images))


def build(recipe) -> SmallNetwork:
    """Build the network of a recipe (of `dr_utils.zoo`, or of a card) with its seed's first weights."""
    # The trunk's are drawn before the heads', so that networks of one trunk and seed start from the same trunk.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        trunk = _TRUNKS[recipe.family](recipe)
        if recipe.head_reads < recipe.trunk_width:
            _keep_first(trunk, recipe.head_reads)
        return SmallNetwork(trunk, recipe)


def load_weights(name: str, folder: Path | str = WEIGHTS) -> tuple[SmallNetwork, Card]:
    """Load a trained network, in evaluation mode with its card; AssetError if it is not what was stored."""
    card, path = read_card(name, folder), weights_path(name, folder)
    data = path.read_bytes()  # once, so that what is loaded is what was hashed
    if (found := sha256_of(data)) != card.sha256:
        raise AssetError(f"{path.name}: expected SHA-256 {card.sha256}, found {found}; install the package again.")
    network = build(SimpleNamespace(**card.recipe))
    fit(network, {key: tensor.float() for key, tensor in load(data).items()}, name, path.name, RELEASES)
    return network.eval(), card


def _keep_first(trunk: nn.Sequential, k: int) -> None:
    """Leave out all features but the first `k`: what a narrow last layer does not read gets no gradient."""
    conv = trunk[-5]
    conv.out_channels, conv.weight = k, nn.Parameter(conv.weight.detach()[:k].clone())
    trunk[-4] = nn.BatchNorm2d(k)


def _resnet(recipe) -> nn.Module:
    """A thin first convolution, a BasicBlock at half the resolution per stage, a 1 x 1 convolution, and the mean."""
    from torchvision.models.resnet import BasicBlock

    def stage(before: int, channels: int) -> nn.Module:
        shortcut = nn.Sequential(nn.Conv2d(before, channels, 1, stride=2, bias=False), nn.BatchNorm2d(channels))
        return BasicBlock(before, channels, 2, shortcut)

    widths, width = recipe.widths, recipe.trunk_width
    first = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)]
    stages = [stage(before, channels) for before, channels in pairwise(widths)]
    last = [nn.Conv2d(widths[-1], width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    trunk = nn.Sequential(*first, *stages, *last, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return trunk


def _vgg(recipe) -> nn.Module:
    """As VGG16, with fewer convolutions, and batch normalisation for dropout, so that training draws no numbers."""
    from torchvision.models.vgg import make_layers

    first, *middle, last = recipe.widths
    width = recipe.trunk_width
    layout = [first, "M", *(item for w in middle for item in (w, w, "M")), last]

    def hidden(before: int, after: int) -> list[nn.Module]:
        return [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]

    convolutions = make_layers(layout, batch_norm=True)
    pooled = [nn.AdaptiveAvgPool2d(VGG_POOLED), nn.Flatten()]
    return nn.Sequential(*convolutions, *pooled, *hidden(last * VGG_POOLED**2, width // 2), *hidden(width // 2, width))


def _vit(recipe) -> nn.Module:
    """Class token after the final norm, patches of 4 x 4 pixels; smaller images see resampled position embeddings."""
    from timm.models.vision_transformer import VisionTransformer

    width = recipe.trunk_width
    return VisionTransformer(
        img_size=IMAGES_SIDE, patch_size=4, embed_dim=width, depth=len(recipe.widths), num_heads=max(1, width // 64),
        mlp_ratio=2, num_classes=0, dynamic_img_size=True,
    )  # fmt: skip


_TRUNKS = {"resnet": _resnet, "wide_resnet": _resnet, "vgg": _vgg, "vit": _vit}
