"""Open your own network: a timm or torchvision name, with a checkpoint or without, a saved program, or an nn.Module."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dr_utils.checks import nearest_first, short, unknown
from dr_utils.models import PAPER, POOLS, available, load_model
from dr_utils.models.files import program_kind, read_weights
from dr_utils.models.layers import Tapped, find_head, names_in, tap
from dr_utils.models.layouts import fit, without_prefixes
from dr_utils.models.loading import Opened, is_timm_model, of_timm, open_named, similar_timm_models, timm_side
from dr_utils.models.network import Network, NetworkCard
from dr_utils.store import AssetError, sha256_of

_SHOWN = 10
_OTHER_ARCHITECTURE = "name the architecture that it was saved from"


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
    kind, name = _kind_of(model, with_checkpoint=checkpoint is not None)
    if kind in ("suite", "timm") and checkpoint is None and n_classes is None:
        return _named(name, layer, pool, side, pretrained, changes)
    opened = _open(model, kind, name, checkpoint, n_classes, pretrained, trust)
    tapped = _tapped(opened, kind, layer, pool, side)
    features = tapped.probe(side or opened.side)
    preprocessing = opened.preprocessing | changes
    values = [", ".join(f"{float(v):.4g}" for v in preprocessing[key]) for key in ("mean", "std")]
    published = kind == "torchvision" and checkpoint is None and pretrained
    card = NetworkCard(
        name=opened.name + (f":{layer}" if layer else ""), title=opened.name + (f", {layer}" if layer else ""),
        width=features.shape[1], family=opened.name.partition("_")[0].lower(),
        training="standard" if published else "own", upstream="imagenet1k" if published else "unknown", kind="own",
        source=f"{opened.source}; features: {tapped.where}; mean {values[0]}, std {values[1]}", licence="unstated",
        top1=None, side=side,
    )  # fmt: skip
    structure = opened.structure or _behaviour(opened.module, features)
    return Network(card, tapped, **preprocessing, structure=f"{structure}; {tapped.where}; {pool}")


def layer_names(model: str | Path | nn.Module, *, trust: bool = False) -> list[str]:
    """Return the names that `open_model` takes as `layer`, in the network's order; no weights are fetched.

    Submodules first, then what is computed between them where the network can be traced; a TorchScript file shows
    none of its layers.
    """
    kind, name = _kind_of(model)
    opened = (
        open_named(name, pretrained=False)
        if kind == "suite"
        else _open(model, kind, name, pretrained=False, trust=trust)
    )
    return [] if isinstance(opened.module, torch.jit.ScriptModule) else names_in(opened.module)


def recommended_side(model: str | Path | nn.Module) -> int | None:
    """Return the side of images in pixels that a named network was made for; None where nobody says."""
    kind, name = _kind_of(model)
    if kind == "suite":
        return (available() | PAPER)[name].side
    return {"timm": timm_side, "torchvision": _torchvision_side}.get(kind, lambda _: None)(name)


def _kind_of(model, *, with_checkpoint: bool = False) -> tuple[str, str]:
    """Say what was given (suite, timm, torchvision, file or module), and its name; nothing is opened.

    Raises
    ------
    ValueError
        Nobody knows the name; the nearest are offered.
    AssetError
        It looks like a file, and there is none.
    """
    if isinstance(model, nn.Module):
        return "module", type(model).__name__
    if not isinstance(model, (str, Path)):
        raise ValueError(f"model must be a name, the path of a file, or an nn.Module; got {type(model).__name__}.")
    from torchvision import models as torchvision_models

    theirs = torchvision_models.list_models(module=torchvision_models)
    given = str(model)
    prefix, _, name = given.partition(":")
    if prefix in ("timm", "torchvision") and name:
        if is_timm_model(name) if prefix == "timm" else name in theirs:
            return prefix, name
        near = similar_timm_models(name, _SHOWN) if prefix == "timm" else nearest_first(name, theirs)[:_SHOWN]
        raise unknown(f"{prefix} network", name, near)
    suite = available() | PAPER
    if isinstance(model, str):
        if given in suite and not with_checkpoint:
            return "suite", given
        if is_timm_model(given):
            return "timm", given
        if given in theirs:
            return "torchvision", given
    path = Path(given).expanduser()
    if path.is_file():
        return "file", path.stem
    if isinstance(model, Path) or path.suffix in (".pt", ".pth", ".pt2", ".ts") or path.parent != Path("."):
        raise AssetError(f"{path}: no such file; give the path of a TorchScript or ExportedProgram file, or a name.")
    known = {*theirs, *similar_timm_models(given, _SHOWN)}
    if with_checkpoint:
        raise unknown("architecture of timm or torchvision", given, nearest_first(given, known)[:_SHOWN])
    raise unknown("network", given, nearest_first(given, known | suite.keys())[:_SHOWN],
                  hint="Files of TorchScript or ExportedProgram and modules work too.")  # fmt: skip


def _named(name: str, layer: str | None, pool: str, side: int | None, pretrained: bool, changes: dict) -> Network:
    """A network of `load_model`, at the layer asked for."""
    base = load_model(name, pretrained=pretrained)
    network = base
    if layer is not None:
        network = load_model(f"{name}@{layer}#{pool}", pretrained=pretrained)
        network.card = replace(
            network.card, name=f"{name}:{layer}", title=f"{base.card.title}, {layer}", kind="own",
            family=base.card.family, training=base.card.training,
        )  # fmt: skip
    elif pool == "token":
        raise ValueError(f"the penultimate layer of {name} has no tokens to take the first of; use pool='mean'.")
    return replace(network, card=network.card if side is None else replace(network.card, side=side), **changes)


def _open(model, kind: str, name: str, checkpoint=None, n_classes=None, pretrained=True, trust=False) -> Opened:
    if not isinstance(trust, bool):
        raise ValueError(f"trust must be True or False; got {trust!r}.")
    if checkpoint is not None and kind not in ("timm", "torchvision"):
        raise ValueError(
            f"a checkpoint needs the name of its architecture in timm or torchvision, not a {kind}; "
            "a module takes its weights before it is passed: model.load_state_dict(...)."
        )
    if n_classes is not None and checkpoint is None:
        raise ValueError(f"n_classes={n_classes} belongs to a checkpoint, and none was given: leave it out.")
    if kind == "timm":
        import timm

        create = partial(timm.create_model, name, pretrained=False)
        if checkpoint is None:
            return of_timm(name, create(), None, "timm, random weights")
        module, _, source = _with_weights(create, checkpoint, f"timm's {name}", n_classes)
        return of_timm(name, module, None, source)
    if kind == "torchvision":
        return _open_torchvision(name, checkpoint, n_classes, pretrained)
    return _open_file(Path(model).expanduser(), trust) if kind == "file" else _open_module(model, name)


def _tapped(opened: Opened, kind: str, layer: str | None, pool: str, side: int | None) -> Tapped:
    """Read the module at the layer asked for, or just before its head."""
    module = opened.module.eval()  # before the first forward pass: batch statistics would move
    if layer is None:
        head = find_head(module, side or opened.side) if kind == "module" else opened.head
        return Tapped(module, head, reads_input=head is not None, pool=pool)
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"layer {layer!r} was asked for, but a TorchScript file shows its output only; "
            "pass the nn.Module that it was made from, or export it with torch.export.save."
        )
    return tap(module, layer, pool)


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


# ---------------------------------------------------------------- checkpoints of named architectures


def _with_weights(
    create: Callable[..., nn.Module], path: str | Path, name: str, n_classes: int | None
) -> tuple[nn.Module, str | None, str]:
    """Build an architecture with a checkpoint's weights, and with as many classes as its head has.

    Returns
    -------
    module : nn.Module
        Without a head if the checkpoint has none.
    head : str or None
        Its name.
    source : str
        For the card.
    """
    file = Path(path).name
    state = without_prefixes(read_weights(path)[0])
    module = create() if n_classes is None else create(num_classes=n_classes)
    head = _last_layer(module)
    ours, theirs = module.state_dict().get(f"{head}.weight"), state.get(f"{head}.weight")
    if n_classes is None and ours is not None and theirs is not None and len(ours) != len(theirs):
        module = create(num_classes=len(theirs))
    source = f"{name}, weights of {file}"
    if theirs is None and isinstance(module.get_submodule(head), nn.Linear):
        # Left in, it would be random, and so would be the hash that features are stored under.
        module.set_submodule(head, nn.Identity())
        head, source = None, source + " (no head)"
    elif theirs is not None:
        source += f" ({len(theirs)} classes)"
    fit(module, state, name, file, _OTHER_ARCHITECTURE)
    return module, head, source


def _last_layer(module: nn.Module) -> str:
    """Name of the head: what timm says, else the last submodule with a weight matrix."""
    said = getattr(module, "pretrained_cfg", {}).get("classifier")
    if said:
        return said if isinstance(said, str) else said[0]
    return [n for n, part in module.named_modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1][-1]


def _torchvision_side(name: str) -> int:
    from torchvision.models import get_model_weights

    return int(get_model_weights(name).DEFAULT.transforms().crop_size[0])


def _open_torchvision(name: str, checkpoint, n_classes: int | None, pretrained: bool) -> Opened:
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).DEFAULT
    create = partial(get_model, name, weights=None)
    if checkpoint is not None:
        module, head, source = _with_weights(create, checkpoint, f"torchvision's {name}", n_classes)
    elif not pretrained:
        module, source = create(), "torchvision, random weights"
    else:
        try:
            module, source = get_model(name, weights=weights, progress=False), f"torchvision, {weights}"
        except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
            raise AssetError(
                f"the weights of torchvision's {name} cannot be fetched ({short(error)}); download {weights.url} "
                f"elsewhere and give it as checkpoint=..., or take one that is available offline, nearest first: "
                f"{', '.join(nearest_first(name, available())[:_SHOWN])}."
            ) from error
    if checkpoint is None:
        head = _last_layer(module)
    # SqueezeNet ends in a convolution: no linear layer to read the input of.
    head = head if head and isinstance(module.get_submodule(head), nn.Linear) else None
    preprocessing = {key: tuple(getattr(weights.transforms(), key)) for key in ("mean", "std")}
    return Opened(name, module, head, source, f"torchvision {name}", preprocessing, _torchvision_side(name))


# ---------------------------------------------------------------- modules and programs


def _open_module(module: nn.Module, name: str) -> Opened:
    # torch.compile and DataParallel wrap the module that is meant.
    module = getattr(module, "_orig_mod", module)
    module = module.module if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else module
    name = type(module).__name__
    try:
        module = copy.deepcopy(module).cpu().eval()
    except Exception as error:  # whatever its parts may raise
        raise ValueError(
            f"the module {name} cannot be copied ({type(error).__name__}: {short(error)}); "
            "pass a freshly built one with its weights loaded."
        ) from error
    return Opened(name, module, None, f"an nn.Module of class {name}")


def _open_file(path: Path, trust: bool) -> Opened:
    kind = program_kind(path)
    if not kind:
        raise AssetError(
            f"{path.name} is neither a TorchScript nor an ExportedProgram file, or is damaged; if it holds weights, "
            "name their architecture and give the file as checkpoint=..."
        )
    if not trust:
        raise AssetError(
            f"{path.name} is refused: it is {kind}, a program, and loading one can run any code that its file holds; "
            "if you made it yourself pass trust=True, else ask for the weights alone."
        )
    try:
        if kind == "TorchScript":
            module = torch.jit.load(str(path), map_location="cpu").eval()
        else:  # unflattened, it has the submodules of the network that was exported, and so its layers
            module = torch.export.unflatten(torch.export.load(str(path))).eval()
    except Exception as error:  # what a damaged file makes the reader raise is anybody's guess
        raise AssetError(
            f"{path.name} cannot be read as {kind} ({type(error).__name__}: {short(error)}); save it again, "
            f"with torch {torch.__version__.partition('+')[0]}."
        ) from error
    return Opened(path.stem, module, None, f"{kind} file {path.name}", structure=f"file {sha256_of(path)}")
