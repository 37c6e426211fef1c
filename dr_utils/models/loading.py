"""From a name to a module with its weights: published networks, the small ones, and any network of timm."""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import nn

from dr_utils import fetch, store
from dr_utils.checks import nearest_first, short
from dr_utils.fetch import hub_within_reach
from dr_utils.models import architectures, small_networks
from dr_utils.models.backbone import Tapped, weight_hash
from dr_utils.models.cards import ARCHIVES, PAPER, PublishedCard
from dr_utils.models.files import read_layers_model, read_weights
from dr_utils.models.layouts import RELEASES, fit, read_layout
from dr_utils.models.listing import weights_file
from dr_utils.models.network import IMAGENET_MEAN, IMAGENET_STD, NetworkCard
from dr_utils.models.small import shipped
from dr_utils.store import AssetError

DEFAULT_SIDE = 224
# What timm and the hub's client raise where there is no connection; they wrap what the socket said.
_CONNECTION_ERRORS = {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectError", "ConnectionError",
                      "ConnectTimeout", "ReadTimeout", "URLError"}  # fmt: skip


@dataclass
class Opened:
    """A module with its weights, before anybody said which of its layers is read."""

    name: str
    module: nn.Module  # from normalised images to class scores, or without a head
    head: str | None  # name of its last linear layer
    source: str  # for the card
    structure: str = ""  # what its weights do not tell: the architecture, or the program; "" where only a pass tells
    preprocessing: dict = field(default_factory=lambda: {"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    side: int = DEFAULT_SIDE  # pixels of the images that try it out
    card: NetworkCard | None = None
    left_out: list[str] = field(default_factory=list)  # what of the weight file was not used

    def read(self, layer: str | None = None, pool: str = "mean") -> Tapped:
        """Read it at a layer, by default where the head begins; ValueError if there is no such layer."""
        at_head = layer is None and self.head is not None
        return Tapped(self.module.eval(), self.head if at_head else layer, head=at_head, pool=pool,
                      kind=f"layer of {self.name}", left_out=self.left_out)  # fmt: skip


def open_named(name: str, *, pretrained: bool = True) -> Opened:
    """Open a network of the registry, of the paper, or of timm; with random weights if not `pretrained`.

    Raises
    ------
    AssetError
        The weights cannot be had, or are not those published.
    """
    if card := shipped().get(name):
        recipe = SimpleNamespace(**card.recipe)
        network = small_networks.load_weights(name)[0] if pretrained else small_networks.build(recipe)
        network.body.head = network.heads[-1]
        return Opened(name, network.body, "head", card.source, name, side=card.side, card=card)
    card = ARCHIVES.get(name) or PAPER.get(name)
    if card is None:
        return open_timm(name, pretrained=pretrained)
    module, head = architectures.build(card)
    left_out = _load_published(module, card) if pretrained else []
    side = card.side or DEFAULT_SIDE
    return Opened(name, module, head, card.source, name, card.preprocessing(), side, card, left_out)


def _load_published(module: nn.Module, card: PublishedCard) -> list[str]:
    """Give a module the published weights; return what of the file was left out."""
    if card.name in ARCHIVES:
        fit(module, _converted(module, card), card.name, card.file, RELEASES)
        return []
    path = weights_file(card)
    advice = f"get the published {card.file}" + (f" ({card.address})" if card.address else "")
    state, left_out = read_weights(path, advice=advice)
    state, more = read_layout(card, state, module)
    fit(module, state, f"{card.name} ({card.architecture})", path.name, advice)
    return left_out + more


def _converted(module: nn.Module, card: PublishedCard) -> dict[str, torch.Tensor]:
    """The converted weights of an archive: stored ones, else converted, checked and stored."""
    key = store.key_of({"weights of": card.name, "sha256": card.weight_hash})
    if stored := store.read("weights", key):
        return {name: torch.tensor(array) for name, array in stored.arrays.items()}
    archive = fetch.fetch(card.archive)
    if card.layout == "keras":
        found = read_layers_model(fetch.read_members(archive), card.member)
    else:
        found, _ = read_weights(fetch.read_member(archive, card.member), name=card.member)
    state, _ = read_layout(card, found, module)
    state = {name: tensor.contiguous() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    if (found := weight_hash(state)) != card.weight_hash:
        raise AssetError(
            f"{card.name}: the converted weights have SHA-256 {found}, expected {card.weight_hash}; {RELEASES}."
        )
    store.write("weights", key, about={"network": card.name}, arrays={k: tensor.numpy() for k, tensor in state.items()})
    return state


# ---------------------------------------------------------------- timm


def is_timm_model(name: str) -> bool:
    """Whether timm knows this architecture, and this pretrained tag if the name has one."""
    import timm

    return timm.is_model(name) and ("." not in name or name in timm.list_pretrained())


def similar_timm_models(name: str, n: int = 3) -> list[str]:
    """Return up to `n` names of timm models that look like the given one."""
    import timm

    known = timm.list_pretrained() if timm.is_model(name) else timm.list_models()
    return difflib.get_close_matches(name, known, n, cutoff=0.5)


def open_timm(name: str, *, pretrained: bool = True) -> Opened:
    """Open a network of timm, with the hub's weights or random ones.

    Raises
    ------
    AssetError
        The hub cannot be reached and its cache does not have the weights.
    ValueError
        The model has no published weights, or none that can be loaded.
    """
    import timm

    with hub_within_reach() if pretrained else nullcontext(True) as reachable:
        try:
            module = timm.create_model(name, pretrained=pretrained)
        except Exception as error:
            if pretrained and (not reachable or _is_connection_error(error)):
                offline = ", ".join(nearest_first(name, [*ARCHIVES, *shipped()]))
                raise AssetError(
                    f"the weights of timm model {name!r} cannot be fetched: the model hub cannot be reached from here; "
                    f"available offline, nearest first: {offline}."
                ) from error
            raise ValueError(f"timm model {name!r} cannot be loaded: {short(error)}") from error
    cfg, head = module.pretrained_cfg, module.get_classifier()
    linear = isinstance(head, nn.Linear)
    width = head.in_features if linear else getattr(module, "head_hidden_size", module.num_features)
    where = cfg.get("hf_hub_id") or cfg.get("url") or "no published weights"
    card = NetworkCard(
        name=name, title=name, width=int(width), family=name.partition(".")[0].partition("_")[0], training="standard",
        upstream=_upstream(cfg) if pretrained else "none", kind="imagenet",
        source=f"timm, {where}" if pretrained else "timm, random weights", licence=cfg.get("license") or "unstated",
        top1=None,
    )  # fmt: skip
    return of_timm(name, module, card.source, card)


def of_timm(name: str, module: nn.Module, source: str, card: NetworkCard | None = None) -> Opened:
    """Describe a module of timm."""
    import timm

    data = timm.data.resolve_model_data_config(module)
    head = module.pretrained_cfg.get("classifier")
    if not isinstance(head, str) or not isinstance(module.get_submodule(head), nn.Linear):
        module.reset_classifier(0)
        head = None
    preprocessing = {"mean": data["mean"], "std": data["std"]}
    return Opened(name, module, head, source, f"timm {name}", preprocessing, data["input_size"][-1], card)


def _upstream(cfg: dict) -> str:
    tag = cfg.get("tag") or ""
    if part := next((part for part in ("in21k", "in22k", "in12k", "in1k") if part in tag), ""):
        return "imagenet" + part[2:].replace("22", "21")
    by_classes = {1000: "imagenet1k", 21841: "imagenet21k", 21843: "imagenet21k"}
    return by_classes.get(cfg.get("num_classes"), tag or "unknown")


def _is_connection_error(error: BaseException | None) -> bool:
    while error is not None and type(error).__name__ not in _CONNECTION_ERRORS:
        error = error.__cause__ or error.__context__
    return error is not None
