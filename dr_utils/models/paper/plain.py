"""Networks of timm that the hub has: fetched by timm itself, or read from a state dict in a person's folder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dr_utils.models.paper.cards import PaperCard
from dr_utils.models.paper.reading import fit, read_state, without_prefix

# torchvision's VGG16 has linear layers where timm has convolutions over the whole map, of the same weights.
_VGG_NAMES = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2.", "classifier.6.": "head.fc."}


def build(card: PaperCard) -> nn.Module:
    """Build timm's network with random weights and the head of its pretrained tag."""
    import timm

    return timm.create_model(card.architecture, pretrained=False)


def split(module: nn.Module, card: PaperCard) -> tuple[nn.Module, nn.Module]:
    """Take the head off, as timm does."""
    head = module.get_classifier()
    module.reset_classifier(0)
    return module, head


def read(module: nn.Module, card: PaperCard, path: Path) -> list[str]:
    """Give the module the weights of a state dict, timm's or torchvision's; return what of the file was left out.

    Raises
    ------
    AssetError
        Refused or damaged; keys missing, unexpected or of another shape.
    """
    state, left_out = read_state(path)
    state = without_prefix(state, "module.")
    own = module.state_dict()
    if card.family == "vgg16":
        for theirs, ours in _VGG_NAMES.items():
            for key in [key for key in state if key.startswith(theirs)]:
                name, tensor = ours + key.removeprefix(theirs), state.pop(key)
                as_convolution = name in own and own[name].numel() == tensor.numel()
                state[name] = tensor.reshape(own[name].shape) if as_convolution else tensor
    fit(module, state, f"{card.name} (timm's {card.architecture})", path)
    return left_out
