"""Networks: a registry of those that need no model hub, the zoo's small ones, the paper's, and any timm model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch

from dr_utils import fetch, store
from dr_utils.checks import nearest_first, unknown
from dr_utils.fetch import Asset
from dr_utils.models import hub, keras_resnet50, paper, torch_archives
from dr_utils.models.layers import POOLS
from dr_utils.models.network import Network, NetworkCard, load_state, weight_hash
from dr_utils.models.small import shipped
from dr_utils.store import AssetError

__all__ = ["Network", "NetworkCard", "available", "check_network", "load_model", "split_layer", "weight_hash"]

LAYER, POOL = "@", "#"  # resnet50_standard@layer3#flat


@dataclass(frozen=True)
class _Entry:
    """How a network of the registry comes about: its archive, a converter, and the hash of what that must give."""

    card: NetworkCard
    archive: Asset
    build: Callable[[], Network]
    convert: Callable[[Path], dict[str, torch.Tensor]]
    weight_hash: str


_LITE_HASHES = (
    "7de8cbbdf4f6bb2669ce8d746a00861700277ce6766248e023a860986f26db0a",
    "38a7a7d575b1a7a4a34346174eb6cc6672fd6aa908d20523eed128c42f408ea4",
    "759742ef376294058508dd5e2f328bf9e3f8417f74d88b9c7e5876433a79033c",
)
_ENTRIES = (
    _Entry(keras_resnet50.CARD, keras_resnet50.ARCHIVE, keras_resnet50.build, keras_resnet50.convert,
           "e756354bfa8197511c01733c48f197e9d7294f25423001be31c8cfbb77a68af9"),
    _Entry(torch_archives.MOBILENET_CARD, torch_archives.MOBILENET_ARCHIVE, torch_archives.build_mobilenet_v2,
           torch_archives.convert_mobilenet_v2, "82a0b01dd6e13e899b33a20a31ae5e424b6a450e3d040e838ff18e530a1d0bc2"),
    *(_Entry(torch_archives.lite_card(i), torch_archives.lite_archive(i), partial(torch_archives.build_lite, i),
             partial(torch_archives.convert_lite, i), _LITE_HASHES[i]) for i in range(3)),
)  # fmt: skip
_REGISTRY = {entry.card.name: entry for entry in _ENTRIES}


def available() -> dict[str, NetworkCard]:
    """Return the cards of the networks that need no model hub, by name: converted archives, then the zoo's."""
    small = {name: card.network_card() for name, card in shipped().items()}
    return {name: entry.card for name, entry in _REGISTRY.items()} | small


def check_network(name: str) -> str:
    """Return `name` if a network of the registry, of the paper or of timm has it; nothing is fetched.

    Raises
    ------
    ValueError
        Nobody knows it; the message lists the registry and the paper's networks, nearest first, and timm models of
        similar names.
    """
    if isinstance(name, str) and LAYER in name:
        return _check_layer(name)
    if name in (known := available() | paper.CARDS):
        return name
    if not isinstance(name, str) or not hub.is_timm_model(name):
        similar = hub.similar_timm_models(str(name))
        hint = "Any timm model works too, where the model hub can be reached"
        raise unknown("network", name, known, hint=hint + (f": {', '.join(similar)}." if similar else "."))
    return name


def load_model(name: str, *, pretrained: bool = True, normalisation: str = "own") -> Network:
    """Load a network, in evaluation mode and with frozen weights.

    Parameters
    ----------
    name : str
        A name from `available()`, one of the paper's (`paper.CARDS`; weights from a person's folder or the model hub),
        or any timm model (weights from the model hub). "NAME@LAYER" reads a middle layer, averaged over positions;
        "NAME@LAYER#flat" every position of it.
    pretrained : bool
        Random weights if False: the structure alone, nothing is fetched.
    normalisation : {"own", "published"}
        Of the paper's networks and their layers, see `dr_utils.models.paper.load_paper`; others have their own only.

    Returns
    -------
    Network
        From RGB images in [0, 1] to penultimate features.

    Raises
    ------
    ValueError
        Unknown name or normalisation.
    AssetError
        The weights cannot be fetched, or are not those published.
    CacheError
        The cache folder cannot be used.
    """
    check_network(name)
    if LAYER in name:
        return _load_layer(name, pretrained, normalisation)
    if name in shipped():
        from dr_utils.models.small_networks import load_small

        network = load_small(name, pretrained=pretrained)
    elif name in paper.CARDS:
        network = paper.load_paper(name, pretrained=pretrained, normalisation=normalisation)
    elif name not in _REGISTRY:
        network = hub.load_timm(name, list(available()), pretrained=pretrained)
    else:
        network = _REGISTRY[name].build()
        if pretrained:
            load_state(network, _weights(_REGISTRY[name]), name)
    return network.eval().requires_grad_(False)


def split_layer(name: str) -> tuple[str, str, str]:
    """Take "NAME@LAYER#POOL" apart into name, layer ("" for the penultimate one) and pool ("mean" if not said)."""
    network, _, layer = name.partition(LAYER)
    layer, _, pool = layer.partition(POOL)
    return network, layer, pool or "mean"


@cache
def _check_layer(name: str) -> str:
    from dr_utils.models.own import layer_names  # imports this room

    network, layer, pool = split_layer(name)
    check_network(network)
    if pool not in POOLS:
        raise unknown(f"pooling of {name!r}", pool, POOLS)
    if layer not in (known := layer_names(network)):
        raise unknown(f"layer of {network}", layer, nearest_first(layer, known)[:10])
    return name


def _load_layer(name: str, pretrained: bool, normalisation: str) -> Network:
    from dr_utils.models.own import open_model  # imports this room

    base, layer, pool = split_layer(name)
    card = (available() | paper.CARDS).get(base)
    preprocessing = {}
    if base in paper.CARDS and normalisation == "published":
        preprocessing = {"mean": card.published_mean, "std": card.published_std}
    network = open_model(base, layer=layer, pool=pool, side=card and card.side, pretrained=pretrained, **preprocessing)
    said = layer if layer.startswith("layer") else f"layer {layer}"
    title = f"{card.title if card else base}, {said}{', unpooled' if pool == 'flat' else ''}"
    given = network.card
    # A family of its own, so that it is compared with nothing as if it were a penultimate layer.
    network.card = replace(given, name=name, title=title, family=f"{card.family if card else given.family} layer",
                           training="layer", kind=card.kind if card else "imagenet")  # fmt: skip
    return network


def _weights(entry: _Entry) -> dict[str, torch.Tensor]:
    """Return the converted weights: stored ones if their hash is right, else converted from the archive and stored."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    path = store.cache_dir() / "weights" / f"{entry.card.name}-{entry.weight_hash[:16]}.safetensors"
    if path.is_file():
        try:
            state = load_file(path)
        except (SafetensorError, OSError, ValueError):  # cut short or overwritten: converted again below
            state = {}
        if weight_hash(state) == entry.weight_hash:
            return state
    state = entry.convert(fetch.fetch(entry.archive))
    state = {name: tensor.contiguous() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    if (found := weight_hash(state)) != entry.weight_hash:
        raise AssetError(
            f"{entry.card.name}: the converted weights have SHA-256 {found}, expected {entry.weight_hash}; "
            "use the torch, torchvision and timm releases of requirements.lock."
        )
    store.check_cache(sum(tensor.nbytes for tensor in state.values()))
    with store.atomic_path(path) as part:
        save_file(state, part)
    return state
