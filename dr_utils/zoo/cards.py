"""The cards of trained networks: written, and laid out as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from dr_utils.models.small import WEIGHTS, Card, card_path, read_card
from dr_utils.progress import clock
from dr_utils.store import atomic_path
from dr_utils.zoo.recipes import RECIPES, Recipe

__all__ = ["WEIGHTS", "Card", "card_path", "is_of", "read_card", "report", "write_card"]


def is_of(card: Card, recipe: Recipe, n_images: int) -> bool:
    """Whether these weights are of this very recipe, trained on so many images."""
    return card.recipe == recipe.as_dict() and card.upstream_images == n_images


def write_card(card: Card, folder: Path | str = WEIGHTS) -> Path:
    """Write a card as JSON, in one piece; return its path."""
    path = card_path(card.name, folder)
    with atomic_path(path) as part:
        part.write_text(json.dumps(asdict(card), indent=2) + "\n")
    return path


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
