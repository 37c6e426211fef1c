"""The paper's 21 networks by name, and four more of the published code: cards, and strict loaders of their files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from dr_utils.checks import unknown
from dr_utils.models import hub
from dr_utils.models.network import Network
from dr_utils.models.paper import augreg, matryoshka, plain, robust
from dr_utils.models.paper.cards import CARDS, NORMALISATIONS, PaperCard
from dr_utils.models.paper.finding import not_here, weights_file
from dr_utils.store import AssetError

__all__ = ["CARDS", "NORMALISATIONS", "PaperCard", "load_paper"]

_LAYOUTS: dict[str, ModuleType] = {"timm": plain, "robust": robust, "augreg": augreg, "matryoshka": matryoshka}


def load_paper(
    name: str, *, pretrained: bool = True, normalisation: str = "own", data: str | Path | None = None
) -> Network:
    """Load a network of the paper, in evaluation mode and with frozen weights.

    Parameters
    ----------
    name : str
        A name of `CARDS`.
    pretrained : bool
        Random weights if False: the structure alone, nothing is read or fetched.
    normalisation : {"own", "published"}
        Mean and std that the network was trained with, or those that the published code uses. They differ for the
        two ViTs trained on ImageNet-1k only: 0.5 each, and ImageNet's.
    data : path, optional
        Folder whose folder "weights" has weight files; by default the data folder (--data, DR_DATA), if one is set.

    Returns
    -------
    Network
        From RGB images in [0, 1] to penultimate features. Its `left_out` lists what of the weight file was left out.

    Raises
    ------
    ValueError
        Unknown name or normalisation.
    AssetError
        The weights are not here and cannot be fetched, or the file is not the published one.
    """
    if name not in CARDS:
        raise unknown("network of the paper", name, CARDS)
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation must be one of {', '.join(NORMALISATIONS)}; got {normalisation!r}.")
    card, left_out = CARDS[name], []
    layout = _LAYOUTS[card.layout]
    path = weights_file(card, data) if pretrained else None
    if pretrained and path is None:
        body, head = _from_hub(card, data)
    else:
        module = layout.build(card)
        if path is not None:
            left_out = layout.read(module, card, path)
        body, head = layout.split(module, card)
    published = normalisation == "published"
    mean, std = (card.published_mean, card.published_std) if published else (card.mean, card.std)
    network = Network(card, body, head, mean=mean, std=std)
    network.left_out = tuple(left_out)
    return network.eval().requires_grad_(False)


def _from_hub(card: PaperCard, data: str | Path | None) -> tuple:
    try:
        network = hub.load_timm(card.architecture, [])
    except AssetError as error:
        raise not_here(card, data, "the hub cannot be reached") from error
    return network.body, network.head
