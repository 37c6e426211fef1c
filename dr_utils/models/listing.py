"""Where the weights of the paper's networks are: your folder, else the model hub; and how to get the others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from dr_utils import store
from dr_utils.checks import short
from dr_utils.fetch import data_dir, hub_within_reach
from dr_utils.models.cards import PAPER, PublishedCard
from dr_utils.store import AssetError, CacheError, sha256_of

FOLDER = "weights"


def local_file(card: PublishedCard) -> Path | None:
    """Return the weight file in DIR/weights (--data DIR, DR_DATA), else in the hub's cache; nothing is fetched."""
    folder = data_dir()
    if folder and (path := next((p for file in card.files if (p := folder / FOLDER / file).is_file()), None)):
        return path
    if not card.hub:
        return None
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(card.hub, card.hub_file, revision=card.revision or None)
    return Path(cached) if isinstance(cached, str) else None


def weights_file(card: PublishedCard) -> Path:
    """Return the weight file, fetched from the hub if need be; AssetError with the steps to get it if it cannot be."""
    if path := local_file(card):
        return path
    why = ""
    if card.hub:
        import huggingface_hub

        try:
            with hub_within_reach():
                return Path(huggingface_hub.hf_hub_download(card.hub, card.hub_file, revision=card.revision or None))
        except Exception as error:  # the client's errors have no common ancestor
            why = f", and the hub does not give them ({type(error).__name__}: {short(error, 100)})"
    looked = f"not in {folder / FOLDER}" if (folder := data_dir()) else "no data folder is set"
    raise AssetError(
        f"the weights of {card.name} ({card.file}) are not here: {looked}{why}. To get them: "
        f"{'; '.join(card.steps)}; then name DIR: --data DIR, or DR_DATA=DIR."
    )


def file_hash(card: PublishedCard, *, fetch: bool = True) -> str:
    """Return the SHA-256 of a network's weight file, remembered by the file's size and time of change.

    Of a file that has been taken away since, the remembered hash is returned; one that was never here is fetched, or
    AssetError is raised if it must not be.
    """
    key = store.key_of({"weight file": card.file})
    known, path = store.read("weights", key), local_file(card)
    if path is None and known:
        return known.about["sha256"]
    if path is None and not fetch:
        raise AssetError(f"the weights of {card.name} ({card.file}) are not here yet.")
    path = path or weights_file(card)
    stat = path.stat()
    seen = {"file": card.file, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if known and known.about.items() >= seen.items():
        return known.about["sha256"]
    found = sha256_of(path)
    with contextlib.suppress(CacheError):  # a cache that others prepared may be read-only here
        store.write("weights", key, about={**seen, "sha256": found})
    return found


def missing_weights(names: Iterable[str]) -> list[str]:
    """Return the weight files of the paper's networks among `names` that are neither here nor on a hub within reach."""
    lacking = [PAPER[name] for name in names if name in PAPER and not local_file(PAPER[name])]
    if any(card.hub for card in lacking):
        with hub_within_reach() as reachable:
            lacking = [card for card in lacking if not (card.hub and reachable)]
    return [f"{FOLDER}/{card.file}, the weights of {card.name}" for card in lacking]


def state(card: PublishedCard) -> str:
    """Say in a few words whether the weights are here; nothing is fetched."""
    if local_file(card):
        return "present"
    size = "" if card.megabytes is None else f" ({card.megabytes:g} MB)"
    return f"fetched from the hub at first use{size}" if card.hub else "manual download"


def table() -> str:
    """Return the table of the paper's networks, what is here, and exact steps for what you have to fetch."""
    states = {name: state(card) for name, card in PAPER.items()}
    n_extra = sum(card.extra for card in PAPER.values())
    lines = [
        f"The paper's {len(PAPER) - n_extra} networks, then {n_extra} extras of the published code", "",
        f"{'name':20}neurons  {'training':13}{'upstream':13} top-1  {'weights (file)':64}state",
    ]  # fmt: skip
    for name, card in PAPER.items():
        top1 = f"{card.top1:.1%}" if card.top1 else "-"
        facts = f"{name:20}{card.width:7}  {card.training:13}{card.upstream:13}{top1:>6}"
        lines.append(f"{facts}  {card.file:64}{states[name]}")
    here = sum(words == "present" for words in states.values())
    lines += ["", f"{here} of {len(PAPER)} have their weights here; those on the hub are fetched when first used."]
    wanted = [card for name, card in PAPER.items() if states[name] == "manual download"]
    # Some have an address of their own, others share a folder.
    files = {card.address: ", ".join(c.file for c in wanted if c.address == card.address) for card in wanted}
    steps = [step.replace(card.file, files[card.address]) for card in wanted for step in card.steps]
    if wanted:
        steps.append("see that they are there: python -m dr_utils models --data DIR")
        lines += ["", "What to fetch by hand, with DIR a folder of yours:"]
        lines += [f"  {i}. {step}" for i, step in enumerate(dict.fromkeys(steps), start=1)]
    return "\n".join(lines)
