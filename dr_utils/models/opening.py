"""What somebody gives as a network, as a module: a name, a checkpoint of one, a saved program, or the module itself."""

from __future__ import annotations

import copy
import zipfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dr_utils.checks import nearest_first, short, unknown
from dr_utils.models import available, hub, load_model, paper
from dr_utils.models.checkpoints import last_layer, with_weights
from dr_utils.models.network import Network
from dr_utils.models.torch_archives import IMAGENET_MEAN, IMAGENET_STD
from dr_utils.store import AssetError, sha256_of

DEFAULT_SIDE = 224
_SHOWN = 10


@dataclass
class Opened:
    """A module from somewhere, before anybody said which of its layers is read.

    Attributes
    ----------
    kind : {"suite", "timm", "torchvision", "file", "module"}
    name : str
    module : nn.Module
        From normalised images to class scores, or without a head.
    source : str
        For the card.
    side : int
        Pixels of the images that try it out.
    identity : str
        What its weights do not tell: the architecture, or the program. Empty where only a forward pass tells.
    preprocessing : dict
        Keyword arguments of `Network`.
    head : str, optional
        The last linear layer, where its name is known.
    network : Network, optional
        As the suite or timm has it, published weights and all; `module` is its body.
    """

    kind: str
    name: str
    module: nn.Module
    source: str
    side: int = DEFAULT_SIDE
    identity: str = ""
    preprocessing: dict = field(default_factory=lambda: {"mean": IMAGENET_MEAN, "std": IMAGENET_STD})
    head: str | None = None
    network: Network | None = None


