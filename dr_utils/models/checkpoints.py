"""Named architectures with weights from a user's file: read without running any code, and checked key by key."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from dr_utils.checks import short
from dr_utils.store import AssetError

# Where training scripts put a state dict; exponential averages last, as what they are called says little.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
# What DataParallel, torch.compile and a trainer's own attribute put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a .safetensors file or one that torch saved; wrappers and prefixes are taken off.

    Raises
    ------
    AssetError
        No such file, damaged, a pickle that needs more than tensors (it is not run), or no state dict inside.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise AssetError(f"checkpoint {path}: no such file; give the path of a .pth, .pt, .bin or .safetensors file.")
    found = read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    while isinstance(found, Mapping) and (key := next((w for w in WRAPPERS if isinstance(found.get(w), Mapping)), "")):
        found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        keys = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else ""
        inside = f"a dictionary of {keys or 'nothing'}" if isinstance(found, Mapping) else "no dictionary"
        raise AssetError(
            f"checkpoint {path.name} holds {inside}; expected tensors by name, alone or under one of "
            f"{', '.join(WRAPPERS)}: save torch.save(model.state_dict(), ...)."
        )
    state = {str(name): tensor for name, tensor in found.items()}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AssetError(f"checkpoint {path.name} is damaged ({short(error)}); get or save it again.") from error


def _read_pickle(path: Path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file makes the reader raise is anybody's guess
        if isinstance(error, pickle.UnpicklingError) and (needed := re.search(r"GLOBAL (\S+)", str(error))):
            raise AssetError(
                f"checkpoint {path.name} is refused: it needs {needed[1]}, and a pickle of more than tensors can run "
                "any code; save its weights alone: torch.save(model.state_dict(), ...)."
            ) from error
        if "TorchScript" in str(error):
            raise AssetError(
                f"checkpoint {path.name} is a TorchScript program, not weights alone; open it without naming an "
                "architecture, or save torch.save(model.state_dict(), ...)."
            ) from error
        # Torch's own advice, to load it without the check, comes before its reason.
        reason = short(str(error).rpartition("WeightsUnpickler error: ")[2], 120)
        raise AssetError(
            f"checkpoint {path.name} is refused: damaged, or more than tensors ({type(error).__name__}: {reason}); "
            "save its weights again: torch.save(model.state_dict(), ...)."
        ) from error


def with_weights(
    create: Callable[..., nn.Module],
    path: str | Path,
    name: str,
    n_classes: int | None = None,
    head_of: Callable[[nn.Module], str] | None = None,
) -> tuple[nn.Module, str | None, str]:
    """Build a named architecture with a checkpoint's weights, and with as many classes as its head has.

    Parameters
    ----------
    create : callable
        Makes the architecture with random weights; takes `num_classes`.
    path : path
    name : str
        The architecture, for the messages.
    n_classes : int, optional
        Where the checkpoint's head does not say.
    head_of : callable, optional
        Gives the name of the architecture's last layer; `last_layer` by default.

    Returns
    -------
    module : nn.Module
        Without a head if the checkpoint has none.
    head : str or None
        Its name.
    source : str
        For the card.

    Raises
    ------
    AssetError
        The file is refused, see `read_checkpoint`, or its weights do not fit.
    """
    state = read_checkpoint(path)
    module = create() if n_classes is None else create(num_classes=n_classes)
    head = (head_of or last_layer)(module)
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
    fit(module, state, name, Path(path).name)
    return module, head, source


def last_layer(module: nn.Module) -> str:
    """Name of the last submodule with a weight matrix: the head, as classification networks are written."""
    return [n for n, part in module.named_modules() if getattr(getattr(part, "weight", None), "ndim", 0) > 1][-1]


def fit(
    module: nn.Module, state: Mapping[str, torch.Tensor], name: str, file: str,
    advice: str = "name the architecture that it was saved from",
) -> None:  # fmt: skip
    """Give a module its weights: all of them, and none left over.

    Parameters
    ----------
    module : nn.Module
    state : mapping of str to tensor
        Under the module's names.
    name, file, advice : str
        What the message calls network and file, and what it says to do.

    Raises
    ------
    AssetError
        Keys missing, unexpected or of another shape: how many, and the first three.
    """
    own = module.state_dict()
    # Counters of training steps are no weights; half of all exporters leave them out.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {list(state[key].shape)} for {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if not (missing or unexpected or shapes):
        module.load_state_dict(state, strict=False)
        return
    parts = [
        f"{len(keys)} of {total} keys {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for keys, total, what in (
            (missing, len(own), "missing"),
            (unexpected, len(state), "unexpected"),
            (shapes, len(own), "of another shape"),
        )
        if keys
    ]
    raise AssetError(f"checkpoint {file} does not fit {name}: {'; '.join(parts)}; {advice}.")
