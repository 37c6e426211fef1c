"""Open networks: by name, of the suite, timm or torchvision, with a checkpoint or without; or your own nn.Module."""

from __future__ import annotations

import copy
import re
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from dr_utils.checks import nearest_first, short, unknown
from dr_utils.fetch import hub_within_reach
from dr_utils.models import LAYER, POOL, Network, available, load_model, published, small_networks
from dr_utils.models.backbone import Tapped, head_of, layers_of
from dr_utils.models.cards import ARCHIVES, IMAGENET_MEAN, IMAGENET_STD, PAPER, NetworkCard, shipped
from dr_utils.models.files import fit, read_weights, without_prefixes
from dr_utils.store import AssetError


def open_model(
    model: str | nn.Module,
    *,
    checkpoint: str | Path | None = None,
    layer: str | None = None,
    pool: str = "mean",
    mean: float | tuple[float, float, float] | None = None,
    std: float | tuple[float, float, float] | None = None,
    side: int | None = None,
    pretrained: bool = True,
) -> Network:
    """Open any network: from RGB images in [0, 1] to a vector of features each.

    `model` is a name of `load_model`, of timm or of torchvision ("timm:NAME" and "torchvision:NAME" say which), or a
    module, of which a copy is kept. `checkpoint` holds weights for a named architecture of timm or torchvision:
    .safetensors, or a state dict saved by torch, alone or under "state_dict", "model" and the like; its head may have
    any number of classes, or be absent. `layer` is one of `layer_names(model)`; by default the input of the last linear
    layer is read, or the output where there is none. `pool` is "mean", "token" or "flat", see `Tapped`. The network
    gets (image - mean) / std, by default the architecture's own, or ImageNet's for a module. `side` is the one side in
    pixels that the network takes. Without `pretrained`, a name without a checkpoint has random weights.

    ValueError: an unknown name or layer, a network that fails on images, a layer that gives no tensor. AssetError:
    weights that are missing, damaged or refused, that do not fit, or that cannot be fetched.
    """
    kind, name = kind_of(model, checkpoint)
    given = {"mean": mean, "std": std}
    changes = {key: np.broadcast_to(value, 3).tolist() for key, value in given.items() if value is not None}
    if kind in ("suite", "timm") and checkpoint is None:
        if layer is not None:
            name += LAYER + layer + ("" if pool == "mean" else POOL + pool)
        network = load_model(name, pretrained=pretrained)
        return replace(network, card=replace(network.card, side=side or network.card.side), **changes)
    opened = _open(kind, name, model, checkpoint, pretrained)
    if kind == "module":
        opened.head = head_of(opened.module, side or opened.side)
    tapped = opened.read(layer, pool)
    features = tapped.probe(side or opened.side)
    preprocessing = opened.preprocessing | changes
    numbers = ", ".join(f"{key} {', '.join(f'{v:.4g}' for v in preprocessing[key])}" for key in ("mean", "std"))
    card = replace(
        opened.card, name=name + (f":{layer}" if layer else ""), title=name + (f", {layer}" if layer else ""),
        width=features.shape[1], side=side, source=f"{opened.card.source}; features: {tapped.where}; {numbers}",
    )  # fmt: skip
    structure = _behaviour(opened.module, features) if kind == "module" else f"{kind} {name}"
    return Network(card, tapped, **preprocessing, structure=f"{structure}; {tapped.where}; {pool}")


def layer_names(model: str | nn.Module) -> list[str]:
    """Return the names that `open_model` takes as `layer`; no weights are fetched."""
    kind, name = kind_of(model)
    return layers_of(_open(kind, name, model, None, pretrained=False).module)


def recommended_side(model: str | nn.Module) -> int:
    """Return the side of images in pixels that a named network was made for; 224 where nobody says."""
    kind, name = kind_of(model)
    return _open(kind, name, model, None, pretrained=False).side


