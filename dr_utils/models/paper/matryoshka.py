"""The Matryoshka release: ResNet50s with blurred strided convolutions, and heads that read the first neurons.

Layout and network as in github.com/RAIVNLab/MRL, whose training is that of github.com/libffcv/ffcv-imagenet: a state
dict under `module.`, every convolution of stride 2 with 16 input channels or more wrapped with a fixed blur before it
(Zhang 2019, "Making convolutional networks shift-invariant again"). Kusupati et al. 2022, "Matryoshka representation
learning".
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dr_utils.models.paper.cards import FF_WIDTHS, PaperCard
from dr_utils.models.paper.reading import fit, read_state, without_prefix
from dr_utils.store import AssetError

N_CLASSES = 1000
NESTED = (*FF_WIDTHS, 2048)
_LEAST_CHANNELS = 16


class BlurredConv(nn.Module):
    """A strided convolution after a binomial 3x3 blur of each of its input channels, [B, C, H, W] as before it."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.conv = conv
        # Stored in the release's files, and compared with this one before it is taken from them.
        self.register_buffer("blur_filter", _blur().expand(conv.in_channels, 1, 3, 3).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.conv2d(x, self.blur_filter, padding=1, groups=self.conv.in_channels))


class First(nn.Module):
    """The first `n` of features [B, D]."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : self.n]


def _blur() -> torch.Tensor:
    row = torch.tensor([1.0, 2.0, 1.0])
    return torch.outer(row, row) / 16


def build(card: PaperCard) -> nn.Module:
    """Build the network with random weights and the heads of its file.

    Its `fc` is one linear layer on the first `card.width` neurons, or for the Matryoshka network one for each of the
    nested widths.
    """
    from torchvision.models import resnet50

    module = resnet50(weights=None)
    for name, part in list(module.named_modules()):
        if isinstance(part, nn.Conv2d) and max(part.stride) > 1 and part.in_channels >= _LEAST_CHANNELS:
            module.set_submodule(name, BlurredConv(part))
    if card.training == "mrl":
        module.fc = nn.Module()
        for i, width in enumerate(NESTED):
            module.fc.add_module(f"nesting_classifier_{i}", nn.Linear(width, N_CLASSES))
    else:
        module.fc = nn.Linear(card.width, N_CLASSES)
    return module


def split(module: nn.Module, card: PaperCard) -> tuple[nn.Module, nn.Linear]:
    """Take the head off and end in the first `card.width` neurons; of the nested heads the widest is kept."""
    head = module.fc.get_submodule(f"nesting_classifier_{len(NESTED) - 1}") if card.training == "mrl" else module.fc
    module.fc = First(card.width)
    return module, head


def read(module: nn.Module, card: PaperCard, path: Path) -> list[str]:
    """Give the module the weights of a file of the release; return what of the file was left out.

    Raises
    ------
    AssetError
        Refused or damaged; keys missing, unexpected or of another shape; a blur that is not the binomial one.
    """
    state, left_out = read_state(path)
    state = without_prefix(state, "module.")
    fit(module, state, f"{card.name} (ResNet50 with BlurPool)", path)
    for key, tensor in state.items():
        if key.endswith("blur_filter") and not torch.allclose(tensor.float(), _blur(), rtol=0, atol=1e-4):
            raise AssetError(
                f"{path.name}: {key} is not the binomial blur that the release uses; get the published {card.file}."
            )
    if card.training == "mrl":
        left_out += [f"fc.nesting_classifier_{i} (head of the first {w})" for i, w in enumerate(NESTED[:-1])]
    return left_out
