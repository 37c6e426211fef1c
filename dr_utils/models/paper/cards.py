"""Cards of the paper's 21 networks and of four more of the published code: what they are, and where their weights are.

Sources of the facts: the paper's Table 1 and the published code for what was used; the README of the hub repository
for the robust models; timm's pretrained configurations; the README of the Matryoshka release. Top-1 is the published
code's own measurement where there is one (the numbers of Table 1), else that of the models' release.
"""

from __future__ import annotations

from dataclasses import dataclass

from dr_utils.models.network import NetworkCard
from dr_utils.models.torch_archives import IMAGENET_MEAN, IMAGENET_STD

ROBUST_HUB = "madrylab/robust-imagenet-models"
# Its state of July 2023, after the last weights were put there.
ROBUST_REVISION = "3f04ac96136001cfe402022100728124cbe3fac5"
AUGREG_BUCKET = "https://storage.googleapis.com/vit_models/augreg/"
# Named in the README of github.com/RAIVNLab/MRL.
MATRYOSHKA_FOLDER = "https://drive.google.com/drive/folders/1IEfJk4xp-sPEKvKn6eKAUzvoRV8ho2vq"

FF_WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)
NORMALISATIONS = ("own", "published")
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class PaperCard(NetworkCard):
    """Card of a network of the paper.

    Attributes
    ----------
    architecture : str
        Name in timm for the layouts "timm" and "augreg", in torchvision for "robust"; "resnet50" for "matryoshka".
    layout : {"timm", "robust", "augreg", "matryoshka"}
        What the published weight file looks like inside.
    file : str
        Name of the weight file.
    hub, revision : str
        Model hub repository that it is fetched from; empty where a person fetches it.
    address : str
        Where a person fetches it; empty for those on the hub.
    megabytes : float or None
        Size of the file as its publisher shows it; None where none was seen.
    mean, std : three floats
        Normalisation that the network was trained with, in units of white = 1.
    published_mean, published_std : three floats
        Normalisation that the published code uses.
    extra : bool
        Not one of the paper's 21: used by the published code beside them.
    """

    architecture: str
    layout: str
    file: str
    hub: str = ""
    revision: str = ""
    address: str = ""
    megabytes: float | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    published_mean: tuple[float, float, float] = IMAGENET_MEAN
    published_std: tuple[float, float, float] = IMAGENET_STD
    extra: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """Names under which a person's folder may have the weights, in the order they are looked for."""
        if self.layout != "timm":
            return (self.file,)
        return tuple(self.architecture + suffix for suffix in (".safetensors", ".pth", ".bin"))

    @property
    def hub_file(self) -> str:
        """Name of the file in the hub repository."""
        return "model.safetensors" if self.layout == "timm" else self.file


def _timm(name, title, width, family, architecture, licence, top1, megabytes=None, **changes) -> PaperCard:
    return PaperCard(
        name=name, title=title, width=width, family=family, training="standard",
        upstream=changes.pop("upstream", "imagenet1k"), kind="imagenet", source=f"timm {architecture}",
        licence=licence, top1=top1, architecture=architecture, layout="timm", file=f"{architecture}.safetensors",
        hub=f"timm/{architecture}", megabytes=megabytes, **changes,
    )  # fmt: skip


def _robust(name, title, width, architecture, file, top1, megabytes=None, robust_of="", extra=False) -> PaperCard:
    family = architecture.removesuffix("_bn")
    return PaperCard(
        name=name, title=title, width=width, family=family, training="adversarial" if robust_of else "standard",
        upstream="imagenet1k", kind="imagenet", source=f"hub {ROBUST_HUB}, {file}", licence="MIT", top1=top1,
        robust_of=robust_of, architecture=architecture, layout="robust", file=file, hub=ROBUST_HUB,
        revision=ROBUST_REVISION, megabytes=megabytes, extra=extra,
    )  # fmt: skip


def _vit_imagenet1k(patch: int, top1: float) -> PaperCard:
    file = f"S_{patch}-i1k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0.npz"
    return PaperCard(
        name=f"vit_s{patch}_imagenet1k", title=f"ViT S-{patch}, ImageNet-1k", width=384, family=f"vit_s{patch}",
        training="standard", upstream="imagenet1k", kind="imagenet", source=f"AugReg bucket, {file}",
        licence="unstated (the code beside it: Apache-2.0)", top1=top1, side=224,
        architecture=f"vit_small_patch{patch}_224", layout="augreg", file=file, address=AUGREG_BUCKET + file,
        mean=_HALF, std=_HALF,  # the published code gives these two ImageNet's mean and std all the same
    )  # fmt: skip


