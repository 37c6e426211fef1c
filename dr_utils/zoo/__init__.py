"""The small networks' recipes (recipes.yaml) and training: ``python -m dr_utils train all --data DIR``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import yaml
from pydantic import PositiveInt
from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a network's weights, apart from the images and the hardware's rounding."""

    name: str
    title: str  # for figures
    family: str  # resnet, wide_resnet, vgg or vit
    training: str = "standard"  # or adversarial, mrl, narrow, dropout, decov: the factor that the paper varies
    widths: tuple[int, ...] = (16, 48, 96, 192)  # channels of the first convolution and the stages; ViT: of each block
    trunk_width: int = 512  # neurons of the penultimate layer before any are left out
    head_reads: int = 512  # D: how many of them, the first ones, the last layer reads
    nesting: tuple[int, ...] = ()  # how many neurons each head of a Matryoshka network reads
    n_classes: int = 202  # all of Tiny-ImageNet's, or a seeded choice
    repeats: float = 1.0  # passes over the images in one epoch
    # Of the l2 ball, for images in [0, 1]. The paper's eps 3 at 224 x 224 is 0.43 at 32 x 32 if pixels change as much;
    # what it costs decides: on ImageNet, it takes a ResNet18 from .70 to .53 and a ResNet50 from .76 to .58.
    radius: float = 0.5
    attack_steps: PositiveInt = 1  # in training; 1 is fast, published robust ones have 3
    optimiser: Literal["sgd", "adamw"] = "sgd"  # of the first layer, the last one, norms and biases
    hidden_lr: float = 0.03  # peak learning rate of Muon, for the weights in between
    epochs: PositiveInt = 16
    batch_size: int = 128
    lr: float = 0.1  # peak learning rate of `optimiser`
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.25  # share of all steps up to the peak
    label_smoothing: float = 0.0
    dropout: float = 0.0  # share of the penultimate features that each image's training step goes without
    decov: float = 0.0  # weight of the penalty on covariances of penultimate features (Cogswell et al. 2016)
    early_side: int = 24  # pixels: training begins on random windows of this side, which takes about half the time
    early_share: float = 0.75  # of the epochs
    seed: int = 1  # of first weights, order of the images, augmentation and random starts of attacks
    robust_of: str = ""  # the standard counterpart of an adversarially trained network

    def as_dict(self) -> dict:
        """Return the fields as JSON has them: lists, no tuples."""
        return json.loads(json.dumps(asdict(self)))


_ROWS = yaml.safe_load(Path(__file__).with_name("recipes.yaml").read_text(encoding="utf-8"))
RECIPES = {name: Recipe(name, **row) for name, row in _ROWS.items()}