def kind_of(model, *, with_checkpoint: bool = False) -> tuple[str, str]:
    """Say what was given, and its name; nothing is opened.

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
        if hub.is_timm_model(name) if prefix == "timm" else name in theirs:
            return prefix, name
        near = hub.similar_timm_models(name, _SHOWN) if prefix == "timm" else nearest_first(name, theirs)[:_SHOWN]
        raise unknown(f"{prefix} network", name, near)
    if isinstance(model, str):
        if given in available() | paper.CARDS and not with_checkpoint:
            return "suite", given
        if hub.is_timm_model(given):
            return "timm", given
        if given in theirs:
            return "torchvision", given
    path = Path(given).expanduser()
    if path.is_file():
        return "file", path.stem
    if isinstance(model, Path) or path.suffix in (".pt", ".pth", ".pt2", ".ts") or path.parent != Path("."):
        raise AssetError(f"{path}: no such file; give the path of a TorchScript or ExportedProgram file, or a name.")
    known = {*theirs, *hub.similar_timm_models(given, _SHOWN)}
    if with_checkpoint:
        raise unknown("architecture of timm or torchvision", given, nearest_first(given, known)[:_SHOWN])
    raise unknown("network", given, nearest_first(given, known | available().keys() | paper.CARDS.keys())[:_SHOWN],
                  hint="Files of TorchScript or ExportedProgram and modules work too.")  # fmt: skip


def named_side(kind: str, name: str) -> int:
    """Pixels: the side of images that a network of timm or torchvision was made for."""
    if kind == "timm":
        import timm

        cfg = timm.get_pretrained_cfg(name)
        return int(cfg.input_size[-1]) if cfg else DEFAULT_SIDE
    from torchvision.models import get_model_weights

    return int(get_model_weights(name).DEFAULT.transforms().crop_size[0])


def open_any(model, *, checkpoint=None, n_classes=None, pretrained=True, trust=False) -> Opened:
    """Open what was given; parameters and errors are those of `dr_utils.models.own.open_model`."""
    kind, name = kind_of(model, with_checkpoint=checkpoint is not None)
    if checkpoint is not None and kind not in ("timm", "torchvision"):
        raise ValueError(
            f"a checkpoint needs the name of its architecture in timm or torchvision, not a {kind}; "
            "a module takes its weights before it is passed: model.load_state_dict(...)."
        )
    if n_classes is not None and checkpoint is None:
        raise ValueError(f"n_classes={n_classes} belongs to a checkpoint, and none was given: leave it out.")
    if kind == "timm":
        return _open_timm(name, checkpoint, n_classes, pretrained)
    if kind == "torchvision":
        return _open_torchvision(name, checkpoint, n_classes, pretrained)
    if kind == "suite":
        return _of_network("suite", name, load_model(name, pretrained=pretrained))
    if kind == "file":
        return _open_file(Path(model).expanduser(), trust)
    return _open_module(model, name)


def _of_network(kind: str, name: str, network: Network, side: int = DEFAULT_SIDE) -> Opened:
    preprocessing = network.preprocessing
    preprocessing["value_range"] = preprocessing.pop("range")
    return Opened(kind, name, network.body, network.card.source, side, f"{kind} {name}", preprocessing, None, network)


def _open_timm(name: str, checkpoint, n_classes: int | None, pretrained: bool) -> Opened:
    import timm

    side = named_side("timm", name)
    if checkpoint is None:
        return _of_network("timm", name, hub.load_timm(name, list(available()), pretrained=pretrained), side)
    create = partial(timm.create_model, name, pretrained=False)
    module, _, source = with_weights(create, checkpoint, f"timm's {name}", n_classes, _timm_head)
    data = timm.data.resolve_model_data_config(module)
    return Opened("timm", name, module, source, side, f"timm {name}", {key: data[key] for key in ("mean", "std")})


def _timm_head(module: nn.Module) -> str:
    names = module.pretrained_cfg.get("classifier") or last_layer(module)
    return names if isinstance(names, str) else names[0]


def _open_torchvision(name: str, checkpoint, n_classes: int | None, pretrained: bool) -> Opened:
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).DEFAULT
    side, identity = named_side("torchvision", name), f"torchvision {name}"
    transforms = weights.transforms()
    preprocessing = {"mean": tuple(transforms.mean), "std": tuple(transforms.std)}
    create = partial(get_model, name, weights=None)
    if checkpoint is not None:
        module, head, source = with_weights(create, checkpoint, f"torchvision's {name}", n_classes)
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
        head = last_layer(module)
    # SqueezeNet ends in a convolution: no linear layer to read the input of.
    head = head if head and isinstance(module.get_submodule(head), nn.Linear) else None
    return Opened("torchvision", name, module, source, side, identity, preprocessing, head)


def _open_module(module: nn.Module, name: str) -> Opened:
    # torch.compile and DataParallel wrap the module that is meant.
    module = getattr(module, "_orig_mod", module)
    module = module.module if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else module
    try:
        module = copy.deepcopy(module).cpu().eval()
    except Exception as error:  # whatever its parts may raise
        raise ValueError(
            f"the module {name} cannot be copied ({type(error).__name__}: {short(error)}); "
            "pass a freshly built one with its weights loaded."
        ) from error
    return Opened("module", type(module).__name__, module, f"an nn.Module of class {type(module).__name__}")


# ---------------------------------------------------------------- files of programs


def _open_file(path: Path, trust: bool) -> Opened:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        members = set()
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        read, what = partial(torch.jit.load, map_location="cpu"), "TorchScript"
    elif "serialized_exported_program.json" in members or any(name.startswith("models/") for name in members):
        if not trust:
            raise AssetError(
                f"{path.name} is refused: loading an ExportedProgram can run any code that its file holds; if you made "
                "it yourself pass trust=True, else ask for the weights alone."
            )
        read, what = _read_exported, "ExportedProgram"
    else:
        raise AssetError(
            f"{path.name} is neither a TorchScript nor an ExportedProgram file, or is damaged; if it holds weights, "
            "name their architecture and give the file as checkpoint=..."
        )
    try:
        module = read(str(path)).eval()
    except Exception as error:  # what a damaged file makes the reader raise is anybody's guess
        raise AssetError(
            f"{path.name} cannot be read as {what} ({type(error).__name__}: {short(error)}); save it again, "
            f"with torch {torch.__version__.partition('+')[0]}."
        ) from error
    return Opened("file", path.stem, module, f"{what} file {path.name}", identity=f"file {sha256_of(path)}")


def _read_exported(path: str) -> nn.Module:
    # Unflattened, it has the submodules of the network that was exported, and so its layers.
    return torch.export.unflatten(torch.export.load(path))
