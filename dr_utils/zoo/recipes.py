"""How each network of the zoo is built and trained; within a comparison only the named factor differs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dr_utils.checks import unknown
from dr_utils.models.small import IMAGES_SIDE  # noqa: F401

ALL_CLASSES, QUARTER_CLASSES = 202, 50
NESTING = (8, 16, 32, 64, 128, 256, 512)
NARROW_WIDTHS = NESTING[:-1]

# The paper's eps 3 at 224 x 224 is 0.43 at 32 x 32 if the change per pixel is to be the same. What it costs in clean
# accuracy decides: on ImageNet eps 3 takes a ResNet18 from .70 to .53 and a ResNet50 from .76 to .58.
RADIUS = 0.5


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a network's weights, the data's content and the hardware's rounding apart.

    Attributes
    ----------
    name, title : str
        The name it is loaded by, and the one for figures.
    family : str
        "resnet", "wide_resnet", "vgg" or "vit".
    training : {"standard", "adversarial", "mrl", "narrow"}
        The factor that the paper varies.
    widths : tuple of int
        Channels of the first convolution and of the stages; for a ViT its width, once for each block.
    trunk_width : int
        Neurons that the trunk has before any are left out.
    head_reads : int
        D of the penultimate layer: how many of the trunk's neurons, the first ones, the last layer reads.
    nesting : tuple of int
        How many features each head of a Matryoshka network reads; empty for others.
    n_classes : int
        Upstream classes: all 202, or 50 of them for the upstream-data pair.
    repeats : float
        Passes over the images that make one epoch: a network with a quarter of the classes takes as many steps as
        the others, so that only the variety of its images differs, not the amount of training.
    radius : float
        Of the l2 ball, images in [0, 1]: the one trained at if `training` is "adversarial", and for every network
        the one at which its robust accuracy is measured.
    attack_steps : int
        Steps of projected gradient descent in adversarial training: 1 is single-step training with its safeguard,
        which a CPU has the time for; the published robust networks have 3.
    optimiser : {"sgd", "adamw"}
        Of the first layer, the last one, norms and biases: Nesterov SGD, or AdamW for transformers.
    hidden_lr : float
        Peak learning rate of Muon, for the weights of the layers in between; 0 leaves these to `optimiser`.
    epochs, batch_size, lr, momentum, weight_decay, warmup, label_smoothing
        One-cycle schedule: `lr` is its peak, `warmup` the share of all steps up to there.
    early_side, early_share : int, float
        For this share of the epochs the network is trained on random windows of `early_side` x `early_side` pixels,
        which takes about half the time; then on whole images.
    seed : int
        Decides first weights, order of the images, augmentation and random starts.
    robust_of : str
        For an adversarially trained network, the name of its standard counterpart.
    """

    name: str
    title: str
    family: str
    training: str = "standard"
    widths: tuple[int, ...] = (16, 48, 96, 192)
    trunk_width: int = 512
    head_reads: int = 512
    nesting: tuple[int, ...] = ()
    n_classes: int = ALL_CLASSES
    repeats: float = 1.0
    radius: float = RADIUS
    attack_steps: int = 1
    optimiser: str = "sgd"
    hidden_lr: float = 0.03
    epochs: int = 16
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.25
    label_smoothing: float = 0.0
    early_side: int = 24
    early_share: float = 0.75
    seed: int = 1
    robust_of: str = ""

    @property
    def upstream(self) -> str:
        """What the network is trained on: "tinyimagenet202" or "tinyimagenet50"."""
        return f"tinyimagenet{self.n_classes}"

    @property
    def kind(self) -> str:
        """Tells the zoo's networks from those trained on ImageNet in tables and legends."""
        return "small"

    def as_dict(self) -> dict:
        """Fields as JSON has them."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}


def _recipes() -> tuple[Recipe, ...]:
    resnet = Recipe("small_resnet", "Small ResNet", "resnet")
    wide = Recipe("small_wide_resnet", "Small wide ResNet", "wide_resnet", widths=(24, 64, 128, 256))
    vit = Recipe(
        "small_vit", "Small ViT", "vit", widths=(128,) * 4, trunk_width=128, head_reads=128,
        optimiser="adamw", lr=1e-3, hidden_lr=0.02, weight_decay=0.05,
    )  # fmt: skip
    vgg = Recipe("small_vgg", "Small VGG", "vgg", widths=(16, 64, 128, 192))

    def variant(base: Recipe, name: str, what: str, **changes) -> Recipe:
        return dataclasses.replace(base, name=name, title=f"{base.title}, {what}", **changes)

    def robust(base: Recipe, name: str) -> Recipe:
        return variant(base, name, f"l2 eps {base.radius:g}", training="adversarial", robust_of=base.name)

    quarter = {"n_classes": QUARTER_CLASSES, "repeats": ALL_CLASSES / QUARTER_CLASSES}
    return (
        resnet,
        robust(resnet, "small_resnet_adversarial"),
        variant(resnet, "small_resnet_mrl", "MRL", training="mrl", nesting=NESTING),
        *(variant(resnet, f"small_resnet_ff{k}", f"ff{k}", training="narrow", head_reads=k) for k in NARROW_WIDTHS),
        wide,
        vgg,
        robust(vgg, "small_vgg_adversarial"),
        vit,
        variant(resnet, "small_resnet_quarter", f"{QUARTER_CLASSES} classes", **quarter),
        variant(vit, "small_vit_quarter", f"{QUARTER_CLASSES} classes", **quarter),
    )


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _recipes()}


def find_recipe(name: str) -> Recipe:
    """Return a network's recipe; ValueError listing the names, nearest first, if there is none."""
    if name not in RECIPES:
        raise unknown("network of the zoo", name, RECIPES)
    return RECIPES[name]
