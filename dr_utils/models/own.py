"""A user's own network: a timm or torchvision name, with a checkpoint or without, a saved program, or an nn.Module."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dr_utils.models import available, paper
from dr_utils.models.layers import POOLS, Tapped, find_head, names_in, tap
from dr_utils.models.network import Network, NetworkCard
from dr_utils.models.opening import Opened, kind_of, named_side, open_any


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
    """Open any network as the suite sees one: from RGB images in [0, 1] to a vector of features each.

    Parameters
    ----------
    model : str, path or nn.Module
        - A name: of the suite, of timm, or of torchvision's classification networks, looked up in that order;
          "timm:NAME" and "torchvision:NAME" say which.
        - A TorchScript file. It is written in a restricted language, which cannot run arbitrary Python, but is a
          program all the same: open none from people you do not trust.
        - An ExportedProgram file (.pt2). Its loader unpickles and evaluates what the file says: see `trust`.
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
        Whether an ExportedProgram file may be loaded. It can run any code: say so only of a file that you made.

    Returns
    -------
    Network
        In evaluation mode, with frozen weights. Its card says where they are from and what is read.

    Raises
    ------
    ValueError
        Unknown name or layer (nearest first), a network that fails on images, a layer that gives no tensor.
    AssetError
        A file that is missing, damaged or refused, weights that do not fit, or that cannot be fetched.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}.")
    normalisation = {k: _three(k, v) for k, v in (("mean", mean), ("std", std)) if v is not None}
    opened = open_any(model, checkpoint=checkpoint, n_classes=n_classes, pretrained=pretrained, trust=trust)
    preprocessing = opened.preprocessing | normalisation
    card = opened.network.card if opened.network else None
    if card and layer is None and pool == "mean":
        card = card if side is None else dataclasses.replace(card, side=side)
        return _frozen(Network(card, opened.module, opened.network.head, **preprocessing))
    opened.module.eval()  # before the first forward pass: batch statistics would move
    tapped = _tapped(opened, layer, pool, side or opened.side)
    features = tapped.probe(side or opened.side)
    tapped.identify(opened.identity or _behaviour(opened.module, features))
    values = [", ".join(f"{float(v):.4g}" for v in preprocessing[key]) for key in ("mean", "std")]
    published = opened.kind == "torchvision" and checkpoint is None and pretrained
    card = NetworkCard(
        name=opened.name + (f":{layer}" if layer else ""), title=opened.name + (f", {layer}" if layer else ""),
        width=features.shape[1], family=card.family if card else opened.name.partition("_")[0].lower(),
        training=card.training if card else "standard" if published else "own",
        upstream=card.upstream if card else "imagenet1k" if published else "unknown", kind="own",
        source=f"{opened.source}; features: {tapped.where}; mean {values[0]}, std {values[1]}",
        licence=card.licence if card else "unstated", top1=None, side=side,
    )  # fmt: skip
    return _frozen(Network(card, tapped, **preprocessing))


def layer_names(model: str | Path | nn.Module, *, trust: bool = False) -> list[str]:
    """Names that `open_model` takes as `layer`, in the network's order; no weights are fetched.

    Submodules first, then what is computed between them where the network can be traced; a TorchScript file shows
    none of its layers.
    """
    opened = open_any(model, pretrained=False, trust=trust)
    return [] if isinstance(opened.module, torch.jit.ScriptModule) else names_in(_whole(opened))


def recommended_side(model: str | Path | nn.Module) -> int | None:
    """Pixels: the side of images that a named network was made for; None where nobody says."""
    kind, name = kind_of(model)
    if kind == "suite":
        return (available() | paper.CARDS)[name].side
    return named_side(kind, name) if kind in ("timm", "torchvision") else None


def _frozen(network: Network) -> Network:
    return network.eval().requires_grad_(False)


def _three(what: str, value) -> tuple[float, ...]:
    values = tuple(np.broadcast_to(np.asarray(value, dtype=float), 3)) if np.size(value) in (1, 3) else ()
    if not values or not np.isfinite(values).all() or (what == "std" and min(values) <= 0):
        limits = "above 0, " if what == "std" else ""
        raise ValueError(f"{what} must be one number or three, {limits}in units of white = 1; got {value!r}.")
    return tuple(float(v) for v in values)


def _tapped(opened: Opened, layer: str | None, pool: str, side: int) -> Tapped:
    """Read the module at the layer asked for, or just before its head."""
    module, kind = opened.module, opened.kind
    if layer is not None:
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"layer {layer!r} was asked for, but a TorchScript file shows its output only; "
                "pass the nn.Module that it was made from, or export it with torch.export.save."
            )
        return tap(_whole(opened), layer, pool)
    if kind == "timm":
        module.reset_classifier(0)
    head = find_head(module, side) if kind == "module" else opened.head
    return Tapped(module, head, reads_input=head is not None, pool=pool)


def _whole(opened: Opened) -> nn.Module:
    """The module with its last linear layer, which the suite and timm hand out beside it."""
    if opened.network is not None and opened.network.head is not None:
        names = [opened.module.pretrained_cfg["classifier"]] if opened.kind == "timm" else ["classifier", "fc"]
        for name in names:
            if isinstance(dict(opened.module.named_modules()).get(name), nn.Identity):
                opened.module.set_submodule(name, opened.network.head)
    return opened.module


def _behaviour(module: nn.Module, features: torch.Tensor) -> str:
    """Tell a user's module from another of the same weights, by its parts and by what it computes.

    Six projections to three digits: the same whatever the number of threads, another once the forward pass changed.
    """
    directions = np.random.default_rng(0).standard_normal((6, features.numel()))
    parts = re.sub(r" at 0x[0-9a-f]+", "", repr(module))
    return f"{parts} {[f'{v:.2e}' for v in directions @ features.double().flatten().numpy()]}"
