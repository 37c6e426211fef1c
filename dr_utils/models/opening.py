"""Open networks: by name, of the suite, timm or torchvision, with a checkpoint or without; or your own nn.Module."""

from __future__ import annotations

import copy
import re
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from dr_utils.checks import nearest_first, short, unknown
from dr_utils.fetch import hub_within_reach
from dr_utils.models import Network, available, load_model, published, small_networks
from dr_utils.models.backbone import Tapped, head_of
from dr_utils.models.cards import ARCHIVES, IMAGENET_MEAN, IMAGENET_STD, PAPER, NetworkCard, shipped, to_input
from dr_utils.models.files import fit, read_weights, without_prefixes
from dr_utils.store import AssetError


def open_model(
    model: str | nn.Module,
    *,
    checkpoint: str | Path | None = None,
    layer: str | None = None,
    mean: float | tuple[float, float, float] | None = None,
    std: float | tuple[float, float, float] | None = None,
    side: int | None = None,
    pretrained: bool = True,
) -> Network:
    """Open any network: from RGB images in [0, 1] to a vector of features each.

    `model` is a name of `load_model`, of timm or of torchvision ("timm:NAME" and "torchvision:NAME" say which), or a
    module, of which a copy is kept. `checkpoint` is a file of weights for a named architecture of timm or torchvision,
    with any number of classes or no head. `layer` is that of `Tapped`. `mean` and `std` are the architecture's own by
    default, or ImageNet's for a module; `side` is the one side in pixels that it takes. Names and layers that do not
    exist raise ValueError, weights that cannot be had or do not fit AssetError.
    """
    kind, name = kind_of(model, checkpoint)
    given = {key: value for key, value in {"mean": mean, "std": std}.items() if value is not None}
    if kind in ("suite", "timm") and checkpoint is None:
        network = load_model(name if layer is None else f"{name}@{layer}", pretrained=pretrained)
        network.card = replace(network.card, side=side or network.card.side)
        network.preprocessing = to_input(**network.preprocessing | given)
        return network
    if kind == "module":
        with torch.no_grad():  # a TorchScript module would copy its weights as results of a computation
            module = copy.deepcopy(model).cpu()
        network = _whole(module, _card(name, f"an nn.Module of class {name}"), side or 224)
    elif kind == "torchvision":
        network = _open_torchvision(name, checkpoint, pretrained)
    else:
        import timm

        create = partial(timm.create_model, name, pretrained=False)
        module, source = _with_weights(create, checkpoint, f"timm's {name}")
        network = _of_timm(module, _card(name, source))
    tapped = network.load(layer)
    features = tapped.probe(side or network.side)
    network.preprocessing = to_input(**network.preprocessing | given)
    numbers = ", ".join(f"{key} {', '.join(f'{v:.4g}' for v in network.preprocessing[key])}" for key in ("mean", "std"))
    network.card = replace(
        network.card, name=name + (f":{layer}" if layer else ""), title=name + (f", {layer}" if layer else ""),
        width=features.shape[1], side=side, source=f"{network.card.source}; features: {tapped.where}; {numbers}",
    )  # fmt: skip
    structure = _behaviour(tapped.module, features) if kind == "module" else f"{kind} {name}"
    network.load, network.structure = lambda: tapped, f"{structure}; {tapped.where}; {tapped.pool}"
    return network


def kind_of(model: str | nn.Module, checkpoint: str | Path | None) -> tuple[str, str]:
    """Say what was given (suite, timm, torchvision or module), and its name; ValueError if nobody knows it."""
    if isinstance(model, nn.Module):
        if checkpoint is not None:
            raise ValueError("checkpoint goes with a name, not a module; give that its weights: load_state_dict(...).")
        return "module", type(model).__name__
    import timm
    from torchvision import models as torchvision_models

    known = {
        "suite": list(available() | PAPER) if checkpoint is None else [],
        "timm": timm.list_models() + timm.list_pretrained(),
        "torchvision": torchvision_models.list_models(module=torchvision_models),
    }
    said, _, name = str(model).rpartition(":")
    known = {kind: names for kind, names in known.items() if said in ("", kind)}
    for kind, names in known.items():
        if name in names:
            return kind, name
    alike = nearest_first(name, set().union(*known.values()))[:10]
    hint = "A file of weights goes with the name of its architecture in timm or torchvision: checkpoint=FILE."
    raise unknown(f"{said} network".strip(), name, alike, hint=hint)


def _card(name: str, source: str, **facts) -> NetworkCard:
    usual = {"width": 0, "training": "own", "upstream": "unknown", "kind": "own", "licence": "unstated", "top1": None}
    family = re.split("[._]", name)[0].lower()
    return NetworkCard(name=name, title=name, family=family, source=source, **(usual | facts))


def _whole(module: nn.Module, card: NetworkCard, side: int, mean=IMAGENET_MEAN, std=IMAGENET_STD) -> Network:
    """A module read before the last layer that it calls, where that is linear."""
    load = partial(Tapped, module, head_of(module.eval(), side), name=card.name)
    return Network(card, load, to_input(mean, std), side=side)