def _vit_imagenet21k(patch: int) -> PaperCard:
    return _timm(
        f"vit_s{patch}_imagenet21k", f"ViT S-{patch}, ImageNet-21k", 384, f"vit_s{patch}",
        f"vit_small_patch{patch}_224.augreg_in21k", "Apache-2.0", None, upstream="imagenet21k", side=224,
        mean=_HALF, std=_HALF, published_mean=_HALF, published_std=_HALF,
    )  # fmt: skip


def _matryoshka(name, title, width, training, file, top1=None, extra=False) -> PaperCard:
    return PaperCard(
        name=name, title=title, width=width, family="resnet50", training=training, upstream="imagenet1k",
        kind="imagenet", source=f"Matryoshka release, {file}", licence="unstated (the code beside it: MIT)",
        top1=top1, architecture="resnet50", layout="matryoshka", file=file, address=MATRYOSHKA_FOLDER, extra=extra,
    )  # fmt: skip


def _ff(width: int, **changes) -> PaperCard:
    changes = {"training": "narrow"} | changes
    return _matryoshka(f"resnet50_ff{width}", f"ResNet50 ff{width}", width, file=f"r50_mrl0_e0_ff{width}.pt", **changes)


_CARDS = (
    _timm("resnet18_standard", "ResNet18", 512, "resnet18", "resnet18.tv_in1k", "BSD-3-Clause", 0.69234, 46.8),
    _timm("resnet50_standard", "ResNet50", 2048, "resnet50", "resnet50.a1_in1k", "Apache-2.0", 0.80068),
    _timm("vgg16_standard", "VGG16", 4096, "vgg16", "vgg16_bn.tv_in1k", "BSD-3-Clause", 0.73362, 554),
    _robust("wrn50_2_standard", "WRN50-2", 2048, "wide_resnet50_2", "wide_resnet50_2_l2_eps0.ckpt", 0.76992),
    _robust("resnet18_l2_eps3", "ResNet18, l2 eps 3", 512, "resnet18", "resnet18_l2_eps3.ckpt", 0.5312, 93.6,
            "resnet18_standard"),
    _robust("resnet50_l2_eps3", "ResNet50, l2 eps 3", 2048, "resnet50", "resnet50_l2_eps3.ckpt", 0.6283, 205,
            "resnet50_standard"),
    _robust("wrn50_2_l2_eps3", "WRN50-2, l2 eps 3", 2048, "wide_resnet50_2", "wide_resnet50_2_l2_eps3.ckpt", 0.669,
            None, "wrn50_2_standard"),
    _robust("vgg16_l2_eps3", "VGG16, l2 eps 3", 4096, "vgg16_bn", "vgg16_bn_l2_eps3.ckpt", 0.5719, 1110,
            "vgg16_standard"),
    _vit_imagenet21k(16),
    _vit_imagenet21k(32),
    _vit_imagenet1k(16, 0.6482),
    _vit_imagenet1k(32, 0.5573),
    _matryoshka("resnet50_mrl", "ResNet50 MRL", 2048, "mrl", "r50_mrl1_e0_ff2048.pt"),
    *(_ff(width) for width in FF_WIDTHS),
    _robust("wrn50_4_standard", "WRN50-4", 2048, "wide_resnet50_4", "wide_resnet50_4_l2_eps0.ckpt", 0.77706,
            extra=True),
    _robust("wrn50_4_l2_eps3", "WRN50-4, l2 eps 3", 2048, "wide_resnet50_4", "wide_resnet50_4_l2_eps3.ckpt", 0.6967,
            None, "wrn50_4_standard", extra=True),
    _robust("resnet50_linf_eps4", "ResNet50, linf eps 4/255", 2048, "resnet50", "resnet50_linf_eps4.0.ckpt", 0.6386,
            205, "resnet50_standard", extra=True),
    # As wide as a ResNet50 is: the release's own standard network, not a narrow one.
    _ff(2048, training="standard", top1=0.76522, extra=True),
)  # fmt: skip
CARDS: dict[str, PaperCard] = {card.name: card for card in _CARDS}
