"""Read weight files of any kind without running anything that is in them."""

from __future__ import annotations

import io
import json
import pickletools
import zipfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from dr_utils.checks import short
from dr_utils.store import AssetError

# Where training scripts put a state dict; exponential averages last, as what they are called says little.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema")
SAVE_AGAIN = "save its weights alone: torch.save(model.state_dict(), ...)"
# What no weight file needs, and what can do most harm; torch's reader refuses these too.
_REFUSED = ("os", "sys", "posix", "nt")


class Inert:
    """Takes the place of every class and function that a file names: called, or given a state, it does nothing."""

    def __new__(cls, *args, **kwargs):
        return _INERT

    def __call__(self, *args, **kwargs):
        return self

    def __setstate__(self, state):
        pass


_INERT = object.__new__(Inert)


def read_weights(
    file: str | Path | bytes, *, name: str = "", advice: str = SAVE_AGAIN
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read tensors by name from a .safetensors or .npz file, or from one that torch saved (its path, or its bytes).

    Torch's own reader of weights reads what torch saved. It calls only what it knows; everything else that the file
    names (a schedule, numpy scalars) is looked up nowhere: something inert takes its place. `name` is how messages call
    bytes, `advice` what they say to do.

    Returns
    -------
    state : dict of str to tensor
        Under the names that the file has; the state dict may be under one of `WRAPPERS`.
    left_out : list of str
        What else the file holds: keys beside the state dict, and objects that something inert took the place of.

    Raises
    ------
    AssetError
        No such file, damaged, a program, one that names os or sys, or there are no tensors by name.
    """
    if not isinstance(file, bytes):
        file = Path(file).expanduser()
        name = file.name
        if not file.is_file():
            raise AssetError(f"{file}: no such file; give the path of a .pth, .pt, .bin, .npz or .safetensors file.")
        if program := program_kind(file):
            raise AssetError(
                f"{name} is a {program} program, not weights alone; open it without naming an architecture, or "
                f"{SAVE_AGAIN}."
            )
    left_out, seen = [], set()
    try:
        found, objects = _read(file)
    except AssetError:
        raise
    except Exception as error:  # what a damaged file makes a reader raise is anybody's guess
        # Torch's own advice, to load it without the check, comes before its reason.
        reason = short(str(error).rpartition("WeightsUnpickler error: ")[2], 120)
        raise AssetError(
            f"{name} is refused: damaged, cut short, or more than weights ({type(error).__name__}: {reason}); nothing "
            f"in it was run; {advice}."
        ) from error
    # A dictionary may hold itself.
    while isinstance(found, Mapping) and id(found) not in seen:
        seen.add(id(found))
        key = next((w for w in WRAPPERS if isinstance(found.get(w), Mapping)), None)
        if key is not None:
            left_out += [str(other) for other in found if other != key]
            found = found[key]
    left_out += [f"objects of {what}" for what in objects]
    if not isinstance(found, Mapping) or not found or not all(map(_is_tensor, found.values())):
        inside = "no dictionary"
        if isinstance(found, Mapping):
            inside = f"a dictionary of {short(', '.join(map(str, list(found)[:5]))) or 'nothing'}"
        needs = f" It needs {short(', '.join(objects))}, and a pickle of more than tensors can run any code."
        raise AssetError(
            f"{name} is refused: it holds {inside}; expected tensors by name, alone or under one of "
            f"{', '.join(WRAPPERS)}.{needs if objects else ''} Nothing in it was run; {advice}."
        )
    return {str(key): tensor for key, tensor in found.items()}, left_out


def _is_tensor(value: object) -> bool:
    # Sparse, nested, quantized and storage-less tensors are not what a layer can be given.
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_nested or value.is_quantized)
    )


def _read(file: Path | bytes) -> tuple[object, list[str]]:
    """What a file holds, and the names that something inert took the place of."""
    if isinstance(file, Path) and file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file), []
    if isinstance(file, Path) and file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}, []
    names = _names_in(file)
    if harmful := next((name for name in names if name.partition(".")[0] in _REFUSED), ""):
        where = "the file" if isinstance(file, bytes) else file.name
        raise AssetError(
            f"{where} is refused: it names {harmful}, which can run any code and which no weights need; nothing in it "
            "was run. Delete it and get the published file."
        )
    # Mapped, so that two copies of the weights need no memory twice; files from before torch 1.6 cannot be.
    mapped = isinstance(file, Path) and zipfile.is_zipfile(file)
    with torch.serialization.safe_globals([Inert, *((_INERT, name) for name in names)]):
        opened = io.BytesIO(file) if isinstance(file, bytes) else file
        return torch.load(opened, map_location="cpu", weights_only=True, mmap=mapped), sorted(names)


def _names_in(file: Path | bytes) -> list[str]:
    """Names of the classes and functions that a file asks for, beside those that torch allows in weights."""
    with io.BytesIO(file) if isinstance(file, bytes) else open(file, "rb") as content:
        if not zipfile.is_zipfile(content):
            # Before torch 1.6: a magic number, a version, facts of the machine, and what was saved, a pickle each. The
            # last is looked through as if it were in a file of today.
            content.seek(0)
            for _ in range(4):
                start = content.tell()
                deque(pickletools.genops(content), maxlen=0)
            size = content.tell() - start
            content.seek(start)
            pickled, content = content.read(size), io.BytesIO()
            with zipfile.ZipFile(content, "w") as archive:
                archive.writestr("archive/data.pkl", pickled)
                archive.writestr("archive/version", "3\n")
        content.seek(0)
        return torch.serialization.get_unsafe_globals_in_checkpoint(content)


def program_kind(path: Path) -> str:
    """Return "TorchScript" or "ExportedProgram" for a file that holds a program; else ""."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return ""
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        return "TorchScript"
    exported = "serialized_exported_program.json" in members or any(name.startswith("models/") for name in members)
    return "ExportedProgram" if exported else ""


def read_layers_model(members: Mapping[str, bytes], folder: str) -> dict[str, torch.Tensor]:
    """Read the weights of a TensorFlow.js layers model by name; `folder` is where in the archive model.json lies."""
    weights = {}
    for group in json.loads(members[folder + "model.json"])["weightsManifest"]:
        values = np.frombuffer(b"".join(members[folder + path] for path in group["paths"]), "<f4").astype(np.float32)
        shapes = {entry["name"]: entry["shape"] for entry in group["weights"]}
        parts = torch.from_numpy(values).split([int(np.prod(shape)) for shape in shapes.values()])
        weights |= {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
    return weights
