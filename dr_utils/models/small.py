"""The small networks that come with the package: a card beside each weight file. Needs no torch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dr_utils.models.network import NetworkCard
from dr_utils.store import AssetError

WEIGHTS = Path(__file__).parent / "weights"
IMAGES_SIDE = 32  # pixels


@dataclass(frozen=True)
class Card:
    """What is known about trained weights.

    Attributes
    ----------
    name, title, family, training, upstream, kind, robust_of : str
        As in `NetworkCard`.
    width : int
        D, the features that the last layer reads.
    recipe : dict
        Fields of `dr_utils.zoo.Recipe` as used, with changes from the command line.
    upstream_images, upstream_classes : int
        Size of the training data; `upstream_sha256` is that of the tar file it was decoded from.
    epochs, attack_steps : int
        Epochs trained, and steps of the attack that training ended with (0 without one).
    clean_accuracy, robust_accuracy : float
        On `validation_images` validation images, of the weights as stored; the second under PGD with
        `robust_steps` steps in the l2 ball of radius `robust_radius`.
    parameters, multiply_adds : int
        Of the network with all its heads; of one image.
    training_seconds : float
    hardware, precision : str
        What it was trained on and in.
    versions : dict
        Of the libraries.
    sha256 : str
        Of the weight file.
    """

    name: str
    title: str
    width: int
    family: str
    training: str
    upstream: str
    kind: str
    robust_of: str
    recipe: dict
    upstream_images: int
    upstream_classes: int
    upstream_sha256: str
    epochs: int
    attack_steps: int
    clean_accuracy: float
    robust_accuracy: float
    robust_radius: float
    robust_steps: int
    validation_images: int
    parameters: int
    multiply_adds: int
    training_seconds: float
    hardware: str
    precision: str
    versions: dict
    sha256: str

    def network_card(self) -> NetworkCard:
        """Return the card under which the registry of networks lists it."""
        return NetworkCard(
            name=self.name, title=self.title, width=self.width, family=self.family, training=self.training,
            upstream=self.upstream, kind=self.kind, source="trained by this suite on Tiny-ImageNet at 32 x 32",
            licence="MIT", top1=None, robust_of=self.robust_of, side=IMAGES_SIDE,
        )  # fmt: skip


def card_path(name: str, folder: Path | str = WEIGHTS) -> Path:
    """Return where a network's card is."""
    return Path(folder) / f"{name}.json"


def weights_path(name: str, folder: Path | str = WEIGHTS) -> Path:
    """Return where a network's weight file is."""
    return Path(folder) / f"{name}.safetensors"


def read_card(name: str, folder: Path | str = WEIGHTS) -> Card | None:
    """Read a card; None if there is none.

    Raises
    ------
    AssetError
        It is not JSON, or fields are missing or unknown.
    """
    path = card_path(name, folder)
    if not path.is_file():
        return None
    try:
        card = Card(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise AssetError(
            f"the card {path.name} is damaged ({error}); train {name} again or restore the file."
        ) from error
    if card.name != name:
        raise AssetError(f"the card {path.name} is that of {card.name!r}; restore the file.")
    return card


@cache
def shipped() -> dict[str, Card]:
    """Return the cards in the package by name: ff8 before ff16."""
    names = sorted(
        (path.stem for path in WEIGHTS.glob("*.json")),
        key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)],
    )
    return {name: read_card(name) for name in names}
