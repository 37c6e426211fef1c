"""Open your own network: a timm or torchvision name, with a checkpoint or without, or an nn.Module."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dr_utils.checks import nearest_first, short, unknown
from dr_utils.models import LAYER, PAPER, POOL, available, load_model
from dr_utils.models.backbone import head_of, layers_of
from dr_utils.models.files import fit, read_weights, without_prefixes
from dr_utils.models.loading import Opened, of_timm, open_named
from dr_utils.models.network import Network, NetworkCard
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
    changes = {
        key: tuple(np.broadcast_to(np.asarray(value, dtype=float), 3).tolist())
        for key, value in given.items()
        if value is not None
    }
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
        name=name, title=name, width=0, family=name.partition("_")[0].lower(), training=training, upstream=upstream,
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
