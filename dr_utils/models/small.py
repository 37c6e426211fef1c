"""The small networks that come with the package: a card beside each weight file."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dr_utils.models.network import NetworkCard

WEIGHTS = Path(__file__).parent / "weights"
IMAGES_SIDE = 32  # pixels


@dataclass(frozen=True, kw_only=True)
class Card(NetworkCard):
    """Card of a small network: also how it was trained, and what was measured of it."""

    source: str = "trained by this suite on Tiny-ImageNet at 32 x 32"
    licence: str = "MIT"
    top1: float | None = None
    side: int | None = IMAGES_SIDE
    recipe: dict = field(hash=False)  # of `dr_utils.zoo.Recipe`, with changes from the command line
    upstream_images: int
    upstream_classes: int
    upstream_sha256: str  # of the tar file that the images were decoded from
    epochs: int
    attack_steps: int  # of the attack that training ended with; 0 without one
    clean_accuracy: float  # on the validation images, of the weights as stored
    robust_accuracy: float  # under PGD with `robust_steps` steps in the l2 ball of radius `robust_radius`
    robust_radius: float
    robust_steps: int
    validation_images: int
    parameters: int  # with all heads
    multiply_adds: int  # of one image
    training_seconds: float
    hardware: str
    precision: str
    versions: dict = field(hash=False)
    sha256: str  # of the weight file


def card_path(name: str, folder: Path | str = WEIGHTS) -> Path:
    """Return where a network's card is."""
    return Path(folder) / f"{name}.json"


def weights_path(name: str, folder: Path | str = WEIGHTS) -> Path:
    """Return where a network's weight file is."""
    return Path(folder) / f"{name}.safetensors"


def read_card(name: str, folder: Path | str = WEIGHTS) -> Card | None:
    """Read a card; None if there is none."""
    path = card_path(name, folder)
    return Card(**json.loads(path.read_text())) if path.is_file() else None


@cache
def shipped() -> dict[str, Card]:
    """Return the cards in the package by name: ff8 before ff16."""
    names = [path.stem for path in WEIGHTS.glob("*.json")]
    names.sort(key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
    return {name: read_card(name) for name in names}
