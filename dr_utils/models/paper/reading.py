"""Reading published checkpoints: tensors only, whatever else their pickles hold; and giving a module all of them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from dr_utils.checks import short
from dr_utils.models import checkpoints
from dr_utils.models.checkpoints import WRAPPERS, read_safetensors
from dr_utils.store import AssetError

_MOST_STAND_INS = 50
_NOT_ALLOWED = re.compile(r"GLOBAL (\S+) was not an allowed global")
_BLOCKED = re.compile(r"GLOBAL (\S+) whose module \S+ is blocked")

# Torch's reader of weights asks whether the type of an object is allowed before it gives it a state. The name ends
# in a line break, which no file can spell: a pickle ends names with one.
_StandInType = type("stand-in\n", (type,), {"__module__": __name__})


class _StandIn(metaclass=_StandInType):
    """Takes the place of a class or function that a pickle names: called or given a state, it does nothing."""

    def __new__(cls, *args, **kwargs):
        return cls

    @staticmethod
    def __setstate__(state):
        pass


def read_checkpoint_with_extras(path: Path) -> tuple[object, list[str]]:
    """Read a file that torch saved; what is not tensors and plain containers becomes inert stand-ins.

    Torch's reader of weights does the work and looks nothing up by name but its own short list. What else a file
    names (a learning rate schedule, numpy scalars) is never imported: a class that does nothing stands in for it.

    Parameters
    ----------
    path : Path

    Returns
    -------
    found : object
        What was saved.
    replaced : list of str
        The names that stand-ins took the place of, such as "numpy.core.multiarray.scalar".

    Raises
    ------
    AssetError
        Damaged, or made of more than stand-ins can take the place of: a file that names os or sys is refused.
    """
    stand_ins: dict[str, type] = {}
    while True:
        try:
            with torch.serialization.safe_globals([_StandInType, *stand_ins.values()]):
                # Mapped, so that a second pass reads no tensor twice; files from before torch 1.6 cannot be.
                mapped = zipfile.is_zipfile(path)
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped), list(stand_ins)
        except Exception as error:  # what a damaged file makes the reader raise is anybody's guess
            text = str(error)
            needed = _NOT_ALLOWED.search(text)
            if needed is None or needed[1] in stand_ins or len(stand_ins) == _MOST_STAND_INS:
                raise _refused(path, error) from error
            stand_ins[needed[1]] = _stand_in(needed[1])


def _stand_in(path: str) -> type:
    # The reader leaves "builtins." out of what it says.
    module, _, name = path.rpartition(".") if "." in path else ("builtins", "", path)
    return _StandInType(name, (_StandIn,), {"__module__": module, "__qualname__": name})


def _refused(path: Path, error: Exception) -> AssetError:
    if blocked := _BLOCKED.search(str(error)):
        return AssetError(
            f"{path.name} is refused: it names {blocked[1]}, which can run any code and which no checkpoint needs; "
            "nothing in it was run. Delete it and get the published file."
        )
    # Torch's own advice, to load it without the check, comes before its reason.
    reason = short(str(error).rpartition("WeightsUnpickler error: ")[2], 120)
    return AssetError(
        f"{path.name} is refused: damaged, cut short, or more than a checkpoint ({type(error).__name__}: {reason}); "
        "nothing in it was run. Get the published file again."
    )


def read_state(path: Path, wrappers: tuple[str, ...] = WRAPPERS) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read a state dict, alone or under a key of a dictionary, from a .safetensors file or one that torch saved.

    Parameters
    ----------
    path : Path
    wrappers : tuple of str
        Keys that it may be under.

    Returns
    -------
    state : dict of str to tensor
        Under the names that the file has.
    left_out : list of str
        What else the file holds: keys beside the state dict, and names that stand-ins took the place of.

    Raises
    ------
    AssetError
        See `read_checkpoint_with_extras`; or there are no tensors by name.
    """
    if path.suffix == ".safetensors":
        found, replaced = read_safetensors(path), []
    else:
        found, replaced = read_checkpoint_with_extras(path)
    left_out: list[str] = []
    while isinstance(found, Mapping) and (key := next((w for w in wrappers if isinstance(found.get(w), Mapping)), "")):
        left_out += [str(other) for other in found if other != key]
        found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, torch.Tensor) for v in found.values()):
        keys = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else ""
        inside = f"a dictionary of {keys or 'nothing'}" if isinstance(found, Mapping) else "no dictionary"
        raise AssetError(
            f"{path.name} holds {inside}; expected tensors by name, alone or under {' or '.join(wrappers)}: "
            "get the published file."
        )
    left_out += [f"objects of {name}" for name in replaced]
    return {str(name): tensor for name, tensor in found.items()}, left_out


def without_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Take a prefix off all names if all of them have it."""
    if not all(name.startswith(prefix) for name in state):
        return dict(state)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def fit(module: nn.Module, state: Mapping[str, torch.Tensor], what: str, path: Path) -> None:
    """Give a module its weights, see `dr_utils.models.checkpoints.fit`; `what` is how messages call the network."""
    checkpoints.fit(module, state, what, path.name, f"get the published {path.name}")
