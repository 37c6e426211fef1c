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
from dr_utils.models.loading import Opened, is_timm_model, of_timm, open_named, similar_timm_models
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

    Parameters
    ----------
    model : str or nn.Module
        A name of `load_model`, of timm, or of torchvision's classification networks, looked up in that order;
        "timm:NAME" and "torchvision:NAME" say which. Or a module: a copy is kept, in evaluation mode and on the CPU.
    checkpoint : path, optional
        Weights for a named architecture of timm or torchvision: .safetensors, or a state dict saved by torch, alone
        or under "state_dict", "model" and the like. Nothing but tensors is loaded. Its head may have any number of
        classes, or be absent.
    layer : str, optional
        Which layer is read, one of `layer_names(model)`. By default the input of the last linear layer is read, and
        where there is none, the output.
    pool : {"mean", "token", "flat"}
        Average over positions or tokens; the first token, which is the class token where there is one; or nothing
        pooled, so that every position is a feature.
    mean, std : float or three floats, optional
        The network gets (image - mean) / std. By default the architecture's own, ImageNet's for modules: pass
        mean=0, std=1 for a network that normalises by itself.
    side : int, optional
        Pixels: the one side of images that the network takes; by default the profile decides.
    pretrained : bool
        Random weights if False, for a name without a checkpoint; nothing is fetched.

    Raises
    ------
    ValueError
        Unknown name or layer (nearest first), a network that fails on images, a layer that gives no tensor.
    AssetError
        Weights that are missing, damaged or refused, that do not fit, or that cannot be fetched.
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


def recommended_side(model: str | nn.Module) -> int | None:
    """Return the side of images in pixels that a named network was made for; None where nobody says."""
    kind, name = kind_of(model)
    if kind == "suite":
        return (available() | PAPER)[name].side
    if kind == "timm":
        import timm

        cfg = timm.get_pretrained_cfg(name)
        return cfg and cfg.input_size[-1]
    return _torchvision_weights(name).transforms().crop_size[0] if kind == "torchvision" else None


def kind_of(model, checkpoint=None) -> tuple[str, str]:
    """Say what was given (suite, timm, torchvision or module), and its name; ValueError if nobody knows it."""
    if isinstance(model, nn.Module):
        if checkpoint is not None:
            raise ValueError(
                "a checkpoint needs the name of its architecture in timm or torchvision, not a module; a module takes "
                "its weights before it is passed: model.load_state_dict(...)."
            )
        return "module", type(model).__name__
    from torchvision import models as torchvision_models

    theirs = torchvision_models.list_models(module=torchvision_models)
    suite = available() | PAPER if checkpoint is None else {}
    said, _, name = str(model).rpartition(":")
    known = {"suite": suite.__contains__, "timm": is_timm_model, "torchvision": theirs.__contains__}
    for kind, knows in known.items():
        if said in ("", kind) and knows(name):
            return kind, name
    alike = {"suite": suite, "timm": similar_timm_models(name, 10), "torchvision": theirs}
    names = {n for kind, names in alike.items() if said in ("", kind) for n in names}
    hint = "A file of weights goes with the name of its architecture in timm or torchvision: checkpoint=FILE."
    raise unknown(f"{said} network".strip(), name, nearest_first(name, names)[:10], hint=hint)


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


def _torchvision_weights(name: str):
    """What torchvision says of a network's best weights."""
    from torchvision.models import get_model_weights

    return get_model_weights(name).DEFAULT


def _open_torchvision(name: str, checkpoint, pretrained: bool) -> Opened:
    from torchvision.models import get_model

    weights, facts = _torchvision_weights(name), {}
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