def kind_of(model, checkpoint=None) -> tuple[str, str]:
    """Say what was given (suite, timm, torchvision or module), and its name; ValueError if nobody knows it."""
    if isinstance(model, nn.Module):
        if checkpoint is not None:
            raise ValueError(
                "a checkpoint needs the name of its architecture in timm or torchvision, not a module; a module takes "
                "its weights before it is passed: model.load_state_dict(...)."
            )
        return "module", type(model).__name__
    import timm
    from torchvision import models as torchvision_models

    known = {
        "suite": list(available() | PAPER) if checkpoint is None else [],
        "timm": timm.list_models() + timm.list_pretrained(),
        "torchvision": torchvision_models.list_models(module=torchvision_models),
    }
    said, _, name = str(model).rpartition(":")
    for kind, names in known.items():
        if said in ("", kind) and name in names:
            return kind, name
    alike = nearest_first(name, {n for kind, names in known.items() if said in ("", kind) for n in names})[:10]
    hint = "A file of weights goes with the name of its architecture in timm or torchvision: checkpoint=FILE."
    raise unknown(f"{said} network".strip(), name, alike, hint=hint)


def _open(kind: str, name: str, model, checkpoint, pretrained: bool) -> Opened:
    if kind == "module":
        # torch.compile and DataParallel wrap the module that is meant.
        model = getattr(model, "_orig_mod", model)
        model = model.module if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else model
        with torch.no_grad():  # a TorchScript module would copy its weights as results of a computation
            model = copy.deepcopy(model).cpu().eval()
        return Opened(model, None, _card(name, f"an nn.Module of class {name}"))
    if kind == "torchvision":
        return _open_torchvision(name, checkpoint, pretrained)
    if checkpoint is None:
        return open_named(name, pretrained=pretrained)
    import timm

    module, _, source = _with_weights(partial(timm.create_model, name, pretrained=False), checkpoint, f"timm's {name}")
    return of_timm(module, _card(name, source))


def _card(name: str, source: str, training: str = "own", upstream: str = "unknown") -> NetworkCard:
    return NetworkCard(
        name=name, title=name, width=0, family=re.split("[._]", name)[0].lower(), training=training, upstream=upstream,
        kind="own", source=source, licence="unstated", top1=None,
    )  # fmt: skip


def _with_weights(create, checkpoint: str | Path, name: str) -> tuple[nn.Module, str, str]:
    """Build an architecture with a checkpoint's weights and classes; return it, its head, and the card's source."""
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
    return module, head, f"{name}, weights of {path.name} ({said})"


def _last_layer(module: nn.Module) -> str:
    """Name of the head: what timm says, else the last submodule with a weight matrix."""
    if said := getattr(module, "pretrained_cfg", {}).get("classifier"):
        return said if isinstance(said, str) else said[0]
    return [n for n, part in module.named_modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1][-1]


def _open_torchvision(name: str, checkpoint, pretrained: bool) -> Opened:
    from torchvision.models import get_model, get_model_weights

    weights, facts = get_model_weights(name).DEFAULT, {}
    if checkpoint is not None:
        create = partial(get_model, name, weights=None)
        module, head, source = _with_weights(create, checkpoint, f"torchvision's {name}")
    else:
        try:
            module = get_model(name, weights=weights if pretrained else None, progress=False)
        except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
            raise AssetError(
                f"the weights of torchvision's {name} cannot be fetched ({short(error)}); download {weights.url} "
                "elsewhere and give it as checkpoint=..."
            ) from error
        head, source = _last_layer(module), f"torchvision, {weights if pretrained else 'random weights'}"
        facts = {"training": "standard", "upstream": "imagenet1k"} if pretrained else {}
    # SqueezeNet ends in a convolution: no linear layer to read the input of.
    head = head if isinstance(module.get_submodule(head), nn.Linear) else None
    made_for = weights.transforms()
    preprocessing = {"mean": tuple(made_for.mean), "std": tuple(made_for.std)}
    return Opened(module, head, _card(name, source, **facts), preprocessing, made_for.crop_size[0])


