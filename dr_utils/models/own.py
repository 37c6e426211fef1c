"""Open your own network: a timm or torchvision name, with a checkpoint or without, a saved program, or an nn.Module."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dr_utils.models import PAPER, POOLS, available, load_model
from dr_utils.models.backbone import head_of, layers_of
from dr_utils.models.network import Network, NetworkCard
from dr_utils.models.opening import kind_of, open_any, torchvision_weights


def open_model(
    model: str | Path | nn.Module,
    *,
    checkpoint: str | Path | None = None,
    layer: str | None = None,
    pool: str = "mean",
    mean: float | tuple[float, float, float] | None = None,
    std: float | tuple[float, float, float] | None = None,
    n_classes: int | None = None,
    side: int | None = None,
    pretrained: bool = True,
    trust: bool = False,
) -> Network:
    """Open any network: from RGB images in [0, 1] to a vector of features each.

    Parameters
    ----------
    model : str, path or nn.Module
        - A name: of `load_model`, of timm, or of torchvision's classification networks, looked up in that order;
          "timm:NAME" and "torchvision:NAME" say which.
        - A TorchScript or ExportedProgram file: programs, see `trust`.
        - A module. A copy is kept, in evaluation mode and on the CPU; yours stays as it is.
    checkpoint : path, optional
        Weights for a named architecture of timm or torchvision: .safetensors, or a state dict saved by torch, alone
        or under "state_dict", "model" and the like. Nothing but tensors is loaded. Its head may have any number of
        classes, or be absent.
    layer : str, optional
        Which layer is read, one of `layer_names(model)`; its output is averaged over positions or tokens. By
        default the input of the last linear layer is read; of files, and where there is no such layer, the output.
    pool : {"mean", "token", "flat"}
        Tokens are averaged, all of them, or the first one is taken: the class token where there is one. With "flat"
        nothing is pooled: every position of a map or token is a feature, which takes memory accordingly.
    mean, std : float or three floats, optional
        Normalisation: the network gets (image - mean) / std. By default the architecture's own; ImageNet's
        for files and modules: pass mean=0, std=1 for a network that normalises by itself.
    n_classes : int, optional
        Classes of the checkpoint's head, where its weights do not say.
    side : int, optional
        Pixels: the one side of images that the network takes; by default the profile decides.
    pretrained : bool
        Random weights if False, for a name without a checkpoint; nothing is fetched.
    trust : bool
        Whether a file that holds a program may be loaded. It can run any code: say so only of a file that you made.

    Returns
    -------
    Network
        Its card says where the weights are from and what is read.

    Raises
    ------
    ValueError
        Unknown name or layer (nearest first), a network that fails on images, a layer that gives no tensor.
    AssetError
        A file that is missing, damaged or refused, weights that do not fit, or that cannot be fetched.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}.")
    changes = {key: _three(key, value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    kind, name = kind_of(model, with_checkpoint=checkpoint is not None)
    if kind in ("suite", "timm") and all(given is None for given in (checkpoint, n_classes, layer)) and pool != "token":
        network = load_model(name, pretrained=pretrained)
        return replace(network, card=network.card if side is None else replace(network.card, side=side), **changes)
    opened = open_any(model, kind, name, checkpoint, n_classes, pretrained, trust)
    if kind == "module":
        opened.head = head_of(opened.module, side or opened.side)
    if layer is not None and isinstance(opened.module, torch.jit.ScriptModule):
        raise ValueError(
            f"layer {layer!r} was asked for, but a TorchScript file shows its output only; "
            "pass the nn.Module that it was made from, or export it with torch.export.save."
        )
    tapped = opened.read(layer, pool)
    features = tapped.probe(side or opened.side)
    preprocessing = opened.preprocessing | changes
    values = [", ".join(f"{float(v):.4g}" for v in preprocessing[key]) for key in ("mean", "std")]
    facts = {"family": opened.name.partition("_")[0].lower(), "training": "own", "upstream": "unknown",
             "licence": "unstated"}  # fmt: skip
    if opened.card:
        facts = {key: getattr(opened.card, key) for key in facts}
    elif kind == "torchvision" and checkpoint is None and pretrained:
        facts |= {"training": "standard", "upstream": "imagenet1k"}
    card = NetworkCard(
        name=opened.name + (f":{layer}" if layer else ""), title=opened.name + (f", {layer}" if layer else ""),
        width=features.shape[1], kind="own", top1=None, side=side, **facts,
        source=f"{opened.source}; features: {tapped.where}; mean {values[0]}, std {values[1]}",
    )  # fmt: skip
    structure = opened.structure or _behaviour(opened.module, features)
    return Network(card, tapped, **preprocessing, structure=f"{structure}; {tapped.where}; {pool}")


def layer_names(model: str | Path | nn.Module, *, trust: bool = False) -> list[str]:
    """Return the names that `open_model` takes as `layer`, in the network's order; no weights are fetched.

    Submodules first, then what is computed between them where the network can be traced; a TorchScript file shows
    none of its layers.
    """
    kind, name = kind_of(model)
    module = open_any(model, kind, name, pretrained=False, trust=trust).module
    return [] if isinstance(module, torch.jit.ScriptModule) else layers_of(module)


def recommended_side(model: str | Path | nn.Module) -> int | None:
    """Return the side of images in pixels that a named network was made for; None where nobody says."""
    kind, name = kind_of(model)
    if kind == "suite":
        return (available() | PAPER)[name].side
    if kind == "timm":
        import timm

        cfg = timm.get_pretrained_cfg(name)
        return cfg and cfg.input_size[-1]
    return torchvision_weights(name).transforms().crop_size[0] if kind == "torchvision" else None


def _three(what: str, value) -> tuple[float, ...]:
    values = tuple(np.broadcast_to(np.asarray(value, dtype=float), 3)) if np.size(value) in (1, 3) else ()
    if not values or not np.isfinite(values).all() or (what == "std" and min(values) <= 0):
        limits = "above 0, " if what == "std" else ""
        raise ValueError(f"{what} must be one number or three, {limits}in units of white = 1; got {value!r}.")
    return tuple(float(v) for v in values)


def _behaviour(module: nn.Module, features: torch.Tensor) -> str:
    """Tell your module from another of the same weights, by its parts and by what it computes.

    Six projections to three digits: the same whatever the number of threads, another once the forward pass changed.
    """
    directions = np.random.default_rng(0).standard_normal((6, features.numel()))
    parts = re.sub(r" at 0x[0-9a-f]+", "", repr(module))
    return f"{parts} {[f'{v:.2e}' for v in directions @ features.double().flatten().numpy()]}"
