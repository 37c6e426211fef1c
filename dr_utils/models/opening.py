"""What you give as a network, as a module: an architecture's name, a checkpoint of one, a program, or the module."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dr_utils.checks import nearest_first, short, unknown
from dr_utils.models import PAPER, available
from dr_utils.models.files import program_kind, read_weights
from dr_utils.models.layouts import fit, without_prefixes
from dr_utils.models.loading import Opened, is_timm_model, of_timm, open_named, open_timm, similar_timm_models
from dr_utils.store import AssetError, sha256_of

_SHOWN = 10


def kind_of(model, *, with_checkpoint: bool = False) -> tuple[str, str]:
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
    suite = {} if with_checkpoint else available() | PAPER
    said, _, name = str(model).rpartition(":")
    known = {"suite": suite.__contains__, "timm": is_timm_model, "torchvision": theirs.__contains__}
    for kind in known if isinstance(model, str) else ():
        if said in ("", kind) and known[kind](name):
            return kind, name
    path = Path(model).expanduser()
    if path.is_file():
        return "file", path.stem
    if isinstance(model, Path) or path.suffix in (".pt", ".pth", ".pt2", ".ts") or path.parent != Path("."):
        raise AssetError(f"{path}: no such file; give the path of a TorchScript or ExportedProgram file, or a name.")
    alike = {"suite": suite, "timm": similar_timm_models(name, _SHOWN), "torchvision": theirs}
    names = {n for kind, names in alike.items() if said in ("", kind) or said not in alike for n in names}
    hint = "A checkpoint needs an architecture of timm or torchvision." if with_checkpoint else (
        "Files of TorchScript or ExportedProgram and modules work too."
    )  # fmt: skip
    what = f"{said} network" if said in alike else "network"
    raise unknown(what, name if said in alike else str(model), nearest_first(name, names)[:_SHOWN], hint=hint)


def open_any(model, kind: str, name: str, checkpoint=None, n_classes=None, pretrained=True, trust=False) -> Opened:
    """Open what was given; parameters and errors are those of `dr_utils.models.own.open_model`."""
    if not isinstance(trust, bool):
        raise ValueError(f"trust must be True or False; got {trust!r}.")
    if checkpoint is not None and kind not in ("timm", "torchvision"):
        raise ValueError(
            f"a checkpoint needs the name of its architecture in timm or torchvision, not a {kind}; "
            "a module takes its weights before it is passed: model.load_state_dict(...)."
        )
    if n_classes is not None and checkpoint is None:
        raise ValueError(f"n_classes={n_classes} belongs to a checkpoint, and none was given: leave it out.")
    if kind == "suite":
        return open_named(name, pretrained=pretrained)
    if kind == "timm" and checkpoint is None:
        return open_timm(name, pretrained=pretrained)
    if kind == "timm":
        import timm

        create = partial(timm.create_model, name, pretrained=False)
        module, _, source = _with_weights(create, checkpoint, f"timm's {name}", n_classes)
        return of_timm(name, module, source)
    if kind == "torchvision":
        return _open_torchvision(name, checkpoint, n_classes, pretrained)
    return _open_file(Path(model).expanduser(), trust) if kind == "file" else _open_module(model)


# ---------------------------------------------------------------- checkpoints of named architectures


def _with_weights(create, path: str | Path, name: str, n_classes: int | None) -> tuple[nn.Module, str | None, str]:
    """Build an architecture with a checkpoint's weights, and with as many classes as its head has.

    Returns the module, the name of its head (None if the checkpoint has none), and the source for the card.
    """
    state = without_prefixes(read_weights(path)[0])
    module = create() if n_classes is None else create(num_classes=n_classes)
    head = _last_layer(module)
    ours, theirs = module.state_dict().get(f"{head}.weight"), state.get(f"{head}.weight")
    if n_classes is None and ours is not None and theirs is not None and len(ours) != len(theirs):
        module = create(num_classes=len(theirs))
    source = f"{name}, weights of {Path(path).name}"
    if theirs is None and isinstance(module.get_submodule(head), nn.Linear):
        # Left in, it would be random, and so would be the hash that features are stored under.
        module.set_submodule(head, nn.Identity())
        head, source = None, source + " (no head)"
    elif theirs is not None:
        source += f" ({len(theirs)} classes)"
    fit(module, state, name, Path(path).name, "name the architecture that it was saved from")
    return module, head, source


def _last_layer(module: nn.Module) -> str:
    """Name of the head: what timm says, else the last submodule with a weight matrix."""
    if said := getattr(module, "pretrained_cfg", {}).get("classifier"):
        return said if isinstance(said, str) else said[0]
    return [n for n, part in module.named_modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1][-1]


def torchvision_weights(name: str):
    """Return what torchvision says of a network's best weights."""
    from torchvision.models import get_model_weights

    return get_model_weights(name).DEFAULT


def _open_torchvision(name: str, checkpoint, n_classes: int | None, pretrained: bool) -> Opened:
    from torchvision.models import get_model

    weights = torchvision_weights(name)
    create, source = partial(get_model, name, weights=None), "torchvision, random weights"
    if checkpoint is not None:
        module, head, source = _with_weights(create, checkpoint, f"torchvision's {name}", n_classes)
    else:
        try:
            module = get_model(name, weights=weights, progress=False) if pretrained else create()
        except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors; a wrong hash is a RuntimeError
            raise AssetError(
                f"the weights of torchvision's {name} cannot be fetched ({short(error)}); download {weights.url} "
                f"elsewhere and give it as checkpoint=..., or take one that is available offline, nearest first: "
                f"{', '.join(nearest_first(name, available())[:_SHOWN])}."
            ) from error
        head, source = _last_layer(module), f"torchvision, {weights}" if pretrained else source
    # SqueezeNet ends in a convolution: no linear layer to read the input of.
    head = head if head and isinstance(module.get_submodule(head), nn.Linear) else None
    made_for = weights.transforms()
    preprocessing = {"mean": tuple(made_for.mean), "std": tuple(made_for.std)}
    return Opened(name, module, head, source, f"torchvision {name}", preprocessing, made_for.crop_size[0])


# ---------------------------------------------------------------- modules and programs


def _open_module(module: nn.Module) -> Opened:
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
            module = torch.jit.load(str(path), map_location="cpu")
        else:  # unflattened, it has the submodules of the network that was exported, and so its layers
            module = torch.export.unflatten(torch.export.load(str(path)))
    except Exception as error:  # what a damaged file makes the reader raise is anybody's guess
        raise AssetError(
            f"{path.name} cannot be read as {kind} ({type(error).__name__}: {short(error)}); save it again, "
            f"with torch {torch.__version__.partition('+')[0]}."
        ) from error
    return Opened(path.stem, module, None, f"{kind} file {path.name}", structure=f"file {sha256_of(path)}")
