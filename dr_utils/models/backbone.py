"""What computes: a module read at one of its layers, its normalisation before it, and pooling to a vector per image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from dr_utils.checks import nearest_first, short, unknown

POOLS = ("mean", "token", "flat")


class Backbone(nn.Module):
    """A body with `width` features and the normalisation of its input, as `Network.preprocessing` gives it."""

    def __init__(self, body: nn.Module, width: int, preprocessing: Mapping):
        super().__init__()
        self.body, self.width = body, width
        self.flips = preprocessing["channel_order"] == "BGR"
        # One multiplication and one addition, rounded to float32 last.
        scale = [preprocessing["range"] / std for std in preprocessing["std"]]
        shift = [-mean / std for mean, std in zip(preprocessing["mean"], preprocessing["std"], strict=True)]
        self.register_buffer("_scale", torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Turn RGB images in [0, 1], [B, 3, H, W], into what the body was trained on; ValueError if they are not."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images must be floating point [B, 3, H, W], RGB in [0, 1]; got {images.dtype} of shape "
                f"{tuple(images.shape)}: divide uint8 pixels by 255 and put the channels second."
            )
        return (images.flip(1) if self.flips else images) * self._scale + self._shift

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute float32 features [B, width] of RGB images [B, 3, H, W] in [0, 1]."""
        features = self.body(self.normalise(images)).float()
        if features.shape[1] != self.width:
            raise ValueError(
                f"images of {images.shape[-1]} pixels give {features.shape[1]} features, not {self.width}: without "
                "pooling, a layer's width depends on the images' side; take images of one side only."
            )
        return features


class Tapped(nn.Module):
    """A module that runs whole and is read at the output of `layer`, pooled to features [B, D].

    Without a layer, the input of `head`, the last linear layer, is read, or the module's output where there is none.
    Maps and tokens [B, N, D] are averaged over their positions; "LAYER#token" takes the first token (the class token
    where there is one), "LAYER#flat" makes every position a feature.
    """

    def __init__(self, module: nn.Module, head: str | None, layer: str | None = None, name: str = ""):
        super().__init__()
        self.module, self.where, self._seen = module.eval(), "the output", None
        self._head = head if layer is None else None
        at, _, pool = (layer or "").partition("#")
        self.pool = pool or "mean"
        if self.pool not in POOLS:
            raise unknown("pool", pool, POOLS)
        layers = [part for part, _ in module.named_modules() if part]
        if layer is not None and at not in layers:
            hint = f"These are the nearest of {len(layers)}."
            raise unknown(f"layer of {name}", at, nearest_first(at, layers)[:10], hint=hint)
        if self._head:
            self.where = f"the input of layer {head!r}"
            self.head.register_forward_pre_hook(lambda _, given: self._see(given[0]))
        elif at:
            self.where = f"the output of layer {at!r}"
            module.get_submodule(at).register_forward_hook(lambda _, given, output: self._see(output))

    def _see(self, output) -> None:
        # A copy, as what follows may work in place.
        self._seen = output.clone() if isinstance(output, torch.Tensor) else output

    @property
    def head(self) -> nn.Module | None:
        """The last linear layer, where its input is read."""
        return self.module.get_submodule(self._head) if self._head else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features [B, D] of normalised images [B, 3, H, W]."""
        return self._pooled(self._read(images), len(images))

    def probe(self, side: int) -> torch.Tensor:
        """Return features [2, D] of two images of noise, always the same; ValueError if the module fails on them."""
        return self._pooled(try_out(self._read, side), 2).float()

    def _read(self, images: torch.Tensor):
        output = self.module(images)
        if self.where != "the output":  # of a TorchScript module, which takes no hooks, nothing else can be read
            output, self._seen = self._seen, None
        return output

    def _pooled(self, output, n_images: int) -> torch.Tensor:
        shape = tuple(getattr(output, "shape", ()))
        if len(shape) not in (2, 3, 4) or shape[0] != n_images or not output.is_floating_point():
            found = "not computed" if output is None else f"a {type(output).__name__} of shape {shape}"
            raise ValueError(
                f"{self.where} is {found} for {n_images} images; expected a floating point tensor [B, D], tokens "
                "[B, N, D] or a map [B, C, H, W]: ask for another layer, or wrap the network."
            )
        if self.pool == "token" and len(shape) != 3:
            raise ValueError(f"{self.where} has shape {shape}, no tokens [B, N, D]; leave out #token.")
        if self.pool == "flat" or len(shape) == 2:
            return output.flatten(1)
        if len(shape) == 3:
            return output[:, 0] if self.pool == "token" else output.mean(1)
        # Images are square, and so are maps: two equal axes are positions. Swin has channels last.
        return output.mean((1, 2) if shape[1] == shape[2] != shape[3] else (2, 3))


@torch.inference_mode()
def try_out(module: Callable, side: int):
    """Give a module two images of noise, always the same, and return what it gives; ValueError if it fails."""
    noise = torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(0))
    try:
        return module(noise)
    except Exception as error:  # whatever somebody's forward pass may raise
        raise ValueError(
            f"the network fails on images of shape {list(noise.shape)} ({type(error).__name__}: "
            f"{short(error)}); give the side that it takes as side=..."
        ) from error


def head_of(module: nn.Module, side: int) -> str | None:
    """Return the name of the linear layer that gives a module's output: the last one called, if it has that shape."""
    # The order in which layers were defined says nothing sure.
    names = {part: name for name, part in module.named_modules() if name and isinstance(part, nn.Linear)}
    called = [(None, None)]

    def note(part: nn.Module, _, output) -> None:
        if part in names:
            called.append((names[part], output.shape))

    with register_module_forward_hook(note):
        output = try_out(module, side)
    name, shape = called[-1]
    return name if shape == getattr(output, "shape", None) else None


def weight_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.endswith("num_batches_tracked"):  # a counter of training steps, not a weight
            continue
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