def _behaviour(module: nn.Module, features: torch.Tensor) -> str:
    """Tell your module from another of the same weights, by its parts and by what it computes.

    Six projections to three digits: the same whatever the number of threads, another once the forward pass changed.
    """
    directions = np.random.default_rng(0).standard_normal((6, features.numel()))
    parts = re.sub(r" at 0x[0-9a-f]+", "", repr(module))
    return f"{parts} {[f'{v:.2e}' for v in directions @ features.double().flatten().numpy()]}"


# ---------------------------------------------------------------- by name


@dataclass
class Opened:
    """A module with its weights, before anybody said which of its layers is read."""

    module: nn.Module  # from normalised images to class scores, or without a head
    head: str | None  # name of its last linear layer
    card: NetworkCard
    preprocessing: dict = field(default_factory=lambda: {"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    side: int = 224  # pixels of the images that try it out

    def read(self, layer: str | None = None, pool: str = "mean") -> Tapped:
        """Read it at a layer, by default where the head begins; ValueError if there is no such layer."""
        at_head = layer is None and self.head is not None
        return Tapped(self.module.eval(), self.head if at_head else layer, head=at_head, pool=pool, name=self.card.name)


def open_named(name: str, *, pretrained: bool = True) -> Opened:
    """Open a network of the registry, of the paper, or of timm; AssetError if its weights cannot be had."""
    if card := shipped().get(name):
        recipe = SimpleNamespace(**card.recipe)
        network = small_networks.load_weights(name)[0] if pretrained else small_networks.build(recipe)
        network.body.head = network.heads[-1]
        return Opened(network.body, "head", card, side=card.side)
    card = ARCHIVES.get(name) or PAPER.get(name)
    if card is None:
        return open_timm(name, pretrained=pretrained)
    module, head = published.build(card)
    if pretrained:
        published.load(module, card)
    return Opened(module, head, card, card.preprocessing(), card.side or 224)


def open_timm(name: str, *, pretrained: bool = True) -> Opened:
    """Open a network of timm, with the hub's weights or random ones; AssetError if the hub does not give them."""
    import timm

    with hub_within_reach() if pretrained else nullcontext():
        try:
            module = timm.create_model(name, pretrained=pretrained)
        except Exception as error:  # timm, the hub's client and the socket wrap each other's errors
            offline = ", ".join(nearest_first(name, [*ARCHIVES, *shipped()]))
            raise AssetError(
                f"timm model {name!r} cannot be loaded or its weights cannot be fetched from the model hub "
                f"({short(error)}); available offline, nearest first: {offline}."
            ) from error
    cfg, head = module.pretrained_cfg, module.get_classifier()
    linear = isinstance(head, nn.Linear)
    width = head.in_features if linear else getattr(module, "head_hidden_size", module.num_features)
    card = replace(_card(name, "timm, random weights", "standard", "none"), kind="imagenet", width=int(width),
                   licence=cfg.get("license") or "unstated")  # fmt: skip
    if pretrained:
        tag = re.search("in(1k|12k|21k|22k)", cfg.get("tag") or "")
        upstream = f"imagenet{tag[1].replace('22', '21')}" if tag else "unknown"
        where = cfg.get("hf_hub_id") or cfg.get("url") or "no published weights"
        card = replace(card, upstream=upstream, source=f"timm, {where}")
    return of_timm(module, card)


def of_timm(module: nn.Module, card: NetworkCard) -> Opened:
    """Describe a module of timm."""
    import timm

    data = timm.data.resolve_model_data_config(module)
    head = module.pretrained_cfg.get("classifier")
    if not isinstance(head, str) or not isinstance(module.get_submodule(head), nn.Linear):
        module.reset_classifier(0)
        head = None
    return Opened(module, head, card, {"mean": data["mean"], "std": data["std"]}, data["input_size"][-1])