def _behaviour(module: nn.Module, features: torch.Tensor) -> str:
    """Tell your module from another of the same weights, by its parts and by what it computes."""
    # Six projections to three digits: the same whatever the number of threads, another once the forward pass changed.
    directions = np.random.default_rng(0).standard_normal((6, features.numel()))
    parts = re.sub(r" at 0x[0-9a-f]+", "", repr(module))
    return f"{parts} {[f'{v:.2e}' for v in directions @ features.double().flatten().numpy()]}"


def _with_weights(create, checkpoint: str | Path, name: str) -> tuple[nn.Module, str]:
    """Build an architecture with a checkpoint's weights and classes; return it, and the card's source."""
    path = Path(checkpoint).expanduser()
    state = without_prefixes(read_weights(path))
    module = create()
    head = _last_layer(module)
    if f"{head}.weight" in state:
        n_classes = len(state[f"{head}.weight"])
        module, said = create(num_classes=n_classes), f"{n_classes} classes"
    else:
        # Left in, it would be random, and so would be the hash that features are stored under.
        module.set_submodule(head, nn.Identity())
        said = "no head"
    fit(module, state, name, path.name, "name the architecture that it was saved from")
    return module, f"{name}, weights of {path.name} ({said})"


def _last_layer(module: nn.Module) -> str:
    """Name of the head: what timm says, else the last submodule with a weight matrix."""
    if said := getattr(module, "pretrained_cfg", {}).get("classifier"):
        return said if isinstance(said, str) else said[0]
    return [n for n, part in module.named_modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1][-1]


def _open_torchvision(name: str, checkpoint: str | Path | None, pretrained: bool) -> Network:
    from torchvision.models import get_model, get_model_weights

    weights, facts = get_model_weights(name).DEFAULT, {}
    if checkpoint is not None:
        module, source = _with_weights(partial(get_model, name), checkpoint, f"torchvision's {name}")
    else:
        try:
            module = get_model(name, weights=weights if pretrained else None, progress=False)
        except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
            raise AssetError(
                f"the weights of torchvision's {name} cannot be fetched ({short(error)}); download {weights.url} "
                "elsewhere and give it as checkpoint=..."
            ) from error
        source = f"torchvision, {weights if pretrained else 'random weights'}"
        facts = {"training": "standard", "upstream": "imagenet1k"} if pretrained else {}
    made_for = weights.transforms()
    return _whole(module, _card(name, source, **facts), made_for.crop_size[0], made_for.mean, made_for.std)


def open_named(name: str, pretrained: bool, layer: str | None) -> Tapped:
    """Open a network of the suite or of the paper, read at a layer; AssetError if its weights cannot be had."""
    if card := shipped().get(name):
        recipe = SimpleNamespace(**card.recipe)
        network = small_networks.load_weights(name)[0] if pretrained else small_networks.build(recipe)
        module, head = network.body, "head"
        module.head = network.heads[-1]
    else:
        card = (ARCHIVES | PAPER)[name]
        module, head = published.build(card)
        if pretrained:
            published.load(module, card)
    return Tapped(module, head, layer, name)


def open_timm(name: str, *, pretrained: bool = True) -> Network:
    """Open a network of timm, with the hub's weights or random ones; AssetError if the hub does not give them."""
    import timm

    with hub_within_reach() if pretrained else nullcontext():
        try:
            module = timm.create_model(name, pretrained=pretrained)
        except Exception as error:  # timm, the hub's client and the socket wrap each other's errors
            offline = ", ".join(nearest_first(name, available()))
            raise AssetError(
                f"timm model {name!r} cannot be loaded or its weights cannot be fetched from the model hub "
                f"({short(error)}); available offline, nearest first: {offline}."
            ) from error
    cfg, head = module.pretrained_cfg, module.get_classifier()
    linear = isinstance(head, nn.Linear)
    width = head.in_features if linear else getattr(module, "head_hidden_size", module.num_features)
    source, upstream = "timm, random weights", "none"
    if pretrained:
        source = f"timm, {cfg.get('hf_hub_id') or cfg.get('url')}"
        tag = re.search("in(1k|12k|21k|22k)", cfg.get("tag") or "")
        upstream = f"imagenet{tag[1].replace('22', '21')}" if tag else "unknown"
    card = _card(name, source, width=int(width), kind="imagenet", training="standard", upstream=upstream,
                 licence=cfg.get("license") or "unstated")  # fmt: skip
    return _of_timm(module, card)


def _of_timm(module: nn.Module, card: NetworkCard) -> Network:
    import timm

    data = timm.data.resolve_model_data_config(module)
    head = module.pretrained_cfg.get("classifier")
    if not isinstance(head, str) or not isinstance(module.get_submodule(head), nn.Linear):
        module.reset_classifier(0)
        head = None
    load, preprocessing = partial(Tapped, module, head, name=card.name), to_input(data["mean"], data["std"])
    return Network(card, load, preprocessing, structure=card.name, side=data["input_size"][-1])
