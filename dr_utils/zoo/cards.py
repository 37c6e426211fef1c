"""A card beside each weight file: what the network is, how it was trained, and what was measured of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from dr_utils.progress import clock
from dr_utils.store import AssetError, atomic_path
from dr_utils.zoo.recipes import IMAGES_SIDE, RECIPES, Recipe

WEIGHTS = Path(__file__).parent / "weights"
LICENCE = "MIT"


@dataclass(frozen=True)
class Card:
    """What is known about trained weights.

    Attributes
    ----------
    name, title, family, training, upstream, kind, robust_of : str
        As in `dr_utils.models.NetworkCard`.
    width : int
        D, the features that the last layer reads.
    recipe : dict
        Fields of `Recipe` as used, with changes from the command line.
    upstream_images, upstream_classes : int
        Size of the training data.
    upstream_sha256 : str
        Of the tar file it was decoded from.
    epochs : int
        Epochs trained.
    attack_steps : int
        Of the attack that training ended with; 0 where there was none.
    clean_accuracy, robust_accuracy : float
        On `validation_images` validation images, of the weights as stored; the second under PGD with
        `robust_steps` steps in the l2 ball of radius `robust_radius`.
    parameters, multiply_adds : int
        Of the network with all its heads; of one image.
    training_seconds : float
        Time spent training.
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

    def is_of(self, recipe: Recipe, n_images: int) -> bool:
        """Whether these weights are of this very recipe, trained on so many images."""
        return self.recipe == recipe.as_dict() and self.upstream_images == n_images

    def network_card(self):
        """The card under which the registry of networks lists it, a `dr_utils.models.NetworkCard`."""
        from dr_utils.models.network import NetworkCard  # needs torch, which a table of cards does not

        return NetworkCard(
            name=self.name, title=self.title, width=self.width, family=self.family, training=self.training,
            upstream=self.upstream, kind=self.kind, source="trained by this suite on Tiny-ImageNet at 32 x 32",
            licence=LICENCE, top1=None, robust_of=self.robust_of, side=IMAGES_SIDE,
        )  # fmt: skip


def card_path(name: str, folder: Path | str = WEIGHTS) -> Path:
    """Where a network's card is."""
    return Path(folder) / f"{name}.json"


def write_card(card: Card, folder: Path | str = WEIGHTS) -> Path:
    """Write a card as JSON, in one piece; return its path."""
    path = card_path(card.name, folder)
    with atomic_path(path) as part:
        part.write_text(json.dumps(asdict(card), indent=2) + "\n")
    return path


def read_card(name: str, folder: Path | str = WEIGHTS) -> Card | None:
    """Read a card; None if there is none.

    Raises
    ------
    AssetError
        It is no JSON, or fields are missing or unknown.
    """
    path = card_path(name, folder)
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        card = Card(**content)
    except (OSError, ValueError, TypeError) as error:
        raise AssetError(
            f"the card {path.name} is damaged ({error}); train {name} again or restore the file."
        ) from error
    if card.name != name:
        raise AssetError(f"the card {path.name} is that of {card.name!r}; restore the file.")
    return card


def report(folder: Path | str = WEIGHTS, names: Iterable[str] = RECIPES) -> str:
    """Lay out the cards as a table of text, one line per network of the zoo; what is not trained says so."""
    header = (
        *("network", "D", "classes", "epochs", "clean", "robust", "eps"),
        *("parameters", "mult-adds", "time", "hardware"),
    )
    rows = [header]
    for name in names:
        card = read_card(name, folder)
        if card is None:
            rows.append((name, "not trained", *("",) * (len(header) - 2)))
            continue
        rows.append((
            name, str(card.width), str(card.upstream_classes), str(card.epochs), f"{card.clean_accuracy:.3f}",
            f"{card.robust_accuracy:.3f}", f"{card.robust_radius:g}", f"{card.parameters / 1e6:.2f} M",
            f"{card.multiply_adds / 1e6:.0f} M", clock(card.training_seconds), f"{card.hardware}, {card.precision}",
        ))  # fmt: skip
    spans = [max(len(row[i]) for row in rows if row[1] != "not trained") for i in range(len(header))]
    spans[0] = max(len(row[0]) for row in rows)
    return "\n".join(
        "  ".join([row[0].ljust(spans[0]), *(c.rjust(s) for c, s in zip(row[1:-1], spans[1:-1], strict=True)), row[-1]])
        if row[1] != "not trained"
        else f"{row[0].ljust(spans[0])}  not trained"
        for row in rows
    ).rstrip()
