"""Where the weights of the paper's networks are: a person's folder, else the hub; and how to get those of neither."""

from __future__ import annotations

from pathlib import Path

from dr_utils.checks import short
from dr_utils.fetch import data_dir, hub_within_reach
from dr_utils.models.paper.cards import PaperCard
from dr_utils.store import AssetError

FOLDER = "weights"


def local_file(card: PaperCard, data: str | Path | None = None) -> Path | None:
    """Return the weight file in the folder "weights" of `data`, by default of the data folder; None if it has none.

    Raises
    ------
    AssetError
        The data folder was named and is no folder.
    """
    folder = data_dir() if data is None else Path(data).expanduser()
    if folder is None:
        return None
    if not folder.is_dir():
        raise AssetError(f"the data folder {folder} (--data, DR_DATA) is no folder; make it, or name another one.")
    return next((path for file in card.files if (path := folder / FOLDER / file).is_file()), None)


def weights_file(card: PaperCard, data: str | Path | None = None) -> Path | None:
    """Return the weight file, fetched from the hub if need be; None for networks that timm fetches by itself.

    Raises
    ------
    AssetError
        Not in the folder and not to be had from the hub; the message says what to put where.
    """
    if path := local_file(card, data):
        return path
    if card.layout == "timm":
        return None
    if not card.hub:
        raise not_here(card, data)
    import huggingface_hub

    try:
        with hub_within_reach():
            return Path(huggingface_hub.hf_hub_download(card.hub, card.hub_file, revision=card.revision or None))
    except Exception as error:  # the client's errors have no common ancestor
        raise not_here(
            card, data, f"the hub does not give them ({type(error).__name__}: {short(error, 100)})"
        ) from error


def not_here(card: PaperCard, data: str | Path | None = None, why: str = "") -> AssetError:
    """Build the error for weights that are not to be had, which names the file, its source and its place."""
    folder = data_dir() if data is None else Path(data)
    looked = f"not in {folder / FOLDER}" if folder else "no data folder is set"
    return AssetError(
        f"the weights of {card.name} ({card.file}) are not here: {looked}{', and ' + why if why else ''}. To get them: "
        f"{'; '.join(steps(card))}; then name DIR: --data DIR, or DR_DATA=DIR."
    )


def state(card: PaperCard, data: str | Path | None = None) -> str:
    """Say in a few words whether the weights are here; nothing is fetched."""
    if local_file(card, data):
        return "present"
    if not card.hub:
        return "manual download" if card.layout == "matryoshka" else "missing"
    import huggingface_hub

    size = "" if card.megabytes is None else f" ({card.megabytes:g} MB)"
    cached = huggingface_hub.try_to_load_from_cache(card.hub, card.hub_file, revision=card.revision or None)
    return "present (hub cache)" if isinstance(cached, str) else f"fetched from the hub at first use{size}"


def steps(card: PaperCard) -> list[str]:
    """Return what a person does to get the weights, a sentence each; DIR is their data folder."""
    place = f"DIR/{FOLDER}/{card.file}"
    if card.layout == "augreg":
        return [f"run: curl --fail --location --create-dirs --output '{place}' '{card.address}'"]
    if card.layout == "matryoshka":
        return [
            f"open {card.address} in a browser (the folder that the README of github.com/RAIVNLab/MRL names)",
            f"find {card.file} in it and download it",
            f"move it to {place}",
        ]
    revision = f" --revision {card.revision}" if card.revision else ""
    run = (
        f"where the hub can be reached, run: hf download {card.hub} {card.hub_file}{revision} --local-dir DIR/{FOLDER}"
    )
    return [run] if card.hub_file == card.file else [run, f"rename DIR/{FOLDER}/{card.hub_file} to {card.file}"]
