"""Read weight files of any kind without running anything that is in them, and give a module all of its weights."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch._weights_only_unpickler import get_globals_in_pkl

from dr_utils.checks import short
from dr_utils.store import AssetError

State = dict[str, torch.Tensor]
# Where training scripts put a state dict; exponential averages last, as what they are called says little.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
# What DataParallel, torch.compile and a trainer's own attribute put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.")
SAVE_AGAIN = "save its weights alone: torch.save(model.state_dict(), ...)"
RELEASES = "use the torch, torchvision and timm releases of requirements.lock"


class Inert:
    """Takes the place of what a file names: called, or given a state, it does nothing."""

    def __new__(cls, *args, **kwargs):
        return _INERT

    def __call__(self, *args, **kwargs):
        return self

    def __setstate__(self, state):
        pass


_INERT = object.__new__(Inert)


def read_weights(file: Path | BytesIO, name: str = "", advice: str = SAVE_AGAIN) -> State:
    """Return the tensors by name of a .safetensors or .npz file, or of one that torch saved.

    Torch's reader of weights calls only what it knows. Everything else that the file names (a schedule, numpy scalars)
    is looked up nowhere: something inert takes its place. `name` and `advice` are for the message of the AssetError.
    """
    name = name or file.name
    try:
        found = _read(file)
        if not isinstance(found, Mapping):
            raise ValueError("it holds no dictionary")
        found = next((found[w] for w in WRAPPERS if isinstance(found.get(w), Mapping)), found)
        if not found or not all(isinstance(value, torch.Tensor) for value in found.values()):
            raise ValueError(f"it holds {', '.join(map(str, found)) or 'nothing'}")
        return dict(found)
    except FileNotFoundError:
        raise AssetError(f"{file}: no such file.") from None
    except Exception as error:  # what a damaged file makes a reader raise is anybody's guess
        reason = short(error.__context__ or error, 120)  # torch adds advice to load it without the check
        raise AssetError(
            f"{name} is refused ({type(error).__name__}: {reason}): damaged, or not tensors by name, alone or under "
            f"{', '.join(WRAPPERS)}; nothing in it was run; {advice}."
        ) from error


def _read(file: Path | BytesIO):
    suffix = getattr(file, "suffix", "")
    if suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    if suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    with open(file, "rb") if isinstance(file, Path) else file as content:
        inert = [(_INERT, name) for name in _names_in(content)]
        content.seek(0)
        # Torch looks its own names up before these, and refuses those of os and sys.
        with torch.serialization.safe_globals([Inert, *inert]):
            return torch.load(content, map_location="cpu", weights_only=True)


def _names_in(content) -> Iterable[str]:
    """Names of the classes and functions that an open file of torch asks for."""
    zipped = zipfile.is_zipfile(content)
    content.seek(0)
    if zipped:
        return torch.serialization.get_unsafe_globals_in_checkpoint(content)
    # Before torch 1.6: a magic number, a version, facts of the machine, and what was saved.
    return set().union(*(get_globals_in_pkl(content) for _ in range(4)))


def read_layers_model(members: Mapping[str, bytes], folder: str) -> State:
    """Read the weights of a TensorFlow.js layers model by name; `folder` is where in the archive model.json lies."""
    weights = {}
    for group in json.loads(members[folder + "model.json"])["weightsManifest"]:
        values = np.frombuffer(b"".join(members[folder + path] for path in group["paths"]), "<f4").astype(np.float32)
        shapes = {entry["name"]: entry["shape"] for entry in group["weights"]}
        parts = torch.from_numpy(values).split([int(np.prod(shape)) for shape in shapes.values()])
        weights |= {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
    return weights


def without_prefixes(state: Mapping[str, torch.Tensor]) -> State:
    """Take off the prefixes of wrappers, where all names have them."""
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return dict(state)


def fit(module: nn.Module, state: Mapping[str, torch.Tensor], what: str, file: str, advice: str = SAVE_AGAIN) -> None:
    """Give a module all of its weights, or raise AssetError; `what` is what its message calls the network."""
    # Counters of training steps are not weights; half of all exporters leave them out.
    counters = {key: tensor for key, tensor in module.state_dict().items() if key.endswith("num_batches_tracked")}
    try:
        module.load_state_dict(counters | dict(state))
    except RuntimeError as error:
        raise AssetError(f"{file} does not fit {what} ({short(error, 400)}); {advice}.") from error
